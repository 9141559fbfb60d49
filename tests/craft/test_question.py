"""When a passage holds an answer, and which sentence of it is quoted."""

import pytest

from refdesk.craft.question import SourceQuestion, holds, normal, passage_key, quote_of
from tests.craft.worlds import hall, passage


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("It is in Rome.", "Rome", True),
        ("It is in rome.", "Rome", True),
        ("It is in Romeo.", "Rome", False),
        ("It is in\n  New\tYork, they say.", "new york", True),
        ("It is in New York.", " New  York ", True),
        ("In 1911 it was", "1911", True),
        ("In 19110 it was", "1911", False),
        ("About 7% of them", "7%", True),
        ("About 17% of them", "7%", False),
        ("By AT&T (U.S.)", "U.S.", True),
        ("They are U2.", "u2", True),
        ("They sat.", "a", False),
        ("a (b) c", "(b)", True),
        ("a b c", ".*", False),
        ("Yes, and no: maybe not.", "yes", False),
        ("Yes, and no: maybe not.", "No", False),
        ("Yes, and no: maybe not.", "maybe", False),
        ("Anything.", " ", False),
        ("Anything.", "", False),
    ],
)
def test_an_answer_is_held_in_whole_words_whatever_their_case_and_spacing(
    text: str, answer: str, held: bool
) -> None:
    assert holds(text, (answer,)) is held
    assert holds(text, ("nowhere to be found", answer)) is held
    assert not holds(text, ())


def test_the_quote_is_the_sentence_that_shares_most_with_the_question() -> None:
    text = "Anna Bell came in May. The tower was built by Anna Bell in 1911. Later it fell. Anna Bell died."
    asked = SourceQuestion("q", "Who built the tower?", ("anna  bell",), (hall(0), passage("Tower", text)))
    assert quote_of(asked) == "The tower was built by Anna Bell in 1911."


@pytest.mark.parametrize("answers", [("Anna",), ("no",), ("Nobody", "Anna Bell")])
def test_what_no_sentence_says_is_not_quoted(answers: tuple[str, ...]) -> None:
    text = "There was no Annabel. Bell" + " and bell" * 60 + " Anna Bell."
    assert quote_of(SourceQuestion("q", "Who?", answers, (passage("T", text),))) == ""


def test_a_question_can_be_answered_where_there_is_an_answer_and_a_passage_with_it() -> None:
    assert SourceQuestion("q", "Who?", ("A",), (hall(0),)).answerable
    assert not SourceQuestion("q", "Who?", (), (hall(0),)).answerable
    assert not SourceQuestion("q", "Who?", ("A",), ()).answerable


def test_questions_are_the_same_by_their_words_and_passages_by_title_and_text() -> None:
    assert normal(" Who -- keeps\nIT?! ") == normal("who keeps it") == "who keeps it"
    assert normal("Who keeps it") != normal("Who kept it")
    assert passage_key(passage("a", "text")) == passage_key(passage("a", "text"))
    assert len({passage_key(passage(*pair)) for pair in (("a", "bc"), ("ab", "c"), ("", "abc"))}) == 3
