"""KV-Compress at several rates: what is held, what comes back to the pool, how fast, and how many fit at once."""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import gzip
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from pathlib import Path
from statistics import median

import torch

from refdesk.memory.attention import Part
from refdesk.memory.options import MemoryOptions, memory_options
from refdesk.memory.pool import BlockPool
from refdesk.memory.sequence import Sequence
from refdesk.reader.engine import Engine
from refdesk.reader.forward import Forward
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel, load_model

MODELS = Path(".bench/models")
PROMPT, NEW, TOGETHER = 4096, 128, 8
RATES = (None, 1, 2, 4, 8, 16, 32, 64)  # None: policy none
# What is really run to see how many fit: prompts of 4,096 tokens would take a quarter of an hour.
RUN_PROMPT, RUN_NEW, RUN_REQUESTS = 1024, 200, 64
RUNS = ((2**30, None), (2**30, 8), (2**30, 64), (2**27, None), (2**27, 8))


def main(data: Path) -> None:
    """Print what a request costs at each rate, then how many were seen to decode at once."""
    model = load("bfloat16")
    model.__dict__["end_ids"] = frozenset()  # every answer is as long as asked
    prompts = stretches(model, texts(data), PROMPT, RUN_REQUESTS)
    _warm(model, prompts[0])
    print(f"Prompts of {PROMPT} tokens, {NEW} new ones, {torch.get_num_threads()} threads; MB are 10^6 bytes\n")
    head(
        "rate",
        "entries held",
        "MB held",
        "MB freed",
        "pool in use while it decodes, MB",
        "back in the pool once the prompt is read",
        "decode alone, tokens/s",
        f"{TOGETHER} together, tokens/s",
        "fit 1 GiB",
    )
    for rate in RATES:
        _measure(model, rate, prompts)
    print(f"\nReally run: {RUN_REQUESTS} requests, prompts of {RUN_PROMPT} tokens, {RUN_NEW} new ones\n")
    head("memory", "rate", "expected to fit", "most seen decoding at once", "pool in use at most, MB", "seconds")
    for memory, rate in RUNS:
        _run(model, rate, [prompt[:RUN_PROMPT] for prompt in prompts], memory)


# Shared with bench.engine.


def load(dtype: str, *, packed: bool = True) -> ReaderModel:
    """The default model."""
    note(f"loading {dtype}, packed: {packed}")
    return load_model(None, MODELS, dtype=dtype, packed=packed)


def note(line: str) -> None:
    """Progress, for people."""
    sys.stderr.write(line + "\n")


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    """Begin a table."""
    row(*cells)
    print("|---" * len(cells) + "|")


def texts(data: Path | None = None) -> str:
    """The manual, and as much as is of use of the text files below `data`."""
    found = [path.read_text() for path in sorted(Path("docs").glob("*.md"))]
    for path in sorted(data.rglob("*")) if data is not None else []:
        if path.name.endswith((".txt", ".md")):
            found.append(path.read_text(errors="replace")[:1_500_000])
        elif path.name.endswith(".txt.gz"):
            found.append(gzip.decompress(path.read_bytes()).decode(errors="replace")[:1_500_000])
    return "\n\n".join(found)[:1_500_000]


def stretches(reader: ReaderModel, text: str, length: int, count: int) -> list[tuple[int, ...]]:
    """`count` stretches of `length` tokens, spread over the text; they overlap where it is too short."""
    ids = reader.literal_tokenizer.encode(text).ids
    gap = (len(ids) - length) / max(count - 1, 1)
    return [tuple(ids[int(i * gap) : int(i * gap) + length]) for i in range(count)]


def medians(runs: int, *works: Callable[[], object], warm: int = 2) -> list[float]:
    """The median seconds of each, taken by turns, the first `warm` runs not counted."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(warm + runs):
        for work, taken in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [median(taken[warm:]) for taken in seconds]


def holding(forward: Forward, pool: BlockPool, prompt: tuple[int, ...], count: int) -> list[Sequence]:
    """Sequences that hold the entries of `prompt`: the first reads it, the others get copies."""
    held = [Sequence(pool) for _ in range(count)]
    for start in range(0, len(prompt), 512):
        piece = prompt[start : start + 512]
        forward((Part(held[0], len(piece)),), list(piece), [])
    source = torch.from_numpy(held[0].own_ids()).long()
    for other in held[1:]:
        other.grow(len(prompt))
        other.advance(len(prompt))
        target = torch.from_numpy(other.own_ids()).long()
        for store in (pool.keys, pool.values, pool.positions, pool.scores):
            store[target] = store[source]
    return held


def step(forward: Forward, held: list[Sequence]) -> torch.Tensor:
    """The logits behind one more token of each."""
    return forward(tuple(Part(one, 1) for one in held), [100] * len(held), list(range(len(held))))


class Steps:
    """Stands in front of the engine's forward and notes of every step when it began, how many of its parts were
    answers, whether prompts were read besides, and the bytes in use."""

    def __init__(self, engine: Engine, prompt: int) -> None:
        self._engine, self._prompt = engine, prompt
        self._forward = engine._scheduler._forward
        engine._scheduler._forward = self  # type: ignore[assignment]
        self.seen: list[tuple[float, int, bool, int]] = []

    def __call__(self, parts: tuple[Part, ...], token_ids: list[int], keep: list[int]) -> torch.Tensor:
        answers = sum(part.sequence.position >= self._prompt for part in parts)
        self.seen.append((time.perf_counter(), answers, answers < len(parts), self._engine.memory_used))
        return self._forward(parts, token_ids, keep)

    @property
    def most(self) -> int:
        """The most answers in one step."""
        return max((answers for _, answers, _, _ in self.seen), default=0)

    def speed(self, answers: int) -> float:
        """Tokens a second while so many were answered and nothing else was done."""
        pairs = [(a, b) for a, b in zip(self.seen, self.seen[1:], strict=False) if a[1:3] == (answers, False)]
        return answers * len(pairs) / sum(b[0] - a[0] for a, b in pairs)


def _options(rate: int | None) -> MemoryOptions:
    return memory_options(None if rate is None else {"rate": rate})


def _warm(model: ReaderModel, prompt: tuple[int, ...]) -> None:
    """What is compiled on first use is compiled, and the allocator has seen the sizes."""
    with Engine(model) as engine:
        engine.submit(GenerationRequest(prompt, max_new_tokens=4, memory=_options(8))).result()


def _measure(model: ReaderModel, rate: int | None, prompts: Several[tuple[int, ...]]) -> None:
    note(f"rate {rate}")
    with Engine(model) as engine:
        steps = Steps(engine, PROMPT)
        one = engine.submit(GenerationRequest(prompts[0], max_new_tokens=NEW, memory=_options(rate))).result()
        alone = steps.speed(1)
        pool = engine._pool
        whole = -(-PROMPT // pool.block_size) * pool.shape.slots * pool.block_bytes
        used = [used for _, answers, _, used in steps.seen if answers]
        # The first have been answered for a while when the last has been read, and still are.
        requests = [GenerationRequest(p, max_new_tokens=NEW, memory=_options(rate)) for p in prompts[:TOGETHER]]
        streams = [engine.submit(request) for request in requests]
        for stream in streams:
            stream.result()
        together = steps.speed(TOGETHER)
    memory = one.memory
    row(
        "none" if rate is None else rate,
        f"{memory.held_entries:,}",
        f"{memory.held_bytes / 1e6:.1f}",
        f"{memory.freed_bytes / 1e6:.1f}",
        f"{used[0] / 1e6:.1f} to {max(used) / 1e6:.1f}",
        f"{1 - used[0] / whole:.1%}",
        f"{alone:.1f}",
        f"{together:.1f}",
        _fit(memory.peak_bytes, memory.held_bytes, 2**30),
    )


def _fit(peak: int, held: int, memory: int) -> int:
    """How many can be answered at once: all hold what is held, and there must be room to read one more."""
    return 1 + (memory - peak) // held


def _run(model: ReaderModel, rate: int | None, prompts: Several[tuple[int, ...]], memory: int) -> None:
    """Until the first is through, or all are being answered: more at once than then there will not be."""
    note(f"{memory} bytes, rate {rate}")
    requests = [GenerationRequest(ids, max_new_tokens=RUN_NEW, memory=_options(rate)) for ids in prompts]
    with Engine(model, memory_bytes=memory) as engine:
        one = engine.submit(requests[0]).result().memory
        steps = Steps(engine, RUN_PROMPT)
        start = time.perf_counter()
        streams = [engine.submit(request) for request in requests]
        while steps.most < len(streams) and not any(stream.done for stream in streams):
            time.sleep(0.05)
        seconds = time.perf_counter() - start
    expected = _fit(one.peak_bytes, one.held_bytes, memory)
    row(
        f"{memory / 2**20:.0f} MiB",
        "none" if rate is None else rate,
        expected if expected <= len(requests) else f"{expected}, so all {len(requests)}",
        steps.most,
        f"{max(used for *_, used in steps.seen) / 1e6:.0f}",
        f"{seconds:.0f}",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
