"""A lesson is encoded as what the service would read: the same tokens at the same positions, seen by the same."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from refdesk.craft.encoding import EncodedLesson, encode_lesson, encode_lessons
from refdesk.craft.errors import InvalidLessons, LessonTooLong
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.craft.recipe import TrainingRecipe
from refdesk.craft.training import LoraCourse
from refdesk.reader.engine import Engine
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.prompt import Prompt, build_prompt, encode_answer
from tests.craft.worlds import lesson, passage

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Tiny = Callable[..., ReaderModel]
READINGS = ["together", "apart"]


@pytest.fixture
def model(tiny: Tiny) -> ReaderModel:
    return tiny("llama", 2048)


def alone(one: Exercise, of: Lesson, model: ReaderModel) -> tuple[Prompt, tuple[int, ...]]:
    """An exercise as the service would read it, and the answer with its end token."""
    prompt = build_prompt(one.question, of.passages, model, 256, of.reading, one.form)
    return prompt, (*encode_answer(one.target, model), model.tokenizer.eos_token_id)


def groups_of(encoded: EncodedLesson) -> dict[int, np.ndarray]:
    """Where the tokens of each group are."""
    return {int(group): np.flatnonzero(encoded.groups == group) for group in np.unique(encoded.groups)}


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("passages", [0, 1, 4])
def test_a_lesson_of_one_exercise_is_the_prompt_and_the_answer_token_for_token(
    passages: int, index: int, model: ReaderModel
) -> None:
    full = lesson("together", passages, 4)
    only = replace(full, exercises=full.exercises[index : index + 1])
    encoded = encode_lesson(only, model)
    prompt, answer = alone(only.exercises[0], only, model)
    assert encoded.token_ids.tolist() == [*prompt.token_ids, *answer[:-1]]
    assert encoded.positions.tolist() == list(range(len(encoded.token_ids)))
    assert encoded.targets.tolist() == list(answer)
    assert encoded.rows.tolist() == list(range(len(prompt.token_ids) - 1, len(encoded.token_ids)))
    assert np.array_equal(encoded.mask(), np.tri(len(encoded.token_ids), dtype=bool))


@pytest.mark.parametrize("reading", READINGS)
def test_answers_are_learned_from_the_last_token_of_the_prompt_to_the_end_token_and_nothing_else(
    reading: str, model: ReaderModel
) -> None:
    whole = lesson(reading, 3, 4)  # type: ignore[arg-type]
    encoded = encode_lesson(whole, model)
    assert encoded.count == 4
    supervised = 0
    for number, one in enumerate(whole.exercises):
        prompt, answer = alone(one, whole, model)
        branch = np.flatnonzero(encoded.groups == -1 - number)
        assert encoded.token_ids[branch].tolist() == [*prompt.question, *answer[:-1]]
        mine = encoded.exercises == number
        assert encoded.targets[mine].tolist() == list(answer)
        assert encoded.targets[mine][-1] == model.tokenizer.eos_token_id
        # Nothing of the instruction: the first that is learned from is its last token.
        assert encoded.rows[mine].tolist() == branch[len(prompt.question) - 1 :].tolist()
        supervised += len(answer)
    assert len(encoded.rows) == len(encoded.targets) == len(encoded.exercises) == supervised
    # What is to be said behind a row of an answer is what stands behind it.
    for (row, target), (following, _) in pairwise(zip(encoded.rows, encoded.targets, strict=True)):
        if following == row + 1:
            assert encoded.token_ids[following] == target


@pytest.mark.parametrize("passages", [1, 2, 5])
@pytest.mark.parametrize("narrow", [False, True])
def test_passages_apart_begin_behind_the_system_prompt_and_branches_behind_all_in_line_or_behind_the_longest(
    narrow: bool, passages: int, model: ReaderModel, tiny: Tiny
) -> None:
    whole = lesson("apart", passages, 3)
    encoded = encode_lesson(whole, model)
    if narrow and passages > 1:  # by one position for the longest exercise, and so for none
        encoded = encode_lesson(whole, tiny("llama", int(encoded.positions.max()) + 1))
    prompt, _ = alone(whole.exercises[0], whole, model)
    places = groups_of(encoded)
    assert set(places) == {*range(-3, passages + 1)}
    system = len(prompt.system)
    assert encoded.token_ids[places[0]].tolist() == list(prompt.system)
    for index, segment in enumerate(prompt.passages, start=1):
        assert encoded.token_ids[places[index]].tolist() == list(segment)
        assert encoded.positions[places[index]].tolist() == list(range(system, system + len(segment)))
    lengths = [len(segment) for segment in prompt.passages]
    in_line = not narrow or passages == 1
    for index in range(passages):
        shift = sum(lengths[:index]) if in_line else 0
        assert (encoded.shifts[places[index + 1]] == shift).all()
    assert not encoded.shifts[encoded.groups <= 0].any()
    behind = system + (sum(lengths) if in_line else max(lengths))
    for number in range(3):
        found = encoded.positions[places[-1 - number]]
        assert found.tolist() == list(range(behind, behind + len(found)))


def test_branches_of_passages_together_begin_behind_the_last(model: ReaderModel) -> None:
    whole = lesson("together", 3, 3)
    encoded = encode_lesson(whole, model)
    front = np.flatnonzero(encoded.groups == 0)
    assert encoded.positions[front].tolist() == front.tolist() == list(range(len(front)))
    for number in range(3):
        found = encoded.positions[encoded.groups == -1 - number]
        assert found.tolist() == list(range(len(front), len(front) + len(found)))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("passages", [0, 1, 3])
def test_who_sees_whom(reading: str, passages: int, model: ReaderModel) -> None:
    encoded = encode_lesson(lesson(reading, passages, 3), model)  # type: ignore[arg-type]
    mask = encoded.mask()
    for row, looks in enumerate(encoded.groups.tolist()):
        for column, seen in enumerate(encoded.groups.tolist()):
            if column > row:
                expected = False
            elif seen == 0 or looks == seen:  # what everybody sees, and itself
                expected = True
            else:  # a branch sees the passages; passages see no other, nor branches another branch
                expected = looks < 0 < seen
            assert mask[row, column] == expected
    for first in (1, len(encoded.groups) // 2, len(encoded.groups)):
        assert np.array_equal(encoded.mask(first), mask[first:])


@pytest.mark.parametrize("exercises", [1, 4])
@pytest.mark.parametrize("passages", [0, 1, 3])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_an_exercise_is_as_likely_in_training_as_in_the_engine_by_itself(
    kind: str, reading: str, passages: int, exercises: int, fresh: Tiny, tmp_path: Path
) -> None:
    model = fresh(kind)
    whole = lesson(reading, passages, exercises)  # type: ignore[arg-type]
    expected = []
    with Engine(model, chunk_tokens=64) as engine:
        for one in whole.exercises:
            prompt, answer = alone(one, whole, model)
            apart = prompt.reading == "apart"
            request = GenerationRequest(
                front=(prompt.system,),
                passages=prompt.passages if apart else (),
                token_ids=prompt.question if apart else prompt.token_ids[len(prompt.system) :],
                continuations=(answer,),
                in_line=prompt.in_line,
                max_new_tokens=1,
            )
            (nll,) = engine.submit(request).result().continuation_nll
            expected.append(sum(nll) / len(nll))
    encoded = encode_lesson(whole, model)
    training = LoraCourse(model, [encoded], [encoded], TrainingRecipe(), tmp_path / "none")
    sums = np.bincount(encoded.exercises, training._nll(encoded).detach())
    assert (sums / np.bincount(encoded.exercises)).tolist() == pytest.approx(expected, abs=1e-4)
    training.close()


@pytest.mark.parametrize("reading", READINGS)
def test_the_question_can_stand_ahead_of_the_passages_too(reading: str, model: ReaderModel) -> None:
    one = replace(lesson(reading, 3, 1), question_first=True)  # type: ignore[arg-type]
    encoded = encode_lesson(one, model)
    asked = one.exercises[0].question
    plain = build_prompt(asked, one.passages, model, 256, one.reading)
    prompt = build_prompt(asked, one.passages, model, 256, one.reading, question_first=True)
    assert prompt.system[: len(plain.system)] == plain.system
    assert asked in model.tokenizer.decode(prompt.system[len(plain.system) :])
    answer = (*encode_answer(one.exercises[0].target, model), model.tokenizer.eos_token_id)
    assert encoded.token_ids.tolist() == [*prompt.token_ids, *answer[:-1]]
    # It is part of what everybody sees, and everything behind it stands so much later.
    assert encoded.frame == len(prompt.system)
    assert not encoded.groups[: encoded.frame].any()
    assert encoded.positions[: encoded.frame].tolist() == list(range(encoded.frame))
    lengths = [len(passage) for passage in prompt.passages]
    behind = encoded.frame + sum(lengths)
    assert encoded.positions[encoded.groups < 0].tolist() == list(
        range(behind, behind + len(prompt.question) + len(answer) - 1)
    )
    document = encoded.token_ids[encoded.document].tolist()
    assert document == [token for passage in prompt.passages for token in passage]


@pytest.mark.parametrize("reading", READINGS)
def test_a_lesson_knows_its_document_and_its_kind(reading: str, model: ReaderModel) -> None:
    whole = lesson(reading, 3, 2)  # type: ignore[arg-type]
    encoded = encode_lesson(whole, model)
    prompt, _ = alone(whole.exercises[0], whole, model)
    assert (encoded.frame, encoded.kind) == (len(prompt.system), reading)
    document = encoded.token_ids[encoded.document].tolist()
    assert document == [token for passage in prompt.passages for token in passage]
    first = replace(whole, exercises=whole.exercises[:1], question_first=True)
    assert encode_lesson(first, model).kind == "question_first"


def test_the_question_of_one_of_several_exercises_cannot_be_first(model: ReaderModel) -> None:
    with pytest.raises(InvalidLessons, match="question_first, and 2 exercises; expected one"):
        encode_lesson(replace(lesson("together", 2, 2), question_first=True), model)


def test_lessons_that_are_too_long_are_counted(tiny: Tiny) -> None:
    model = tiny("llama", 512)
    over_window = replace(lesson("together", 0, 1), passages=(passage("Long", "The desk. " * 200),))
    lessons = [lesson("together", 1, 1), over_window, lesson("together", 2, 1), lesson("together", 1, 2)]
    every, too_long = encode_lessons(lessons, model, 512)
    assert ([len(one.token_ids) for one in every], too_long) == (
        [len(encode_lesson(lessons[number], model).token_ids) for number in (0, 2, 3)],
        1,
    )
    longest = len(every[0].token_ids)
    kept, too_long = encode_lessons(lessons, model, longest)
    assert ([len(one.token_ids) for one in kept], too_long) == ([longest], 3)


def test_a_lesson_without_exercises_is_refused(model: ReaderModel) -> None:
    with pytest.raises(InvalidLessons, match="without exercises"):
        encode_lesson(lesson("together", 2, 0), model)


@pytest.mark.parametrize("reading", READINGS)
def test_passages_are_never_left_out(reading: str, tiny: Tiny) -> None:
    model = tiny("llama", 512)
    long = [passage(f"Long {size}", "The desk. " * size) for size in (10, 60, 200)]
    asked = lesson("together", 0, 1).exercises
    assert encode_lesson(Lesson((long[0],), reading, asked), model).count == 1  # type: ignore[arg-type]
    with pytest.raises(LessonTooLong, match=r"exercise 'who': its passages do not fit the window of 512"):
        encode_lesson(Lesson((long[0], long[2]), reading, asked), model)  # type: ignore[arg-type]
    with pytest.raises(LessonTooLong):
        encode_lesson(Lesson((long[2],), reading, asked), model)  # type: ignore[arg-type]
