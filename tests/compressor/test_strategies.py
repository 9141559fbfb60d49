"""What every strategy promises, and what each of the rivals is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.compressor.compression import Compression
from refdesk.compressor.compressor import Compressor, Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.perception import PerceptionOptions
from refdesk.compressor.strategies import STRATEGIES, SegmentOptions
from refdesk.compressor.unit import tokenize
from tests.compressor.worlds import World, losses, plain_texts, tools
from tests.compressor.worlds import texts as any_texts

FOX, HEN, OWL = (
    "The fox lives in the forest. At night the fox hunts mice.",
    "The hen sits on the farm. In spring the hen lays eggs.",
    "An owl sees far. Owls are birds of the night and sleep by day.",
)
TEXTS = [FOX, HEN, OWL]
QUESTION = "Where sits the hen on the farm?"

each_strategy = pytest.mark.parametrize("name", STRATEGIES)


def _made(name: str, world: World) -> Compressor[Any]:
    """As many tokens stay as the budget has room for, not only as many as are enough."""
    kind = STRATEGIES[name]
    return kind(tools(world), PerceptionOptions(belief=1) if name == "perception" else kind.option_type())


def _compress(name: str, question: str, texts: list[str], budget: int) -> Compression:
    return _made(name, World()).compress(question, texts, budget)


@each_strategy
@settings(max_examples=25)
@given(st.lists(any_texts, max_size=4), any_texts, st.integers(1, 130))
def test_the_budget_is_met_exactly_or_it_says_why_not(
    name: str, texts: list[str], question: str, budget: int
) -> None:
    compression = _compress(name, question, texts, budget)
    assert compression.tokens_before == sum(len(World().tokens(text)[0]) for text in texts)
    assert compression.tokens_after <= budget
    assert (compression.reason == "") == (compression.tokens_after == budget)
    if name != "best" and compression.tokens_before >= budget:
        assert budget - compression.tokens_after < 4  # tokens of the largest character


@each_strategy
@settings(max_examples=25)
@given(st.lists(plain_texts, min_size=1, max_size=4), plain_texts, st.integers(1, 130))
def test_where_a_character_is_one_token_at_most_every_budget_is_met(
    name: str, texts: list[str], question: str, budget: int
) -> None:
    compression = _compress(name, question, texts, budget)
    if name != "best":
        assert compression.tokens_after == min(budget, compression.tokens_before)


@each_strategy
@settings(max_examples=25)
@given(st.lists(any_texts, max_size=4), any_texts, st.integers(1, 130))
def test_ranges_are_whole_tokens_ascending_apart_and_count_what_stays(
    name: str, texts: list[str], question: str, budget: int
) -> None:
    compression = _compress(name, question, texts, budget)
    assert len(set(compression.order)) == len(compression.order) == len(compression.kept)
    after = 0
    for index, ranges in zip(compression.order, compression.kept, strict=True):
        flat = [character for span in ranges for character in span]
        assert ranges
        assert flat == sorted(set(flat))
        units = tokenize(World(), index, texts[index]).units
        starts, ends = {unit.start for unit in units}, {unit.end for unit in units}
        assert {start for start, _ in ranges} <= starts
        assert {end for _, end in ranges} <= ends
        after += sum(unit.size for unit in units if any(a <= unit.start < b for a, b in ranges))
    assert after == compression.tokens_after


@each_strategy
def test_a_budget_below_one_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidCompression, match="budget is 0; expected at least 1"):
        _compress(name, QUESTION, TEXTS, 0)


@each_strategy
def test_a_character_that_is_larger_than_the_budget_goes_and_the_reason_is_told(name: str) -> None:
    compression = _compress(name, QUESTION, ["🦊"], 3)
    assert (compression.order, compression.kept, compression.tokens_after) == ((), (), 0)
    assert compression.reason.startswith("0 tokens stay, the budget is 3")


@each_strategy
def test_without_texts_nothing_stays(name: str) -> None:
    for texts in ([], ["", ""]):
        compression = _compress(name, QUESTION, texts, 10)
        assert (compression.order, compression.tokens_before, compression.tokens_after) == ((), 0, 0)


@each_strategy
def test_the_same_twice_is_the_same(name: str) -> None:
    assert _compress(name, QUESTION, TEXTS, 17) == _compress(name, QUESTION, TEXTS, 17)


def test_rerank_keeps_the_best_texts_whole_and_cuts_the_last() -> None:
    compression = _compress("rerank", QUESTION, TEXTS, 15)
    best, second = compression.apply(TEXTS)
    assert compression.order[0] == 1
    assert best == HEN
    assert TEXTS[compression.order[1]].startswith(second)


def test_best_keeps_one_text() -> None:
    compression = _compress("best", QUESTION, TEXTS, 100)
    assert compression.apply(TEXTS) == [HEN]
    assert compression.reason.endswith("only the best text may stay")
    assert _compress("best", QUESTION, TEXTS, 3).apply(TEXTS) == ["The hen sits"]


def test_perplexity_keeps_the_least_likely_tokens_and_no_question_is_heard() -> None:
    compression = _compress("perplexity", QUESTION, TEXTS, 20)
    assert compression == _compress("perplexity", "", TEXTS, 20)
    ids = [token_id for text in TEXTS for token_id in World().tokens(text)[0]]
    unlikely = sorted(range(len(ids)), key=lambda at: -losses((), tuple(ids))[at])[:20]
    units = [unit for index, text in enumerate(TEXTS) for unit in tokenize(World(), index, text).units]
    stays = [
        any(start <= unit.start < end for start, end in compression.kept[compression.order.index(unit.text)])
        for unit in units
    ]
    assert [at for at, kept in enumerate(stays) if kept] == sorted(unlikely)


def test_likelihood_drops_texts_by_rank_and_tokens_by_perplexity() -> None:
    compression = _compress("likelihood", QUESTION, TEXTS, 15)
    assert compression.order[0] == 1
    assert len(compression.order) == 2
    kept = compression.apply(TEXTS)[0]
    assert kept != HEN
    assert not HEN.startswith(kept)


def test_sentences_stay_whole_but_for_the_last() -> None:
    assert _compress("sentences", QUESTION, TEXTS, 7).apply(TEXTS) == ["The hen sits on the farm."]
    assert _compress("sentences", QUESTION, TEXTS, 21).apply(TEXTS) == [HEN, " At night the fox hunts mice."]
    assert _compress("sentences", QUESTION, TEXTS, 19).apply(TEXTS) == [HEN, " At night the fox hunts"]


# Each is a piece of its own where a piece has at most 30 tokens.
FARM = "In spring the hen sits on the farm and by day the hen is seen there by the fox."
NIGHT = "An owl sees far and hunts mice, for owls are birds of the night and of the forest."
EGGS = "Where sits the hen? The hen sits on the farm, and on the farm the hen lays eggs."


LONG = [FOX, f"{FARM} {NIGHT} {EGGS}"]


def _cut_small(name: str, budget: int) -> tuple[World, Compression]:
    world = World(window=60)
    return world, _made(name, world).compress(QUESTION, LONG, budget)


@pytest.mark.parametrize("name", ["rerank", "best", "perception"])
def test_pieces_of_a_long_text_are_ranked_by_themselves_and_what_stays_is_in_its_place(name: str) -> None:
    sizes = [len(World().tokens(text)[0]) for text in (FOX, FARM, f" {NIGHT}", f" {EGGS}")]
    world, compression = _cut_small(name, sizes[3] + sizes[1])
    assert [len(piece) for piece in world.ranked] == sizes
    assert compression.order == (1,)
    assert compression.apply(LONG) == [f"{FARM} {EGGS}"]
    assert _cut_small(name, sizes[3])[1].apply(LONG) == [f" {EGGS}"]


def test_texts_come_in_the_order_of_their_best_pieces_whatever_their_others_are() -> None:
    _, compression = _cut_small("rerank", 1000)
    assert compression.order == (1, 0)
    assert compression.apply(LONG) == LONG[::-1]


def test_best_keeps_every_piece_of_the_best_text_and_none_of_another() -> None:
    _, compression = _cut_small("best", 1000)
    assert compression.apply(LONG) == LONG[1:]
    assert compression.reason.endswith("only the best text may stay")


def test_sentences_need_a_splitter() -> None:
    kind = STRATEGIES["sentences"]
    with pytest.raises(InvalidCompression, match="needs a splitter"):
        kind(Tools(World()), kind.option_type())


@pytest.mark.parametrize("segment", [0, -1, 65537])
def test_a_segment_out_of_range_is_named(segment: int) -> None:
    with pytest.raises(InvalidCompression, match=f"segment is {segment}; expected 1 to 65536"):
        SegmentOptions(segment)


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if name != "perplexity"])
def test_texts_are_ranked_under_their_titles_which_are_not_counted(name: str) -> None:
    texts = ["It lives there. It eats.", "It sits there. It eats."]
    titles = ["The fox in the forest", "The hen on the farm"]
    found = []
    for order in ((0, 1), (1, 0)):
        compressor = _made(name, World())
        ordered = [texts[i] for i in order], [titles[i] for i in order]
        found.append(compressor.compress("Who is the hen on the farm?", ordered[0], 8, ordered[1]))
        assert found[-1].order[0] == order.index(1)
        assert found[-1].tokens_before == compressor.compress("Who?", texts, 8).tokens_before
        assert found[-1].tokens_after <= 8
    assert found[0].apply(texts) == found[1].apply(texts[::-1])


def test_a_title_longer_than_the_window_is_no_obstacle() -> None:
    compression = _made("best", World(window=60)).compress(QUESTION, [FOX, HEN], 9, ["The hen " * 90, ""])
    assert compression.tokens_after == 9
