"""The benchmarks, one file each; a new one is a file beside these and a line in `TASKS`."""

from dataclasses import fields
from typing import Any, get_type_hints

from refdesk.eval.errors import InvalidTaskOption, UnknownTask
from refdesk.eval.task import Task
from refdesk.eval.tasks.nq import NaturalQuestions, NaturalQuestionsOracle
from refdesk.eval.tasks.squad import Squad, SquadV2

TASKS: dict[str, type[Task]] = {
    "nq": NaturalQuestions,
    "nq-oracle": NaturalQuestionsOracle,
    "squad": Squad,
    "squad-v2": SquadV2,
}


def find_task(name: str, options: dict[str, Any] | None = None) -> Task:
    """The task of this name with these options; values may be given as text, as on a command line.

    Raises:
        UnknownTask: no task of this name; the message lists those that exist.
        InvalidTaskOption: the task has no such option, or cannot use its value.
    """
    if name not in TASKS:
        raise UnknownTask(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    kind = TASKS[name]
    types = {option.name: get_type_hints(kind)[option.name] for option in fields(kind)}
    values = {}
    for option, value in (options or {}).items():
        if option not in types:
            known = f"known: {', '.join(types)}" if types else "it has none"
            raise InvalidTaskOption(f"{name}: unknown option {option!r}; {known}")
        try:
            values[option] = types[option](value)
        except (TypeError, ValueError):
            raise InvalidTaskOption(f"{name}: {option} is {value!r}; expected {types[option].__name__}") from None
    return kind(**values)
