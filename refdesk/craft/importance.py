"""What answers look for in passages: the labels that retaining heads learn (Locret, arXiv 2410.01805, 3.2).

The causal importance of a token, for one layer and KV head, is the highest attention logit that it gets from an
answer: scaled and as turned for positions, as the paper's code has it (its formula has no scale). A logit alone
does not say whether a row looks at a token rather than at others; the share of its attention does, and so the
highest share is a label too.

The rows that look are those behind which the model is to say the answer: the last of the prompt and all of the
answer but its end. The paper takes the rows of the answer's tokens; but an answer of one word is found by the row
in front of it, and its own only has to say that it ends. Where several are asked, the highest of all counts: a
head that does not see the question must keep what any of them wants.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from refdesk.craft.attention import LessonAttention
from refdesk.craft.encoding import EncodedLesson
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.retaining_heads import head_input
from refdesk.memory.rotation import Rotation
from refdesk.reader.adapter import Adapter
from refdesk.reader.model import ReaderModel


@dataclass(frozen=True, slots=True)
class Importance:
    """Of the tokens of a lesson's passages, layer by layer: what a head is shown, `[tokens, (heads + 2 * kv_heads)
    * head_dim]` in the model's dtype, and what answers look for, `[tokens, kv_heads]` in float32: the highest
    logit, and the logarithm of the highest share of a row's attention. `adjoin` `[tokens - 1]`: whether a token
    and the next are neighbours in the text; the last of a passage that is read apart and the first of another are
    not."""

    inputs: tuple[torch.Tensor, ...]
    logits: tuple[torch.Tensor, ...]
    shares: tuple[torch.Tensor, ...]
    adjoin: torch.Tensor


def row_logits(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """`query` `[heads, rows, head_dim]` of the rows that look and `key` `[kv_heads, tokens, head_dim]`, both as
    turned; the result is `[kv_heads, group, rows, tokens]` in float32."""
    rows = query.float().view(len(key), -1, *query.shape[1:])
    return rows @ key.float().transpose(1, 2)[:, None] * scale


def highest(of_rows: torch.Tensor) -> torch.Tensor:
    """Over all rows and all heads that share a KV head: `[tokens, kv_heads]` of `[kv_heads, group, rows,
    tokens]`."""
    return of_rows.amax(dim=(1, 2)).T


class _Listening(LessonAttention):
    """Attention over a lesson that notes what heads are to learn from it."""

    def __init__(self, model: Any, rotation: Rotation) -> None:
        super().__init__(model, rotation)
        self._turning = rotation
        self._some = slice(0)
        self._rows = self._back = torch.empty(0, dtype=torch.int64)
        self._hidden = torch.empty(0, dtype=torch.bool)
        self.inputs: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self.shares: list[torch.Tensor] = []

    def read(self, lesson: EncodedLesson) -> None:
        """What the next forward is about."""
        super().read(lesson)
        self._some = lesson.document
        self._rows = torch.from_numpy(lesson.rows).to(self._model.device)
        self._back = -torch.from_numpy(lesson.positions[self._some]).to(self._model.device)
        branches = self._some.stop
        self._hidden = torch.from_numpy(~lesson.mask(branches)[lesson.rows - branches]).to(self._model.device)
        self.inputs, self.logits, self.shares = [], [], []

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *rest: Any,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """See LessonAttention."""
        of_query, of_key, of_value = (tensor[0, :, self._some] for tensor in (query, key, value))
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        logits = row_logits(query[0, :, self._rows], self.far(key[0]), scale)
        whole = logits.masked_fill(self._hidden, -torch.inf).logsumexp(dim=-1, keepdim=True)
        self.logits.append(highest(logits[..., self._some]))
        self.shares.append(highest(logits[..., self._some] - whole))
        of_query, of_key = (self._turning.turn(turned, self._back) for turned in (of_query, of_key))
        self.inputs.append(head_input(of_query, of_key, of_value))
        return super().__call__(module, query, key, value, *rest, **options)


class ImportanceReader:
    """Reads lessons with `model`, to which `adapter` is added as when it answers, and whose attention it has until
    `close()`.

    Raises:
        AdapterMismatch: the adapter is of another model.
        UnsupportedAttention: the model turns no queries and keys for positions, or not in one way.
    """

    def __init__(self, model: ReaderModel, adapter: Adapter | None = None) -> None:
        if adapter is not None:
            adapter.check_fits(model)
        self._model, self._adapter = model, adapter
        rotation = model.rotation
        if rotation is None:
            raise UnsupportedAttention(f"how {model.name} turns its keys is not known; no heads can be trained")
        self._attention = _Listening(model.model, rotation)

    @torch.no_grad()
    def read(self, lesson: EncodedLesson) -> Importance:
        """In one forward."""
        self._attention.read(lesson)
        ids, positions = (
            torch.from_numpy(array).to(self._model.device) for array in (lesson.token_ids, lesson.positions)
        )
        with self._adapted(len(ids)):
            self._model.model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=torch.tensor([0], device=self._model.device),  # nobody asks what it would say
            )
        position = positions[lesson.document]
        return Importance(
            tuple(self._attention.inputs),
            tuple(self._attention.logits),
            tuple(self._attention.shares),
            position[1:] == position[:-1] + 1,
        )

    def close(self) -> None:
        """Give the model its own attention back."""
        self._attention.close()

    def _adapted(self, rows: int) -> AbstractContextManager[None]:
        if self._adapter is None:
            return nullcontext()
        assert self._model.low_rank is not None, "check_fits refuses others"
        return self._model.low_rank.rows([self._adapter] * rows)
