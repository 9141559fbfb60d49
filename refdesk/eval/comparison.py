"""Runs side by side: means with intervals, and differences question by question. Never across tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from refdesk.eval.pipelines import sees_question
from refdesk.eval.run import Run, Score
from refdesk.eval.statistics import Difference, Estimate, interval, paired_difference

# Facts to draw a curve by: where in the context the answer stands.
_PLACES = ("gold_at", "depth")
_FEW = 30
# What may differ between runs of one task and is not told by their other columns.
_TELLING = (
    "k",
    "search",
    "budget",
    "max_new_tokens",
    "limit",
    "seed",
    "collection",
    "reading",
    "memory",
    "compression",
    "form",
    "abstain",
    "adapter",
    "part",
)
_FLOOR = "closed_book"


@dataclass(frozen=True)
class Row:
    """One run. `label`: its pipeline and the settings in which it differs from the others. `quality`: by metric,
    over the questions that it applies to; `costs`: over the questions that were answered, the mean of counts and
    the median of seconds and speeds, which one busy moment of the machine does not spoil."""

    run: Run
    label: str
    scores: tuple[Score, ...]
    quality: Mapping[str, Estimate]
    costs: Mapping[str, float]
    unanswered: int

    @property
    def sees_question(self) -> bool:
        """Whether what the reader holds depends on the question."""
        return sees_question(self.run.pipeline, self.run.settings)

    @property
    def is_floor(self) -> bool:
        """Whether this is what the model knows without any document."""
        return self.run.pipeline == _FLOOR


@dataclass(frozen=True)
class Gain:
    """What a run is better or worse by than the first of its task, on the questions that both have."""

    row: Row
    base: Row
    metric: str
    difference: Difference


@dataclass(frozen=True)
class Curve:
    """The group's first metric by where the answer stands, for a pipeline: `points` by ascending `fact`."""

    label: str
    fact: str
    points: tuple[tuple[float, Estimate], ...]


@dataclass(frozen=True)
class Group:
    """The runs of one task, in the order they were given; `metrics`: those that any of them has a value of."""

    task: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    curves: tuple[Curve, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One group a task."""

    groups: tuple[Group, ...]


def compare(runs: Sequence[tuple[Run, Sequence[Score]]]) -> Comparison:
    """Put runs side by side. A question that one of two runs has no value for is in no difference of theirs."""
    tasks = dict.fromkeys(run.task for run, _ in runs)
    return Comparison(tuple(_group(task, [pair for pair in runs if pair[0].task == task]) for task in tasks))


def _group(task: str, runs: list[tuple[Run, Sequence[Score]]]) -> Group:
    labels = _labels([run for run, _ in runs])
    rows = [summarise(run, scores, label) for (run, scores), label in zip(runs, labels, strict=True)]
    metrics = dict.fromkeys(name for row in rows for name in row.run.metrics if name in row.quality)
    return Group(
        task=task,
        metrics=tuple(metrics),
        rows=tuple(rows),
        gains=tuple(_gains(rows, metrics)),
        curves=tuple(_curves(rows, next(iter(metrics), ""))),
        warnings=tuple(_warnings(rows)),
    )


def summarise(run: Run, scores: Sequence[Score], label: str) -> Row:
    """What a run has come to so far, under this label."""
    names = dict.fromkeys(name for score in scores for name in score.values)
    values = {name: found for name in names if (found := list(_values(scores, name).values()))}
    return Row(
        run=run,
        label=label,
        scores=tuple(scores),
        quality={name: interval(values[name]) for name in run.metrics if name in values},
        costs={name: _typical(name, values[name]) for name in values if name not in run.metrics} | _speeds(scores),
        unanswered=sum(score.error is not None for score in scores),
    )


def _typical(cost: str, values: Sequence[float]) -> float:
    return median(values) if cost.startswith("seconds") else fmean(values)


def _speeds(scores: Iterable[Score]) -> dict[str, float]:
    """Tokens a second: of the prompt while it was read, what other requests had read of it included, and of the
    answer while it was generated, whose first token is the prompt's."""
    found: dict[str, float] = {}
    for stage, counted, before in (("prefill", "prompt_tokens", 0), ("decode", "completion_tokens", 1)):
        each = [
            (tokens - before) / seconds
            for score in scores
            if (tokens := score.values.get(counted) or 0) > before
            and (seconds := score.values.get(f"seconds_{stage}"))
        ]
        if each:
            found[f"{stage}_tokens_per_s"] = median(each)
    return found


def _values(scores: Iterable[Score], metric: str) -> dict[str, float]:
    return {identity(score): value for score in scores if (value := score.values.get(metric)) is not None}


def identity(score: Score) -> str:
    """What makes two scores be of one question. The id does not: it may be a line's number, or of another draw."""
    return "\0".join((score.example_id, score.question, *score.references))


def _labels(runs: list[Run], *, same: bool = False) -> list[str]:
    """The pipeline, and what else differs among these runs; the run's id where that does not tell them apart,
    unless those that are alike may have the `same` label."""
    described = [
        {**run.settings["task_options"], **{name: _word(run.settings.get(name)) for name in _TELLING}}
        for run in runs
    ]
    names = dict.fromkeys(name for one in described for name in one)
    differing = [name for name in names if len({one.get(name) for one in described}) > 1]
    labels = [
        " ".join([run.pipeline, *(f"{name}={one[name]}" for name in differing if one.get(name) is not None)])
        for run, one in zip(runs, described, strict=True)
    ]
    return [
        label if same or labels.count(label) == 1 else f"{label} {run.id[:8]}"
        for run, label in zip(runs, labels, strict=True)
    ]


def _word(value: Any) -> Any:
    """A setting of several parts, such as the memory options, in one word."""
    return ",".join(f"{name}={part}" for name, part in value.items()) if isinstance(value, dict) else value


def _gains(rows: list[Row], metrics: Iterable[str]) -> Iterable[Gain]:
    base = rows[0]
    for row in rows[1:]:
        for metric in metrics:
            found = paired_difference(_values(base.scores, metric), _values(row.scores, metric))
            if found is not None:
                yield Gain(row, base, metric, found)


def _curves(rows: list[Row], metric: str) -> Iterable[Curve]:
    """Runs that differ in nothing but the place of the answer, and in questions, make one curve."""
    labels = _labels([_placeless(row.run) for row in rows], same=True)
    for fact in _PLACES:
        by_label: dict[str, dict[float, list[float]]] = {}
        for row, label in zip(rows, labels, strict=True):
            for score in row.scores:
                value = score.values.get(metric)
                if value is not None and fact in score.facts:
                    place = _place(fact, float(score.facts[fact]))
                    by_label.setdefault(label, {}).setdefault(place, []).append(value)
        for label, by_place in by_label.items():
            if len(by_place) > 1:
                points = tuple((place, interval(by_place[place])) for place in sorted(by_place))
                yield Curve(label, fact, points)


def _placeless(run: Run) -> Run:
    options = {name: value for name, value in run.settings["task_options"].items() if name not in _PLACES}
    return replace(run, settings={**run.settings, "task_options": options})


def _place(fact: str, value: float) -> float:
    """Depths go by tenths, or each would have one question."""
    return value if fact == "gold_at" else min(int(value * 10), 9) / 10 + 0.05


def _warnings(rows: list[Row]) -> Iterable[str]:
    for name, what in (("model_fingerprint", "models"), ("dtype", "number formats"), ("embedder", "embedders")):
        if len({row.run.versions[name] for row in rows if name in row.run.versions}) > 1:
            yield f"The runs were made with different {what}."
    if len({row.run.commit for row in rows if row.run.commit}) > 1:
        yield "The runs were made with different commits of Refdesk."
    if len({frozenset(identity(score) for score in row.scores) for row in rows}) > 1:
        yield "The runs are over different questions; differences are over those that two runs share."
    for row in rows:
        if row.run.state != "succeeded":
            yield f"{row.label} is {row.run.state}: {row.run.done} of {row.run.total} questions."
        if row.unanswered:
            yield f"{row.label}: no answer to {row.unanswered} of {row.run.done} questions, which are in no mean."
    if min((len(row.scores) for row in rows), default=0) < _FEW:
        yield f"Fewer than {_FEW} questions: the intervals are wide, and rough."
    if len({row.sees_question for row in rows if not row.is_floor}) > 1:
        yield "What some pipelines show the reader is chosen by the question, what others show is not."
