"""The model's forward over a batch of sequences whose entries lie in the pool."""

from collections.abc import Sequence as Several
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from refdesk.memory.attention import PagedAttention, Part, ReferenceAttention
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.pool import BlockPool, CacheShape
from refdesk.memory.sequence import Sequence
from refdesk.reader.adapter import Adapter
from refdesk.reader.model import ReaderModel


def query_heads(model: ReaderModel) -> int:
    """Of a layer."""
    count: int = model.model.config.get_text_config().num_attention_heads
    return count


def cache_shape(model: ReaderModel) -> CacheShape:
    """What the model keeps of each token."""
    config = model.model.config.get_text_config()
    heads = query_heads(model)
    return CacheShape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=model.dtype,
        device=model.device,
    )


# Kernels are made for each number of rows; padded to multiples of so many, they are few and are found made.
_ROWS = 32


class Forward:
    """Runs batches through the model, whose own code is untouched: its attention function is replaced by one over
    the pool, until `close()`. The pool is told how the model turns its keys, if that is known.

    Raises:
        UnsupportedAttention: the model keeps more than keys and values, or asks attention for more.
        ValueError: another one runs the model; they would take each other's attention away.
    """

    def __init__(self, model: ReaderModel, pool: BlockPool) -> None:
        self._before = model.model.config._attn_implementation
        if self._before in ALL_ATTENTION_FUNCTIONS and isinstance(
            ALL_ATTENTION_FUNCTIONS[self._before], PagedAttention
        ):
            raise ValueError(f"{model.name} is run by another engine already; close that first")
        self._model = model.model
        self._low_rank = model.low_rank
        self._device = model.device
        pool.rotation = model.rotation
        fast = model.device.type == "cpu" and model.dtype in (torch.bfloat16, torch.float32)
        self.attention: PagedAttention = FastAttention(pool) if fast else ReferenceAttention(pool)
        self._name = f"refdesk_{id(self):x}"
        ALL_ATTENTION_FUNCTIONS[self._name] = self.attention
        self._model.set_attn_implementation(self._name)
        try:
            self._try(Sequence(pool))
        except Exception:
            self.close()
            raise

    def _try(self, sequence: Sequence) -> None:
        """Read two chunks: a model that cannot be run is told now, and the first question finds kernels made."""
        try:
            for rows in (2, 1):
                self((Part(sequence, rows),), [0] * rows, [])
        finally:
            sequence.release()
        layers = sequence.pool.shape.layers
        if self.attention.calls != 2 * layers:
            raise UnsupportedAttention(
                f"{self.attention.calls // 2} of {layers} layers attend; expected all, for layers of another kind"
                " keep what the store cannot hold"
            )

    @torch.inference_mode()
    def __call__(
        self,
        parts: tuple[Part, ...],
        token_ids: list[int],
        keep: list[int],
        adapters: Several[Adapter | None] = (),
    ) -> torch.Tensor:
        """The logits `[len(keep), vocabulary]` behind the rows `keep` of these tokens, the parts' end to end.
        `adapters`: of each part the one that reads it, or none at all."""
        positions = [position for part in parts for position in part.positions()]
        padding = [0] * (-len(token_ids) % _ROWS if len(token_ids) > _ROWS else 0)
        with self.attention.batch(parts), self._adapted(parts, adapters, len(padding)):
            output: Any = self._model(
                input_ids=torch.tensor([token_ids + padding], device=self._device),
                position_ids=torch.tensor([positions + padding], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(keep or [0], device=self._device),
            )
        logits: torch.Tensor = output.logits[0]
        return logits[: len(keep)]

    def _adapted(
        self, parts: tuple[Part, ...], adapters: Several[Adapter | None], padding: int
    ) -> AbstractContextManager[None]:
        if not any(adapters):
            return nullcontext()
        assert self._low_rank is not None, "the engine refuses adapters where weights are not packed"
        owners = [owner for part, owner in zip(parts, adapters, strict=True) for _ in range(part.rows)]
        return self._low_rank.rows(owners + owners[-1:] * padding)

    def close(self) -> None:
        """Give the model its own attention back."""
        self._model.set_attn_implementation(self._before)
        del ALL_ATTENTION_FUNCTIONS[self._name]
