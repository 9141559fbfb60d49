"""Retrieval attention: a layer attends to the entries of a document's memory that its own queries look for.

Unlimiformer (arXiv 2305.01625) for a decoder: nothing is trained, no index is asked which passage might matter;
attention chooses, in each layer, for each row and KV head. What public code gets wrong (methods 4.6) is exact
here: scores are those of attention itself, with the positions it is then done with, entries are held once a KV
head and chosen for its whole group, the question is read so and not only the answer, and what is near is never
given up.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import get_args

import torch

from refdesk.memory.document_memory import DocumentMemory, MemoryPlan
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import MOST_ENTRIES, Looking, Places
from refdesk.memory.rotation import Rotation

_AT_ONCE = 2**24
"""Numbers that are held at once, at most: a row has its scores in a layer, and the keys and values gathered."""

_LOOKED_AT = 2**22
"""Far entries times rows that one text has in a forward, at most: whoever else generates waits for it."""

_SPARSE = 8
"""An index is asked where no more than one far entry in so many is attended to; else it would look at all."""


@dataclass(frozen=True)
class RecallRequest:
    """Which memories a request attends to, and how.

    `entries`: how many far ones a row attends to in each layer and KV head. `places`: where they stand for it.
    Near ones always stand as they were written, in front of who reads; far ones `true`, too; or `clipped`, all
    right in front of what is near, for a model may know no larger distance; or `scaled`, in order, over `span`
    positions. Several memories stand side by side. `exact`: all far entries are looked at, though an index could
    propose some. `heads`: (layer, query head), those whose attention is counted, each by itself; None for the
    sum of all. It changes nothing of what is attended to.

    Raises:
        InvalidMemory: a value out of range, or memories that cannot be attended to together.
    """

    memories: tuple[DocumentMemory, ...]
    entries: int = Looking.entries
    places: Places = Looking.places
    span: int | None = None
    exact: bool = False
    heads: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if not self.memories:
            raise InvalidMemory("no memory is named; expected at least one")
        if not 1 <= self.entries <= MOST_ENTRIES:
            raise InvalidMemory(f"entries of a document is {self.entries}; expected 1 to {MOST_ENTRIES}")
        if self.places not in get_args(Places):
            raise InvalidMemory(f"places is {self.places!r}; expected one of {', '.join(get_args(Places))}")
        if len({memory.plan.reader for memory in self.memories}) > 1:
            raise InvalidMemory("the memories were made by readers that differ; expected the same for all")
        if len({memory.plan.retrieving for memory in self.memories}) > 1:
            raise InvalidMemory("the memories differ in the layers that retrieve; expected the same for all")
        if self.heads is not None and not self.heads:
            raise InvalidMemory("heads is (); expected at least one, or None for all")
        if self.places == "scaled" and (self.span is None or self.span <= self.near):
            raise InvalidMemory(f"span is {self.span}; expected more than {self.near}, what is near")

    def counted(self, layer: int, kv_head: int, group: int) -> list[tuple[int, list[int]]]:
        """Of a KV head's group of query heads those that are counted, together or each by itself: where, and which
        of the group."""
        if self.heads is None:
            return [(0, list(range(group)))]
        first = kv_head * group
        return [
            (place, [head - first])
            for place, (of, head) in enumerate(self.heads)
            if of == layer and first <= head < first + group
        ]

    @property
    def near(self) -> int:
        """How many positions are taken by what is near."""
        return max(memory.plan.held_near for memory in self.memories)

    @property
    def width(self) -> int:
        """How many positions the memories take in front of what is read."""
        longest = max(memory.plan.tokens for memory in self.memories)
        if self.places == "true":
            return longest
        if self.places == "clipped":
            return min(longest, self.near + 1)
        assert self.span is not None, "checked when it was made"
        return min(longest, self.span)

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return sum(memory.plan.tokens for memory in self.memories)


class Recall:
    """Memories as a sequence attends to them whose next token stands at `end`: behind them.

    `by_head` holds for each memory how much its tokens were attended to in layers that retrieve, `[heads,
    tokens]`, summed over rows: by each head that the request names, or in one row by all; `count` how many far
    entries were. Neither grows in a `silent` one.
    """

    def __init__(
        self, request: RecallRequest, rotation: Rotation, end: int, device: torch.device | None = None
    ) -> None:
        self.request = request
        self.silent = False
        self.count = 0
        apart = 1 if request.heads is None else len(request.heads)
        self.by_head = [torch.zeros(apart, memory.plan.tokens) for memory in request.memories]
        self._rotation = rotation
        self._end = end
        # Keys where they stand, `[layers, kv_heads, near, head_dim]`, and values: the same for all who read.
        self._near = [
            rotation.turn(memory.near[0], torch.arange(end - memory.plan.held_near, end)).to(device)
            for memory in request.memories
        ]
        self._near_values = [memory.near[1].to(device) for memory in request.memories]

    @property
    def attended(self) -> list[torch.Tensor]:
        """For each memory how much its tokens were attended to by all heads that are counted, `[tokens]`."""
        return [one.sum(0) for one in self.by_head]

    @property
    def rows(self) -> int:
        """How many one text may have in a forward."""
        looked_at = sum(
            memory.plan.held_far() for memory in self.request.memories if not self._indexed(memory.plan)
        )
        return max(1, _LOOKED_AT // max(looked_at, 1))

    def silenced(self) -> "Recall":
        """The same, for who reads what is no part of the answer."""
        same = copy(self)
        same.silent = True
        return same

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        logits: list[torch.Tensor],
        values: list[torch.Tensor],
        scaling: float,
    ) -> torch.Tensor:
        """What rows `query` `[kv_heads, group, rows, head_dim]`, turned for their positions, get of the memories
        and of what else they attend to: of each KV head its `logits` `[group, rows, n]` and `values` `[n,
        head_dim]`, both float32. The result is `[kv_heads, group, rows, head_dim]`, float32."""
        at_once = max(1, _AT_ONCE // self._numbers(layer, query.shape[0], query.shape[1], query.shape[3]))
        pieces = [
            self._attend(
                layer,
                query[:, :, first : first + at_once].float(),
                [some[:, first : first + at_once] for some in logits],
                values,
                scaling,
            )
            for first in range(0, query.shape[2], at_once)
        ]
        return torch.cat(pieces, dim=2)

    def _numbers(self, layer: int, kv_heads: int, group: int, dim: int) -> int:
        """How many a row of a layer takes: its scores, and what is gathered for them of keys and values."""
        plans = [memory.plan for memory in self.request.memories if memory.index(layer) is not None]
        indexed = [plan for plan in plans if self._indexed(plan)]
        scored = sum(plan.held_far() for plan in plans if plan not in indexed)
        gathered = group * len(indexed) + 1
        return max(kv_heads * group * scored + gathered * self.request.entries * dim, 1)

    def _indexed(self, plan: MemoryPlan) -> bool:
        """Whether far entries are proposed by an index: it knows no positions, so all must stand at one place."""
        asked = self.request
        sparse = _SPARSE * asked.entries <= plan.held_far()
        return plan.indexed and sparse and asked.places == "clipped" and not asked.exact

    def _attend(
        self,
        layer: int,
        query: torch.Tensor,
        others: list[torch.Tensor],
        values: list[torch.Tensor],
        scaling: float,
    ) -> torch.Tensor:
        kv_heads, group, rows, _ = query.shape
        memories = self.request.memories
        near = [self._logits(query, keys[layer], scaling) for keys in self._near]
        looked = [
            _Looked(number, index, *self._look(memory, index, query, scaling))
            for number, memory in enumerate(memories)
            if (index := memory.index(layer)) is not None and memory.plan.held_far()
        ]
        far = torch.cat([query.new_empty(kv_heads, group, rows, 0), *(one.logits for one in looked)], dim=-1)
        rest = torch.stack(
            [
                torch.cat([others[head], *(some[head] for some in near)], -1).logsumexp(-1)
                for head in range(kv_heads)
            ]
        )
        chosen = self._chosen(far, rest)
        if chosen is not None:
            far = far.gather(-1, chosen[:, None].expand(-1, group, -1, -1))
        out = torch.empty_like(query)
        for head in range(kv_heads):
            logits = [others[head], *(some[head] for some in near), far[head]]
            weights = torch.cat(logits, dim=-1).softmax(-1)
            parts = torch.split(weights, [one.shape[-1] for one in logits], dim=-1)
            out[head] = parts[0] @ values[head]
            for held, part in zip(self._near_values, parts[1:-1], strict=True):
                out[head] += part @ held[layer, head].float()
            shares = list(_shares(looked, head, parts[-1], None if chosen is None else chosen[head]))
            for one, ids, part in shares:
                out[head] += _weighted(part, memories[one.number].far[1, one.index, head], ids)
            if not self.silent:
                self._count(layer, head, parts[1:-1], shares)
        return out

    def _look(
        self, memory: DocumentMemory, index: int, query: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits `[kv_heads, group, rows, n]` of a memory's far entries in a layer, and which they are,
        `[kv_heads, rows, n]`: None for all of them."""
        keys = memory.far[0, index]
        if self.request.places == "clipped":  # one place for all: the query is turned back instead of every key
            back = torch.tensor(memory.plan.held_near + 1 - self._end, device=query.device)
            turned = self._rotation.turn(query, back)
            if self._indexed(memory.plan):
                return self._proposed(memory, index, turned, scaling)
            return self._logits(turned, keys, scaling), None
        places = self._places(memory, index)
        tile = max(1, _AT_ONCE // (keys.shape[0] * keys.shape[2]))
        pieces = []
        for first in range(0, memory.plan.held_far(), tile):
            stretch = slice(first, first + tile)
            turned = self._rotation.turn(keys[:, stretch].to(query.device), places[:, stretch])
            pieces.append(self._logits(query, turned, scaling))
        return torch.cat(pieces, dim=-1), None

    def _proposed(
        self, memory: DocumentMemory, index: int, query: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those that an index proposes for any query of a group. What is proposed twice, or not at all, has the
        logit minus infinity."""
        kv_heads, group, rows, dim = query.shape
        logits, ids = [], []
        for head in range(kv_heads):
            queries = query[head].reshape(group * rows, dim).cpu().numpy()
            found = torch.from_numpy(memory.key_index(index, head).propose(queries, self.request.entries))
            found = found.view(group, rows, -1).transpose(0, 1).flatten(1).sort(dim=-1).values  # [rows, group * k]
            void = torch.nn.functional.pad(found[:, 1:] == found[:, :-1], (1, 0)) | (found < 0)
            ids.append(found.clamp(min=0))
            keys = memory.far[0, index, head][ids[-1]].to(query.device).float()
            scores = torch.einsum("grd,rkd->grk", query[head], keys) * scaling
            logits.append(scores.masked_fill(void.to(query.device), -torch.inf))
        return torch.stack(logits), torch.stack(ids).to(query.device)

    def _places(self, memory: DocumentMemory, index: int) -> torch.Tensor:
        """Where far entries of a layer stand, `[kv_heads or 1, held_far]`."""
        plan = memory.plan
        tokens = torch.arange(plan.far)[None] if memory.places is None else memory.places[index].long()
        if self.request.places == "true":
            return tokens + (self._end - plan.tokens)
        assert self.request.span is not None
        room = min(plan.tokens, self.request.span) - plan.held_near
        return self._end - plan.held_near - room + tokens * room // plan.far

    @staticmethod
    def _logits(query: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
        """`query` `[kv_heads, group, rows, head_dim]` over `keys` `[kv_heads, n, head_dim]`, `[kv_heads, group,
        rows, n]` in float32; computed as the keys are held."""
        kv_heads, group, rows, dim = query.shape
        flat = query.reshape(kv_heads, group * rows, dim).to(keys.dtype)
        return torch.bmm(flat, keys.to(query.device).mT).float().view(kv_heads, group, rows, -1) * scaling

    def _chosen(self, logits: torch.Tensor, rest: torch.Tensor) -> torch.Tensor | None:
        """Which far entries each row of a KV head attends to, `[kv_heads, rows, entries]`: those that some query
        of its group gives the largest share of its attention. `rest` `[kv_heads, group, rows]`: the logarithm of
        the sum over what it attends to besides. None for all of them."""
        if logits.shape[-1] <= self.request.entries:
            return None
        shares = (logits - torch.logaddexp(logits.logsumexp(-1), rest)[..., None]).amax(1)
        return shares.topk(self.request.entries, dim=-1, sorted=False).indices

    def _count(
        self,
        layer: int,
        head: int,
        near: Sequence[torch.Tensor],
        shares: "Sequence[tuple[_Looked, torch.Tensor | None, torch.Tensor]]",
    ) -> None:
        """Add what the rows of a KV head's group attended to, in a layer that retrieves."""
        counted = self.request.counted(layer, head, near[0].shape[0])
        for by_head, memory, part in zip(self.by_head, self.request.memories, near, strict=True):
            if memory.index(layer) is not None:
                for place, some in counted:
                    by_head[place, memory.plan.far :] += part[some].sum((0, 1)).cpu()
        for one, ids, part in shares:
            memory, by_head = self.request.memories[one.number], self.by_head[one.number]
            self.count += int((part > 0).any(0).sum())
            where = torch.arange(part.shape[-1])[None] if ids is None else ids.cpu()
            tokens = where if memory.places is None else memory.places[one.index, head].long()[where]
            for place, some in counted:
                mass = part[some].sum(0).cpu()
                if ids is None:
                    mass = mass.sum(0, keepdim=True)
                by_head[place].index_add_(0, tokens.flatten(), mass.flatten())


@dataclass(frozen=True)
class _Looked:
    """What was looked at of a memory's far entries: `logits` `[kv_heads, group, rows, n]`, and which they are,
    `[kv_heads, rows, n]`; None for all. `number`: of the memory; `index`: of the layer in it."""

    number: int
    index: int
    logits: torch.Tensor
    ids: torch.Tensor | None


def _shares(
    looked: list[_Looked], head: int, weights: torch.Tensor, chosen: torch.Tensor | None
) -> Iterator[tuple[_Looked, torch.Tensor | None, torch.Tensor]]:
    """Of the `weights` `[group, rows, m]` of a KV head, over all that was looked at or what was `chosen` of it
    `[rows, m]`, those of each memory, and which entries they are for, `[rows, m]`; None for all."""
    first = 0
    for one in looked:
        width = one.logits.shape[-1]
        if chosen is None:
            yield one, None if one.ids is None else one.ids[head], weights[..., first : first + width]
        else:
            inside = (chosen >= first) & (chosen < first + width)
            at = (chosen - first).clamp(0, width - 1)
            ids = at if one.ids is None else one.ids[head].gather(1, at)
            yield one, ids, weights.masked_fill(~inside, 0.0)
        first += width


def _weighted(weights: torch.Tensor, values: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The sum of `values` `[n, head_dim]`, or those with these `ids` `[rows, m]`, by `weights` `[group, rows, n or
    m]`: `[group, rows, head_dim]`."""
    if ids is None:
        return weights @ values.to(weights.device).float()
    return torch.einsum("grm,rmd->grd", weights, values[ids.to(values.device)].to(weights.device).float())
