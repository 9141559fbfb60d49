"""Key-value retrieval: copy the value of one key out of JSON data of random identifiers.

Liu et al., "Lost in the Middle", TACL 2024 (arXiv 2307.03172).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from refdesk.eval.errors import InvalidTaskOption
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_range, data_file
from refdesk.eval.tasks.files import read_jsonl

_OPENING, _BETWEEN, _CLOSING = "{", ",\n ", "}"


@dataclass(frozen=True)
class KeyValue(Task):
    """`keys`: 2 to 30,000 in a text: those of its row, then those of the rows behind, for texts of many windows
    (75 are about 4,500 tokens). `gold_at`: the position of the key that the row asks for, from 0; -1: its own
    among those kept, which is the last for most once `keys` is small, and as deep in longer texts. `questions`:
    as many of each text's keys are asked for in place of that one, spread evenly over it. `texts`: how many."""

    keys: int = 75
    gold_at: int = -1
    questions: int = 1
    texts: int = 500

    summary: ClassVar[str] = "Key-value retrieval: copy a value out of JSON data, the key at a chosen position"
    source: ClassVar[str] = "Liu et al. 2307.03172; kv-retrieval-75_keys"
    metrics: ClassVar[tuple[str, ...]] = ("contains", "nll", "kept_gold")

    def __post_init__(self) -> None:
        check_range("kv", "keys", self.keys, 2, 30_000)
        check_range("kv", "questions", self.questions, 1, self.keys)
        check_range("kv", "gold_at", self.gold_at, -1, self.keys - 1)
        if self.gold_at >= 0 and self.questions > 1:
            raise InvalidTaskOption(
                f"kv: gold_at is {self.gold_at}, but questions is {self.questions}; expected one or the other"
            )
        check_range("kv", "texts", self.texts, 1, 500)

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        file = data_file(data, "nq_lost_in_the_middle", "kv-retrieval-75_keys.jsonl.gz")
        rows = list(read_jsonl(file))
        for number, row in enumerate(rows[: self.texts], start=1):
            gold, records = [row["key"], row["value"]], row["ordered_kv_records"]
            behind = chain(rows[number:], rows[: number - 1])
            more = chain.from_iterable(other["ordered_kv_records"] for other in behind)
            others = (pair for pair in chain(records, more) if pair != gold)
            own = records.index(gold) * max(self.keys, len(records)) // len(records)
            gold_at = self.gold_at if self.gold_at >= 0 else min(own, self.keys - 1)
            pairs = list(islice(others, self.keys - 1))
            pairs.insert(gold_at, gold)
            lines = [f'"{key}": "{value}"' for key, value in pairs]
            document = Document.of("JSON data", _OPENING + _BETWEEN.join(lines) + _CLOSING)
            spread = [self.keys * (2 * asked + 1) // (2 * self.questions) for asked in range(self.questions)]
            for at in [gold_at] if self.questions == 1 else spread:
                start = len(_OPENING) + sum(len(line) + len(_BETWEEN) for line in lines[:at])
                key, value = pairs[at]
                yield Example(
                    id=f"kv-{number}" if self.questions == 1 else f"kv-{number}-{at}",
                    question=f'What is the value of the key "{key}"?',
                    answers=(value,),
                    documents=(document,),
                    gold=(Span(document.id, start, start + len(lines[at])),),
                    facts={"gold_at": at, "keys": self.keys},
                )
