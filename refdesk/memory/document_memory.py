"""What a model remembers of a document far longer than its window: keys and values, turned for no position.

Layers that retrieve hold all of the document, or the share of it that is worth most; every layer holds its last
tokens, those that are near. An encoder-decoder needs one vector a token for all layers (Unlimiformer, arXiv
2305.01625, section 2.2); a decoder reads other states in every layer and turns its keys for positions, so keys and
values are held, and turned when they are attended to (methods 4.7).
"""

import json
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.key_index import INDEXED_FROM, KeyIndex
from refdesk.memory.room import check_disk, check_memory

_CARD = "memory.json"
_RESERVED = "indexes.part"  # the room that indexes will take
_FORMAT = 1
_SMALLER = "a higher rate, or fewer layers"
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap has no name for it before Python 3.13
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class MemoryPlan:
    """What a document's memory holds, known before it is read.

    `tokens`: of the document. `layers`, `kv_heads`, `head_dim`: of the model. `retrieving`: the layers that hold
    all of it, ascending. `near`: how many of the last tokens every layer holds, and none searches. `rate`: of the
    others each head holds one in so many. `dtype`: of what is held. `reader`: a fingerprint of all else that the
    entries depend on; who attends to them must have read with the same.

    Raises:
        InvalidMemory: a value out of range.
    """

    tokens: int
    layers: int
    kv_heads: int
    head_dim: int
    retrieving: tuple[int, ...]
    near: int
    rate: float = 1.0
    dtype: str = "bfloat16"
    reader: str = ""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InvalidMemory(f"a memory of {self.tokens} tokens; expected at least 1")
        if self.near < 1:
            raise InvalidMemory(f"memory near is {self.near}; expected at least 1 token")
        if not self.rate >= 1:
            raise InvalidMemory(f"memory rate is {self.rate}; expected at least 1")
        if self.dtype not in _DTYPES:
            raise InvalidMemory(f"memory dtype is {self.dtype!r}; expected one of {', '.join(_DTYPES)}")
        wrong = [layer for layer in self.retrieving if not 0 <= layer < self.layers]
        if wrong or list(self.retrieving) != sorted(set(self.retrieving)):
            raise InvalidMemory(
                f"memory layers are {list(self.retrieving)}; expected some of 0 to {self.layers - 1}, ascending"
            )

    @property
    def held_near(self) -> int:
        """How many tokens are near."""
        return min(self.near, self.tokens)

    @property
    def far(self) -> int:
        """How many tokens are not."""
        return self.tokens - self.held_near

    def held_far(self, tokens: int | None = None) -> int:
        """How many entries a head of a retrieving layer holds of the first `tokens`, or of all that are far."""
        return int((self.far if tokens is None else min(tokens, self.far)) / self.rate)

    @property
    def indexed(self) -> bool:
        """Whether an index proposes far entries, of each layer and KV head its own."""
        return self.held_far() >= INDEXED_FROM

    @property
    def bytes(self) -> int:
        """What its entries take, on disk and in memory as they are looked at."""
        width = self.kv_heads * self.head_dim * _DTYPES[self.dtype].itemsize * 2
        entries = len(self.retrieving) * self.held_far() + self.layers * self.held_near
        places = 4 * len(self.retrieving) * self.kv_heads * self.held_far() if self.rate > 1 else 0
        return entries * width + places

    @property
    def index_bytes(self) -> int:
        """What the indexes take besides, about: a byte for each number of a key, its id, and the lists."""
        keys = len(self.retrieving) * self.kv_heads * self.held_far()
        return keys * (self.head_dim + 12) if self.indexed else 0


class DocumentMemory:
    """Far entries `[2, retrieving, kv_heads, held_far, head_dim]` and near ones `[2, layers, kv_heads, held_near,
    head_dim]`, keys first, then values. `places` `[retrieving, kv_heads, held_far]` (int32): which token each far
    entry is of, ascending; None where all are held. Tensors lie in memory, or are mapped from a folder's files."""

    def __init__(
        self,
        plan: MemoryPlan,
        far: torch.Tensor,
        near: torch.Tensor,
        places: torch.Tensor | None,
        folder: Path | None = None,
    ) -> None:
        self.plan = plan
        self.far = far
        self.near = near
        self.places = places
        self._index = {layer: index for index, layer in enumerate(plan.retrieving)}
        self._folder = folder
        self._key_indexes: dict[tuple[int, int], KeyIndex] = {}  # by layer and KV head

    @classmethod
    def create(cls, plan: MemoryPlan, folder: Path | None = None, *, anew: bool = False) -> "DocumentMemory":
        """Nothing written yet; in `folder`, where one is given, which is made. What an earlier `create` of the
        same plan left there stays, unless it is to be made `anew`.

        Raises:
            InvalidMemory: the disk, or without a folder the machine's memory, has no room for it.
        """
        what, size = f"a memory of {plan.tokens} tokens", plan.bytes + plan.index_bytes
        if folder is None:
            check_memory(size, what, _SMALLER)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # The card first: without it the rest is nothing. Indexes are made anew in any case.
            entries = (folder / _CARD, *folder.glob("*.bin")) if anew else ()
            for old in (*entries, *folder.glob("*.faiss")):
                old.unlink(missing_ok=True)
            check_disk(folder, size, what, _SMALLER)
            if plan.indexed:
                _allocate(folder / _RESERVED, plan.index_bytes)
        return cls(plan, *_tensors(plan, folder, write=True), folder=folder)

    @classmethod
    def load(cls, folder: Path) -> "DocumentMemory":
        """What `close` has finished, mapped: nothing is read before it is attended to.

        Raises:
            InvalidMemory: there is none, or it is not whole.
        """
        plan = _read_card(folder)
        sizes = {name: count * dtype.itemsize for name, (count, dtype) in _files(plan).items()}
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise InvalidMemory(f"the memory in {folder} is damaged: {name} is not of {size} bytes")
        try:
            memory = cls(plan, *_tensors(plan, folder, write=False), folder=folder)
            for row in _rows(plan):
                memory._key_indexes[row] = KeyIndex.read(_index_file(folder, *row))
        except (OSError, RuntimeError) as error:
            raise InvalidMemory(f"the memory in {folder} is damaged: {error}") from error
        return memory

    def index(self, layer: int) -> int | None:
        """Where a layer's far entries are; None for one that does not retrieve."""
        return self._index.get(layer)

    def key_index(self, index: int, head: int) -> KeyIndex:
        """What proposes far entries of a layer and KV head, once it is closed."""
        return self._key_indexes[index, head]

    def write(
        self, start: int, keys: torch.Tensor, values: torch.Tensor, scores: torch.Tensor | None = None
    ) -> None:
        """Hold tokens from `start` on: `keys` and `values` `[layers, kv_heads, n, head_dim]`, turned for no
        position. `scores` `[layers, kv_heads, n]`: what they are worth, higher is kept, where not all are."""
        plan = self.plan
        end = start + keys.shape[2]
        entries = torch.stack([keys, values]).to(self.near.dtype)
        if end > plan.far:
            first = max(start, plan.far)
            self.near[:, :, :, first - plan.far : end - plan.far] = entries[:, :, :, first - start :]
        count = min(end, plan.far) - start
        if count <= 0 or not plan.retrieving:
            return
        chosen = entries[:, list(plan.retrieving), :, :count]
        if self.places is not None:
            assert scores is not None, "what is thinned is scored"
            first, last = plan.held_far(start), plan.held_far(start + count)
            best = scores[list(plan.retrieving), :, :count].topk(last - first, dim=-1).indices.sort().values
            self.places[:, :, first:last] = (best + start).int()
            chosen = chosen.gather(3, best[None, ..., None].expand(2, -1, -1, -1, plan.head_dim))
        else:
            first, last = start, start + count
        self.far[:, :, :, first:last] = chosen

    def sync(self) -> None:
        """What is written stays, whatever becomes of the machine."""
        if self._folder is not None:
            for file in (*self._folder.glob("*.bin"), *self._folder.glob("*.faiss")):
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())

    def close(self, progress: Callable[[], None] = lambda: None) -> None:
        """All is written: indexes are made, and from now on it can be loaded from its folder, if it has one.
        `progress` is called after each index; what it raises ends the work.

        Raises:
            InvalidMemory: an index cannot be written.
        """
        if self._folder is not None:
            (self._folder / _RESERVED).unlink(missing_ok=True)
        for index, head in _rows(self.plan):
            made = KeyIndex.build(self.far[0, index, head].float().numpy())
            if self._folder is not None:
                file = _index_file(self._folder, index, head)
                try:
                    made.write(file)
                except (OSError, RuntimeError) as error:
                    raise InvalidMemory(f"{file.name} of a memory could not be written: {error}") from error
                made = KeyIndex.read(file)
            self._key_indexes[index, head] = made
            progress()
        if self._folder is None:
            return
        self.sync()
        card = asdict(self.plan) | {"format": _FORMAT}
        replace_file(self._folder / _CARD, json.dumps(card) + "\n")


def replace_file(file: Path, text: str) -> None:
    """A file is as it was or as it is to be, even where the machine crashes."""
    part = file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(file)


def _rows(plan: MemoryPlan) -> Iterable[tuple[int, int]]:
    """Places of layers, and KV heads, that have an index."""
    return product(range(len(plan.retrieving)), range(plan.kv_heads)) if plan.indexed else ()


def _allocate(file: Path, size: int) -> None:
    """A file of so many bytes that are set aside for it: a mapped page that cannot be written ends a process."""
    try:
        with file.open("ab") as opened:
            opened.truncate(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        raise InvalidMemory(f"{file.name} of a memory takes {size / 2**20:.0f} MiB: {error.strerror}") from error


def _mapped(file: Path, write: bool) -> mmap.mmap:
    """A file's bytes. Who only reads may write into the pages, as torch wants it, but nothing is set aside for
    that: a memory may be larger than the machine's."""
    flags = mmap.MAP_SHARED if write else mmap.MAP_PRIVATE | _NO_RESERVE
    with file.open("r+b" if write else "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _index_file(folder: Path, index: int, head: int) -> Path:
    return folder / f"keys-{index}-{head}.faiss"


def _read_card(folder: Path) -> MemoryPlan:
    try:
        card: Mapping[str, Any] = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        values = dict(card)
        written = values.pop("format")
        if written != _FORMAT:
            raise InvalidMemory(f"the memory in {folder} has format {written}; expected {_FORMAT}")
        return MemoryPlan(**values | {"retrieving": tuple(values["retrieving"])})
    except FileNotFoundError as error:
        raise InvalidMemory(f"there is no whole memory in {folder}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidMemory):
            raise
        raise InvalidMemory(f"the memory in {folder} is damaged: {error}") from error


def _files(plan: MemoryPlan) -> dict[str, tuple[int, torch.dtype]]:
    """Of each file how many numbers it holds, and of which kind."""
    row, dtype = 2 * plan.kv_heads * plan.head_dim, _DTYPES[plan.dtype]
    far = len(plan.retrieving) * plan.held_far()
    files = {"far.bin": (far * row, dtype), "near.bin": (plan.layers * plan.held_near * row, dtype)}
    return files | ({"places.bin": (far * plan.kv_heads, torch.int32)} if plan.rate > 1 else {})


def _tensors(
    plan: MemoryPlan, folder: Path | None, *, write: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Far and near entries and the places of the far ones."""
    files = _files(plan)

    def tensor(name: str, *shape: int) -> torch.Tensor:
        count, dtype = files[name]
        if folder is not None and write:
            _allocate(folder / name, count * dtype.itemsize)
        if folder is None or not count:  # what is empty cannot be mapped
            return torch.zeros(shape, dtype=dtype)
        return torch.frombuffer(_mapped(folder / name, write), dtype=dtype).view(shape)

    rows = len(plan.retrieving), plan.kv_heads, plan.held_far()
    return (
        tensor("far.bin", 2, *rows, plan.head_dim),
        tensor("near.bin", 2, plan.layers, plan.kv_heads, plan.held_near, plan.head_dim),
        tensor("places.bin", *rows) if plan.rate > 1 else None,
    )
