"""Guiding questions: what the model writes is taken for questions only where it is some."""

from collections.abc import Callable

import pytest

from refdesk.reader.engine import Engine
from refdesk.reader.errors import Interrupted
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.guiding import guiding_questions, parse_questions
from refdesk.reader.model import ReaderModel
from refdesk.reader.stream import Stream

QUESTION = "Who designed the bridge?"


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("", []),
        ("The bridge was designed by Elin Marsh.", []),
        ("Where is the bridge?\nWho was Elin Marsh?", ["Where is the bridge?", "Who was Elin Marsh?"]),
        (
            "1. Where is it?\n2) When was it built?\n- Is it long?",
            ["Where is it?", "When was it built?", "Is it long?"],
        ),
        ('* "Where is it?"\nQuestion 2: Is it long?\n\n  3: Why?', ["Where is it?", "Is it long?", "Why?"]),
        ("2001 was a year?", ["2001 was a year?"]),
        ("Here are some:\nWhere is it?\nAnd when was it bui", ["Where is it?"]),
        ("Where is it?\nwhere is it ?\n**Where is it?**", ["Where is it?"]),
        ("who designed the bridge?\n1. Who designed the bridge?\nWho paid?", ["Who paid?"]),
        ("???\n1.?\n", []),
        ("谁设计了这座桥？\nWo steht die Brücke?", ["谁设计了这座桥？", "Wo steht die Brücke?"]),
    ],
)
def test_only_lines_that_are_questions_and_new_are_taken(text: str, questions: list[str]) -> None:
    assert parse_questions(text, QUESTION) == questions


def test_they_are_made_by_one_greedy_request_to_the_model_as_it_is(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 1024)
    requests: list[GenerationRequest] = []
    with Engine(model) as engine:

        def submit(request: GenerationRequest) -> Stream:
            requests.append(request)
            return engine.submit(request)

        first, second = (guiding_questions(QUESTION, 3, model, submit) for _ in range(2))
    assert first == second
    assert len(first) <= 3
    assert len(requests) == 2
    assert (requests[0].adapter, requests[0].temperature) == (None, 0)
    assert QUESTION in model.tokenizer.decode(requests[0].token_ids)


def test_what_ends_the_answer_ends_them_too(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 1024)
    with Engine(model) as engine:

        def cancelled(request: GenerationRequest) -> Stream:
            stream = engine.submit(request)
            stream.cancel()
            return stream

        with pytest.raises(Interrupted, match="cancelled"):
            guiding_questions(QUESTION, 3, model, cancelled)
