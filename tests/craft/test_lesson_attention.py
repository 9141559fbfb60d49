"""The attention that trains, forward and backward, against torch's own with the whole mask."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from refdesk.craft.attention import LessonAttention
from refdesk.craft.encoding import EncodedLesson, encode_lesson
from refdesk.reader.model import ReaderModel
from tests.craft.worlds import lesson

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Fresh = Callable[..., ReaderModel]
Tensors = tuple[torch.Tensor, ...]

# The common front, the passages that are read apart, the branches: tokens of each. A tile has 128 rows.
LESSONS: dict[str, tuple[int, list[int], list[int]]] = {
    "closed book": (11, [], [7]),
    "together": (60, [], [9, 1, 14]),
    "one passage": (10, [25], [6, 8]),
    "apart": (10, [25, 1, 40], [6, 8, 3]),
    "whole tiles": (128, [128, 256], [128]),
    "over tiles": (129, [127, 257, 130], [100, 29, 1, 131]),
    "a long front": (300, [], [150, 150]),
    "many branches": (5, [3, 4], [2] * 140),
}


def lesson_of(front: int, passages: list[int], branches: list[int], *, in_line: bool = False) -> EncodedLesson:
    """Only who sees whom counts here, and where."""
    sizes = [(0, front), *enumerate(passages, start=1), *((-1 - n, size) for n, size in enumerate(branches))]
    groups = np.asarray([group for group, size in sizes for _ in range(size)], dtype=np.int64)
    zeros = np.zeros(len(groups), dtype=np.int64)
    shifts = np.asarray([sum(passages[: max(group - 1, 0)]) for group in groups]) if in_line else zeros
    return EncodedLesson(zeros, zeros, groups, shifts, zeros, zeros, zeros)


def tensors(tokens: int, heads: int, kv_heads: int, dtype: torch.dtype, seed: int = 0) -> Tensors:
    """Query, key, value and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, heads, tokens, 16), (1, kv_heads, tokens, 16), (1, kv_heads, tokens, 16), (1, tokens, heads, 16))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float = 0.3
) -> torch.Tensor:
    """Every row over every token, with the mask."""
    group = query.shape[1] // key.shape[1]
    keys, values = (t.repeat_interleave(group, dim=1) for t in (key, value))
    found = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    return found.transpose(1, 2)


def both(
    fresh: Fresh, name: str, heads: int, kv_heads: int, dtype: torch.dtype, *, in_line: bool = False
) -> tuple[Tensors, Tensors]:
    """The output and the three gradients, of the training's attention and of the plain one in float32."""
    model, rotation = fresh().model, fresh().rotation
    encoded = lesson_of(*LESSONS[name], in_line=in_line)
    attention = LessonAttention(model, rotation)
    attention.read(encoded)
    *inputs, gradient = tensors(len(encoded.groups), heads, kv_heads, dtype)
    query, key, value = mine = [t.clone().requires_grad_() for t in inputs]
    output, weights = attention(model, query, key, value, None, scaling=0.3)
    assert weights is None
    found = (output, *torch.autograd.grad(output, mine, gradient))
    attention.close()
    query, key, value = exact = [t.float().requires_grad_() for t in inputs]
    expected = plain(query, key, value, torch.from_numpy(encoded.mask()))
    if in_line:
        assert rotation is not None
        far = plain(
            query, rotation.turn(key, torch.from_numpy(encoded.shifts)), value, torch.from_numpy(encoded.mask())
        )
        expected = torch.where(torch.from_numpy(encoded.groups < 0)[None, :, None, None], far, expected)
    return found, (expected, *torch.autograd.grad(expected, exact, gradient.float()))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1), (9, 3)])
@pytest.mark.parametrize("name", LESSONS)
def test_it_is_masked_attention_forward_and_backward(name: str, heads: int, kv_heads: int, fresh: Fresh) -> None:
    for mine, exact in zip(*both(fresh, name, heads, kv_heads, torch.float32), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (9, 3)])
@pytest.mark.parametrize("name", ["apart", "whole tiles", "over tiles", "many branches"])
def test_branches_see_passages_in_line_where_they_would_stand_then(
    name: str, heads: int, kv_heads: int, fresh: Fresh
) -> None:
    found, exact = both(fresh, name, heads, kv_heads, torch.float32, in_line=True)
    for mine, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    abreast, _ = both(fresh, name, heads, kv_heads, torch.float32)
    front = lesson_of(*LESSONS[name]).groups >= 0
    assert torch.equal(found[0][:, front], abreast[0][:, front])
    assert not torch.allclose(found[0][:, ~front], abreast[0][:, ~front], atol=1e-3)


@pytest.mark.parametrize("in_line", [False, True])
@pytest.mark.parametrize("name", LESSONS)
def test_in_bfloat16_it_is_so_to_its_rounding(name: str, in_line: bool, fresh: Fresh) -> None:
    for mine, exact in zip(*both(fresh, name, 4, 2, torch.bfloat16, in_line=in_line), strict=True):
        assert mine.dtype == torch.bfloat16
        error = (mine.float() - exact).norm() / exact.norm()
        assert error < 0.01  # 8 bits: 0.004 for each rounding


def test_in_bfloat16_late_rows_are_not_lost_to_what_everybody_sees(fresh: Fresh) -> None:
    model = fresh().model
    encoded = lesson_of(5, [], [2] * 2000)
    attention = LessonAttention(model)
    attention.read(encoded)
    query, key, value, _ = tensors(len(encoded.groups), 2, 1, torch.bfloat16)
    value.requires_grad_()
    output, _ = attention(model, query, key, value, None)
    # Thousands of rows add to the same five.
    (mine,) = torch.autograd.grad(output.sum(), [value])
    attention.close()
    exact = value.detach().float().requires_grad_()
    expected = plain(query.float(), key.float(), exact, torch.from_numpy(encoded.mask()), scale=0.25)
    (truth,) = torch.autograd.grad(expected.sum(), [exact])
    assert (mine.float() - truth)[0, 0, :5].norm() / truth[0, 0, :5].norm() < 0.003


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("reading", ["together", "apart"])
@pytest.mark.parametrize("passages", [0, 1, 4])
def test_a_whole_model_says_and_learns_the_same_as_with_its_own_attention(
    passages: int, reading: str, kind: str, fresh: Fresh
) -> None:
    model = fresh(kind)
    encoded = encode_lesson(lesson(reading, passages, 4), model)  # type: ignore[arg-type]
    encoded = replace(encoded, shifts=np.zeros_like(encoded.shifts))  # its own attention has one place for a key
    ids, positions = (torch.from_numpy(a)[None] for a in (encoded.token_ids, encoded.positions))
    weights = [p.requires_grad_() for name, p in model.model.named_parameters() if "_proj" in name]

    def learn(**options: torch.Tensor) -> Tensors:
        logits = model.model(input_ids=ids, position_ids=positions, use_cache=False, **options).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[encoded.rows], torch.from_numpy(encoded.targets))
        return (logits.detach(), *torch.autograd.grad(loss, weights))

    hidden = torch.zeros(encoded.mask().shape).masked_fill(~torch.from_numpy(encoded.mask()), -torch.inf)
    expected = learn(attention_mask=hidden[None, None])
    attention = LessonAttention(model.model)
    attention.read(encoded)
    found = learn()
    # Gradient checkpointing computes all of it twice, and nothing else.
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.model.train()
    passes: list[int] = []
    model.model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: passes.append(1))
    twice = learn()
    assert len(passes) == 2
    attention.close()
    for mine, again, exact in zip(found, twice, expected, strict=True):
        torch.testing.assert_close(mine, exact, atol=1e-4 * float(exact.abs().max()), rtol=1e-4)
        assert torch.equal(mine, again)


def test_it_reads_one_lesson_after_the_other(fresh: Fresh) -> None:
    model = fresh().model
    attention = LessonAttention(model)
    for name, lengths in LESSONS.items():
        encoded = lesson_of(*lengths)
        attention.read(encoded)
        query, key, value, _ = tensors(len(encoded.groups), 4, 2, torch.float32)
        output, _ = attention(model, query, key, value, None, scaling=0.3)
        torch.testing.assert_close(output, plain(query, key, value, torch.from_numpy(encoded.mask())), msg=name)
    attention.close()


def test_without_a_scale_it_is_that_of_the_head(fresh: Fresh) -> None:
    model = fresh().model
    attention = LessonAttention(model)
    attention.read(lesson_of(20, [], [4]))
    query, key, value, _ = tensors(24, 4, 2, torch.float32)
    torch.testing.assert_close(
        attention(model, query, key, value, None)[0], attention(model, query, key, value, None, scaling=0.25)[0]
    )
    attention.close()


def test_close_gives_the_model_its_attention_back(fresh: Fresh) -> None:
    model = fresh().model
    registered = set(ALL_ATTENTION_FUNCTIONS.keys())
    before = model.config._attn_implementation
    ids = torch.arange(3, 40)[None]
    expected = model(input_ids=ids).logits
    first, second = LessonAttention(model), LessonAttention(fresh().model)
    first.read(lesson_of(10, [20], [7]))
    assert not torch.equal(model(input_ids=ids, use_cache=False).logits, expected)
    first.close()
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert model.config._attn_implementation == before
    second.close()
    assert set(ALL_ATTENTION_FUNCTIONS.keys()) == registered
