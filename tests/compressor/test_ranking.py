"""Texts are ranked by how likely they make the question and its guiding questions."""

from collections.abc import Sequence
from math import fsum, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor import ranking
from refdesk.compressor.ranking import enough
from tests.compressor.worlds import VOCABULARY, World, losses, plain_texts, probability

HEN, FOX = " The hen sits on the farm and the hen sleeps", " A fox lives in a forest and a fox runs"


filled = plain_texts.filter(bool)


def _ids(*texts: str) -> list[tuple[int, ...]]:
    return [World().tokens(text)[0] for text in texts]


def _rank(documents: list[tuple[int, ...]], questions: list[str], weights: Sequence[float] = (1.0,)) -> list[int]:
    return ranking.rank(ranking.question_losses(World(), documents, questions, weights))


def _loss(text: str, question: str) -> float:
    """The mean over the question's tokens in LongLLMLingua's form."""
    form = f"\n\nQuestion: {question}\nAnswer:"
    document, asked = _ids(text, form)
    return fsum(losses(document, asked)) / len(asked)


@given(plain_texts)
def test_the_world_is_a_language_model(text: str) -> None:
    read = (VOCABULARY, *World().tokens(text)[0])
    assert fsum(probability(read, token_id) for token_id in range(VOCABULARY)) == pytest.approx(1)


def test_the_text_behind_which_the_question_is_likelier_comes_first() -> None:
    documents = _ids(HEN, FOX)
    assert _rank(documents, ["Where sits the hen on the farm?"]) == [0, 1]
    assert _rank(documents, ["Where runs a fox in a forest?"]) == [1, 0]


def test_weights_decide_between_questions_that_disagree() -> None:
    documents = _ids(HEN, FOX)
    questions = ["Where sits the hen on the farm?", "Where runs a fox in a forest?"]
    assert _rank(documents, questions, [1.0, 0.1]) == [0, 1]
    assert _rank(documents, questions, [0.1, 1.0]) == [1, 0]


@given(st.lists(filled, min_size=2, max_size=5), plain_texts)
def test_one_question_ranks_by_its_mean_loss_behind_each_text(texts: list[str], question: str) -> None:
    assert _rank(_ids(*texts), [question]) == sorted(range(len(texts)), key=lambda i: _loss(texts[i], question))


@given(
    st.lists(filled, min_size=2, max_size=5).flatmap(
        lambda texts: st.tuples(st.just(texts), st.permutations(texts))
    )
)
def test_permuting_documents_does_not_change_their_ranking(orders: tuple[list[str], list[str]]) -> None:
    questions = ["Who sees the hen?", "Who is seen?"]
    ranked = [[texts[i] for i in _rank(_ids(*texts), questions, [1.0, 0.5])] for texts in orders]
    # Only equal documents may change places.
    first, second = [
        [_loss(text, questions[0]) + 0.5 * _loss(text, questions[1]) for text in texts] for texts in ranked
    ]
    assert first == second == sorted(first)


LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("losses", "tokens", "belief", "count"),
    [
        ([2.0, 2.0], 5, 0.5, 1),
        ([2.0, 2.0], 5, 0.51, 2),
        ([log(2), log(8)], 2, 0.8, 1),  # two tokens count as one: likelihoods 1/2 and 1/8, or 0.8 and 0.2
        ([log(2), log(8)], 2, 0.81, 2),
        ([log(8), log(2)], 2, 0.8, 1),
        ([log(2), log(8)], 4, 0.94, 1),  # four as two: 1/4 and 1/64, or 16/17 and 1/17
        ([log(2), log(8)], 4, 0.95, 2),
        ([3.0], 9, 1.0, 1),
        ([3.0, 4.0, 5.0], 9, 0.0, 1),
        ([], 9, 0.9, 0),
    ],
)
def test_as_many_are_enough_as_hold_the_belief(
    losses: list[float], tokens: int, belief: float, count: int
) -> None:
    assert enough(losses, tokens, belief) == count


@given(LOSSES, st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_more_belief_needs_no_fewer(losses: list[float], tokens: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 1 <= enough(losses, tokens, less) <= enough(losses, tokens, more) <= len(losses)


@given(st.integers(1, 9), st.integers(1, 40), st.floats(0.01, 1))
def test_where_none_stands_out_as_many_are_needed_as_the_belief_has_of_all(
    count: int, tokens: int, belief: float
) -> None:
    assert enough([1.5] * count, tokens, belief) in (int(belief * count), int(belief * count) + 1)


@given(LOSSES, st.integers(1, 40), st.floats(0, 1), st.floats(-5, 5))
def test_only_differences_count(losses: list[float], tokens: int, belief: float, more: float) -> None:
    moved = [float(round(loss)) for loss in losses]
    assert enough(moved, tokens, belief) == enough([loss + round(more) for loss in moved], tokens, belief)
