"""A comparison as tables: on the terminal, and as Markdown for documents."""

from rich.markup import escape
from rich.table import Table

from refdesk.eval.comparison import Comparison, Gain, Group, Row
from refdesk.eval.statistics import Estimate

_SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")


def terminal_tables(comparison: Comparison) -> list[Table | str]:
    """For each task its runs, what they are better or worse by, and what to beware of."""
    shown: list[Table | str] = []
    for group in comparison.groups:
        shown.append(_table(group.task, *_runs(group, "\n")))
        if group.gains:
            shown.append(
                _table(f"against {group.rows[0].label}, on the questions that both have", *_gains(group, "\n"))
            )
        shown += [f"! {warning}" for warning in group.warnings]
    return shown


def markdown_table(comparison: Comparison) -> str:
    """The same as Markdown."""
    parts = []
    for group in comparison.groups:
        parts.append(_markdown(*_runs(group, " ")))
        if group.gains:
            parts.append(f"Against {group.rows[0].label}, on the questions that both have:")
            parts.append(_markdown(*_gains(group, " ")))
        parts += group.warnings
    return "\n\n".join(parts)


def _runs(group: Group, between: str) -> tuple[list[str], list[list[str]]]:
    head = [
        *("run", "id", "sees the question", "n", "no answer", *group.metrics),
        *("prompt tokens", "KV MiB", "prefill tok/s", "decode tok/s", "seconds"),
    ]
    return head, [_run(row, group.metrics, between) for row in group.rows]


def _run(row: Row, metrics: tuple[str, ...], between: str) -> list[str]:
    costs = row.costs
    size = costs.get("kv_bytes")
    return [
        row.label + (" (floor)" if row.is_floor else ""),
        row.run.id[:8],
        "yes" if row.sees_question else "no",
        str(len(row.scores)),
        str(row.unanswered) if row.unanswered else "",
        *(_estimate(row.quality.get(name), len(row.scores), between) for name in metrics),
        f"{costs['prompt_tokens']:.0f}" if "prompt_tokens" in costs else "",
        f"{size / 2**20:.1f}" if size is not None else "",
        *(f"{costs[name]:.0f}" if name in costs else "" for name in _SPEEDS),
        f"{costs['seconds_total']:.2f}" if "seconds_total" in costs else "",
    ]


def _gains(group: Group, between: str) -> tuple[list[str], list[list[str]]]:
    by_row: dict[str, dict[str, Gain]] = {}
    for gain in group.gains:
        by_row.setdefault(gain.row.label, {})[gain.metric] = gain
    rows = [
        [
            label,
            str(max(gain.difference.n for gain in gains.values())),
            *(_gain(gains.get(m), between) for m in group.metrics),
        ]
        for label, gains in by_row.items()
    ]
    return ["run", "shared", *group.metrics], rows


def _estimate(value: Estimate | None, asked: int, between: str) -> str:
    """A mean with its interval, and with its n where it is not over all questions that were asked."""
    if value is None:
        return ""
    few = f"{between}n={value.n}" if value.n < asked else ""
    return f"{value.mean:.3f}{between}[{value.low:.3f}, {value.high:.3f}]{few}"


def _gain(gain: Gain | None, between: str) -> str:
    if gain is None:
        return ""
    found = gain.difference
    return f"{found.mean:+.3f}{between}[{found.low:+.3f}, {found.high:+.3f}]{between}{probability(found.p)}"


def probability(p: float) -> str:
    """A p as it is told."""
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def _table(title: str, head: list[str], rows: list[list[str]]) -> Table:
    # A data set is named by whoever uploads it.
    table = Table(title=escape(title), title_justify="left", show_edge=False)
    for name in head:
        table.add_column(name, justify="left" if name in ("run", "id") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
