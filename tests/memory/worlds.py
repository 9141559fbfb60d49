"""The oracle: sequences beside a full memory of everything they were told, and plain attention over that."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from refdesk.memory.attention import PagedAttention, Part
from refdesk.memory.eviction import compact
from refdesk.memory.policy import EvictionPolicy
from refdesk.memory.pool import BlockPool, CacheShape
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.rotation import Rotation
from refdesk.memory.sequence import Held, Sequence
from refdesk.memory.unlimiformer import Recall

CPU = torch.device("cpu")


def shape(
    layers: int = 2, kv_heads: int = 2, head_dim: int = 16, dtype: torch.dtype = torch.float32
) -> CacheShape:
    return CacheShape(layers, kv_heads, head_dim, dtype, CPU)


def write(sequence: Sequence, rows: int, scores: torch.Tensor | None = None) -> None:
    """`rows` more entries, without a model: `scores` `[layers, kv_heads, rows]`, keys that tell their position."""
    pool = sequence.pool
    sequence.grow(rows)
    slots = torch.from_numpy(sequence.slots(rows))
    positions = torch.arange(sequence.position, sequence.position + rows, dtype=torch.int32).expand(slots.shape)
    pool.positions.view(-1)[slots] = positions
    pool.scores.view(-1)[slots] = torch.zeros(slots.shape) if scores is None else scores
    pool.keys.view(-1, pool.shape.head_dim)[slots] = positions[..., None].to(pool.keys.dtype)
    pool.values.view(-1, pool.shape.head_dim)[slots] = -positions[..., None].to(pool.keys.dtype)
    sequence.advance(rows)


def scored(rows: list[list[float]], block_size: int, blocks: int = 64) -> Sequence:
    """One layer whose heads hold entries of these scores, in this order."""
    longest = max(map(len, rows))
    sequence = Sequence(BlockPool(shape(1, len(rows), 2), blocks, block_size))
    write(sequence, longest, torch.tensor([[row + [0.0] * (longest - len(row)) for row in rows]]))
    sequence.cut(torch.tensor([[len(row) for row in rows]]).numpy())
    return sequence


def held_positions(sequence: Sequence, layer: int, head: int) -> list[int]:
    """The positions of one row, those of others included, in the order in which they are held."""
    slots = torch.from_numpy(sequence.held_slots(layer, head))
    found: list[int] = sequence.pool.positions.view(-1)[slots].tolist()
    return found


@dataclass
class Told:
    """Tokens in the order they came: `keys`, `values` `[layers, kv_heads, n, head_dim]`, `positions` `[n]`, and
    which of them have not been evicted, `[layers, kv_heads, n]`."""

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    kept: torch.Tensor

    def __add__(self, other: "Told") -> "Told":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Told(*(torch.cat(pair, -2 if pair[0].dim() == 4 else -1) for pair in pairs))


@dataclass(eq=False)
class Story:
    """A sequence, or what became of it, and what it was told: `front` by others."""

    sequence: Sequence
    front: Told
    own: Told

    def everything(self) -> Told:
        return self.front + self.own

    def note_evictions(self) -> None:
        """Strike out what the sequence no longer holds, by the positions of what it does."""
        slots, exists = self.sequence.own_slots()
        held = self.sequence.pool.positions.view(-1)[slots]
        held = torch.where(exists, held, torch.tensor(-1, dtype=torch.int32))
        self.own.kept = (self.own.positions[:, None] == held[:, :, None]).any(-1)

    def check(self) -> None:
        """Whatever is held is exactly what was told and kept, bit for bit."""
        pool = self.sequence.pool
        for layer in range(pool.shape.layers):
            for head in range(pool.shape.kv_heads):
                slots = torch.from_numpy(self.sequence.held_slots(layer, head))
                slots = slots[len(slots) - int(self.sequence.own[layer, head]) :]
                slots = slots[pool.positions.view(-1)[slots].argsort()]
                kept = self.own.kept[layer, head]
                assert torch.equal(pool.positions.view(-1)[slots], self.own.positions[kept])
                for store, told in ((pool.keys, self.own.keys), (pool.values, self.own.values)):
                    assert torch.equal(store.view(-1, store.shape[-1])[slots], told[layer, head, kept])


@dataclass(frozen=True)
class Turn:
    """A part of a batch."""

    story: Story
    rows: int
    policy: EvictionPolicy | None = None
    observe: bool = False
    accumulate: bool = False
    heads: RetainingHeads | None = None
    recall: Recall | None = None

    @property
    def observed(self) -> int:
        return self.policy.window if self.observe and self.policy else 0


@dataclass(frozen=True)
class Read:
    """Of one batch: the attention found, `[layers, rows, heads, head_dim]`, what plain full attention with evicted
    entries masked gives, and for each part the probabilities `[layers, kv_heads, group, rows, n]` and the queries
    `[layers, kv_heads, group, rows, head_dim]`."""

    out: torch.Tensor
    expected: torch.Tensor
    attention: list[torch.Tensor]
    queries: list[torch.Tensor]

    def check(self, tolerance: float) -> None:
        assert self.out.shape == self.expected.shape
        assert (self.out.double() - self.expected).abs().max() < tolerance


class World:
    """A pool, an attention over it, and random queries, keys and values. With `copies` the query heads of a group
    are the same."""

    def __init__(
        self,
        kind: type[PagedAttention],
        cache: CacheShape | None = None,
        *,
        group: int = 2,
        block_size: int = 4,
        blocks: int = 1024,
        seed: int = 0,
        copies: bool = False,
    ) -> None:
        self.pool = BlockPool(cache or shape(), blocks, block_size)
        for store in (self.pool.keys, self.pool.values, self.pool.scores, self.pool.novelty):
            store.fill_(float("nan"))  # what nobody wrote must not be read
        self.pool.positions.fill_(-1)
        pairs = self.pool.shape.head_dim // 2 - 1  # of which two dimensions are not turned
        self.pool.rotation = self._rotation = Rotation(10.0 ** -torch.linspace(0, 4, pairs))
        self.attention = kind(self.pool)
        self.stories: list[Story] = []
        self._group = group
        self._copies = copies
        self._generator = torch.Generator().manual_seed(seed)
        self._layers = [torch.nn.Module() for _ in range(self.pool.shape.layers)]
        for index, layer in enumerate(self._layers):
            layer.layer_idx = index  # type: ignore[assignment]

    def story(self, *behind: tuple[Held, Told], by: tuple[int, ...] | None = None) -> Story:
        """A sequence behind what others hold, moved on by so much."""
        front = self._nothing()
        for (_, told), shift in zip(behind, by or (0,) * len(behind), strict=True):
            keys = self._rotation.turn(told.keys.double(), torch.tensor(shift)) if shift else told.keys
            front = front + replace(told, keys=keys, positions=told.positions + shift)
        position = max(front.positions.tolist(), default=-1) + 1
        sequence = Sequence(self.pool, [held for held, _ in behind], position, by)
        self.stories.append(Story(sequence, front, self._nothing()))
        return self.stories[-1]

    def fork(self, story: Story) -> Story:
        """A sequence behind all that another holds."""
        return self.story((story.sequence, story.everything()))

    def read(self, *turns: Turn) -> Read:
        """One forward."""
        parts = tuple(
            Part(
                turn.story.sequence,
                turn.rows,
                turn.policy,
                turn.observed,
                turn.accumulate,
                turn.heads,
                turn.recall,
            )
            for turn in turns
        )
        rows, kv_heads = sum(turn.rows for turn in turns), self.pool.shape.kv_heads
        dim, scaling = self.pool.shape.head_dim, self.pool.shape.head_dim**-0.5
        drawn = 1 if self._copies else self._group
        queries, keys, values, out = [], [], [], []
        with self.attention.batch(parts):
            for layer in self._layers:
                query = self._draw(rows, kv_heads, drawn, dim).expand(-1, -1, self._group, -1).flatten(1, 2)
                key, value = self._draw(rows, kv_heads, dim), self._draw(rows, kv_heads, dim)
                found, _ = self.attention(layer, _batched(query), _batched(key), _batched(value), None, scaling)
                out.append(found[0])
                queries.append(query.view(rows, kv_heads, self._group, dim))
                keys.append(key.transpose(0, 1))
                values.append(value.transpose(0, 1))
        query = torch.stack(queries).permute(0, 2, 3, 1, 4)
        expected, attention, asked, start = [], [], [], 0
        for turn in turns:
            stretch = slice(start, start + turn.rows)
            start += turn.rows
            position = int(turn.story.sequence.position) - turn.rows
            positions = torch.arange(position, position + turn.rows, dtype=torch.int32)
            new = Told(
                torch.stack(keys)[:, :, stretch], torch.stack(values)[:, :, stretch], positions, self._all(turn)
            )
            turn.story.own = turn.story.own + new
            probabilities, result = full_attention(query[..., stretch, :], turn.story.everything(), scaling)
            attention.append(probabilities)
            asked.append(query[..., stretch, :])
            expected.append(result)
        return Read(torch.stack(out), torch.cat(expected, 1), attention, asked)

    def thin(self, story: Story, share: float) -> None:
        """Evict entries drawn by lot, others in every layer and head; the first stays."""
        _, exists = story.sequence.own_slots()
        keep = exists & (torch.rand(exists.shape, generator=self._generator) < share)
        keep[..., :1] = exists[..., :1]
        compact(story.sequence, keep)
        story.note_evictions()

    def _draw(self, *size: int) -> torch.Tensor:
        return torch.randn(size, generator=self._generator).to(self.pool.shape.dtype)

    def _nothing(self) -> Told:
        cache = self.pool.shape
        none = torch.empty(cache.layers, cache.kv_heads, 0, cache.head_dim, dtype=cache.dtype)
        return Told(none, none, torch.empty(0, dtype=torch.int32), torch.empty(none.shape[:3], dtype=torch.bool))

    def _all(self, turn: Turn) -> torch.Tensor:
        return torch.ones(self.pool.shape.layers, self.pool.shape.kv_heads, turn.rows, dtype=torch.bool)


def _batched(rows: torch.Tensor) -> torch.Tensor:
    """As models have it: `[1, heads, rows, head_dim]`."""
    return rows[None].transpose(1, 2)


def full_attention(query: torch.Tensor, told: Told, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the last rows, `[layers, kv_heads, group, rows, head_dim]`, over everything told, evicted entries masked:
    the probabilities and the result `[layers, rows, heads, head_dim]`, in float64."""
    rows, n = query.shape[-2], told.keys.shape[-2]
    logits = query.double() @ told.keys.double().transpose(-1, -2)[:, :, None] * scaling
    seen = torch.arange(n) <= torch.arange(n - rows, n)[:, None]
    logits = logits.masked_fill(~(seen & told.kept[:, :, None, None]), float("-inf"))
    attention = logits.softmax(-1)
    result = attention @ told.values.double()[:, :, None]
    return attention, result.permute(0, 3, 1, 2, 4).flatten(2, 3)


def check_pool(pool: BlockPool, sequences: Iterable[Sequence]) -> None:
    """Every block is free or owned once, and every own block is full but for the last of its row."""
    sequences = list(sequences)
    pool.check_integrity([sequence.own_ids() for sequence in sequences])
    for sequence in sequences:
        assert (sequence.own_blocks == -(-sequence.own // pool.block_size)).all()
        assert pool.fill[sequence.own_ids()].sum() == sequence.own.sum()
