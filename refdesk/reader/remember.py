"""Reading a whole document into a memory that questions attend to later, in chunks that overlap on the left."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from refdesk.memory.document_memory import DocumentMemory, MemoryPlan
from refdesk.memory.overlap import Chunk, left_overlapping
from refdesk.reader.errors import InvalidOption, MemoryMismatch
from refdesk.reader.forward import cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.submission import Submit, generated

if TYPE_CHECKING:
    import torch

    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.memory.sequence import Sequence
    from refdesk.memory.unlimiformer import RecallRequest
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Tokens = tuple[int, ...]

_WINDOW = 2048


@dataclass(frozen=True, slots=True)
class RememberOptions:
    """How a document is read into memory.

    `window`: tokens of it that are read at once; None for 2,048, or as many as the model's window has room for.
    `overlap`: how many of them are of what is kept of others; None for a quarter. `near`: its last tokens that
    every layer holds. `layers`: those that retrieve; None for the upper half, which was best by far for the
    default model (docs/results.md). `rate`: where it is above 1, of every so many entries one is held, chosen by
    retaining heads.

    Raises:
        InvalidOption: a value out of range.
    """

    window: int | None = None
    overlap: int | None = None
    near: int = 256
    layers: tuple[int, ...] | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise InvalidOption("window", self.window, "at least 1 token")
        if self.overlap is not None and not 0 <= self.overlap < (self.window or self.overlap + 1):
            raise InvalidOption("overlap", self.overlap, f"0 or more, and less than the window of {self.window}")
        if self.near < 1:
            raise InvalidOption("near", self.near, "at least 1 token")
        if not 1 <= self.rate <= 64:
            raise InvalidOption("rate", self.rate, "1 (everything) to 64")

    def chunks(self, tokens: int, room: int) -> list[Chunk]:
        """How so many tokens are read by a model whose window has `room` for a chunk."""
        window = min(_WINDOW, room) if self.window is None else self.window
        overlap = window // 4 if self.overlap is None else self.overlap
        if overlap >= window:
            raise InvalidOption("overlap", overlap, f"less than the {window} tokens that are read at once")
        return left_overlapping(tokens, window, overlap)

    def retrieving(self, layers: int) -> Tokens:
        """The layers of a model of so many."""
        return tuple(range(layers // 2, layers)) if self.layers is None else self.layers


def remember(
    submit: Submit,
    model: "ReaderModel",
    tokens: Tokens,
    front: tuple[Tokens, ...],
    options: RememberOptions,
    *,
    adapter: "Adapter | None" = None,
    heads: "RetainingHeads | None" = None,
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> DocumentMemory:
    """A memory of `tokens` as they are read behind `front`, in `folder` where one is given, else in RAM. What was
    begun there with the same arguments is gone on with. `progress` gets the tokens that are done after every
    chunk; what it raises ends the work, and what was read stays.

    Raises:
        InvalidOption: a value that the model cannot be read with, or nothing that says what to keep.
        InvalidMemory: layers that the model does not have.
        PromptTooLong: front and window do not fit the model's.
        Interrupted, MemoryTooSmall, EngineClosed: see `Engine.submit`.
    """
    plan = plan_of(model, tokens, front, options, adapter)
    if plan.rate > 1 and heads is None:
        raise InvalidOption("rate", plan.rate, "1, for there are no retaining heads that say what to keep")
    rotation = model.rotation
    if rotation is None:
        raise InvalidOption("model", model.name, "one whose way to turn keys is known, as memories need")
    thinning = heads if plan.rate > 1 else None
    noted = _Progress(folder, f"{plan} {options} {thinning.fingerprint if thinning else ''} {tokens}")
    done = noted.done()
    memory = DocumentMemory.create(plan, folder, anew=not done)
    # One token comes behind a chunk, whatever it is.
    for chunk in options.chunks(len(tokens), max(model.window - sum(map(len, front)) - 1, 1)):
        if chunk.end <= done:
            continue

        def collect(sequence: "Sequence", first: int = chunk.kept - chunk.start, start: int = chunk.kept) -> None:
            memory.write(start, *entries_of(sequence, first))

        request = GenerationRequest(
            tokens[chunk.start : chunk.end],
            max_new_tokens=1,
            front=front,
            adapter=adapter,
            heads=thinning,
            collect=collect,
        )
        generated(submit, [request])
        noted.note(chunk.end)
        progress(chunk.end)
    memory.close()
    noted.close()
    return memory


def plan_of(
    model: "ReaderModel",
    tokens: Tokens,
    front: tuple[Tokens, ...],
    options: RememberOptions,
    adapter: "Adapter | None",
) -> MemoryPlan:
    """What a memory of `tokens` will hold. Raises InvalidMemory for layers that the model does not have."""
    shape = cache_shape(model)
    return MemoryPlan(
        len(tokens),
        shape.layers,
        shape.kv_heads,
        shape.head_dim,
        options.retrieving(shape.layers),
        options.near,
        options.rate,
        str(shape.dtype).removeprefix("torch."),
        reader_of(model, adapter, front),
    )


def entries_of(sequence: "Sequence", first: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Keys, turned for no position, values `[layers, kv_heads, n, head_dim]` and scores `[layers, kv_heads, n]` of
    what a sequence owns from its entry `first` on; nothing of it has been evicted."""
    pool = sequence.pool
    assert pool.rotation is not None, "who collects has asked"
    slots = sequence.own_slots()[0][..., first:].to(pool.keys.device)
    keys, values = sequence.copy(first)
    positions, scores = (store.view(-1)[slots].cpu() for store in (pool.positions, pool.scores))
    return pool.rotation.turn(keys, -positions), values, scores


def reader_of(model: "ReaderModel", adapter: "Adapter | None", front: tuple[Tokens, ...]) -> str:
    """Equal where a memory may be attended to: the weights that read it, and what stood in front."""
    weights = f"{model.fingerprint} {'' if adapter is None else adapter.fingerprint}"
    return sha256(f"{weights} {front}".encode()).hexdigest()[:16]


def check_recall(
    recall: "RecallRequest", model: "ReaderModel", adapter: "Adapter | None", front: tuple[Tokens, ...]
) -> None:
    """Raise MemoryMismatch where other weights, or another front, made the memories."""
    made = recall.memories[0].plan.reader
    if model.rotation is None or made != reader_of(model, adapter, front):
        name = "no adapter" if adapter is None else f"adapter {adapter.name!r}"
        raise MemoryMismatch(
            f"a document's memory was made by another reader ({made}) than {model.name} with {name}; make it again"
        )


class _Progress:
    """How far a reading into a folder has come, for whoever goes on with it."""

    def __init__(self, folder: Path | None, asked: str) -> None:
        """`asked`: all that what is read depends on."""
        self._file = None if folder is None else folder / "progress.json"
        self._identity = sha256(asked.encode()).hexdigest()

    def done(self) -> int:
        """Tokens that an earlier reading of the same has read."""
        if self._file is None:
            return 0
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
            return int(noted["done"]) if noted["identity"] == self._identity else 0
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def note(self, done: int) -> None:
        """So many tokens are written."""
        if self._file is not None:
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps({"identity": self._identity, "done": done}), encoding="utf-8")
            part.replace(self._file)

    def close(self) -> None:
        """All is read."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
