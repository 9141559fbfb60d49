"""Plots of a comparison, as SVG that stands inside a page and takes its text colour from it."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from refdesk.eval.comparison import Curve, Group
from refdesk.eval.metrics import METRICS
from refdesk.eval.statistics import Estimate

_INK = "#010203"  # stands for the page's own colour until the drawing is done
_COLOURS = (
    "#3b7dd8",
    "#d9762b",
    "#2f9e6e",
    "#b558c9",
    "#c94b4b",
    "#8a8f2c",
    "#6b7280",
    "#a06a3f",
    "#0f8f9a",
    "#e0a800",
)
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "refdesk",  # the same drawing gives the same file
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE = (4.6, 3.2)  # inches
_DECADE = 10.0
_LONG_LABEL = 28  # characters; two such do not stand side by side


def quality_by_cost(group: Group, metric: str, cost: str, name: str, unit: float = 1.0) -> str:
    """Each run as a point: its mean of `metric` with the interval, by its mean `cost` in `unit`s, which the axis
    calls `name`; empty where no run has both."""
    points = [
        (number, row, row.costs[cost] / unit)
        for number, row in enumerate(group.rows)
        if metric in row.quality and cost in row.costs
    ]
    if not points:
        return ""
    with rc_context(_STYLE):
        figure, axes = _canvas(name, metric)
        for number, row, x in points:
            _point(axes, x, row.quality[metric], row.label, number)
        _scale(axes, [x for _, _, x in points])
        return _svg(figure, axes)


def by_place(curves: Sequence[Curve], metric: str) -> str:
    """`metric` by where the answer stands, a line a pipeline."""
    with rc_context(_STYLE):
        figure, axes = _canvas(curves[0].fact, metric)
        for number, curve in enumerate(curves):
            for place, found in curve.points:
                _bar(axes, place, found, number)
            places, means = zip(*((place, found.mean) for place, found in curve.points), strict=True)
            axes.plot(places, means, color=_colour(number), marker="o", markersize=4, label=curve.label)
        return _svg(figure, axes)


def _canvas(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_xlabel(x)
    axes.set_ylabel(y if METRICS[y].higher_is_better else f"{y} (lower is better)")
    axes.grid(color="#808080", alpha=0.25, linewidth=0.6)
    return figure, axes


def _point(axes: Axes, x: float, found: Estimate, label: str, number: int) -> None:
    _bar(axes, x, found, number)
    axes.plot([x], [found.mean], color=_colour(number), marker="o", markersize=6, linestyle="", label=label)


def _bar(axes: Axes, x: float, found: Estimate, number: int) -> None:
    axes.plot([x, x], [found.low, found.high], color=_colour(number), linewidth=1.2, alpha=0.8)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _scale(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) > _DECADE * min(positive):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure, axes: Axes) -> str:
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels), default=0) > _LONG_LABEL else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
