"""The engine against transformers' `generate`: speed, how far from the memory's limit, what was tried, parity."""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import linear

from bench.kv_memory import head, holding, load, medians, note, row, step, stretches, texts
from refdesk.memory.attention import PagedAttention, Part, ReferenceAttention
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.pool import BlockPool
from refdesk.reader.engine import Engine
from refdesk.reader.forward import Forward, cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.packing import PackedLinear, PackedLinears, pack_linears

PROMPT, NEW = 1024, 64
# How often each batch is measured: what takes minutes, less often; what is missing, not at all.
SPEED_RUNS = {"bfloat16": {1: 5, 8: 3, 32: 1}, "float32": {1: 5, 8: 1}}
STEPS = 20  # of those that take milliseconds
MEMORY = 2**31  # for 32 sequences in float32; only what is used is taken


def main(data: Path) -> None:
    """Print one table after the other. Nothing of `data` is needed."""
    bandwidth = _bandwidth()
    print(f"{PROMPT} prompt tokens, {NEW} new ones; {torch.get_num_threads()} threads\n")
    head("", "requests", "runs", "", "generate", "engine", "engine / generate")
    limits: list[tuple[object, ...]] = []
    for dtype, runs in SPEED_RUNS.items():
        plain, ours = load(dtype, packed=False), load(dtype)
        limits += _limits(plain, ours, bandwidth)
        _speed(plain, ours, runs)
    print(f"\nA decode step; memory gives {bandwidth / 1e9:.1f} GB/s (sum of 400 MB)\n")
    head("", "sequences", "weights, MB", "KV, MB", "fewest ms: weights", "with KV", "measured", "/ fewest")
    for limit in limits:
        row(*limit)
    _parity(load("float32", packed=False), load("float32"))
    plain = load("bfloat16", packed=False)
    _linears(plain)
    _attention(plain)
    _waiting()


def _speed(plain: ReaderModel, ours: ReaderModel, runs: dict[int, int]) -> None:
    """Prefill is the time that one new token of each takes. Decoding is what the other 63 take on top of it: the
    difference of two whole calls, on both sides. (The engine answers the first requests while it reads the last,
    so that neither side of the moment when all have been read is decoding alone.)"""
    ours.__dict__["end_ids"] = frozenset()
    with Engine(ours, memory_bytes=MEMORY) as engine:

        def theirs(prompts: list[tuple[int, ...]], new: int) -> None:
            generated(plain, prompts, max_new_tokens=new, min_new_tokens=new)

        def mine(prompts: list[tuple[int, ...]], new: int) -> None:
            for stream in [engine.submit(GenerationRequest(ids, max_new_tokens=new)) for ids in prompts]:
                assert stream.result().completion_tokens == new

        for work in (theirs, mine):
            work(stretches(plain, texts(), 600, 2), 4)
        for count, times in runs.items():
            note(f"{plain.dtype}: {count} requests, {times} runs")
            prompts = stretches(plain, texts(), PROMPT, count)
            works = [partial(work, prompts, new) for new in (1, NEW) for work in (theirs, mine)]
            first_a, first_b, all_a, all_b = medians(times, *works, warm=0)
            start = (_name(plain), count, times)
            a, b = count * PROMPT / first_a, count * PROMPT / first_b
            row(*start, "prefill, tokens/s", f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}")
            a, b = count * (NEW - 1) / (all_a - first_a), count * (NEW - 1) / (all_b - first_b)
            row(*start, "decode, tokens/s", f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}")
            row(*start, "all, seconds", f"{all_a:.2f}", f"{all_b:.2f}", f"{all_b / all_a:.2f}")


def generated(plain: ReaderModel, prompts: list[tuple[int, ...]], **options: Any) -> torch.Tensor:
    """What transformers generates greedily behind prompts of one length."""
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    found: torch.Tensor = plain.model.generate(ids, attention_mask=mask, do_sample=False, **options)
    return found[:, ids.shape[1] :]


def _name(reader: ReaderModel) -> str:
    return str(reader.dtype).removeprefix("torch.")


def _bandwidth() -> float:
    """Bytes a second."""
    numbers = torch.ones(100_000_000)
    return 4 * len(numbers) / medians(STEPS, numbers.sum)[0]


def _modules(reader: ReaderModel) -> list[torch.nn.Linear]:
    """The linear layers; the output layer's weights are the embedding's and are read once a step."""
    return [module for module in reader.model.modules() if isinstance(module, torch.nn.Linear)]


def _limits(plain: ReaderModel, ours: ReaderModel, bandwidth: float) -> list[tuple[object, ...]]:
    """Rows: a decode step against the time that it takes to read what it must read once."""
    note(f"{plain.dtype}: the limit")
    weights = sum(module.weight.nbytes for module in _modules(plain))
    shape = cache_shape(ours)
    pool = BlockPool.of_bytes(shape, MEMORY)
    forward = Forward(ours, pool)
    held = holding(forward, pool, stretches(plain, texts(), PROMPT, 1)[0], 32)
    rows: list[tuple[object, ...]] = []
    for count in (1, 8, 32):
        kv = count * PROMPT * shape.slots * 2 * shape.head_dim * shape.dtype.itemsize
        seconds = medians(STEPS, partial(step, forward, held[:count]))[0]
        fewest = (weights + kv) / bandwidth
        sizes = (f"{weights / 1e6:.0f}", f"{kv / 1e6:.0f}", f"{1e3 * weights / bandwidth:.1f}")
        times = (f"{1e3 * fewest:.1f}", f"{1e3 * seconds:.1f}", f"{seconds / fewest:.2f}")
        rows.append((_name(plain), count, *sizes, *times))
    forward.close()
    return rows


@torch.inference_mode()
def _linears(plain: ReaderModel) -> None:
    note("linear layers alone")
    weights = [module.weight.detach() for module in _modules(plain)]
    scales = [weight.abs().amax(1) / 127 for weight in weights]
    whole = [(w / s[:, None]).round().to(torch.int8) for w, s in zip(weights, scales, strict=True)]
    together = copy.deepcopy(plain.model)
    names = [name for name, module in together.named_modules() if type(module) is torch.nn.Linear]
    pack_linears(together)
    ways: list[list[Callable[[torch.Tensor], Any]]] = [
        [partial(linear, weight=weight) for weight in weights],
        [PackedLinear(PackedLinears([module]), 0) for module in _modules(plain)],
        [together.get_submodule(name) for name in names],
        [partial(torch._weight_int8pack_mm, mat2=w, scales=s) for w, s in zip(whole, scales, strict=True)],
    ]

    def through(way: list[Callable[[torch.Tensor], Any]], inputs: list[torch.Tensor]) -> None:
        for layer, x in zip(way, inputs, strict=True):
            layer(x)

    print("\nAll linear layers of a step in bfloat16, ms\n")
    head("rows", "plain", "packed", "packed, siblings at once", "int8 weights (_weight_int8pack_mm)")
    for rows in (1, 8, 32):
        widths = {weight.shape[1] for weight in weights}
        given = {width: torch.randn(rows, width, dtype=plain.dtype) for width in widths}
        inputs = [given[weight.shape[1]] for weight in weights]  # siblings are given the same
        row(rows, *_ms(medians(STEPS, *(partial(through, way, inputs) for way in ways))))


def _ms(seconds: list[float]) -> list[str]:
    return [f"{1e3 * one:.1f}" for one in seconds]


def _attention(reader: ReaderModel) -> None:
    note("attention alone")
    shape = cache_shape(reader)
    pool = BlockPool.of_bytes(shape, MEMORY)
    forward = Forward(reader, pool)
    held = holding(forward, pool, stretches(reader, texts(), PROMPT, 1)[0], 8)
    forward.close()
    heads = reader.model.config.num_attention_heads
    layers = [SimpleNamespace(layer_idx=layer) for layer in range(shape.layers)]

    def attend(attention: PagedAttention, count: int) -> None:
        q = torch.randn(1, heads, count, shape.head_dim, dtype=shape.dtype)
        k = torch.randn(1, shape.kv_heads, count, shape.head_dim, dtype=shape.dtype)
        with attention.batch(tuple(Part(one, 1) for one in held[:count])):
            for layer in layers:
                attention(layer, q, k, k, None, 0.125)  # type: ignore[arg-type]

    print(f"\nAttention of a step over all layers in bfloat16, ms, {PROMPT} entries a sequence\n")
    head("sequences", "reference", "fast")
    ways = (ReferenceAttention(pool), FastAttention(pool))
    for count in (1, 8):
        row(count, *_ms(medians(STEPS, *(partial(attend, way, count) for way in ways))))


def _waiting() -> None:
    """OpenMP reads the variable once, so each value needs a process of its own."""
    print("\nA decode step of 1 sequence in bfloat16, ms, by how threads wait (OMP_WAIT_POLICY)\n")
    head("", "engine", "transformers", "engine, busy neighbour", "transformers, busy neighbour")
    for policy in ("PASSIVE", "ACTIVE", "unset"):
        note(f"OMP_WAIT_POLICY {policy}")
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        code = "from bench.engine import waiting_steps; waiting_steps()"
        if policy == "unset":  # torch first: refdesk sets it
            del environment["OMP_WAIT_POLICY"]
            code = f"import torch; {code}"
        out = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
        row(policy, *_ms(json.loads(out.stdout)))


def waiting_steps() -> None:
    """Print the seconds of a step, the engine's and transformers' with its own cache: alone, then beside a process
    that keeps one core busy."""
    plain, ours = load("bfloat16", packed=False), load("bfloat16")
    prompt = stretches(plain, texts(), PROMPT, 1)[0]
    pool = BlockPool.of_bytes(cache_shape(ours), 2**30)
    forward = Forward(ours, pool)
    held = holding(forward, pool, prompt, 1)
    token = torch.tensor([[100]])
    with torch.inference_mode():
        past = plain.model(torch.tensor([prompt]), logits_to_keep=1).past_key_values
        works = (lambda: step(forward, held), lambda: plain.model(token, past_key_values=past))
        seconds = medians(STEPS, *works)
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            seconds += medians(5, *works, warm=1)  # a step may take seconds
        finally:
            neighbour.kill()
            neighbour.wait()
    forward.close()
    print(json.dumps(seconds))


def _parity(plain: ReaderModel, ours: ReaderModel) -> None:
    """Ten sections of the manual, each with a question, in the model's chat format."""
    sections = [section for section in texts().split("\n## ") if 300 < len(section) < 3000]
    prompts = []
    for section in sections[:: len(sections) // 10][:10]:
        turn = [{"role": "user", "content": f"{section}\n\nWhat does this say?"}]
        text = plain.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompts.append(tuple(plain.tokenizer(text, add_special_tokens=False).input_ids))
    note("parity")
    options = {"max_new_tokens": NEW, "eos_token_id": sorted(ours.end_ids)}
    expected = [tuple(generated(plain, [prompt], **options)[0].tolist()) for prompt in prompts]
    lengths = sorted(map(len, prompts))
    print(f"\n{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, float32, greedy, {NEW} new ones\n")
    head("chunk", "", "equal to generate", "first difference")
    for chunk in (64, 512):
        with Engine(ours, chunk_tokens=chunk) as engine:
            requests = [GenerationRequest(prompt, max_new_tokens=NEW) for prompt in prompts]
            note(f"parity: chunks of {chunk}")
            alone = [engine.submit(request).result().token_ids for request in requests]
            streams = [engine.submit(request) for request in requests]
            together = [stream.result().token_ids for stream in streams]
        for name, got in (("alone", alone), ("all 10 together", together)):
            places = [
                f"prompt {number} at token {next(i for i, (a, b) in enumerate(zip_longest(*pair)) if a != b)}"
                for number, pair in enumerate(zip(expected, got, strict=True))
                if pair[0] != pair[1]
            ]
            row(chunk, name, f"{len(got) - len(places)}/{len(got)}", ", ".join(places) or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
