"""An hour of random load on one engine, the default model in float32: is every answer that of an idle engine, is
no block lost, does no stream hang, and does memory stay bounded?

`python -m bench.soak PATH [MINUTES]`. Rounds of load of two minutes; between them everybody pauses, and what the
idle engine holds is counted. Answers may differ where two tokens are equally likely up to rounding: a batch of
another size is multiplied by another kernel. The gap between the two best logits, noted when each answer was made
alone, tells such ties from errors.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import torch

from refdesk.memory.options import memory_options
from refdesk.reader.engine import Engine
from refdesk.reader.errors import InvalidOption, MemoryTooSmall, PromptTooLong
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel, load_model
from refdesk.reader.stream import Stream

MINUTES = 60.0
ROUND_S = 120.0
SEED = 0
REQUESTS = 60
CLIENTS = 12
CEILING = 192 * 2**20  # about 4300 tokens
HANGS_S = 300.0
TIE = 1e-3  # of logits; rounding moves them by some 1e-4
NLL = 1e-3
GROWTH = 64 * 2**20  # of the process, from the middle of the load to its end
MEMORIES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"policy": "kv_compress", "budget": 128},
    {"policy": "kv_compress", "rate": 4},
    {"policy": "streaming", "budget": 200},
    {"policy": "snapkv", "budget": 160},
    {"policy": "random", "budget": 160},
)
MANNERS = ("wait", "wait", "wait", "read", "read", "cancel", "leave", "hurry", "impossible")


@dataclass(frozen=True)
class Reference:
    """What an idle engine says, and by how much each of its tokens was the best."""

    generation: Generation
    gaps: tuple[float, ...]


@dataclass
class Tally:
    """What has happened, from many threads."""

    counts: Counter[str] = field(default_factory=Counter)
    ties: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    worst_nll: float = 0.0
    lock: Lock = field(default_factory=Lock)

    def count(self, name: str) -> None:
        with self.lock:
            self.counts[name] += 1

    def fault(self, line: str) -> None:
        with self.lock:
            self.wrong.append(line)
        print(f"WRONG: {line}", file=sys.stderr, flush=True)

    def compare(self, which: int, found: Generation, reference: Reference) -> None:
        """Whether `found`, perhaps cut short, is the reference's answer."""
        expected = reference.generation
        cut = found.finish_reason in ("cancelled", "deadline")
        self.count(found.finish_reason)
        for mine, its in zip(found.continuation_nll, expected.continuation_nll, strict=False):
            off = max(abs(a - b) for a, b in zip(mine, its, strict=True))
            with self.lock:
                self.worst_nll = max(self.worst_nll, off)
            if off > NLL:
                self.fault(f"request {which}: continuation_nll is off by {off:.2g}")
        if not cut and len(found.continuation_nll) != len(expected.continuation_nll):
            self.fault(f"request {which}: {len(found.continuation_nll)} continuations scored")
        pairs = zip(found.token_ids, expected.token_ids, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if first is None:
            if cut:
                self.count("prefix")
                if len(found.token_ids) > len(expected.token_ids):
                    self.fault(f"request {which}: {found.finish_reason}, and longer than the whole answer")
            elif found.token_ids == expected.token_ids and found.text == expected.text:
                self.count("equal")
                if found.memory != expected.memory:
                    self.count("memory otherwise")
            else:
                self.fault(f"request {which}: {len(found.token_ids)} tokens, {len(expected.token_ids)} alone")
            return
        self.count("differing")
        line = f"request {which}: token {first} differs, where the two best were {reference.gaps[first]:.2g} apart"
        if reference.gaps[first] > TIE:
            self.fault(line)
        else:
            with self.lock:
                self.ties.append(line)


def requests(model: ReaderModel, rng: random.Random) -> list[GenerationRequest]:
    """Of every kind, made of the documentation. Their passages are of few, so that they meet."""
    text = "\n".join(path.read_text() for path in sorted(Path("docs").glob("*.md")))
    tokens = model.tokenizer.encode(text, add_special_tokens=False)

    def stretch(least: int, most: int) -> tuple[int, ...]:
        count = rng.randint(least, most)
        start = rng.randrange(len(tokens) - count)
        return tuple(tokens[start : start + count])

    fronts = [(), (stretch(30, 30),), (stretch(60, 60), stretch(20, 20))]
    passages = [stretch(40, 300) for _ in range(10)]
    made = []
    for _ in range(REQUESTS):
        runs = rng.choice([0, 0, 0, 1, 2, 3, 4, 5, 6])
        long = rng.random() < 0.2
        made.append(
            GenerationRequest(
                stretch(5, 60) if runs else stretch(600, 1500) if long else stretch(5, 400),
                max_new_tokens=rng.randint(1, 60),
                stop=rng.choice([(), (), (".\n", "the"), (" is",)]),
                continuations=tuple(stretch(1, 20) for _ in range(rng.choice([0, 0, 1, 4]))),
                front=rng.choice(fronts),
                passages=tuple(rng.sample(passages, runs)),
                memory=memory_options(rng.choice(MEMORIES)),
            )
        )
    return made


def impossible(request: GenerationRequest, model: ReaderModel, rng: random.Random) -> GenerationRequest:
    """The request, changed so that it can never be served."""
    return replace(
        request,
        **rng.choice(
            (
                {"max_new_tokens": model.window},
                {"front": (), "passages": ((5,) * 3000, (6,) * 3000)},
                {"token_ids": (5, model.vocabulary)},
            )
        ),
    )


def references(model: ReaderModel, made: list[GenerationRequest]) -> list[Reference]:
    """Each alone on an engine that remembers nothing."""
    found = []
    for index, request in enumerate(made):
        with Engine(model, memory_bytes=CEILING) as engine:
            generation = engine.submit(request).result(HANGS_S)
        found.append(Reference(generation, gaps(model, replace(request, continuations=()), generation)))
        print(f"reference {index + 1} of {len(made)}", file=sys.stderr, end="\r", flush=True)
    print(file=sys.stderr)
    return found


def gaps(model: ReaderModel, request: GenerationRequest, expected: Generation) -> tuple[float, ...]:
    """Between the two best logits of each token generated alone."""
    seen: list[float] = []
    with Engine(model, memory_bytes=CEILING) as engine:
        forward = engine._scheduler._forward

        def noting(parts: Any, token_ids: list[int], keep: list[int]) -> torch.Tensor:
            logits = forward(parts, token_ids, keep)
            if keep:
                best = logits[-1].float().topk(2).values
                seen.append(float(best[0] - best[1]))
            return logits

        engine._scheduler._forward = noting  # type: ignore[assignment]
        again = engine.submit(request).result(HANGS_S)
    assert again.token_ids == expected.token_ids, "an idle engine answers otherwise the second time"
    return tuple(seen[-len(again.token_ids) :])  # the last forwards were one token each


def pieces(stream: Stream) -> Generator[str, None, None]:
    """As an answer is streamed: closing the iterator cancels."""
    try:
        yield from stream
    finally:
        stream.cancel()


def client(
    engine: Engine,
    model: ReaderModel,
    made: list[GenerationRequest],
    known: list[Reference],
    tally: Tally,
    seed: str,
    until: float,
) -> None:
    """Ask, in all manners and at random, until the time is over."""
    rng = random.Random(seed)
    while time.perf_counter() < until:
        time.sleep(rng.choice((0, 0, rng.random(), 3 * rng.random())))
        which, manner = rng.randrange(len(made)), rng.choice(MANNERS)
        request = made[which]
        if manner == "impossible":
            try:
                engine.submit(impossible(request, model, rng)).cancel()
                tally.fault(f"request {which}: was changed to be impossible, and not refused")
            except (PromptTooLong, MemoryTooSmall, InvalidOption) as refusal:
                tally.count(type(refusal).__name__)
            continue
        if manner == "hurry":
            request = replace(request, deadline_s=rng.uniform(0.05, 8))
        try:
            stream = engine.submit(request)
            if manner == "cancel":
                for _ in islice(stream, rng.randint(0, 20)):
                    pass
                stream.cancel()
            elif manner == "leave":
                with closing(pieces(stream)) as reader:
                    for _ in islice(reader, rng.randint(1, 20)):
                        pass
            found = stream.result(HANGS_S)
            if manner == "read" and "".join(stream) != found.text:
                tally.fault(f"request {which}: its pieces are not its text")
            tally.compare(which, found, known[which])
        except TimeoutError:
            tally.fault(f"request {which}: no end within {HANGS_S:g} s")
        except Exception as error:
            tally.fault(f"request {which}: {error!r}")


def check_idle(engine: Engine, tally: Tally) -> None:
    """Nobody asks any more: the engine comes to rest, no block is lost, and only idle runs hold any."""
    scheduler, until = engine._scheduler, time.perf_counter() + 60
    while not scheduler.idle or engine._arrived:
        if time.perf_counter() > until:
            tally.fault("the engine does not come to rest")
            return
        time.sleep(0.05)
    time.sleep(0.5)  # the last step checks the same
    try:
        scheduler.check_integrity()
    except AssertionError as error:
        tally.fault(str(error))
    runs = scheduler._runs
    held = runs.blocks * engine._pool.block_bytes
    if scheduler._in_work or runs.idle_blocks != runs.blocks or engine.memory_used != held:
        tally.fault(f"idle, and {engine.memory_used} bytes are in use; runs hold {held}")
    tally.count("idles")


def resident() -> int:
    """Bytes of memory that the process has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS in /proc/self/status")


def soak(
    engine: Engine, model: ReaderModel, made: list[GenerationRequest], known: list[Reference], minutes: float
) -> bool:
    """Load the engine and print the table; whether all was well."""
    tally, over = Tally(), Event()
    sizes, peak = [resident()], [0]

    def watch() -> None:
        next_sample = time.perf_counter()
        while not over.wait(0.02):
            peak[0] = max(peak[0], engine.memory_used)
            if time.perf_counter() >= next_sample:
                sizes.append(resident())
                next_sample += 10

    watcher = Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    number = 0
    while (left := started + 60 * minutes - time.perf_counter()) > 0:
        until = time.perf_counter() + min(ROUND_S, left)
        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [
                pool.submit(client, engine, model, made, known, tally, f"{SEED} {number} {index}", until)
                for index in range(CLIENTS)
            ]
        for one in asking:
            one.result()
        check_idle(engine, tally)
        number += 1
        print(
            f"{(time.perf_counter() - started) / 60:.1f} of {minutes:g} min: {dict(tally.counts)},"
            f" {len(tally.wrong)} wrong, RSS {sizes[-1] / 2**20:.0f} MiB",
            file=sys.stderr,
            flush=True,
        )
    over.set()
    watcher.join()
    sizes.append(resident())
    if peak[0] > CEILING:
        tally.fault(f"{peak[0]} bytes of KV memory were in use, the ceiling is {CEILING}")
    middle = max(sizes[: len(sizes) // 2 + 1])
    if minutes >= 10 and sizes[-1] > middle + GROWTH:
        tally.fault(f"the process has grown from {middle} to {sizes[-1]} bytes in the second half")
    _print(tally, engine, sizes, peak[0], minutes)
    return not tally.wrong


def _print(tally: Tally, engine: Engine, sizes: list[int], peak: int, minutes: float) -> None:
    counts, block = tally.counts, engine._pool.block_bytes
    ended = {name: counts[name] for name in ("stop", "length", "cancelled", "deadline")}
    refused = {name: counts[name] for name in ("PromptTooLong", "MemoryTooSmall", "InvalidOption")}
    rows = {
        "minutes of load": f"{minutes:g}, {CLIENTS} clients, {REQUESTS} distinct requests, seed {SEED}",
        "requests answered or cut short": f"{sum(ended.values())}: {_listed(ended)}",
        "requests refused": f"{sum(refused.values())}: {_listed(refused)}",
        "whole answers, token for token those of an idle engine": str(counts["equal"]),
        "of them with other memory figures": str(counts["memory otherwise"]),
        "answers cut short, a prefix of it": str(counts["prefix"]),
        f"differing at a tie (two best logits within {TIE:g})": str(len(tally.ties)),
        "differing otherwise, hanging, failing: wrong": str(len(tally.wrong)),
        "largest difference of a continuation's NLL": f"{tally.worst_nll:.1e}",
        "idles, no block lost": str(counts["idles"]),
        "peak KV memory": f"{peak // block} of {CEILING // block} blocks, {peak / 2**20:.1f} MiB",
        "RSS at the start, at most, at the end": ", ".join(
            f"{size / 2**20:.0f} MiB" for size in (sizes[0], max(sizes), sizes[-1])
        ),
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for line in (*sorted(set(tally.ties)), *tally.wrong):
        print(f"\n{line}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def main(data: Path, minutes: float = MINUTES) -> int:
    """Print the table; 1 if anything is wrong. `data` is not needed: the text is this project's documentation."""
    model = load_model(None, Path(".bench/soak"), dtype="float32")
    made = requests(model, random.Random(SEED))
    known = references(model, made)
    with Engine(model, memory_bytes=CEILING) as engine:
        return 0 if soak(engine, model, made, known, minutes) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(float, sys.argv[2:3])))
