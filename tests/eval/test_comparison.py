"""Runs side by side, and what a reader of the report is told."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from lxml import html
from rich.console import Console

from refdesk.eval.comparison import compare
from refdesk.eval.report import html_report
from refdesk.eval.run import Run, Score
from refdesk.eval.table import markdown_table, terminal_tables

VERSIONS = {"model": "tiny", "model_fingerprint": "abc", "data": "1"}


def run(name: str, task: str = "squad", pipeline: str = "top_k", **settings: Any) -> Run:
    options = settings.pop("task_options", {})
    filled = {"task": task, "pipeline": pipeline, "task_options": options, "k": 3, "seed": 0, **settings}
    metrics = ("f1", "nll")
    return Run(
        name * 32,
        "job",
        None,
        task,
        pipeline,
        filled,
        VERSIONS,
        "c0ffee",
        metrics,
        "succeeded",
        3,
        3,
        None,
        0.0,
        1.0,
    )


def score(name: str, f1: float | None, nll: float | None = 1.0, **facts: Any) -> Score:
    costs = {"prompt_tokens": 100.0, "completion_tokens": 9.0, "kv_bytes": 2.0**20, "seconds_total": 0.5}
    return Score(name, f"Question {name}?", ("right",), f"answer {name}", {"f1": f1, "nll": nll, **costs}, facts)


def scores(*values: float | None) -> list[Score]:
    return [score(str(number), value) for number, value in enumerate(values)]


def test_means_are_over_the_questions_that_have_a_value() -> None:
    lost = replace(score("3", None, None), values={"f1": None, "nll": None}, error="too long")
    comparison = compare([(run("a"), [*scores(1.0, 0.0, None), lost])])
    row = comparison.groups[0].rows[0]
    assert "n=2" in markdown_table(comparison)
    assert "n=2" in html_report(comparison)
    assert (row.quality["f1"].mean, row.quality["f1"].n) == (0.5, 2)
    assert (row.costs["prompt_tokens"], row.costs["seconds_total"], row.unanswered) == (100.0, 0.5, 1)


def test_speeds_are_medians_over_the_questions_that_were_answered() -> None:
    def timed(name: str, prefill: float, decode: float, said: float = 9.0) -> Score:
        one = score(name, 1.0)
        seconds = {"seconds_prefill": prefill, "seconds_decode": decode}
        return replace(one, values={**one.values, **seconds, "completion_tokens": said})

    lost = replace(score("3", None, None), values={"f1": None, "nll": None}, error="too long")
    timings = [timed("0", 0.5, 0.1), timed("1", 1.0, 0.3), timed("2", 4.0, 1e-5, 1.0), lost]
    comparison = compare([(run("a"), timings)])
    costs = comparison.groups[0].rows[0].costs
    assert costs["prefill_tokens_per_s"] == 100.0
    assert costs["decode_tokens_per_s"] == pytest.approx((80.0 + 80.0 / 3) / 2)
    assert "| 100 | 53 |" in markdown_table(comparison)


def test_differences_are_of_shared_questions_against_the_first_run() -> None:
    comparison = compare([(run("a"), scores(0.0, 0.5, None)), (run("b", k=5), scores(1.0, 0.5, 1.0, 1.0))])
    gains = {gain.metric: gain for gain in comparison.groups[0].gains}
    assert (gains["f1"].difference.mean, gains["f1"].difference.n) == (0.5, 2)
    assert gains["f1"].base.run.id == "a" * 32


def test_a_run_against_itself_differs_by_nothing() -> None:
    comparison = compare([(run("a"), scores(0.2, 0.9)), (run("b"), scores(0.2, 0.9))])
    for gain in comparison.groups[0].gains:
        found = gain.difference
        assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_questions_are_the_same_only_if_they_ask_the_same_and_not_by_their_number() -> None:
    rewritten = [replace(one, question=f"Another {one.question}") for one in scores(1.0, 1.0)]
    group = compare([(run("a"), scores(0.0, 0.0, 0.0)), (run("b"), [*rewritten, score("2", 0.25)])]).groups[0]
    (gain,) = (gain for gain in group.gains if gain.metric == "f1")
    assert (gain.difference.mean, gain.difference.n) == (0.25, 1)
    assert any("different questions" in told for told in group.warnings)


def test_tasks_are_never_compared_with_each_other() -> None:
    comparison = compare([(run("a"), scores(1.0)), (run("b", task="nq"), scores(0.0))])
    assert [(group.task, len(group.rows), group.gains) for group in comparison.groups] == [
        ("squad", 1, ()),
        ("nq", 1, ()),
    ]


def test_labels_tell_what_differs_and_no_more() -> None:
    runs = [run("a"), run("b", k=5), run("c", pipeline="closed_book"), run("d", k=5)]
    rows = compare([(one, scores(1.0)) for one in runs]).groups[0].rows
    assert [row.label for row in rows] == [
        "top_k k=3",
        "top_k k=5 bbbbbbbb",
        "closed_book k=3",
        "top_k k=5 dddddddd",
    ]
    assert [row.is_floor for row in rows] == [False, False, True, False]
    assert [row.sees_question for row in rows] == [True, True, False, True]


def test_runs_that_take_out_otherwise_are_told_apart_and_see_the_question() -> None:
    compressions = [None, {"rate": 4}, {"strategy": "best", "budget": 200}]
    runs = [run(name, pipeline="full", compression=one) for name, one in zip("abc", compressions, strict=True)]
    floor = run("d", pipeline="closed_book", compression={"rate": 4})
    rows = compare([(one, scores(1.0)) for one in [*runs, floor]]).groups[0].rows
    assert [row.label for row in rows[:3]] == [
        "full",
        "full compression=rate=4",
        "full compression=strategy=best,budget=200",
    ]
    assert [row.sees_question for row in rows] == [False, True, True, False]


def test_runs_that_differ_by_the_place_of_the_answer_make_one_curve() -> None:
    def at(place: int, name: str, pipeline: str, value: float) -> tuple[Run, list[Score]]:
        of = run(name, "nq", pipeline, task_options={"documents": 20, "gold_at": place})
        return of, [score(str(number), value, gold_at=place) for number in range(3)]

    runs = [at(19, "a", "full", 0.3), at(0, "b", "full", 0.9), at(9, "c", "full", 0.1), at(0, "d", "top_k", 0.5)]
    (curve,) = compare(runs).groups[0].curves
    assert (curve.label, curve.fact) == ("full", "gold_at")
    assert [(place, found.mean) for place, found in curve.points] == [
        (0, pytest.approx(0.9)),
        (9, pytest.approx(0.1)),
        (19, pytest.approx(0.3)),
    ]


def test_a_curve_is_of_one_metric_whatever_each_run_names_first() -> None:
    placed = [score(str(place), place / 4, nll=9.0, gold_at=place) for place in (0, 1)]
    other = replace(run("b", pipeline="full"), metrics=("nll", "f1"))
    for curve in compare([(run("a"), placed), (other, placed)]).groups[0].curves:
        assert [found.mean for _, found in curve.points] == [0.0, 0.25]


def test_depths_go_by_tenths() -> None:
    rows = [score(str(number), float(number < 50), depth=number / 99) for number in range(100)]
    (curve,) = compare([(run("a", "needle"), rows)]).groups[0].curves
    assert [place for place, _ in curve.points] == pytest.approx([0.05 + tenth / 10 for tenth in range(10)])
    assert [found.n for _, found in curve.points] == [10] * 10
    assert [found.mean for _, found in curve.points] == [1.0] * 5 + [0.0] * 5


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"versions": VERSIONS | {"model_fingerprint": "xyz"}}, "different models"),
        ({"commit": "decaf"}, "different commits"),
        ({"state": "cancelled"}, "is cancelled: 3 of 3"),
        ({"pipeline": "full"}, "chosen by the question"),
    ],
)
def test_what_spoils_a_comparison_is_said(change: Mapping[str, Any], warning: str) -> None:
    runs = [(run("a"), scores(*[1.0] * 40)), (replace(run("b"), **change), scores(*[1.0] * 40))]
    assert any(warning in told for told in compare(runs).groups[0].warnings)
    assert compare([runs[0], (run("c"), scores(*[1.0] * 40))]).groups[0].warnings == ()


def test_few_or_other_or_lost_questions_are_said() -> None:
    lost = replace(score("1", None), error="too long")
    told = " ".join(compare([(run("a"), scores(1.0)), (run("b"), [score("0", 1.0), lost])]).groups[0].warnings)
    for part in ("Fewer than 30", "different questions", "no answer to 1 of 3"):
        assert part in told


def shown() -> list[tuple[Run, list[Score]]]:
    evil = replace(score("0", 0.25), question="<script>alert(1)</script>?", answer='<b>bold</b> & "quoted"')
    places = [score(str(number), number / 4, gold_at=number) for number in range(1, 4)]
    floor = [replace(evil, values={**evil.values, "f1": 0.0}), *scores(0.0, 0.0, 0.0, 0.0)[1:]]
    return [(run("a"), [evil, *places]), (run("b", pipeline="closed_book"), floor)]


def test_the_report_stands_alone_and_escapes_what_it_quotes() -> None:
    page = html_report(compare(shown()))
    tree = html.fromstring(page)
    assert tree.xpath("//script") == []
    links = [
        link for link in tree.xpath("//@src | //@href | //@*[name()='xlink:href']") if not link.startswith("#")
    ]
    assert links == []
    assert "@import" not in page
    assert "url(http" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;?" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    text = " ".join(tree.text_content().split())
    for part in ("closed_book", "(floor)", "0.438", "c0ffee", "sees the question", "F1 of words", "answer 3"):
        assert part in text


def test_the_report_draws_quality_against_tokens_memory_and_seconds_and_by_place() -> None:
    drawn = html.fromstring(html_report(compare(shown()))).xpath("//*[local-name()='svg']")
    told = [" ".join(one.itertext()) for one in drawn]
    for axis in ("tokens in the prompt", "KV memory at the peak, MiB", "seconds for an answer"):
        assert sum(axis in one for one in told) == 2  # of the main metric, and of nll
    assert sum("gold_at" in one for one in told) == 1
    assert all("closed_book" in one for one in told[:6])


def test_the_same_comparison_gives_the_same_page() -> None:
    assert html_report(compare(shown())) == html_report(compare(shown()))


def test_a_run_without_scores_is_shown_all_the_same() -> None:
    comparison = compare([(run("a"), [])])
    assert "top_k" in html_report(comparison)
    assert "top_k" in markdown_table(comparison)


def test_tables_hold_means_intervals_and_differences() -> None:
    comparison = compare(shown())
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    for table in terminal_tables(comparison):
        console.print(table)
    for text in (console.export_text(), markdown_table(comparison)):
        for part in ("top_k", "closed_book (floor)", "0.438", "-0.438", "p=", "1.0"):
            assert part in text
    assert markdown_table(comparison).splitlines()[1] == "|" + " --- |" * 12


def test_a_data_set_keeps_its_name_in_a_table_whatever_brackets_it_has() -> None:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    for table in terminal_tables(compare([(run("a", task="[bold][/x] mine.jsonl"), scores(1.0))])):
        console.print(table)
    assert "[bold][/x] mine.jsonl" in console.export_text()
