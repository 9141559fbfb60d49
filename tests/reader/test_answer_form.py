"""What a model is to write, and how it is read back whatever it wrote."""

import pytest

from refdesk.reader.answer_form import NOT_FOUND, WrittenAnswer, ask_in_form, check_form, read_answer, write_answer
from refdesk.reader.errors import InvalidOption


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("reason <ANSWER>: Paris", "Paris"),
        ("<ANSWER>: Paris", "Paris"),
        ("<ANSWER>:Paris", "Paris"),
        ("reason\n\n<ANSWER>:\n  the city of Paris \n", "the city of Paris"),
        ("<ANSWER>: Lyon, no. <ANSWER>: Paris", "Paris"),
        ("<ANSWER>: Lyon\n<ANSWER>: Nice\n<ANSWER>: Paris\n", "Paris"),
        ("##begin_quote##It is <ANSWER>: Paris", "Paris"),
        ("<ANSWER>: Paris\n##begin_quote##It is Paris.##end_quote##", "Paris"),
        ("<ANSWER>: Paris ##begin_quote##It is", "Paris"),
    ],
)
def test_the_answer_is_what_stands_behind_the_last_marker(written: str, answer: str) -> None:
    found = read_answer(written, "quote")
    assert (found.text, found.well_formed) == (answer, True)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Paris", "Paris"),
        ("  Paris.\n", "Paris."),
        ("", ""),
        ("ANSWER: Paris", "ANSWER: Paris"),
        ("##begin_quote##It is Paris.##end_quote##\nParis", "Paris"),
        ("##begin_quote##It is Paris.##end_quote##", ""),
        ("Paris ##begin_quote##It is Par", "Paris"),
        ("a ##begin_quote##b##end_quote## c ##begin_quote##d##end_quote## e", "a  c  e"),
    ],
)
def test_without_a_marker_it_is_malformed_and_all_but_the_quotes_is_the_text(written: str, text: str) -> None:
    found = read_answer(written, "quote")
    assert (found.text, found.well_formed) == (text, False)


@pytest.mark.parametrize(
    ("written", "quotes"),
    [
        ("##begin_quote##It is Paris.##end_quote##\n<ANSWER>: Paris", ("It is Paris.",)),
        ("##begin_quote## It is\nParis. ##end_quote##<ANSWER>: Paris", ("It is\nParis.",)),
        ("Since ##begin_quote##a##end_quote## and ##begin_quote##b##end_quote##: <ANSWER>: c", ("a", "b")),
        ("##begin_quote##It is Paris.\n<ANSWER>: Paris", ("It is Paris.",)),
        ("##begin_quote##It is Par", ("It is Par",)),
        ("##begin_quote##  ##end_quote##<ANSWER>: Paris", ()),
        ("It is Paris.##end_quote##<ANSWER>: Paris", ()),
        ("<ANSWER>: Paris", ()),
        ("", ()),
    ],
)
def test_quotes_are_told_as_they_were_given_an_unclosed_one_up_to_the_answer(
    written: str, quotes: tuple[str, ...]
) -> None:
    assert read_answer(written, "quote").quotes == quotes


@pytest.mark.parametrize(
    "written", ["Paris", " Paris\n", "<ANSWER>: Paris", "##begin_quote##a##end_quote## b", ""]
)
def test_a_short_answer_is_all_that_was_written(written: str) -> None:
    assert read_answer(written, "short") == WrittenAnswer(written.strip(), (), True)


@pytest.mark.parametrize("answer", ["Paris", "1911", "the city\nof Paris", "a <b> ##c##", NOT_FOUND, "café 東京"])
@pytest.mark.parametrize("quote", ["", "It is Paris.", "One line\nand another: “so” #1.", "The <A> is: b"])
def test_what_is_written_is_read_back(answer: str, quote: str) -> None:
    assert write_answer(answer, quote, "short") == answer
    assert read_answer(write_answer(answer, quote, "short"), "short") == WrittenAnswer(answer)
    found = read_answer(write_answer(answer, quote, "quote"), "quote")
    assert found == WrittenAnswer(answer, (quote,) if quote else (), True)


def test_without_a_quote_none_is_written() -> None:
    assert "quote" not in write_answer(NOT_FOUND, "", "quote")
    assert write_answer("Paris", "It is Paris.", "quote") == (
        "##begin_quote##It is Paris.##end_quote##\n<ANSWER>: Paris"
    )


def test_a_long_answer_is_written_and_read_as_it_is_and_asked_for_behind_the_question() -> None:
    written = "It was built in 1850. <ANSWER>: is what the sign says."
    assert write_answer(written, "It is Paris.", "long") == written
    assert read_answer(f" {written}\n", "long") == WrittenAnswer(written)
    assert ask_in_form("Where is it?", "long").startswith("Question: Where is it?\n")
    assert "at length" in ask_in_form("Where is it?", "long")


def test_a_quote_is_asked_for_behind_the_question() -> None:
    assert ask_in_form("  Where is it?\n", "short") == "Question: Where is it?"
    assert ask_in_form("Where is it?", "quote").startswith("Question: Where is it?\n")
    assert "word for word" in ask_in_form("Where is it?", "quote")


@pytest.mark.parametrize("form", ["longer", "", "Quote", "short "])
def test_an_unknown_form_is_refused_with_those_that_there_are(form: str) -> None:
    with pytest.raises(InvalidOption, match=r"form is .*; expected one of short, long, quote"):
        check_form(form)
    for known in ("short", "quote"):
        check_form(known)
