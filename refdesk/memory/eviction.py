"""Which entries go, and moving what stays so that whole blocks come free.

The choice of KV-Compress (arXiv 2410.00161, sections 4.2 and 4.2.2) and its compaction (algorithm 1), written over
all layers and heads at once, and contiguous positions for what stays (arXiv 2410.01805, its code). Rows are
(layer, KV head) pairs; `[rows, n]` are the own entries of a sequence.
"""

import torch

from refdesk.memory.policy import Entries, EvictionPolicy
from refdesk.memory.sequence import Sequence

_NEVER = float("inf")
_BEHIND = torch.iinfo(torch.int32).max


def evict(sequence: Sequence, policy: EvictionPolicy, room: int, *, last: bool = True) -> None:
    """Thin what `sequence` owns to what `room` tokens would take. What others hold in front of it stays.

    A room shared by all layers and heads frees whole blocks, so that at most as many stay as `room` tokens,
    rounded up to whole blocks, would take; else every head keeps `room` entries. Protected entries stay even where
    that is too many. `last`: no chunk comes behind, so of the latest those stay that the policy calls recent, and
    not its stabilizers. Keys are turned for other positions only if the policy is compact.
    """
    slots, exists = sequence.own_slots()
    if not exists.numel():
        return
    pool = sequence.pool
    flat, there = slots.to(pool.positions.device), exists.to(pool.positions.device)
    order = torch.where(there, pool.positions.view(-1)[flat], _BEHIND).argsort(dim=-1, stable=True)
    flat = flat.gather(-1, order)  # in the order of the text, in which ties are decided
    positions = torch.where(there, pool.positions.view(-1)[flat], _BEHIND)
    known = (torch.where(there, store.view(-1)[flat], -_NEVER) for store in (pool.scores, pool.novelty))
    scores = policy.rank(Entries(positions, *known), room)
    latest = policy.recent if last else policy.stable(room)
    kept_always = (positions < policy.sinks) | (positions >= sequence.position - latest)
    scores = scores.masked_fill(kept_always, _NEVER).cpu()
    if policy.shared:
        size = pool.block_size
        blocks = -(-sequence.own // size)  # room without entries is given back in any case
        wanted = int(blocks.sum()) - -(-room // size) * sequence.own.size
        alone = torch.from_numpy(sequence.shared == 0)
        keep = exists & ~blocks_to_evict(scores, exists, size, wanted, alone)
    else:
        keep = exists & best(scores, exists, torch.tensor(room))
    compact(sequence, torch.zeros_like(keep).scatter(-1, order.cpu(), keep))
    if policy.compact:
        close_ranks(sequence)


def blocks_to_evict(
    scores: torch.Tensor, exists: torch.Tensor, block_size: int, wanted: int, keep_one: torch.Tensor
) -> torch.Tensor:
    """The entries to evict, `[..., n]`, so that `wanted` blocks come free over all rows, or as many as can.

    Evicting the e-th block of a row costs the row its hanging entries and (e - 1) x `block_size` more, the lowest
    first; its price is the score of the best of them. The cheapest blocks of all rows go. Entries of infinite
    score stay. `keep_one` `[...]`: rows that must not be emptied.
    """
    shape, n = scores.shape, scores.shape[-1]
    scores, exists, keep_one = scores.reshape(-1, n), exists.reshape(-1, n), keep_one.reshape(-1)
    count = exists.sum(-1)
    blocks = -(-count // block_size)
    most = -(-n // block_size)
    if wanted <= 0:
        return torch.zeros(shape, dtype=torch.bool)
    place = torch.arange(most * block_size)
    padded = torch.nn.functional.pad(scores, (0, most * block_size - n))
    # Empty slots of a row's last block sort first: with them the first block to go is as large as the others.
    padded = torch.where(place < count[:, None], padded, float("-inf"))
    padded = torch.where(place < blocks[:, None] * block_size, padded, _NEVER)
    price = padded.sort(-1).values.view(len(scores), most, block_size)[..., -1]
    last = torch.arange(most) == blocks[:, None] - 1
    price = price.masked_fill(last & keep_one[:, None], _NEVER).flatten()
    order = price.argsort(stable=True)[:wanted]
    order = order[price[order] < _NEVER]
    taken = torch.bincount(order // most, minlength=len(scores))
    hanging = (count - 1) % block_size + 1
    evicted = torch.where(taken > 0, hanging + (taken - 1) * block_size, 0)
    rank = torch.where(exists, scores, _NEVER).argsort(dim=-1, stable=True).argsort(dim=-1)
    return (rank < evicted[:, None]).view(shape)


def best(scores: torch.Tensor, exists: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """The `room` `[...]` entries of highest score in each row, `[..., n]`, and those of infinite score besides. Of
    equal ones the first."""
    among = torch.where(exists, scores, float("-inf"))
    rank = among.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < room[..., None]) | (among == _NEVER)


def compact(sequence: Sequence, keep: torch.Tensor) -> None:
    """Drop the own entries that `keep` `[layers, kv_heads, n]` leaves out: the last survivors move into the holes
    in front, everything that belongs to an entry with it, and the blocks behind go back to the pool."""
    slots, _ = sequence.own_slots()
    own = keep.sum(-1)
    place = torch.arange(keep.shape[-1])
    hole = ~keep & (place < own[..., None])
    mover = keep & (place >= own[..., None])
    pool = sequence.pool
    target = slots[hole].to(pool.keys.device)
    source = slots.flip(-1)[mover.flip(-1)].to(pool.keys.device)
    for store in (pool.keys, pool.values, pool.positions, pool.scores, pool.novelty):
        flat = store.view(pool.blocks * pool.block_size, -1)
        flat[target] = flat[source]
    sequence.sources = sequence.own_sources()
    sequence.sources[hole.numpy()] = sequence.sources[..., ::-1][mover.flip(-1).numpy()]
    sequence.cut(own.numpy())


def close_ranks(sequence: Sequence) -> None:
    """Give the own entries of every row, of which each has as many, contiguous positions in the order of the text,
    behind what stands in front; keys are turned on by the difference. The next token stands behind them."""
    pool = sequence.pool
    assert pool.rotation is not None, "the engine refuses policies that move entries it cannot turn"
    slots, exists = sequence.own_slots()
    assert exists.all(), "every head keeps as many"
    keys, positions = pool.keys.view(-1, pool.shape.head_dim), pool.positions.view(-1)
    for layer in slots.to(positions.device):  # one by one: turning is done in float32
        place = positions[layer].argsort(dim=-1, stable=True).argsort(dim=-1)
        by = (sequence.start + place - positions[layer]).flatten()
        moved = layer.flatten()[by != 0]
        keys[moved] = pool.rotation.turn(keys[moved], by[by != 0])
        positions[moved] += by[by != 0].int()
    sequence.position = sequence.start + slots.shape[-1]
