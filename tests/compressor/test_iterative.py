"""Semi-guided iterative compression, on a model whose likelihoods are computed."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.compressor.iterative import compress_segments
from refdesk.compressor.selection import select
from refdesk.compressor.unit import Unit, size_of, token_ids_of, tokenize
from tests.compressor.worlds import World, losses, plain_texts, texts

TEXT = "the hen sees the fox and the fox sees a hen and runs. the fox runs. the hen is the hen"
QUESTION = "Who sees the fox"


def _segments(text: str, size: int) -> list[list[Unit]]:
    units = list(tokenize(World(), 0, text).units)
    return [units[at : at + size] for at in range(0, len(units), size)]


def _ids(text: str) -> tuple[int, ...]:
    return World().tokens(text)[0]


def _written_out(
    question: str, segments: Sequence[Sequence[Unit]], counts: Sequence[int], shares: Sequence[float]
) -> list[Unit]:
    """Methods 3.2.5, the whole text read again for every segment."""
    kept: list[Unit] = []
    for segment, count, share in zip(segments, counts, shares, strict=True):
        prior, tokens = token_ids_of(kept), token_ids_of(segment)
        u, c = losses(prior, tokens), losses(_ids(question) + prior, tokens)
        g = [a - b for a, b in zip(u, c, strict=True)]
        kept += [segment[i] for i in select(u, g, [1] * len(segment), count, share)]
    return kept


def test_segments_by_themselves_are_scored_behind_nothing_but_the_question() -> None:
    segments = _segments(TEXT, 5)
    kept = compress_segments(World(), _ids(QUESTION), segments, [2] * 5, [0.5] * 5, iterative=False)
    alone = [
        unit
        for segment in segments
        for unit in compress_segments(World(), _ids(QUESTION), [segment], [2], [0.5], iterative=False)
    ]
    assert kept == alone
    assert kept != compress_segments(World(), _ids(QUESTION), segments, [2] * 5, [0.5] * 5)


@settings(max_examples=30)
@given(plain_texts, plain_texts, st.integers(1, 9), st.data())
def test_it_is_the_papers_loop_with_everything_read_again(
    question: str, text: str, size: int, data: st.DataObject
) -> None:
    segments = _segments(text, size)
    counts = [data.draw(st.integers(0, len(segment))) for segment in segments]
    shares = [data.draw(st.floats(0, 1)) for _ in segments]
    expected = _written_out(question, segments, counts, shares)
    assert compress_segments(World(), _ids(question), segments, counts, shares) == expected


def test_segments_are_scored_once_and_those_kept_or_dropped_whole_are_not() -> None:
    world, segments = World(), _segments(TEXT, 5)
    counts = [5, 2, 0, 3]
    kept = compress_segments(world, _ids(QUESTION), segments[:4], counts, [0.5] * 4)
    assert world.scored == [(token_ids_of(segments[i]), 2) for i in (1, 3)]
    assert [unit for unit in kept if unit in segments[0]] == segments[0]
    assert not set(kept) & set(segments[2])
    assert len(kept) == sum(counts)


def test_nothing_is_read_behind_a_question_that_chooses_nothing() -> None:
    world = World()
    compress_segments(world, _ids(QUESTION), _segments(TEXT, 5), [2] * 5, [0.0] * 5)
    assert {priors for _, priors in world.scored} == {1}


@given(plain_texts, plain_texts)
def test_without_a_question_the_contrast_is_exactly_zero(prior: str, text: str) -> None:
    world = World()
    priors = [world.begin(), world.begin(())]
    for one in priors:
        one.keep(_ids(prior))
    unconditional, conditional = world.nll(priors, _ids(text))
    assert [u - c for u, c in zip(unconditional, conditional, strict=True)] == [0.0] * len(_ids(text))


def test_without_a_question_a_guided_share_is_a_tie_and_goes_to_the_earlier_tokens() -> None:
    segments = _segments(TEXT, 5)
    kept = compress_segments(World(), (), segments, [2] * len(segments), [1.0] * len(segments))
    assert kept == [unit for segment in segments for unit in segment[:2]]


def test_what_the_question_says_is_what_it_chooses() -> None:
    segments = _segments(" a fox runs. a badger sleeps. a hen sits", 99)
    kept = compress_segments(World(), _ids("where is the badger that sleeps. now"), segments, [1], [1.0])
    assert token_ids_of(kept) in (_ids(" badger"), _ids(" sleeps."))


@given(texts, st.integers(1, 9), st.booleans(), st.data())
def test_units_stay_in_order_and_what_a_segment_misses_the_next_makes_up_for(
    text: str, size: int, reverse: bool, data: st.DataObject
) -> None:
    segments = _segments(text, size)
    counts = [data.draw(st.integers(0, size_of(segment))) for segment in segments]
    shares = [data.draw(st.floats(0, 1)) for _ in segments]
    kept = compress_segments(World(), _ids(QUESTION), segments, counts, shares, reverse=reverse)
    units = iter(unit for segment in segments for unit in segment)
    assert all(unit in units for unit in kept)
    missing = sum(counts) - size_of(kept)
    assert 0 <= missing < max((unit.size for segment in segments for unit in segment), default=1)


def test_thresholds_keep_fewer_than_asked_and_owe_nothing() -> None:
    segments = _segments(TEXT, 5)
    kept = compress_segments(
        World(), _ids(QUESTION), segments, [2.5] * len(segments), [0.5] * len(segments), exact=False
    )
    assert len(kept) < 2.5 * len(segments)
