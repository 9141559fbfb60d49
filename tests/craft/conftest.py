"""The tiny models, to be trained."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from refdesk.reader.model import ReaderModel
from tests.reader.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]


@pytest.fixture
def fresh(tiny: Callable[..., ReaderModel]) -> Callable[..., ReaderModel]:
    """`fresh(kind, dtype)`: a tiny model of one's own, which training may change, with a window of 2,048."""

    def make(kind: str = "llama", dtype: torch.dtype = torch.float32) -> ReaderModel:
        model = tiny(kind, 2048)
        return replace(model, model=deepcopy(model.model).to(dtype), dtype=dtype)

    return make
