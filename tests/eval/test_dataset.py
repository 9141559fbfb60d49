"""A data set of one's own is read whole or refused with the line that is at fault."""

import pytest

from refdesk.eval.dataset import read_dataset
from refdesk.eval.errors import InvalidDataset
from tests.eval.conftest import jsonl

GOOD = {"question": "Who?", "answers": ["She"], "documents": ["She did it."]}


def test_every_line_becomes_an_example(harrow: bytes) -> None:
    tower, bridge, mayor = read_dataset(b"\xef\xbb\xbf" + harrow + b"\n\n", "harrow.jsonl").rows
    assert (tower.id, tower.answers, len(tower.documents)) == ("tower", ("1911", "in 1911"), 3)
    assert [span.document_id for span in bridge.gold] == [bridge.documents[1].id]
    assert tower.relevance == {tower.documents[0].id: 1}
    assert tower.documents[2] == bridge.documents[0]
    assert (mayor.answerable, mayor.answers) == (False, ())


def test_a_line_without_an_id_is_named_by_its_number() -> None:
    assert [row.id for row in read_dataset(jsonl(GOOD, GOOD | {"id": 7}, GOOD), "x").rows] == ["1", "7", "3"]


def test_a_question_of_a_collection_names_its_relevant_documents() -> None:
    row = {"question": "Who?", "answers": ["She"], "relevant": ["report.pdf"]}
    assert read_dataset(jsonl(row), "x").rows[0].relevance == {"report.pdf": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "truncated"),
        (b"[1]", "Expected `object`"),
        (b'{"question": "q\xff"}', "line 2"),
        (b'{"answers": ["a"]}', "question"),
        (jsonl(GOOD | {"question": "  "}), "question '  '"),
        (jsonl(GOOD | {"answers": []}), "answers is empty"),
        (jsonl(GOOD | {"answers": [""]}), r"answers \[''\]"),
        (jsonl(GOOD | {"answers": "She"}), "answers"),
        (jsonl(GOOD | {"unanswerable": True}), "both answers and unanswerable"),
        (jsonl(GOOD | {"colour": "red"}), "colour"),
        (jsonl(GOOD | {"documents": [" "]}), "without text"),
        (jsonl(GOOD | {"documents": ["a", "a"]}), "stands twice"),
        (jsonl(GOOD | {"documents": [{"txt": "a"}]}), "documents"),
        (jsonl(GOOD | {"relevant": ["a.txt"]}), "both documents and relevant"),
        (jsonl(GOOD | {"id": ""}), "id ''"),
        (jsonl(GOOD | {"id": "1"}), "id '1' stands in line 1 too"),
        (jsonl({"question": "Who?", "answers": ["She"]}), "no documents, but other lines"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: bytes, reason: str) -> None:
    with pytest.raises(InvalidDataset, match=reason) as caught:
        read_dataset(jsonl(GOOD) + b"\n" + line, "mine.jsonl")
    assert str(caught.value).startswith("mine.jsonl, line 2: ")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InvalidDataset, match="no question"):
        read_dataset(b"\n \n", "mine.jsonl")
