"""What can be wrong with an evaluation. Every message carries the value at fault and what was expected.

EvaluationError
├── UnknownTask, UnknownMetric, UnknownPipeline, UnknownRun, UnknownDataset
├── InvalidTaskOption   an option that the task does not have, or a value it cannot use
├── InvalidRun          settings that do not go together
├── InvalidDataset      a line of a JSONL data set, by its number
└── MissingData         a task's files are not where they were looked for
"""


class EvaluationError(Exception):
    """Base of all errors of this folder."""


class UnknownTask(EvaluationError):
    """No task of this name."""


class UnknownMetric(EvaluationError):
    """No metric of this name, or none that the task's questions allow."""


class UnknownPipeline(EvaluationError):
    """No pipeline of this name, or none that fits the task."""


class UnknownRun(EvaluationError):
    """No run has this id."""


class UnknownDataset(EvaluationError):
    """No uploaded data set has this id."""


class InvalidTaskOption(EvaluationError):
    """A task does not have this option, or cannot use its value."""


class InvalidRun(EvaluationError):
    """A setting is out of range, or two do not go together."""


class InvalidDataset(EvaluationError):
    """A data set that cannot be used; the message names the line and what is wrong with it."""


class MissingData(EvaluationError):
    """A task's data are not where they were looked for."""
