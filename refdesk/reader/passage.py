"""A stretch of a source document that was retrieved for a question."""

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """`text == source[start:end]`, in characters of the document's text, so whatever is found in `text`
    can be pointed at in the source.

    `score`: of the retrieval, higher is better. `page`: where the passage begins, None for sources without
    pages. `page_starts`: `(offset, page)` pairs in ascending order, `offset` counted from the beginning of
    `text`; needed only when a passage runs over a page break. `kept`: the ranges `[start, end)` of `text` that are
    read, ascending and apart; None for all of it.
    """

    document_id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    page: int | None = None
    page_starts: tuple[tuple[int, int], ...] = ()
    kept: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or self.end - self.start != len(self.text):
            raise ValueError(f"a passage of {len(self.text)} characters cannot be source[{self.start}:{self.end}]")
        offsets = [offset for offset, _ in self.page_starts]
        if offsets != sorted(offsets):
            raise ValueError(f"page_starts are not in ascending order: {self.page_starts}")
        edges = [0, *(edge for kept in self.ranges for edge in kept), len(self.text)]
        if edges != sorted(edges):
            raise ValueError(f"kept are no ascending ranges of {len(self.text)} characters: {self.kept}")

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges of `text` that are read."""
        return ((0, len(self.text)),) if self.kept is None else self.kept

    @property
    def read(self) -> str:
        """What is read of `text`."""
        return "".join(self.text[start:end] for start, end in self.ranges)

    def overlaps(self, other: "Passage") -> bool:
        """Whether both have a character of their document in common."""
        return self.document_id == other.document_id and self.start < other.end and other.start < self.end

    def page_at(self, offset: int) -> int | None:
        """The page of the character `text[offset]`; None when the source has no pages."""
        after = bisect_right(self.page_starts, offset, key=lambda pair: pair[0])
        return self.page_starts[after - 1][1] if after else self.page
