"""What adapters add to linear layers, of all adapters of a batch at once.

Each row of a batch is multiplied with the A of every adapter in it, and what is not of its own is struck out
before B: no rows are picked or sorted, so that kernels are as few as without adapters, and what a row gets does
not depend on whose rows stand beside it. A few rows on a CPU have a kernel of their own instead.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from refdesk.memory.bfloat16 import as_numpy
from refdesk.reader.adapter import Adapter
from refdesk.reader.low_rank_kernel import add_to_rows

_SETS = 4  # sets of adapters that are kept stacked
_FEW = 32  # rows


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers of one input: their paths in the model and output sizes. `like`: a tensor of their kind."""

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    like: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Stack:
    """What a set of adapters adds to one group: `down` `[ranks, in]`, and `up` `[ranks, out]`, which is a block
    for each layer and adapter and 0 elsewhere. `layout`: which of the set's. `arrays`: the same for the kernel,
    with its pairs; None where it cannot run."""

    down: torch.Tensor
    up: torch.Tensor
    layout: int
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | None


@dataclass(frozen=True, slots=True)
class _Set:
    """`stacks`: by group, None where nothing is added. `layouts`: in what order the ranks of a stack belong to the
    adapters, `[ranks]` places of these in the set."""

    stacks: list[_Stack | None]
    layouts: list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Of the forward in hand. `own`: for a few rows, the place of each row's adapter. `foreign`: for more, what of
    each layout is not of a row's own adapter, `[rows, ranks]`; empty where all rows are of one."""

    stacks: list[_Stack | None]
    own: np.ndarray | None
    foreign: list[torch.Tensor]


class LowRank:
    """Which adapters own which rows of the forward in hand, for all packed layers of a model. `shapes`: `[out,
    in]` of each layer by its path. `batch`: None where no row has an adapter."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, int]] = {}
        self.batch: _Batch | None = None
        self._groups: list[_Group] = []
        self._sets: OrderedDict[tuple[Adapter, ...], _Set] = OrderedDict()

    def join(self, paths: Sequence[str], linears: Sequence[torch.nn.Linear]) -> int:
        """Take in layers of one input; the result is the number of their group."""
        for path, linear in zip(paths, linears, strict=True):
            self.shapes[path] = (linear.out_features, linear.in_features)
        sizes = tuple(linear.out_features for linear in linears)
        self._groups.append(_Group(tuple(paths), sizes, linears[0].weight.new_empty(0)))
        return len(self._groups) - 1

    @contextmanager
    def rows(self, owners: Sequence[Adapter | None]) -> Iterator[None]:
        """Within, one forward of a row for each of `owners` may run."""
        adapters = tuple(sorted({owner for owner in owners if owner}, key=lambda one: one.fingerprint))
        if adapters:
            self.batch = self._batch(adapters, owners)
        try:
            yield
        finally:
            self.batch = None

    def add(self, group: int, x: torch.Tensor, product: torch.Tensor) -> None:
        """Add to `product` `[..., out]` of the input `x` `[..., in]`, one row for each owner."""
        assert self.batch is not None
        stack = self.batch.stacks[group]
        if stack is None:
            return
        x, product = x.reshape(-1, x.shape[-1]), product.view(-1, product.shape[-1])
        if self.batch.own is not None:
            assert len(x) == len(self.batch.own)
            assert stack.arrays is not None
            add_to_rows(as_numpy(x), *stack.arrays, self.batch.own, as_numpy(product))
            return
        between = torch.nn.functional.linear(x, stack.down)
        if self.batch.foreign:
            between.masked_fill_(self.batch.foreign[stack.layout], 0)
        product.addmm_(between, stack.up)

    def _batch(self, adapters: tuple[Adapter, ...], owners: Sequence[Adapter | None]) -> _Batch:
        made, like = self._set(adapters), self._groups[0].like
        place = {None: -1} | {adapter: index for index, adapter in enumerate(adapters)}
        own = np.array([place[owner] for owner in owners])
        if len(own) <= _FEW and _has_kernel(like):
            return _Batch(made.stacks, own, [])
        if (own == own[0]).all():
            return _Batch(made.stacks, None, [])
        column = torch.from_numpy(own)[:, None].to(like.device)
        return _Batch(made.stacks, None, [column != layout for layout in made.layouts])

    def _set(self, adapters: tuple[Adapter, ...]) -> _Set:
        if adapters not in self._sets:
            layouts: dict[tuple[int, ...], int] = {}
            stacks = [_stack(group, adapters, layouts) for group in self._groups]
            device = self._groups[0].like.device
            self._sets[adapters] = _Set(stacks, [torch.tensor(layout, device=device) for layout in layouts])
        self._sets.move_to_end(adapters)
        while len(self._sets) > _SETS:
            self._sets.popitem(last=False)
        return self._sets[adapters]


def _stack(group: _Group, adapters: tuple[Adapter, ...], layouts: dict[tuple[int, ...], int]) -> _Stack | None:
    """`layouts`: those known, by number; a new one is noted there."""
    downs: list[torch.Tensor] = []
    ups: list[torch.Tensor] = []
    pairs: list[tuple[int, ...]] = []
    layout: list[int] = []
    for index, adapter in enumerate(adapters):
        start = 0
        for path, size in zip(group.paths, group.sizes, strict=True):
            end = start + size
            if path in adapter.pairs:
                a, b = (half.to(group.like) for half in adapter.pairs[path])
                extra = -len(a) % 4  # ranks of zeros: the kernel takes four at a time
                downs.append(torch.nn.functional.pad(a, (0, 0, 0, extra)))
                ups.append(torch.nn.functional.pad(b.T, (start, sum(group.sizes) - end, 0, extra)))
                pairs.append((index, len(layout), len(layout) + len(a) + extra, start, end))
                layout += [index] * (len(a) + extra)
            start = end
    if not pairs:
        return None
    number = layouts.setdefault(tuple(layout), len(layouts))
    down, up = torch.cat(downs), torch.cat(ups)
    arrays = (as_numpy(down), as_numpy(up), np.array(pairs)) if _has_kernel(group.like) else None
    return _Stack(down, up, number, arrays)


def _has_kernel(like: torch.Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype in (torch.bfloat16, torch.float32)
