"""Which heads look from a question to the passage that answers it, and how they are chosen."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from refdesk.craft import retrieval_choice
from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.craft.retrieval_choice import (
    PASSAGES,
    QUESTIONS,
    TEXTS,
    Choice,
    Look,
    Numbers,
    best_heads,
    choice,
    choose_retrieval_heads,
    first_share,
    gather,
    worth,
)
from refdesk.reader.engine import Engine
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.retrieval_heads import Heads
from tests.craft.worlds import hall, lesson
from tests.reader.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]

HEADS = tuple((layer, head) for layer in (2, 3) for head in range(5))


def looks_of(finder: int, questions: int = 12) -> list[Look]:
    """Ten heads over eight stretches, of which one looks at the right one and the others where chance has it."""
    rng = np.random.default_rng(finder)
    looks = []
    for number in range(questions):
        by_head = rng.random((len(HEADS), 8))
        by_head[finder, number % 8] = 2.0
        looks.append(Look(by_head, (number % 8,), number % 2))
    return looks


def lessons_of(count: int, passages: int = 4) -> list[Lesson]:
    return [lesson("together", passages, 3, first=passages * number) for number in range(count)]


def test_a_head_is_worth_the_mean_reciprocal_rank_of_the_best_stretch_with_the_answer() -> None:
    by_head = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    looks = [Look(by_head, (2,), 0), Look(by_head, (0, 1), 1)]
    assert worth(looks).tolist() == pytest.approx([(1 / 3 + 1) / 2, (1 / 2 + 1) / 2])


def test_a_head_that_looks_nowhere_or_at_one_wrong_place_is_worth_what_the_last_is() -> None:
    by_head = np.zeros((2, 8))
    by_head[1, 0] = 1.0
    assert worth([Look(by_head, (3,), 0), Look(by_head, (5, 6), 1)]).tolist() == [(1 / 8 + 1 / 7) / 2] * 2


def test_the_head_that_looks_at_answers_is_chosen_first_and_tried_where_it_was_not_chosen() -> None:
    looks = looks_of(finder=7)
    assert best_heads(looks, 3)[0] == 7 and len(best_heads(looks, 3)) == 3
    found = choice(looks, HEADS)
    assert found.heads == (HEADS[7],)  # by itself it finds best
    assert (found.questions, found.found, found.by_lot) == (12, 1.0, pytest.approx(1 / 8))
    assert 0 <= found.found_by_all <= 1
    # What is chosen by one half and is wrong for the other is no choice.
    other = [replace(look, by_head=-look.by_head) if look.half else look for look in looks_of(7, 200)]
    with pytest.raises(InvalidLessons, match=r"the best heads find 0\.\d\d of the answers, all heads 0\.\d\d"):
        choice(other, HEADS)


def test_gold_counts_where_it_is_among_so_many_of_the_best() -> None:
    scored = [(np.array([0.1, 0.5, 0.4]), (2,)), (np.array([0.9, 0.0, 0.1]), (0, 1))]
    assert [first_share(scored, count) for count in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_texts_are_of_passages_that_differ_and_of_questions_that_they_answer() -> None:
    texts = list(gather(lessons_of(3 * PASSAGES), seed=0))
    assert 2 <= len(texts) <= TEXTS
    for text in texts:
        shown = [passage.text for passage in text.passages]
        assert len(set(shown)) == len(shown) >= PASSAGES
        assert len(text.asked) == QUESTIONS
        for question, gold in text.asked:
            assert gold, question
            number = question.split()[-1].rstrip("?")
            assert all(text.passages[place].title == f"Hall {number}" for place in gold)
    assert texts == list(gather(lessons_of(3 * PASSAGES), seed=0))
    assert texts != list(gather(lessons_of(3 * PASSAGES), seed=1))


def test_what_shares_text_with_the_passage_that_answers_is_right_too() -> None:
    text = "The keeper of hall 900 is called Keeper900, and he is old."
    first, second = (Passage("doc", "", text[a:b], a, b, 0.0) for a, b in ((0, 43), (4, len(text))))
    others = tuple(hall(number) for number in range(PASSAGES))
    asked = Exercise("who", "Who keeps hall 900?", "Keeper900", oracles=(0,))
    (found,) = gather([Lesson((first, second, *others), "together", (asked,))], seed=0)
    assert {found.passages[place].text for place in found.asked[0][1]} == {first.text, second.text}


def test_all_heads_of_the_layers_that_retrieve_look_and_the_best_are_chosen(
    tiny: Callable[..., ReaderModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Look] = []

    def planted(looks: Sequence[Look], heads: Heads) -> Choice:
        """A random model finds nothing: here its third head does."""
        looked.extend(looks)
        return choice([replace(look, by_head=_finding(look, 2)) for look in looks], heads)

    model = tiny()
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(retrieval_choice, "choice", planted)
    with Engine(model) as engine:
        found = choose_retrieval_heads(
            model, None, engine.submit, lessons_of(25), report=lambda done, of: told.append((done, of))
        )
    layers, heads = model.model.config.num_hidden_layers, model.model.config.num_attention_heads
    every = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    assert found.heads == (every[2],)
    assert (found.questions, found.found) == (2 * QUESTIONS, 1.0)
    assert all(look.by_head.shape[0] == len(every) and look.by_head.shape[1] >= PASSAGES for look in looked)
    assert all((look.by_head >= 0).all() and look.by_head.any() for look in looked)
    assert {look.half for look in looked} == {0, 1}
    assert told == [(0, 2), (1, 2), (2, 2)]


def _finding(look: Look, finder: int) -> Numbers:
    by_head = look.by_head.copy()
    by_head[finder, list(look.gold)] = 1 + by_head.sum()
    return by_head


def test_too_few_lessons_are_refused(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny()
    with Engine(model) as engine, pytest.raises(InvalidLessons, match="make 1 texts of 40 passages; expected 2"):
        choose_retrieval_heads(model, None, engine.submit, lessons_of(12))
