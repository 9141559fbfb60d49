"""Guiding questions, which help to answer a question (Perception Compressor, arXiv 2409.19272; methods 3.2.1).

The paper asks another, larger model for them; here the reader itself makes them, as it is, without any adapter.
"""

import re
from typing import TYPE_CHECKING

from refdesk.reader.generation import GenerationRequest
from refdesk.reader.prompt import encode_message
from refdesk.reader.submission import Submit, generated

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.reader.model import ReaderModel

_SYSTEM = "List the simpler questions that have to be answered first. One question a line, nothing else."
_ASK = "Write {} other questions that help to find the answer to this one: {}"
_LONGEST = 32  # tokens of one
_MARKER = re.compile(r"^\W*(?:(?:Q|Question)?\s*\d+\s*[.):]\W*)?")  # bullets, numbers, quotes


def guiding_questions(question: str, count: int, model: "ReaderModel", submit: Submit) -> list[str]:
    """At most `count` of them, the most helpful first, by one greedy generation. Fewer where the model writes
    fewer, or the same ones, or no questions.

    Raises:
        PromptTooLong: the question does not fit the model's window.
        Interrupted, EngineClosed: see `generated`.
    """
    token_ids = encode_message(_SYSTEM, _ASK.format(count, question), model)
    (generation,) = generated(submit, [GenerationRequest(token_ids, max_new_tokens=count * _LONGEST)])
    return parse_questions(generation.text, question)[:count]


def parse_questions(text: str, question: str) -> list[str]:
    """The lines that are questions, without what marks them as items of a list, and none twice. `question`: which
    is no help to itself. A line that breaks off is none."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        asked = _MARKER.sub("", line).strip(" \t\"'*")
        if asked.endswith(("?", "？")):
            found.setdefault(_words(asked), asked)
    found.pop(_words(question), None)
    found.pop("", None)
    return list(found.values())


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
