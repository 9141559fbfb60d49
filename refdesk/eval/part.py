"""Parts of a benchmark that never meet: what may be trained on, and what is kept back to validate with.

Questions about one text (by the title of their document, or its id) are in one part. Which is which follows from
that alone, so it is the same in every run, and in two benchmarks made of the same articles.
"""

import hashlib
from typing import Literal, get_args

from refdesk.eval.errors import InvalidRun
from refdesk.eval.example import Example

Part = Literal["all", "train", "validation"]

_VALIDATION_SHARE = 0.2
# Of small sets more is kept back, else too little could be said of them.
_OWN_SHARE = {"pubmedqa": 0.6, "hotpotqa": 0.5, "musique": 0.5, "covidqa": 0.3}
# Known before, whatever the hash says: nq's questions are rows 301 to 441 of nq-oracle; on the other one the
# adapter that is shipped was trained.
_KNOWN_KEPT_BACK = {
    "nq-oracle": dict.fromkeys((f"nq-{number}" for number in range(301, 442)), True),
    "musique": {"2hop__6584_6587": False},
}


def check_part(part: str) -> None:
    """Raise InvalidRun for a part that there is not."""
    if part not in get_args(Part):
        raise InvalidRun(f"part is {part!r}; expected one of {', '.join(get_args(Part))}")


def is_in(part: Part, task: str, example: Example) -> bool:
    """Whether the example belongs to this part of the task of this name."""
    return part == "all" or (part == "validation") == _kept_back(task, example)


def texts_of(example: Example) -> set[str]:
    """What a question is about: the titles (ids where there is none) of its gold documents, or of all if none is
    known."""
    gold = {span.document_id for span in example.gold}
    return {document.title or document.id for document in example.documents if document.id in gold or not gold}


def _kept_back(task: str, example: Example) -> bool:
    # A question over several texts is grouped by none of them.
    texts = texts_of(example)
    key = texts.pop() if len(texts) == 1 else example.id
    drawn = _hash(key) < _OWN_SHARE.get(task, _VALIDATION_SHARE)
    return _KNOWN_KEPT_BACK.get(task, {}).get(example.id, drawn)


def _hash(key: str) -> float:
    """In 0..1, the same on every machine. Another one than that by which the given files were made."""
    return int(hashlib.sha256(f"part\0{key}".encode()).hexdigest()[:12], 16) / 16**12
