"""Attention over the store: the contract with the model, and the plain reference of it.

The model calls the attention function once a layer with the rotated queries, keys and values of a whole batch;
the function writes the new entries and lets every row attend to what its own sequence holds. No cache object and
no mask of the model is involved (docs/architecture.md). `ReferenceAttention` says what is meant and runs on any
device; `refdesk.memory.fast_attention` is the same, fast, on CPUs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refdesk.memory.errors import OutOfBlocks, UnsupportedAttention
from refdesk.memory.policy import EvictionPolicy, ObservingPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.sequence import Sequence
from refdesk.memory.unlimiformer import Recall


@dataclass(frozen=True, slots=True)
class Part:
    """The `rows` tokens of one sequence in a batch, which lie behind those of the part before.

    `observe`: let `policy` score what the sequence holds behind these rows, by the attention of so many of the
    last. `accumulate`, of a part of one row: add its squared attention, summed over the query heads of a KV head,
    to the scores (arXiv 2410.00161, 4.3). `heads`: they score the new entries, whose score is 0 otherwise.
    `recall`: memories of documents that its rows attend to as well.
    """

    sequence: Sequence
    rows: int
    policy: EvictionPolicy | None = None
    observe: int = 0
    accumulate: bool = False
    heads: RetainingHeads | None = None
    recall: Recall | None = None

    def positions(self) -> range:
        """Of these rows."""
        return range(self.sequence.position, self.sequence.position + self.rows)

    @property
    def single(self) -> bool:
        """Whether it is one row that attends, and nothing more is asked of it but to accumulate."""
        return self.rows == 1 and not self.observe and self.heads is None and self.recall is None


class PagedAttention(ABC):
    """An attention function over one pool. `batch` names what the next forward is made of. `calls`: how often it
    was called, once for each layer of a forward."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.parts: tuple[Part, ...] = ()
        self.calls = 0

    @contextmanager
    def batch(self, parts: tuple[Part, ...]) -> Iterator[None]:
        """Within, one forward of these parts may run; behind it their entries are counted.

        Raises:
            OutOfBlocks: there is no room; nothing has changed.
        """
        missing = sum(part.sequence.missing(part.rows) for part in parts)
        if missing > self.pool.free:
            raise OutOfBlocks(missing, self.pool.free, self.pool.blocks)
        for part in parts:
            part.sequence.grow(part.rows)
        self.parts = parts
        self._begin()
        try:
            yield
            for part in parts:
                part.sequence.advance(part.rows)
        finally:
            self.parts = ()

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """`query` `[1, heads, rows, head_dim]`, `key` and `value` `[1, kv_heads, rows, head_dim]`; the result is
        `[1, rows, heads, head_dim]`. Rows behind those of the parts are padding, and attend to nothing."""
        for name in ("softcap", "s_aux"):
            if more.get(name) is not None:
                raise UnsupportedAttention(f"the model's attention uses {name}, which the store does not do")
        self.calls += 1
        layer: int = module.layer_idx  # type: ignore[assignment]
        heads, rows, dim = query.shape[1:]
        grouped = query[0].view(key.shape[1], heads // key.shape[1], rows, dim)
        meant = sum(part.rows for part in self.parts)
        attended = self._attend(layer, grouped[:, :, :meant], key[0, :, :meant], value[0, :, :meant], scaling)
        if rows > meant:
            attended = torch.nn.functional.pad(attended, (0, 0, 0, 0, 0, rows - meant))
        return attended[None], None

    def _begin(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """A batch has been named."""

    @abstractmethod
    def _attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """`query` `[kv_heads, group, rows, head_dim]`, `key` and `value` `[kv_heads, rows, head_dim]`; the result
        is `[rows, heads, head_dim]`."""

    def _write(self, layer: int, part: Part, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put the new entries of one layer into the sequence's own blocks: `query` `[kv_heads, group, rows,
        head_dim]`, `key` and `value` `[kv_heads, rows, head_dim]`."""
        sequence, pool = part.sequence, self.pool
        slots = torch.from_numpy(sequence.slots(part.rows)[layer]).flatten().to(key.device)
        pool.keys.view(-1, key.shape[-1])[slots] = key.reshape(-1, key.shape[-1])
        pool.values.view(-1, key.shape[-1])[slots] = value.reshape(-1, key.shape[-1])
        positions = torch.arange(sequence.position, sequence.position + part.rows, dtype=torch.int32)
        pool.positions.view(-1)[slots] = positions.repeat(key.shape[0]).to(key.device)
        pool.scores.view(-1)[slots] = 0.0
        if part.heads is not None:
            pool.scores.view(-1)[slots] = self._learned(layer, part, part.heads, query, key, value).flatten()

    def _learned(
        self,
        layer: int,
        part: Part,
        heads: RetainingHeads,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """What retaining heads say of new entries, `[kv_heads, rows]`: they are shown what stood before any
        position (arXiv 2410.01805, section 3.2), so it is turned back."""
        rotation = self.pool.rotation
        assert rotation is not None, "the engine refuses heads where it cannot turn back"
        back = -torch.tensor(part.positions(), device=key.device)
        query, key = (rotation.turn(one.float(), back) for one in (query.flatten(0, 1), key))
        return heads.score(layer, query, key, value.float())

    def _held(self, layer: int, head: int, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Every entry of one row as a flat index of the pool, `[n]`, those that the part has written last, and
        their keys where they stand, `[n, head_dim]` in float32."""
        sequence, device = part.sequence, self.pool.keys.device
        held = np.append(sequence.held_slots(layer, head), sequence.slots(part.rows)[layer, head])
        slots = torch.from_numpy(held).to(device)
        keys = self.pool.keys.view(-1, self.pool.shape.head_dim)[slots].float()
        if len(sequence.places) > 1:
            shifts = np.append(sequence.held_shifts(layer, head), np.zeros(part.rows, np.int64))
            keys = self._moved_on(keys, shifts)
        return slots, keys

    def _moved_on(self, keys: torch.Tensor, shifts: np.ndarray) -> torch.Tensor:
        """`keys` `[..., n, head_dim]` where they stand, which is `shifts` `[n]` further on than where they were
        read."""
        assert self.pool.rotation is not None, "only where it is known how to turn, entries are moved"
        return self.pool.rotation.turn(keys, torch.from_numpy(shifts).to(keys.device))

    def _attend_with_memories(
        self, layer: int, part: Part, query: torch.Tensor, recall: Recall, scaling: float
    ) -> torch.Tensor:
        """What the rows of a part that has been written get of what its sequence holds and of memories, together:
        `query` and the result `[kv_heads, group, rows, head_dim]`."""
        values = self.pool.values.view(-1, query.shape[-1])
        logits, held = [], []
        for head in range(query.shape[0]):
            slots, keys = self._held(layer, head, part)
            seen = causal(part.rows, len(slots), query.device)
            logits.append((query[head].float() @ keys.T * scaling).masked_fill(~seen, float("-inf")))
            held.append(values[slots].float())
        return recall.attend(layer, query, logits, held, scaling).to(query.dtype)

    def _observe(self, layer: int, part: Part, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """Let the policy score the own entries of one layer from the attention of the rows to be observed.

        `query` `[kv_heads, group, rows, head_dim]` and `key` `[kv_heads, rows, head_dim]` are the part's; its
        entries have been written, but are not yet counted.
        """
        assert isinstance(part.policy, ObservingPolicy), "only these are observed"
        window = min(part.observe, part.rows)
        for head in range(key.shape[0]):
            slots, keys = self._held(layer, head, part)
            own = slots[len(slots) - int(part.sequence.own[layer, head]) - part.rows :]
            scores = query[head, :, part.rows - window :].float() @ keys.T * scaling
            scores = scores.masked_fill(~causal(window, len(slots), key.device), float("-inf"))
            seen = scores.softmax(-1)[..., len(slots) - len(own) :]
            positions = self.pool.positions.view(-1)[own]
            order = positions.argsort(stable=True)
            self.pool.scores.view(-1)[own[order]] = part.policy.score(positions[order], seen[..., order])


class ReferenceAttention(PagedAttention):
    """What is meant: one row of one head at a time could not be plainer, one head at a time is still plain."""

    def _attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        kv_heads, group, rows, dim = query.shape
        out = torch.empty(rows, kv_heads, group, dim, dtype=query.dtype, device=query.device)
        values = self.pool.values.view(-1, dim)
        scores = self.pool.scores.view(-1)
        start = 0
        for part in self.parts:
            stretch = slice(start, start + part.rows)
            start += part.rows
            self._write(layer, part, query[:, :, stretch], key[:, stretch], value[:, stretch])
            if part.recall is not None:
                attended = self._attend_with_memories(layer, part, query[:, :, stretch], part.recall, scaling)
                out[stretch] = attended.permute(2, 0, 1, 3)
                continue
            for head in range(kv_heads):
                slots, keys = self._held(layer, head, part)
                logits = query[head, :, stretch].float() @ keys.T * scaling
                logits = logits.masked_fill(~causal(part.rows, len(slots), query.device), float("-inf"))
                attention = logits.softmax(-1)
                out[stretch, head] = (attention @ values[slots].float()).transpose(0, 1).to(out.dtype)
                if part.accumulate:
                    own = int(part.sequence.own[layer, head]) + part.rows
                    scores[slots[-own:]] += attention.square().sum((0, 1))[-own:]
            if part.observe:
                self._observe(layer, part, query[:, :, stretch], key[:, stretch], scaling)
        return out.flatten(1, 2)


def causal(rows: int, held: int, device: torch.device) -> torch.Tensor:
    """What the last `rows` of `held` entries may see, `[rows, held]`: everything up to themselves."""
    return torch.ones(rows, held, dtype=torch.bool, device=device).tril(held - rows)
