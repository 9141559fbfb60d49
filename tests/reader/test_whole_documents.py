"""Whole documents as they are read, and what of them an answer has attended to most."""

from collections.abc import Callable

import numpy as np
import torch

from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_segments
from refdesk.reader.whole_documents import document_front, encode_document, most_attended


def test_stretches_of_several_documents_are_ranked_together() -> None:
    starts = [np.asarray([0, 4, 8], dtype=np.int32), np.asarray([0, 5], dtype=np.int32)]
    spans = [[(0, 8), (8, 20)], [(0, 5), (5, 7)]]
    attended = [torch.tensor([0.1, 0.3, 0.9]), torch.tensor([1.0, 0.5])]
    assert most_attended(attended, starts, spans, 3) == [(1, 0), (0, 1), (1, 1)]
    assert most_attended(attended[:1], starts[:1], spans[:1], 9) == [(0, 1), (0, 0)]
    # One of which nothing is there any more, and a stretch without a token.
    assert most_attended(attended, starts, [[], [*spans[1], (6, 7)]], 9) == [(1, 0), (1, 1)]


def test_what_is_similar_counts_as_much_as_what_is_attended_to() -> None:
    starts, spans = [np.arange(4, dtype=np.int32)], [[(n, n + 1) for n in range(4)]]
    attended = [torch.tensor([0.0, 0.0, 0.3, 0.4])]
    found = [place for _, place in most_attended(attended, starts, spans, 4, [[0.1, 0.2, 0.9, 0.2]])]
    assert found == [2, 3, 1, 0]
    # Neither the size nor the place of the numbers counts, and what is alike says nothing.
    other = [[10 * number - 50 for number in (0.1, 0.2, 0.9, 0.2)]]
    assert [place for _, place in most_attended(attended, starts, spans, 4, other)] == found
    assert most_attended(attended, starts, spans, 2, [[0.5] * 4]) == most_attended(attended, starts, spans, 2)
    assert most_attended([torch.zeros(0)], [np.zeros(0, np.int32)], [[]], 2, [[]]) == []


def test_attention_to_a_title_counts_for_no_stretch(tiny: Callable[..., ReaderModel]) -> None:
    for text in ("It is high. It has stairs.", "\n\n  It is high. It has stairs."):
        encoded = encode_document("The tower", text, tiny())
        titled = encoded.starts == -1
        assert titled.sum() == len(tiny().literal_tokenizer.encode("Title: The tower\n").ids)
        assert list(encoded.starts) == sorted(encoded.starts)
        assert encoded.starts.dtype == np.int32
    assert set(encode_document("The tower", "", tiny()).starts) == {-1}
    encoded = encode_document("The tower", "It is high. It has stairs.", tiny())
    titled = encoded.starts == -1
    attended = torch.where(torch.from_numpy(titled), 1.0, 0.0)
    attended[-5] = 0.1
    assert most_attended([attended], [encoded.starts], [[(0, 12), (12, 26)]], 1) == [(0, 1)]


def test_a_document_is_read_as_a_passage_of_all_of_it_would_be(tiny: Callable[..., ReaderModel]) -> None:
    text = "\n\n The tower of café 東京 🎉 is high.\nIt has stairs. \n"
    model = tiny()
    encoded = encode_document("The tower", text, model)
    segments = encode_segments("Why?", [Passage("tower", "The tower", text, 0, len(text), 1.0)], model)
    assert encoded.tokens == segments.passages[0]
    assert document_front(model) == (segments.before,)
    assert list(encoded.starts) == sorted(encoded.starts)
    assert model.literal_tokenizer.decode(list(encoded.tokens[-3:])).strip() in text[encoded.starts[-3] :]
    first = text.index("The tower")
    inside = encoded.starts >= first
    assert inside.any()
    rebuilt = [
        text[start:end]
        for start, end in zip(encoded.starts[inside], [*encoded.starts[inside][1:], None], strict=True)
    ]
    assert "".join(rebuilt) == text[int(encoded.starts[inside][0]) :]
