"""Perception Compressor as a whole: budgets, orders, ranges of characters, guiding questions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refdesk.compressor.compressor import Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.perception import PerceptionCompressor, PerceptionOptions
from tests.compressor.worlds import World, alike, plain_texts, tools
from tests.compressor.worlds import texts as any_texts

FOX, HEN, OWL = (
    "The fox lives in the forest. At night the fox hunts mice.",
    "The hen sits on the farm. In spring the hen lays eggs.",
    "An owl sees far. Owls are birds of the night and sleep by day.",
)
QUESTION = "Where sits the hen on the farm?"
SMALL = PerceptionOptions(segment=6, belief=1)


def _perception(options: PerceptionOptions = SMALL) -> PerceptionCompressor:
    return PerceptionCompressor(tools(), options)


def test_the_text_that_answers_comes_first_and_keeps_most() -> None:
    compression = _perception().compress(QUESTION, [FOX, HEN, OWL], 22)
    assert compression.order[0] == 1
    assert compression.tokens_after == 22
    first, second, *_ = compression.apply([FOX, HEN, OWL])
    assert len(first) > len(second)


@given(st.permutations([FOX, HEN, OWL]), st.integers(1, 50))
def test_the_order_in_which_texts_come_does_not_matter(texts: list[str], budget: int) -> None:
    expected = _perception().compress(QUESTION, [FOX, HEN, OWL], budget)
    assert _perception().compress(QUESTION, texts, budget).apply(texts) == expected.apply([FOX, HEN, OWL])


@settings(max_examples=50)
@given(
    st.lists(any_texts, max_size=4), any_texts, st.integers(1, 130), st.integers(1, 20), st.floats(0, 1), st.data()
)
def test_every_budget_is_met_to_a_character_whatever_the_options(
    texts: list[str], question: str, budget: int, segment: int, tau_o: float, data: st.DataObject
) -> None:
    k1, k2, reverse = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1)), data.draw(st.booleans())
    options = PerceptionOptions(k1, tau_o, k2, segment, reverse=reverse, belief=1)
    compression = _perception(options).compress(question, texts, budget)
    missing = min(budget, compression.tokens_before) - compression.tokens_after
    assert 0 <= missing < 4
    assert (compression.reason == "") == (compression.tokens_after == budget)


def test_a_budget_above_what_there_is_keeps_everything_in_order_of_rank() -> None:
    world = World()
    compression = PerceptionCompressor(tools(world), SMALL).compress(QUESTION, [FOX, HEN], 1000)
    assert compression.apply([FOX, HEN]) == [HEN, FOX]
    assert "room for" in compression.reason
    assert not world.scored


def test_the_papers_thresholds_keep_fewer_than_the_budget_and_say_so() -> None:
    compression = _perception(replace(SMALL, exact=False)).compress("Where sits the hen?", [FOX, HEN, OWL], 22)
    assert 0 < compression.tokens_after < 22
    assert "as in the paper" in compression.reason


def test_each_part_changes_what_stays_and_can_be_taken_away() -> None:
    guided = replace(SMALL, tau_o=0.5)
    variants = [guided, replace(guided, k1=0), replace(guided, tau_o=0, k2=0), replace(guided, reverse=True)]
    compressions = [_perception(options).compress(QUESTION, [FOX, HEN, OWL], 22) for options in variants]
    assert len({compression.kept for compression in compressions}) == len(variants)
    assert {compression.tokens_after for compression in compressions} == {22}


def test_guiding_questions_change_the_ranking_by_their_similarity() -> None:
    question, texts = "what is it?", [FOX, HEN]

    guided = replace(SMALL, guiding=1)

    def order(guide: str, similarity: float, options: PerceptionOptions = guided) -> tuple[int, ...]:
        tools = Tools(World(), lambda _, count: [guide], lambda _, others: [similarity for _ in others])
        return PerceptionCompressor(tools, options).compress(question, texts, 1000).order

    hens, foxes = "The hen sits on the farm.", "The fox lives in the forest."
    assert order(hens, 1.0) == (1, 0)
    assert order(foxes, 1.0) == (0, 1)
    plain = PerceptionCompressor(Tools(World()), SMALL).compress(question, texts, 1000).order
    for guide, other in ((hens, foxes), (foxes, hens)):
        assert order(guide, 0.0) == order(guide, 1.0, SMALL) == plain
        assert order(other, 1.0, replace(guided, questions=(guide,))) == order(guide, 1.0)


@pytest.mark.parametrize(
    ("questions", "asked"), [((), ["what", "is"]), (("a", "b", "c"), ["a", "b"]), (("a",), ["a"])]
)
def test_as_many_guiding_questions_rank_as_are_asked_for_and_given_ones_before_made_ones(
    questions: tuple[str, ...], asked: list[str]
) -> None:
    weighed: list[str] = []

    def similarity(question: str, others: Sequence[str]) -> list[float]:
        weighed.extend(others)
        return alike(question, others)

    options = replace(SMALL, guiding=2, questions=questions)
    PerceptionCompressor(replace(tools(), similarity=similarity), options).compress("what is it?", [FOX, HEN], 10)
    assert weighed == asked


def test_guiding_questions_that_nothing_makes_or_weighs_are_refused() -> None:
    guided = replace(SMALL, guiding=1)
    with pytest.raises(InvalidCompression, match="similarity"):
        PerceptionCompressor(Tools(World(), lambda _, count: ["why?"]), guided)
    with pytest.raises(InvalidCompression, match="nothing that makes any"):
        PerceptionCompressor(Tools(World(), similarity=alike), guided)
    PerceptionCompressor(Tools(World(), similarity=alike), replace(guided, questions=("why?",)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"questions": ("why?",)}, "guiding is 0, but 1 questions are given"),
        ({"questions": ("why?", " "), "guiding": 2}, "questions is .'why.', ' '.; expected at least one word"),
        ({"guiding": 2, "ranked": False}, "guiding is 2, but ranked is false"),
    ],
)
def test_guiding_questions_that_could_have_no_effect_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCompression, match=named):
        PerceptionOptions(**options)


@pytest.mark.parametrize("texts", [[FOX, HEN, OWL], [OWL, FOX, HEN]])
def test_without_ranking_texts_stay_in_the_order_they_come_in(texts: list[str]) -> None:
    world = World()
    unranked = PerceptionCompressor(tools(world), replace(SMALL, ranked=False))
    assert unranked.compress(QUESTION, texts, 22).order == (0, 1)
    assert unranked.compress(QUESTION, texts, 1000).order == (0, 1, 2)
    assert world.scored
    assert not world.ranked


@settings(max_examples=25)
@example(["the the the the the the the the the the 中 " + "the " * 9 + "the"], "the seen?", 156, 160)
@given(st.lists(any_texts, max_size=3), plain_texts.filter(bool), st.integers(1, 200), st.integers(160, 240))
def test_a_text_longer_than_the_window_meets_every_budget_that_fits_it(
    texts: list[str], question: str, budget: int, window: int
) -> None:
    world, long = World(window), [text * 8 for text in texts]
    budget = min(budget, window - len(world.tokens(question)[0]) - 1)
    compression = PerceptionCompressor(tools(world), PerceptionOptions(belief=1)).compress(question, long, budget)
    missing = min(budget, compression.tokens_before) - compression.tokens_after
    assert 0 <= missing < 4
    assert all(len(piece) <= window // 2 for piece in world.ranked)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("k1", 1.1), ("k1", float("nan")), ("tau_o", -0.1), ("k2", 2), ("segment", 0), ("guiding", 17)],
        ("belief", 1.5),
    ],
)
def test_a_value_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(InvalidCompression, match=f"{option} is {value}; expected"):
        PerceptionOptions(**{option: value})


def test_the_defaults_are_the_papers_but_for_guiding_questions_belief_and_statement() -> None:
    assert PerceptionOptions() == PerceptionOptions(0.4, 0.2, 0.1, 200, True, 0, (), False, True, True, 0.9, False)


def test_no_more_texts_stay_than_are_enough() -> None:
    def left(belief: float, budget: int = 1000) -> list[str]:
        compression = _perception(replace(SMALL, belief=belief)).compress(QUESTION, [FOX, HEN, OWL], budget)
        if compression.tokens_after < min(budget, compression.tokens_before):
            assert "that is enough" in compression.reason
        return compression.apply([FOX, HEN, OWL])

    assert left(0) == left(0.9) == [HEN]
    assert left(1) == left(1 - 1e-12) == [HEN, FOX, OWL]
    assert len(left(0.9, 5)[0]) < len(HEN)  # the budget holds, too


def test_guiding_questions_that_say_the_same_leave_as_many_enough() -> None:
    def left(guiding: int, belief: float) -> tuple[int, ...]:
        same = replace(tools(), guide=lambda question, count: [question] * count)
        options = replace(SMALL, guiding=guiding, belief=belief)
        return PerceptionCompressor(same, options).compress(QUESTION, [FOX, HEN, OWL], 1000).order

    for hundredths in range(100):
        assert left(3, hundredths / 100) == left(0, hundredths / 100)


def test_without_ranking_there_is_nothing_to_believe() -> None:
    unranked = replace(SMALL, ranked=False, belief=0.5)
    assert len(_perception(unranked).compress(QUESTION, [FOX, HEN, OWL], 1000).order) == 3


def test_the_papers_statement_stands_behind_the_question_where_it_is_asked_for() -> None:
    asked = []
    for statement in (False, True):
        world = World()
        PerceptionCompressor(tools(world), replace(SMALL, statement=statement)).compress(QUESTION, [FOX, HEN], 9)
        asked += world.asked
    short, long = asked
    assert long[: len(short)] == short
    assert (
        long[len(short) :] == World().tokens(" We can get the answer to this question in the given documents.")[0]
    )
