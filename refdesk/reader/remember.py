"""Reading a whole document into a memory that questions attend to later, in chunks that overlap on the left."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from refdesk.memory.document_memory import DocumentMemory, MemoryPlan, replace_file
from refdesk.memory.overlap import Chunk, left_overlapping
from refdesk.memory.policy import Entries
from refdesk.reader.errors import InvalidOption, MemoryMismatch
from refdesk.reader.forward import cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.submission import Submit, generated
from refdesk.reader.thinning import Keep, Thinning, check_keep, thinning_of

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
    default model (docs/results.md). `rate`: where it is above 1, of every so many entries one is held. `keep`: by
    what these are chosen, `locret` (retaining heads) or `infinipot` (which needs none); `auto` for the heads if
    there are any.

    Raises:
        InvalidOption: a value out of range, or a choice where everything is held.
    """

    window: int | None = None
    overlap: int | None = None
    near: int = 256
    layers: tuple[int, ...] | None = None
    rate: float = 1.0
    keep: Keep = "auto"

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise InvalidOption("window", self.window, "at least 1 token")
        if self.overlap is not None and not 0 <= self.overlap < (self.window or self.overlap + 1):
            raise InvalidOption("overlap", self.overlap, f"0 or more, and less than the window of {self.window}")
        if self.near < 1:
            raise InvalidOption("near", self.near, "at least 1 token")
        if self.layers is not None and not self.layers:
            raise InvalidOption("layers", [], "at least one layer that retrieves")
        if not 1 <= self.rate <= 64:
            raise InvalidOption("rate", self.rate, "1 (everything) to 64")
        check_keep(self.keep, self.rate)

    def chunks(self, tokens: int, room: int) -> list[Chunk]:
        """How so many tokens are read by a model whose window has `room` for a chunk. Raises InvalidOption."""
        window = min(_WINDOW, room) if self.window is None else self.window
        if window > room:
            raise InvalidOption("window", window, f"1 to {room}, what there is room for in the model's")
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
    begun there with the same arguments is gone on with. `heads`: those that there are for the model and adapter.
    `progress` gets the tokens that are done after every chunk; what it raises ends the work, and what was read
    stays.

    Raises:
        InvalidOption: a value that the model cannot be read with, or `keep` without the heads that it needs.
        InvalidMemory: layers that the model does not have, no room for it all, or an index that cannot be written.
        Interrupted, MemoryTooSmall, EngineClosed: see `Engine.submit`.
    """
    plan = plan_of(model, tokens, front, options, adapter)
    thinning = thinning_of(options.keep, options.rate, model, adapter, heads)
    chunks = chunks_of(model, len(tokens), front, options, thinning)
    noted = _Progress(folder, f"{plan} {options} {thinning.identity} {tokens}")
    done = noted.done()
    memory = DocumentMemory.create(plan, folder, anew=not done)
    for chunk in chunks:
        if chunk.end <= done:
            continue

        def collect(sequence: "Sequence", chunk: Chunk = chunk) -> None:
            write_chunk(memory, chunk, sequence, thinning)

        request = GenerationRequest(
            tokens[chunk.start : chunk.end],
            max_new_tokens=1,
            front=front,
            adapter=adapter,
            memory=thinning.memory,
            catalyst=thinning.catalyst,
            heads=thinning.heads,
            collect=collect,
        )
        generated(submit, [request])
        memory.sync()  # before it is noted, so that what is noted is there
        noted.note(chunk.end)
        progress(chunk.end)
    memory.close(lambda: progress(len(tokens)))
    noted.close()
    return memory


def plan_of(
    model: "ReaderModel",
    tokens: Tokens,
    front: tuple[Tokens, ...],
    options: RememberOptions,
    adapter: "Adapter | None",
) -> MemoryPlan:
    """What a memory of `tokens` will hold.

    Raises:
        InvalidMemory: layers that the model does not have.
        InvalidOption: so much is near that the model's window has little room left for a question.
    """
    shape = cache_shape(model)
    if options.near > model.window // 2:
        raise InvalidOption("near", options.near, f"1 to {model.window // 2}, half of the model's window")
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


def chunks_of(
    model: "ReaderModel", tokens: int, front: tuple[Tokens, ...], options: RememberOptions, thinning: Thinning
) -> list[Chunk]:
    """How so many tokens are read behind `front`. Raises InvalidOption, where the model cannot read them so."""
    if model.rotation is None:
        raise InvalidOption("model", model.name, "one whose way to turn keys is known, as memories need")
    # Behind a chunk comes a catalyst, which is forgotten, and one token, whatever it is.
    beside = sum(map(len, front)) + max(len(thinning.catalyst), 1)
    if beside >= model.window:
        raise InvalidOption("model", model.name, f"one with a window of more than {beside} tokens")
    return options.chunks(tokens, model.window - beside)


def write_chunk(memory: DocumentMemory, chunk: Chunk, sequence: "Sequence", thinning: Thinning) -> None:
    """Hold what is kept of a chunk that `sequence` has read. Its far tokens are ranked among themselves: what is
    near, or was kept before, is held besides."""
    plan = memory.plan
    keys, values, entries = entries_of(sequence, chunk.kept - chunk.start)
    far = max(min(chunk.end, plan.far) - chunk.kept, 0)
    known = Entries(*(one[..., :far] for one in (entries.positions, entries.scores, entries.novelty)))
    room = plan.held_far(chunk.end) - plan.held_far(chunk.kept)
    memory.write(chunk.kept, keys, values, thinning.worth(known, room))


def entries_of(sequence: "Sequence", first: int) -> "tuple[torch.Tensor, torch.Tensor, Entries]":
    """Keys, turned for no position, and values `[layers, kv_heads, n, head_dim]` of what a sequence owns from its
    entry `first` on, and what is known of them; nothing of it has been evicted."""
    pool = sequence.pool
    assert pool.rotation is not None, "who collects has asked"
    slots = sequence.own_slots()[0][..., first:].to(pool.keys.device)
    keys, values = sequence.copy(first)
    known = Entries(*(store.view(-1)[slots].cpu() for store in (pool.positions, pool.scores, pool.novelty)))
    return pool.rotation.turn(keys, -known.positions), values, known


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
            replace_file(self._file, json.dumps({"identity": self._identity, "done": done}))

    def close(self) -> None:
        """All is read."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
