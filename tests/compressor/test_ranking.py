"""Texts are ranked by how likely they make the question and its guiding questions."""

from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor.ranking import rank
from tests.compressor.worlds import VOCABULARY, World, losses, plain_texts, probability

HEN, FOX = " The hen sits on the farm and the hen sleeps", " A fox lives in a forest and a fox runs"


filled = plain_texts.filter(bool)


def _ids(*texts: str) -> list[tuple[int, ...]]:
    return [World().tokens(text)[0] for text in texts]


def _loss(text: str, question: str) -> float:
    """The mean over the question's tokens in LongLLMLingua's form."""
    form = f"\n\nQuestion: {question}\nAnswer: We can get the answer to this question in the given documents."
    document, asked = _ids(text, form)
    return fsum(losses(document, asked)) / len(asked)


@given(plain_texts)
def test_the_world_is_a_language_model(text: str) -> None:
    read = (VOCABULARY, *World().tokens(text)[0])
    assert fsum(probability(read, token_id) for token_id in range(VOCABULARY)) == pytest.approx(1)


def test_the_text_behind_which_the_question_is_likelier_comes_first() -> None:
    documents = _ids(HEN, FOX)
    assert rank(World(), documents, ["Where sits the hen on the farm?"]) == [0, 1]
    assert rank(World(), documents, ["Where runs a fox in a forest?"]) == [1, 0]


def test_weights_decide_between_questions_that_disagree() -> None:
    documents = _ids(HEN, FOX)
    questions = ["Where sits the hen on the farm?", "Where runs a fox in a forest?"]
    assert rank(World(), documents, questions, [1.0, 0.1]) == [0, 1]
    assert rank(World(), documents, questions, [0.1, 1.0]) == [1, 0]


@given(st.lists(filled, min_size=2, max_size=5), plain_texts)
def test_one_question_ranks_by_its_mean_loss_behind_each_text(texts: list[str], question: str) -> None:
    assert rank(World(), _ids(*texts), [question]) == sorted(
        range(len(texts)), key=lambda i: _loss(texts[i], question)
    )


@given(
    st.lists(filled, min_size=2, max_size=5).flatmap(
        lambda texts: st.tuples(st.just(texts), st.permutations(texts))
    )
)
def test_permuting_documents_does_not_change_their_ranking(orders: tuple[list[str], list[str]]) -> None:
    questions = ["Who sees the hen?", "Who is seen?"]
    ranked = [[texts[i] for i in rank(World(), _ids(*texts), questions, [1.0, 0.5])] for texts in orders]
    # Only equal documents may change places.
    first, second = [
        [_loss(text, questions[0]) + 0.5 * _loss(text, questions[1]) for text in texts] for texts in ranked
    ]
    assert first == second == sorted(first)
