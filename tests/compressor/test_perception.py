"""Perception Compressor as a whole: budgets, orders, ranges of characters, guiding questions."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.compressor.compressor import Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.perception import PerceptionCompressor, PerceptionOptions
from tests.compressor.worlds import World, alike, tools
from tests.compressor.worlds import texts as any_texts

FOX, HEN, OWL = (
    "The fox lives in the forest. At night the fox hunts mice.",
    "The hen sits on the farm. In spring the hen lays eggs.",
    "An owl sees far. Owls are birds of the night and sleep by day.",
)
QUESTION = "Where sits the hen on the farm?"
SMALL = PerceptionOptions(segment=6)


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
    options = PerceptionOptions(k1, tau_o, k2, segment, reverse=reverse)
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

    def order(guide: str, similarity: float, options: PerceptionOptions = SMALL) -> tuple[int, ...]:
        guided = Tools(World(), lambda _: [guide], lambda _, others: [similarity for _ in others])
        return PerceptionCompressor(guided, options).compress(question, texts, 1000).order

    hens, foxes = "The hen sits on the farm.", "The fox lives in the forest."
    assert order(hens, 1.0) == (1, 0)
    assert order(foxes, 1.0) == (0, 1)
    plain = PerceptionCompressor(Tools(World()), SMALL).compress(question, texts, 1000).order
    for guide in (hens, foxes):
        assert order(guide, 0.0) == order(guide, 1.0, replace(SMALL, guiding=0)) == plain


def test_the_first_guiding_questions_are_asked_and_no_more() -> None:
    asked: list[str] = []

    def similarity(question: str, others: list[str]) -> list[float]:
        asked.extend(others)
        return alike(question, others)

    guided = Tools(World(), lambda _: list("abcdef"), similarity)
    PerceptionCompressor(guided, replace(SMALL, guiding=2)).compress("what?", [FOX, HEN], 10)
    assert asked == ["a", "b"]


def test_guiding_questions_without_a_similarity_are_refused() -> None:
    with pytest.raises(InvalidCompression, match="similarity"):
        PerceptionCompressor(Tools(World(), lambda _: ["why?"]), SMALL)


@pytest.mark.parametrize(
    ("option", "value"),
    [("k1", 1.1), ("k1", float("nan")), ("tau_o", -0.1), ("k2", 2), ("segment", 0), ("guiding", 17)],
)
def test_a_value_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(InvalidCompression, match=f"{option} is {value}; expected"):
        PerceptionOptions(**{option: value})


def test_the_defaults_are_the_papers() -> None:
    assert PerceptionOptions() == PerceptionOptions(0.4, 0.2, 0.1, 200, 3, False, True)
