"""A passkey in a stretch of a novel: at which lengths and depths is it still found?

Mohtashami and Jaggi, "Landmark Attention", NeurIPS 2023 (arXiv 2305.16300), the passkey; gkamradt,
LLMTest_NeedleInAHaystack, 2023, the length and the depth.
"""

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_range, data_file
from refdesk.eval.tasks.files import read_text

# None of them stands in the novel, and no number of five digits either.
_CITIES = ("Lisbon", "Nairobi", "Quito", "Osaka", "Montevideo")
_WORD = re.compile(r"\S+")
# Behind a sentence or a paragraph, but not between a chapter's end and the next one's heading. Two small letters
# before the dot: St. and M. end no sentence.
_SENTENCE = re.compile(r"""\n\n+(?!\n|CHAPTER)|(?<!Mrs)(?<=[a-z]{2})[.!?]["']?\s+(?=["'A-Z])(?!CHAPTER)""")


@dataclass(frozen=True)
class Needle(Task):
    """`words`: about how long the haystack is, to the next sentence. `depth`: where the needle stands, 0 at the
    beginning to 1 at the end; -1: spread evenly over the examples. `count`: examples. `seed`: of the stretches of
    the novel, the cities and the passkeys."""

    words: int = 2000
    depth: float = -1.0
    count: int = 100
    seed: int = 0

    summary: ClassVar[str] = "Needle: a passkey in a stretch of War and Peace, of a chosen length and depth"
    source: ClassVar[str] = "Mohtashami and Jaggi 2305.16300; Tolstoy, War and Peace, tr. Maude (public domain)"
    metrics: ClassVar[tuple[str, ...]] = ("contains", "nll", "kept_gold")
    max_new_tokens: ClassVar[int] = 16

    def __post_init__(self) -> None:
        check_range("needle", "words", self.words, 100, 550_000)
        if self.depth != -1:
            check_range("needle", "depth", self.depth, 0, 1)
        check_range("needle", "count", self.count, 1, 1000)

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        novel = read_text(data_file(data, "needle_haystacks", "war_and_peace.txt.gz")).strip() + "\n"
        words = [word.start() for word in _WORD.finditer(novel)] + [len(novel)]
        sentences = [0, *(end.end() for end in _SENTENCE.finditer(novel)), len(novel)]
        for number in range(self.count):
            drawn = random.Random(f"{self.seed} {number}")
            # Drawn before the stretch: an example asks for the same passkey at every length and depth.
            city, passkey = drawn.choice(_CITIES), str(drawn.randint(10_000, 99_999))
            first = drawn.randrange(len(words) - self.words)
            start = sentences[bisect_right(sentences, words[first]) - 1]
            # From the sentence that was met, so that the whole has its length however long that sentence is.
            end = _nearest(sentences, words[bisect_left(words, start) + self.words])
            depth = self.depth if self.depth != -1 else number / max(1, self.count - 1)
            cut = _nearest(sentences, start + depth * (end - start))
            before, after = novel[start:cut], novel[cut:end]
            needle = f"The passkey of {city} is {passkey}."
            document = Document.of("War and Peace", f"{before}{needle} {after}".rstrip())
            yield Example(
                id=f"needle-{number}",
                question=f"What is the passkey of {city}?",
                answers=(passkey,),
                documents=(document,),
                gold=(Span(document.id, len(before), len(before) + len(needle)),),
                facts={"depth": round(depth, 2), "words": self.words},
            )


def _nearest(places: Sequence[int], wanted: float) -> int:
    index = bisect_left(places, wanted)
    return min(places[max(0, index - 1) : index + 1], key=lambda place: abs(place - wanted))
