"""The oracle of policies that move entries: slow and plain, without pool, blocks and moving.

Keys are kept as they were before any position, and all of them are turned anew at every forward by the model's own
rotary embedding, as Locret's code does it (methods 1.2.4, 1.2.5, 6.1.2).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.reader.model import ReaderModel

INF = float("inf")
Choose = Callable[["Pot", int, bool], torch.Tensor]


@dataclass
class Row:
    """One layer: `keys`, `values` `[kv_heads, n, dim]`, of `tokens` `[kv_heads, n]` (those of the prefix are -1)
    with `scores`, `novelty` and `seen` (by the catalyst)."""

    keys: torch.Tensor
    values: torch.Tensor
    tokens: torch.Tensor
    scores: torch.Tensor
    novelty: torch.Tensor
    seen: torch.Tensor


@dataclass
class Pot:
    """What the model holds of what it was told."""

    model: ReaderModel
    heads: RetainingHeads | None = None
    rows: list[Row] = field(default_factory=list)
    _new: list[Row] = field(default_factory=list)

    def forward(self, token_ids: tuple[int, ...], first: int = -1) -> torch.Tensor:
        """The logits `[rows, vocabulary]`; what is new is in `_new` until it is kept."""
        model, self._new = self.model.model, []
        before = model.config._attn_implementation
        ALL_ATTENTION_FUNCTIONS["pot"] = self._attend
        model.set_attn_implementation("pot")
        self._first = first
        try:  # at position 0 nothing is turned
            ids, at_0 = torch.tensor([token_ids]), torch.zeros(1, len(token_ids), dtype=torch.int64)
            logits: torch.Tensor = model(input_ids=ids, position_ids=at_0, use_cache=False).logits[0]
        finally:
            model.set_attn_implementation(before)
            del ALL_ATTENTION_FUNCTIONS["pot"]
        return logits

    def keep(self) -> None:
        """What was new is held from now on."""
        self.rows = self._new

    def look(self, catalyst: tuple[int, ...]) -> None:
        """Read the catalyst, note what it looks at, and forget it."""
        self.forward(catalyst)
        for row, new in zip(self.rows, self._new, strict=True):
            row.seen = new.seen[:, : -len(catalyst)]

    def thin(self, choose: Choose, room: int, last: bool) -> None:
        """Keep of every head those of the `room` best that are not of the prefix."""
        for index, row in enumerate(self.rows):
            worth = choose(self, index, last).masked_fill(row.tokens < 0, INF)
            front = int((row.tokens[0] < 0).sum())
            best = worth.argsort(dim=-1, descending=True, stable=True)[:, : front + room].sort(-1).values
            wide = best[..., None].expand(-1, -1, row.keys.shape[-1])
            self.rows[index] = Row(
                row.keys.gather(1, wide),
                row.values.gather(1, wide),
                *(one.gather(1, best) for one in (row.tokens, row.scores, row.novelty, row.seen)),
            )

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        layer, (kv_heads, count, _) = int(module.layer_idx), key.shape[1:]  # type: ignore[arg-type]
        tokens = torch.arange(self._first, self._first + count) if self._first >= 0 else torch.full((count,), -1)
        scores = torch.zeros(kv_heads, count)
        if self.heads is not None:
            shown = torch.cat([query[0], key[0], value[0]]).transpose(0, 1).flatten(1)
            hidden = torch.nn.functional.silu(shown @ self.heads.down[layer])
            scores = (hidden @ self.heads.up[layer]).T
        nothing = torch.zeros(kv_heads, count)
        new = Row(key[0], value[0], tokens.expand(kv_heads, -1), scores, nothing, nothing)
        if self.rows:
            pairs = zip(vars(self.rows[layer]).values(), vars(new).values(), strict=True)
            new = Row(*(torch.cat(pair, 1) for pair in pairs))
        held = new.keys.shape[1]
        cos, sin = self.model.model.model.rotary_emb(query, torch.arange(held)[None])
        group = query.shape[1] // kv_heads
        keys = new.keys.repeat_interleave(group, 0)[None]
        padded = torch.nn.functional.pad(query, (0, 0, held - count, 0))
        turned, keys = apply_rotary_pos_emb(padded, keys, cos, sin)
        logits = turned[0, :, held - count :] @ keys[0].mT * scaling
        causal = torch.ones(count, held, dtype=torch.bool).tril(held - count)
        attention = logits.masked_fill(~causal, -INF).softmax(-1)
        new.seen = attention.view(kv_heads, group, count, held).sum(1).mean(1)
        self._new.append(new)
        return (attention @ new.values.repeat_interleave(group, 0)).transpose(0, 1)[None], None


@dataclass
class Told:
    """How an oracle answered: greedily, with the likelihood of continuations, and which share of layers and heads
    held each token of the text by then."""

    token_ids: list[int]
    nll: list[list[float]]
    held: list[float]


def tell(
    pot: Pot,
    prefix: tuple[int, ...],
    tokens: tuple[int, ...],
    choose: Choose,
    *,
    room: int,
    local: int,
    chunk: int,
    new: int,
    catalyst: tuple[int, ...] = (),
    continuations: tuple[tuple[int, ...], ...] = (),
) -> Told:
    """Read under a budget that leaves `room` entries of the document, then answer."""
    if prefix:
        pot.forward(prefix)
        pot.keep()
    until, behind, logits = max(len(tokens) - local, 0), None, torch.empty(0)
    for start in range(0, until, chunk):
        ids = tokens[start : min(start + chunk, until)]
        logits = pot.forward(ids, start)
        pot.keep()
        said = logits if behind is None else torch.cat([behind, logits])
        nll = -said[:-1].log_softmax(-1).gather(1, torch.tensor(ids[-len(said) + 1 :])[:, None])[:, 0]
        fresh = nll if behind is not None else torch.cat([torch.tensor([INF]), nll[: len(ids) - 1]])
        for row in pot.rows:
            row.novelty[:, -len(ids) :] = fresh
        behind = logits[-1:]
        if catalyst:
            pot.look(catalyst)
        pot.thin(choose, room, start + len(ids) == until)
    if until < len(tokens):
        logits = pot.forward(tokens[until:], until)
        pot.keep()
    held = torch.stack([(row.tokens == token).any(-1) for token in range(len(tokens)) for row in pot.rows])
    shares = held.view(len(tokens), -1).float().mean(-1).tolist()
    likelihoods = []
    for continuation in continuations:
        said = torch.cat([logits[-1:], pot.forward(continuation)])[:-1].log_softmax(-1)
        likelihoods.append((-said.gather(1, torch.tensor(continuation)[:, None])[:, 0]).tolist())
    answer: list[int] = []
    while len(answer) < new and not set(answer) & pot.model.end_ids:
        if answer:
            logits = pot.forward((answer[-1],))
            pot.keep()
        answer.append(int(logits[-1].argmax()))
    return Told(answer, likelihoods, shares)
