"""Questions that the reader makes of passages: which are kept, and what a kill leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refdesk.craft.asking import AskedQuestion, ask_about, keep_question, kept_questions
from refdesk.craft.raft import ASK
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from tests.craft.worlds import hall

HALLS = [hall(number) for number in range(40)]


class _Reader:
    """Stands in for the engine: asks after the keeper of the hall that it is shown, and answers, unless `silent`
    about it. `seen`: the requests."""

    def __init__(self, model: ReaderModel, silent: set[int]) -> None:
        self._tokenizer = model.tokenizer
        self._silent = silent
        self.seen: list[GenerationRequest] = []

    def submit(self, request: GenerationRequest) -> Any:
        self.seen.append(request)
        text = self._tokenizer.decode(request.token_ids)
        number = next(n for n in range(40) if f"Hall {n} is old" in text)
        answer = f"Keeper{number}"
        if ASK in text:
            said = f"Question: Who is it that keeps hall {number}?\nAnswer: {answer}"
        else:
            said = "Nobody." if number in self._silent else answer
        return _Stream(said)


class _Stream:
    finish_reason = "stop"

    def __init__(self, text: str) -> None:
        self.text = text

    def result(self) -> "_Stream":
        return self


@pytest.fixture
def reader(fresh: Callable[..., ReaderModel]) -> tuple[ReaderModel, _Reader]:
    model = fresh()
    return model, _Reader(model, silent={3, 17, 20})


def asked_of(reader: tuple[ReaderModel, Any], **options: Any) -> list[AskedQuestion]:
    return list(ask_about(HALLS, *reader, **options))


def test_a_question_is_kept_if_its_answer_comes_back(reader: tuple[ReaderModel, _Reader]) -> None:
    made = asked_of(reader)
    assert [asked.number for asked in made] == [n for n in range(40) if n not in (3, 17, 20)]
    assert made[0] == AskedQuestion("Who is it that keeps hall 0?", "Keeper0", HALLS[0], 0)
    assert all(asked.passage == HALLS[asked.number] for asked in made)


@pytest.mark.parametrize("kept", [1, 15, 16, 22, 37])
def test_what_is_known_is_not_made_again_and_the_rest_is_the_same(
    kept: int, reader: tuple[ReaderModel, _Reader], tmp_path: Path
) -> None:
    whole = asked_of(reader)
    first = [request for request in reader[1].seen if request.temperature > 0]
    reader[1].seen.clear()
    for asked in whole[:kept]:
        keep_question(tmp_path / "asked.jsonl", asked)
    known = kept_questions(tmp_path / "asked.jsonl", HALLS)
    assert known == whole[:kept]
    assert [*known, *asked_of(reader, known=known)] == whole
    # Sampled alike: the seed is the passage's, wherever the work goes on.
    again = [request for request in reader[1].seen if request.temperature > 0]
    assert again == first[known[-1].number + 1 :]


@pytest.mark.parametrize("cut", [1, 20])  # 1: a whole question that lacks but the end of its line
def test_a_line_cut_by_a_kill_is_dropped_and_can_be_written_again(
    cut: int, reader: tuple[ReaderModel, _Reader], tmp_path: Path
) -> None:
    path, whole = tmp_path / "asked.jsonl", asked_of(reader)
    for asked in whole[:3]:
        keep_question(path, asked)
    path.write_bytes(path.read_bytes()[:-cut])
    assert kept_questions(path, HALLS) == whole[:2]
    keep_question(path, whole[2])
    assert kept_questions(path, HALLS) == whole[:3]


def test_questions_of_other_passages_are_dropped(reader: tuple[ReaderModel, _Reader], tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    for asked in asked_of(reader)[:5]:
        keep_question(path, asked)
    for others in (HALLS[:3], HALLS[::-1], []):
        keep_question(path, asked)
        assert kept_questions(path, others) == []
        assert path.read_bytes() == b""
    assert kept_questions(tmp_path / "none.jsonl", HALLS) == []


def test_the_same_question_of_two_passages_is_kept_once(reader: tuple[ReaderModel, _Reader]) -> None:
    made = list(ask_about([HALLS[1], HALLS[1], HALLS[2]], *reader))  # type: ignore[arg-type]
    assert [asked.number for asked in made] == [0, 2]
