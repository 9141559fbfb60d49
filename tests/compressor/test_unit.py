"""What goes or stays as one covers its text, and no character is torn apart."""

from hypothesis import given

from refdesk.compressor.unit import tokenize, unit_means
from tests.compressor.worlds import World, texts


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
