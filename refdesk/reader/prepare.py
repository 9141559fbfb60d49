"""Passages read before anybody asks: the runs of a document's passages, kept in a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.kept_runs import read_run, run_bytes, run_file_name, write_run
from refdesk.memory.room import check_disk
from refdesk.reader.forward import cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.job import run_keys
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_segments
from refdesk.reader.remember import reader_of
from refdesk.reader.submission import Submit, generated
from refdesk.reader.whole_documents import document_front

if TYPE_CHECKING:
    from refdesk.memory.kept_runs import Entries
    from refdesk.memory.sequence import Sequence as HeldSequence
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Tokens = tuple[int, ...]

_AT_ONCE = 4  # passages that the engine is asked to read together: about a chunk of it


@dataclass(frozen=True)
class PassageRuns:
    """The runs of passages as `model` with `adapter` reads them apart, behind `front`. `passages`: the tokens of
    each, none twice."""

    model: "ReaderModel"
    adapter: "Adapter | None"
    front: tuple[Tokens, ...]
    passages: tuple[Tokens, ...]

    @classmethod
    def of(
        cls, passages: Sequence[Passage], model: "ReaderModel", adapter: "Adapter | None" = None
    ) -> "PassageRuns":
        """Of passages as a search finds them."""
        read = encode_segments("", passages, model).passages
        return cls(model, adapter, document_front(model), tuple(dict.fromkeys(read)))

    @property
    def tokens(self) -> int:
        """How many they are."""
        return sum(map(len, self.passages))

    @property
    def bytes(self) -> int:
        """What they take on disk."""
        shape = cache_shape(self.model)
        return sum(run_bytes(len(tokens), shape) for tokens in self.passages)

    def are_in(self, folder: Path) -> bool:
        """Whether all of them are there, of the size that they must have."""
        shape, files = cache_shape(self.model), self._files(folder)
        return all(
            file.is_file() and file.stat().st_size == run_bytes(len(tokens), shape)
            for file, tokens in files.items()
        )

    def prepare(self, submit: Submit, folder: Path, progress: Callable[[int], None] = lambda done: None) -> None:
        """Read them into files in `folder`. What is there already is gone on with. `progress` gets the tokens that
        are done, several passages at a time; what it raises ends the work, and what was read stays.

        Raises:
            InvalidMemory: the disk has no room for them.
            PromptTooLong: front and passage do not fit the model's window.
            Interrupted, MemoryTooSmall, EngineClosed: see `Engine.submit`.
        """
        what = f"the runs of {len(self.passages)} passages with {self.tokens} tokens"
        check_disk(folder, self.bytes, what, "fewer documents, or more room")
        left = [(file, tokens) for file, tokens in self._files(folder).items() if not self._is_whole(file, tokens)]
        done = self.tokens - sum(len(tokens) for _, tokens in left)
        for first in range(0, len(left), _AT_ONCE):
            progress(done)
            some = left[first : first + _AT_ONCE]
            for (file, tokens), entries in zip(some, self._read(submit, [one for _, one in some]), strict=True):
                write_run(file, entries)
                done += len(tokens)
        progress(done)

    def _read(self, submit: Submit, passages: list[Tokens]) -> "list[Entries]":
        """What the engine holds of each when it has read it."""
        read: dict[Tokens, Entries] = {}

        def request(tokens: Tokens) -> GenerationRequest:
            def collect(sequence: "HeldSequence") -> None:
                read[tokens] = sequence.copy()

            # One token comes behind it, whatever it is.
            return GenerationRequest(
                tokens, max_new_tokens=1, front=self.front, adapter=self.adapter, collect=collect
            )

        generated(submit, [request(tokens) for tokens in passages])
        return [read[tokens] for tokens in passages]

    def _files(self, folder: Path) -> dict[Path, Tokens]:
        """Where each is kept."""
        answer = GenerationRequest((0,), front=self.front, passages=self.passages, adapter=self.adapter)
        keys = run_keys(answer)[len(self.front) :]
        model = self.model
        return {folder / run_file_name(key, model.fingerprint, model.dtype): key.tokens for key in keys}

    def _is_whole(self, file: Path, tokens: Tokens) -> bool:
        try:
            read_run(file, len(tokens), cache_shape(self.model))
        except (OSError, InvalidMemory):
            return False
        return True


def runs_reader(model: "ReaderModel", adapter: "Adapter | None") -> str:
    """Equal where kept runs of passages may be used: who read them, and as what numbers they are held."""
    reader = reader_of(model, adapter, document_front(model))
    return sha256(f"passages {reader} {model.dtype}".encode()).hexdigest()[:16]
