"""What goes or stays as one covers its text, and no character is torn apart."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor.unit import TokenizedText, packed, size_of, tokenize, unit_means
from tests.compressor.worlds import World, sentences, texts


@given(texts)
def test_units_cover_the_text_and_all_its_tokens(text: str) -> None:
    tokenized = tokenize(World(), 0, text)
    assert "".join(text[unit.start : unit.end] for unit in tokenized.units) == text
    assert tokenized.token_ids == World().tokens(text)[0]
    assert all(unit.start < unit.end for unit in tokenized.units)


def test_a_character_of_several_tokens_is_one_unit() -> None:
    sizes = [unit.size for unit in tokenize(World(), 0, "a é 中🦊").units]
    assert sizes == [1, 1, 2, 1, 3, 4]


def test_tokens_in_front_of_the_first_character_go_with_it() -> None:
    class Leading(World):
        def tokens(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
            ids, spans = super().tokens(text)
            return (7, 8, *ids), ((0, 0), (0, 0), *spans)

    units = tokenize(Leading(), 0, "a b").units
    assert [(unit.start, unit.end, unit.size) for unit in units] == [(0, 1, 3), (1, 3, 1)]


def test_a_unit_scores_as_its_tokens_do_on_average() -> None:
    units = tokenize(World(), 0, "a é").units
    assert unit_means(units, [3.0, 5.0, 1.0, 2.0]) == [3.0, 5.0, 1.5]


def _tokenized(text: str) -> TokenizedText:
    return tokenize(World(), 0, text, tuple(end for _, end in sentences(text)))


def _written(text: str, piece: TokenizedText) -> str:
    return "".join(text[unit.start : unit.end] for unit in piece.units)


def test_sentences_come_apart_and_the_space_between_belongs_to_the_one_behind() -> None:
    text = " The fox runs. A hen sees it.  No."
    found = [_written(text, sentence) for sentence in _tokenized(text).sentences()]
    assert found == [" The fox runs.", " A hen sees it.", "  No."]


def test_a_piece_has_as_many_sentences_as_it_has_room_for_and_a_long_sentence_is_cut() -> None:
    text = "A fox runs. A hen sees. The owl and the fox and the hen sleep. Who?"
    cut = {most: [_written(text, piece) for piece in _tokenized(text).pieces(most)] for most in (100, 8, 5)}
    assert cut == {
        100: [text],
        8: ["A fox runs. A hen sees.", " The owl and the fox and the hen", " sleep. Who?"],
        5: ["A fox runs.", " A hen sees.", " The owl and the fox", " and the hen sleep.", " Who?"],
    }


@given(texts, st.integers(1, 20))
def test_pieces_are_all_of_the_text_and_none_is_larger_than_it_may_be(text: str, most: int) -> None:
    whole = _tokenized(text)
    pieces = whole.pieces(most)
    assert sum((piece.units for piece in pieces), ()) == whole.units
    assert all(piece.size <= most or len(piece.units) == 1 for piece in pieces)
    assert {piece.ends for piece in pieces} <= {whole.ends}


@given(texts, st.integers(1, 20))
def test_what_is_packed_stays_in_order_and_leaves_no_room_for_the_next(text: str, most: int) -> None:
    units = tokenize(World(), 0, text).units
    runs = packed(units, most)
    assert [unit for run in runs for unit in run] == [*units]
    for run, behind in pairwise(runs):
        assert size_of(run) + behind[0].size > most
