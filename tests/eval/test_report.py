"""What the page of a comparison holds beside its numbers: plots and questions."""

import re
from dataclasses import replace

from lxml import html

from refdesk.eval.comparison import compare
from refdesk.eval.report import html_report
from tests.eval.test_comparison import run, score, scores

FIRST_COLOUR, SECOND_COLOUR = "#3b7dd8", "#d9762b"


def markers(drawing: html.HtmlElement, colour: str) -> int:
    """Points of this colour; one more stands in the legend."""
    return len(drawing.xpath(f".//*[local-name()='use'][contains(@style, 'fill: {colour}')]"))


def test_a_plot_has_one_point_a_run_and_a_curve_one_a_place() -> None:
    placed = [score(str(number), number / 4, gold_at=number) for number in range(4)]
    page = html_report(compare([(run("a"), placed), (run("b", pipeline="full"), scores(0.0, 1.0))]))
    *costs, curve = html.fromstring(page).xpath("//*[local-name()='svg']")
    assert len(costs) == 6
    for drawing in costs:
        assert (markers(drawing, FIRST_COLOUR), markers(drawing, SECOND_COLOUR)) == (1 + 1, 1 + 1)
    assert (markers(curve, FIRST_COLOUR), markers(curve, SECOND_COLOUR)) == (4 + 1, 0)


def test_nothing_on_the_page_points_outside_it() -> None:
    page = html_report(compare([(run("a"), scores(0.0, 1.0))]))
    assert re.findall(r"url\((?!#)", page) == []
    assert re.findall(r"<(?:script|link|iframe|img|object|embed|base)\b", page) == []


def test_questions_on_which_runs_differ_most_come_first_by_one_metric_for_all() -> None:
    first = [score("0", 1.0, nll=5.0), score("1", 1.0, nll=0.0)]
    second = [score("0", 1.0, nll=9.0), score("1", 0.0, nll=0.0)]
    page = html_report(compare([(run("a"), first), (replace(run("b"), metrics=("nll", "f1")), second)]))
    asked = html.fromstring(page).xpath("//details//tbody/tr")
    assert ["Question 1?" in row.text_content() for row in asked] == [True, False]
    assert [cell.xpath(".//span")[0].text for cell in asked[0].xpath("td")] == ["right", "1.000", "0.000"]


def test_an_answer_stands_beside_the_question_it_answers_not_beside_its_number() -> None:
    other = [replace(score("0", 0.0), question="Quite another?", answer="<script>alert(1)</script>")]
    page = html_report(compare([(run("a"), scores(1.0)), (run("b"), other)]))
    told = [
        ["".join(cell.itertext()).split("\n")[0] for cell in row.xpath("td")]
        for row in html.fromstring(page).xpath("//details//tbody/tr")
    ]
    assert [[bool(cell) for cell in row] for row in told] == [[True, True, False], [True, False, True]]
    assert "<script>" not in page
