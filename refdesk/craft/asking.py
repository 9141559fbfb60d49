"""Questions out of passages: the reader asks, and only what it can answer again from the same passage is kept.

The round trip is that of PAQ (Lewis et al., arXiv 2102.07033): a question whose answer does not come back was no
good question, or no good answer.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from refdesk.craft.question import holds, normal
from refdesk.craft.raft import ASK
from refdesk.reader.adapter import Adapter
from refdesk.reader.engine import Engine
from refdesk.reader.errors import EngineClosed, MemoryTooSmall, PromptTooLong
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import build_prompt
from refdesk.reader.stream import Stream

_TOGETHER = 16  # passages in work at once
_LONGEST = 96  # tokens of a question with its answer
_WORDS = range(4, 41)


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question that the reader made of `passage`, which is that of this `number`, and the answer in words of the
    passage."""

    question: str
    answer: str
    passage: Passage
    number: int


def ask_about(
    passages: Sequence[Passage],
    model: ReaderModel,
    engine: Engine,
    *,
    adapter: Adapter | None = None,
    temperature: float = 0.7,
    seed: int = 0,
    known: Sequence[AskedQuestion] = (),
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[AskedQuestion]:
    """At most one question of each passage, none twice. `adapter`: one that has learned to ask. `known`: what came
    of the first passages earlier; the work goes on behind the last of these. `report` is told how many passages
    are done, and may raise what stops the work."""
    rng = random.Random(seed)
    seeds = [rng.getrandbits(32) for _ in passages]
    told = {normal(asked.question) for asked in known}
    for first in range(known[-1].number + 1 if known else 0, len(passages), _TOGETHER):
        report(first)
        some = list(enumerate(passages))[first : first + _TOGETHER]
        made = [_submit(engine, ASK, one, model, adapter, temperature, seeds[number]) for number, one in some]
        parsed = [_parsed(_text(stream)) for stream in made]
        again: list[tuple[AskedQuestion, Stream | None]] = []
        for (number, passage), found in zip(some, parsed, strict=True):
            if found is not None and _is_good(*found, passage) and normal(found[0]) not in told:
                stream = _submit(engine, found[0], passage, model, adapter, 0.0, None)
                again.append((AskedQuestion(*found, passage, number), stream))
        for asked, answering in again:
            if _agree(_text(answering), asked.answer) and normal(asked.question) not in told:
                told.add(normal(asked.question))
                yield asked
    report(len(passages))


def keep_question(path: Path, asked: AskedQuestion) -> None:
    """Add a question to the file of those made so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(asked) + b"\n")


def kept_questions(path: Path, passages: list[Passage]) -> list[AskedQuestion]:
    """What an earlier call made of these passages, up to where it was cut short; nothing if it had others. The
    file is cut there too, so that it can be added to."""
    if not path.exists():
        return []
    found: list[AskedQuestion] = []
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            asked = msgspec.json.decode(line, type=AskedQuestion)
        except msgspec.DecodeError:
            break
        if not line.endswith(b"\n"):  # what is added would stand on the same line
            break
        if passages[asked.number : asked.number + 1] != [asked.passage]:
            found, whole = [], 0
            break
        found.append(asked)
        whole += len(line)
    os.truncate(path, whole)
    return found


def _request(
    question: str,
    passage: Passage,
    model: ReaderModel,
    adapter: Adapter | None,
    temperature: float,
    seed: int | None,
) -> GenerationRequest:
    prompt = build_prompt(question, [passage], model, _LONGEST, "together")
    return GenerationRequest(
        token_ids=prompt.token_ids[len(prompt.system) :],
        front=(prompt.system,),
        max_new_tokens=_LONGEST,
        temperature=temperature,
        seed=seed,
        adapter=adapter,
    )


def _submit(engine: Engine, *asked: Any) -> Stream | None:
    """None where the passage does not fit the window or the memory: there are others."""
    try:
        return engine.submit(_request(*asked))
    except (PromptTooLong, MemoryTooSmall):
        return None


def _text(stream: Stream | None) -> str:
    """Raises EngineClosed where the engine ended it: half an answer is none."""
    if stream is None:
        return ""
    generation = stream.result()
    if generation.finish_reason == "cancelled":
        raise EngineClosed("the engine was closed while questions were made")
    return generation.text


def _parsed(text: str) -> tuple[str, str] | None:
    question, marker, answer = text.partition("\nAnswer:")
    question = question.strip().removeprefix("Question:").strip()
    answer = answer.strip().partition("\n")[0]
    return (question, answer) if marker and question and answer else None


def _is_good(question: str, answer: str, passage: Passage) -> bool:
    """The answer is in the passage and not in the question, and the question is one."""
    if len(question.split()) not in _WORDS or "\n" in question:
        return False
    return holds(passage.text, (answer,)) and not holds(question, (answer,))


def _agree(one: str, other: str) -> bool:
    """Whether two answers are the same, or one is part of the other and no longer than twice as long."""
    a, b = sorted((normal(one).split(), normal(other).split()), key=len)
    return bool(a) and len(b) <= 2 * len(a) and f" {' '.join(a)} " in f" {' '.join(b)} "
