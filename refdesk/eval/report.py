"""A comparison as one HTML file that needs nothing else: no script, no font, no network."""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from refdesk import __version__
from refdesk.eval.comparison import Comparison, Group, identity
from refdesk.eval.metrics import METRICS
from refdesk.eval.pipelines import PIPELINES
from refdesk.eval.plot import by_place, quality_by_cost
from refdesk.eval.table import probability
from refdesk.eval.tasks import TASKS

_COSTS = (
    ("prompt_tokens", "tokens in the prompt, mean", 1.0),
    ("kv_bytes", "KV memory at the peak, MiB, mean", 2.0**20),
    ("seconds_total", "seconds for an answer, median", 1.0),
)
_MOST_QUESTIONS = 50


@dataclass(frozen=True)
class _Question:
    """One question with what each run made of it; None for a run that was not asked."""

    text: str
    references: tuple[str, ...]
    answers: tuple[tuple[str, float | None] | None, ...]

    @property
    def spread(self) -> float:
        """How far the runs are apart."""
        values = [answer[1] for answer in self.answers if answer is not None and answer[1] is not None]
        return max(values) - min(values) if values else 0.0


def html_report(comparison: Comparison) -> str:
    """The page. The same comparison gives the same bytes."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["probability"] = probability
    environment.filters["moment"] = lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    template = environment.from_string(files("refdesk.eval").joinpath("report.html").read_text("utf-8"))
    used = dict.fromkeys(metric for group in comparison.groups for metric in group.metrics)
    return template.render(
        version=__version__,
        groups=comparison.groups,
        tasks=TASKS,
        pipelines=PIPELINES,
        metrics={name: METRICS[name].description for name in used},
        plots={group.task: _plots(group) for group in comparison.groups},
        questions={group.task: _questions(group) for group in comparison.groups},
    )


def _plots(group: Group) -> list[str]:
    if not group.metrics:
        return []
    main = group.metrics[0]
    drawn = [
        quality_by_cost(group, metric, cost, name, unit)
        for metric in dict.fromkeys((main, *(("nll",) if "nll" in group.metrics else ())))
        for cost, name, unit in _COSTS
    ]
    for fact in dict.fromkeys(curve.fact for curve in group.curves):
        drawn.append(by_place([curve for curve in group.curves if curve.fact == fact], main))
    return [plot for plot in drawn if plot]


def _questions(group: Group) -> list[_Question]:
    """Those that the runs differ on most come first, by the metric that is the group's first."""
    main = next(iter(group.metrics), "")
    by_run = [{identity(score): score for score in row.scores} for row in group.rows]
    every = {identity(score): score for scores in by_run for score in scores.values()}
    found = []
    for name, example in every.items():
        answers = tuple(
            None if (score := scores.get(name)) is None else (score.error or score.answer, score.values.get(main))
            for scores in by_run
        )
        found.append(_Question(example.question, example.references, answers))
    return sorted(found, key=lambda question: -question.spread)[:_MOST_QUESTIONS]
