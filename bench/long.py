"""A document many times longer than the window, read once under a budget: memory and speed over its length, and
what of five needles in it can still be found.

`python -m bench.long PATH [BUDGET [POLICY [TOKENS...]]]`, with the shipped adapter and heads. The document is a
run, so the five questions share one reading of it, and no policy sees them. Those that see a question would have
to read it five times, and are refused. What was held of the longest is drawn, as `.bench/long.svg`.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from threading import Event, Thread

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.kv_memory import MODELS, head, load, note, row
from refdesk.app.adapters import shipped_adapter
from refdesk.app.heads import find_heads
from refdesk.eval.tasks.files import read_text
from refdesk.memory.options import MemoryOptions, memory_options
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.reader.abstention import Abstention
from refdesk.reader.adapter import Adapter, load_adapter
from refdesk.reader.answer_plan import AnswerPlan
from refdesk.reader.engine import Engine
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.heads import load_heads
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import build_prompt, encode_answer, encode_segments
from refdesk.reader.qa import AnswerOptions

BUDGET = 2048
POLICY = "infinipot"
TOKENS = (4_000, 16_000, 62_500, 250_000, 1_000_000)
NEW = 16
TENTHS = 10
# Where each passkey stands, as a share of the text.
NEEDLES = {"Lisbon": ("48213", 0.1), "Nairobi": ("90571", 0.3), "Quito": ("37264", 0.5)}
NEEDLES |= {"Osaka": ("65908", 0.7), "Montevideo": ("21437", 0.9)}


@dataclass
class Watch:
    """Samples of (seconds, bytes of blocks in use, resident bytes)."""

    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @contextmanager
    def over(self, engine: Engine) -> Iterator[None]:
        """Look four times a second."""
        stop, started = Event(), time.perf_counter()

        def look() -> None:
            while not stop.wait(0.25):
                self.samples.append((time.perf_counter() - started, engine.memory_used, _resident()))

        thread = Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def tenths(self, seconds: float) -> list[tuple[int, int]]:
        """The most of both in each tenth of so many seconds."""
        parts = [
            [sample for sample in self.samples if int(TENTHS * sample[0] / seconds) == tenth]
            for tenth in range(TENTHS)
        ]
        return [
            (max((used for _, used, _ in part), default=0), max((rss for *_, rss in part), default=0))
            for part in parts
        ]


def main(data: Path, budget: int = BUDGET, policy: str = POLICY, lengths: tuple[int, ...] = TOKENS) -> None:
    """Print a table over lengths, and for the longest what was held as it was read."""
    memory = memory_options({"policy": policy, "budget": budget})
    if memory.policy is None or memory.policy.asks:
        raise SystemExit(f"{policy}; expected a policy that does not see the question")
    model, adapter, novel = reader_and_novel(data)
    heads = _heads(model, adapter) if memory.policy.learned else None
    floor = [_ask(model, adapter, None, city) for city in NEEDLES]
    print(f"{policy}, budget {budget}, chunks of 512, bfloat16; closed book nll {nlls(floor)}\n")
    head(
        "tokens",
        "times the window",
        "seconds to read",
        "tokens/s",
        "MiB in blocks, at most",
        "resident MiB, at most",
        "found of 5",
        "nll at depth " + ", ".join(f"{depth:g}" for _, depth in NEEDLES.values()),
    )
    tenths: list[tuple[int, int]] = []
    for count in lengths:
        note(f"{count} tokens")
        tokens = document(model, novel, count)
        watch = Watch()
        with Engine(model) as engine, watch.over(engine):
            answers = [_ask(model, adapter, (engine, tokens, memory, heads), city) for city in NEEDLES]
        seconds = answers[0].prefill_s
        found = sum(NEEDLES[city][0] in one.text for city, one in zip(NEEDLES, answers, strict=True))
        tenths = watch.tenths(seconds)
        row(
            count,
            f"{count / model.window:.1f}",
            f"{seconds:.1f}",
            f"{count / seconds:.0f}",
            f"{max(used for used, _ in tenths) / 2**20:.1f}",
            f"{max(rss for _, rss in tenths) / 2**20:.0f}",
            found,
            nlls(answers),
        )
    print("\nThe longest as it was read, at most in each tenth of the time\n")
    head("tenth", "MiB in blocks", "resident MiB")
    for number, (used, rss) in enumerate(tenths, start=1):
        row(number, f"{used / 2**20:.1f}", f"{rss / 2**20:.0f}")
    draw(tenths, lengths[-1], Path(".bench/long.svg"))


def draw(tenths: list[tuple[int, int]], tokens: int, file: Path) -> None:
    """Bytes in blocks and resident bytes over the tokens read of a text of so many."""
    read = [tokens * (number + 1) / TENTHS / 1000 for number in range(TENTHS)]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "refdesk", "font.size": 9}):
        figure = Figure(figsize=(6, 2.6), layout="constrained")
        axes = figure.subplots()
        for name, column in (("resident, all of the process", 1), ("in blocks", 0)):
            axes.plot(read, [tenth[column] / 2**20 for tenth in tenths], marker="o", label=name)
        axes.set(xlabel="tokens read, thousands", ylabel="MiB, at most", yscale="log", ylim=(10, 10_000))
        axes.legend(frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None, "Creator": None})


def reader_and_novel(data: Path) -> tuple[ReaderModel, Adapter | None, list[int]]:
    """The default model, its adapter, and War and Peace in its tokens."""
    model = load("bfloat16")
    shipped = shipped_adapter()
    adapter = None if shipped is None else load_adapter(shipped, model, "craft")
    text = read_text(data / "needle_haystacks" / "war_and_peace.txt.gz")
    return model, adapter, model.literal_tokenizer.encode(text, add_special_tokens=False).ids


def document(model: ReaderModel, novel: list[int], count: int) -> tuple[int, ...]:
    """`count` tokens of the novel, over again where it is too short, with the needles in it."""
    tokens = list(islice(cycle(novel), count))
    for city, (passkey, depth) in sorted(NEEDLES.items(), key=lambda needle: -needle[1][1]):
        ids = model.literal_tokenizer.encode(
            f" The passkey of {city} is {passkey}. ", add_special_tokens=False
        ).ids
        tokens[int(depth * count) : int(depth * count)] = ids
    return tuple(tokens[:count])


def answering(model: ReaderModel) -> Abstention | None:
    """Whoever asks for a passkey wants one: a guess counts, that it cannot be found does not."""
    return AnswerPlan.of(AnswerOptions(abstain=1.0), model, open_book=True).abstention


def _ask(
    model: ReaderModel,
    adapter: Adapter | None,
    over: tuple[Engine, tuple[int, ...], MemoryOptions, RetainingHeads | None] | None,
    city: str,
) -> Generation:
    """With the document, or closed book."""
    question = f"What is the passkey of {city}?"
    answer = encode_answer(NEEDLES[city][0], model)
    if over is None:
        prompt = build_prompt(question, [], model, NEW)
        with Engine(model) as engine:
            request = GenerationRequest(prompt.token_ids, NEW, continuations=(answer,), adapter=adapter)
            return engine.submit(request).result()
    engine, tokens, memory, heads = over
    segments = encode_segments(question, [Passage("novel", "War and Peace", "-", 0, 1, 1.0)], model)
    assert memory.policy is not None
    request = GenerationRequest(
        segments.asked,
        NEW,
        front=(segments.before,),
        passages=(tokens,),
        memory=memory,
        continuations=(answer,),
        adapter=adapter,
        catalyst=segments.catalysts[memory.policy.catalyst],
        heads=heads,
        abstention=answering(model),
    )
    return engine.submit(request).result()


def _heads(model: ReaderModel, adapter: Adapter | None) -> RetainingHeads:
    entry = find_heads(MODELS, model.fingerprint, adapter.fingerprint if adapter else "")
    if entry is None:
        raise SystemExit("no heads are shipped for the default model with its adapter; `refdesk heads train`")
    return load_heads(entry.folder, model, adapter)


def nlls(answers: list[Generation]) -> str:
    """The mean over the tokens of each right answer."""
    means = (sum(one.continuation_nll[0]) / len(one.continuation_nll[0]) for one in answers)
    return ", ".join(f"{mean:.2f}" for mean in means)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else BUDGET,
        sys.argv[3] if len(sys.argv) > 3 else POLICY,
        tuple(map(int, sys.argv[4:])) or TOKENS,
    )
