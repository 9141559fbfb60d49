"""What is retrieved for a question, without a collection."""

from collections.abc import Sequence

from refdesk.reader.passage import Passage

TEXTS = {
    "tower": "The Harrow Tower was finished in 1911. It is 62 metres high.",
    "bridge": "The Harrow Bridge was designed by Elin Marsh. It crosses the river Tarn.",
    "market": "The market of Harrow opens on Saturdays at seven.",
}


class Shelf:
    """Three documents, all of them found for every question; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, tuple[str, ...] | None]] = []

    def __call__(self, question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
        self.asked.append((question, k, documents))
        names = [name for name in TEXTS if documents is None or name in documents][:k]
        return [
            Passage(name, name.title(), TEXTS[name], 0, len(TEXTS[name]), 1.0 - i / 10)
            for i, name in enumerate(names)
        ]


def long_shelf(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
    text = "The Harrow Tower was finished in 1911, and other towers in other years. " * 60
    return [Passage("tower", "Tower", text, 0, len(text), 1.0), *Shelf()(question, k - 1, documents)]


def wide_shelf(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
    texts = [" ".join([TEXTS[name]] * 4) for name in TEXTS]
    return [Passage("d", "Harrow", text, 0, len(text), 1.0) for text in texts]


def short_shelf(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
    return Shelf()(question, 1, None)
