"""Tiny real models, built from a config, and a tiny real tokenizer, trained on the spot."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from refdesk.reader.model import ReaderModel, load_model

_TEXT = [
    "The reference desk answers questions about long documents and cites the exact characters.",
    "Question: where is the desk? Title: The desk. The passages say that it is in the hall.",
    "café naïve 東京 🎉 emoji and accents take several bytes each.",
] * 20
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with ChatML marks: any text can be encoded, characters may be split."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=_TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny(tokenizer: PreTrainedTokenizerFast) -> Callable[..., ReaderModel]:
    """`tiny(kind, window)`: a random model with grouped heads; its weights are large enough to have opinions."""
    made: dict[tuple[str, int], ReaderModel] = {}

    def make(kind: str = "llama", window: int = 512) -> ReaderModel:
        if (kind, window) not in made:
            config_class, model_class = _KINDS[kind]
            config = config_class(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                max_position_embeddings=window,
                initializer_range=0.3,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=False,
            )
            torch.manual_seed(3)
            model = model_class(config).eval().requires_grad_(False)
            made[kind, window] = ReaderModel(model, tokenizer, kind, window, f"{kind}-test", torch.float32)
        return made[kind, window]

    return make


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReaderModel, Path, list[str]]]:
    """The default reader, unpacked into an empty folder; the folder; the progress it reported."""
    folder = tmp_path_factory.mktemp("data")
    lines: list[str] = []
    yield load_model(None, folder, dtype="float32", report=lines.append), folder, lines
