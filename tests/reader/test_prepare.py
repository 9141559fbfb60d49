"""Runs that were read before, in another process for all that is known: taken from disk they are as if read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.kept_runs import Entries, read_run, run_file_name
from refdesk.memory.options import memory_options
from refdesk.memory.runs import RunKey
from refdesk.reader.adapter import Adapter, load_adapter
from refdesk.reader.engine import Engine
from refdesk.reader.errors import PromptTooLong
from refdesk.reader.forward import cache_shape
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prepare import PassageRuns, runs_reader
from refdesk.reader.qa import QA, AnswerOptions
from refdesk.reader.stream import Stream
from tests.reader.shelves import wide_shelf
from tests.reader.stepped import SLOTS, Stepped, ids, stepped
from tests.reader.test_adapter import packed, trained
from tests.reader.test_runs import PASSAGES, POLICIES, PREFIX, Texts, asked, blocks, same

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
KINDS = ["llama", "qwen2", "qwen3"]


@dataclass
class Kept:
    """What is kept in one folder of a model's runs; remembers what it was asked for."""

    folder: Path
    model: ReaderModel
    asked: list[RunKey] = field(default_factory=list)

    def find(self, key: RunKey) -> Entries | None:
        self.asked.append(key)
        file = self.folder / run_file_name(key, self.model.fingerprint, self.model.dtype)
        try:
            return read_run(file, len(key.tokens), cache_shape(self.model))
        except (FileNotFoundError, InvalidMemory):
            return None


def prepared(model: ReaderModel, folder: Path, passages: Texts = PASSAGES, adapter: Adapter | None = None) -> Kept:
    """Read by an engine that is gone since."""
    with Engine(model, chunk_tokens=19) as engine:
        PassageRuns(model, adapter, (PREFIX,), passages).prepare(engine.submit, folder)
    return Kept(folder, model)


def question(seed: int = 41, **options: object) -> GenerationRequest:
    return replace(asked(seed, 12, front=(PREFIX,), passages=PASSAGES), **options)  # type: ignore[arg-type]


def finished(world: Stepped, request: GenerationRequest) -> Generation:
    job = world.add(request)
    world.finish()
    return job.stream.result()


def counts(generation: Generation) -> tuple[int, int, int]:
    return generation.run_hits, generation.run_loads, generation.run_misses


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("in_line", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_whether_its_passages_were_read_or_loaded(
    kind: str, in_line: bool, adapted: bool, tiny: Tiny, tmp_path: Path
) -> None:
    model, adapter = tiny(kind), None
    if adapted:
        model = packed(model)
        adapter = load_adapter(trained(tiny(kind), tmp_path / "adapter"), model)
    request = question(in_line=in_line, adapter=adapter)
    with stepped(model) as world:
        expected = finished(world, request)
    kept = prepared(model, tmp_path, adapter=adapter)
    with stepped(model, kept=kept) as world:
        found, again = (finished(world, request) for _ in range(2))
    assert [counts(one) for one in (expected, found, again)] == [(0, 0, 4), (0, 3, 1), (4, 0, 0)]
    assert same(found, expected) and same(again, expected)


def test_what_is_loaded_is_to_the_bit_what_was_read_and_stands_where_it_stood(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    kept = prepared(model, tmp_path)
    with stepped(model, kept=kept) as world:
        finished(world, question())
        pool, front = world.pool, RunKey(PREFIX)
        for tokens in PASSAGES:
            key = RunKey(tokens, front)
            run, expected = world.scheduler._runs._runs[key], kept.find(key)
            assert expected is not None
            assert (run.position, run.entries.tolist()) == (len(PREFIX) + len(tokens), [[len(tokens)] * 2] * 3)
            for layer in range(3):
                for head in range(2):
                    for number in range(len(tokens)):
                        block, place = run.table[layer, head, number // 16], number % 16
                        for store, entries in zip((pool.keys, pool.values), expected, strict=True):
                            assert torch.equal(store[block, place], entries[layer, head, number])
                        assert pool.positions[block, place] == len(PREFIX) + number
                        assert pool.scores[block, place] == 0
            assert pool.fill[run.ids()].sum() == len(tokens) * SLOTS


def test_what_gave_way_is_loaded_again_and_the_answer_stays_the_same(tiny: Tiny, tmp_path: Path) -> None:
    others = tuple(ids(60, 300 + number) for number in range(6))
    kept = prepared(tiny(), tmp_path, PASSAGES + others)
    with stepped(tiny()) as world:
        expected = finished(world, question())
    with stepped(tiny(), tokens=480, kept=kept) as world:  # of which runs may have half
        found = [finished(world, question(passages=passages)) for passages in (PASSAGES, others) * 3]
        assert world.run_blocks <= world.pool.blocks // 2
    assert [one.run_loads + one.run_hits for one in found] == [3, 7, 4, 7, 4, 7]
    assert sum(one.run_loads for one in found) > 18  # not only the first time
    assert all(same(one, expected) for one in found[::2])


def test_loading_takes_no_more_memory_than_was_promised(tiny: Tiny, tmp_path: Path) -> None:
    kept = prepared(tiny(), tmp_path)
    request = question(continuations=(), max_new_tokens=5)
    needed = blocks(PREFIX, *PASSAGES) + SLOTS * 2
    with stepped(tiny()) as world:
        expected = finished(world, request)
    with stepped(tiny(), tokens=16 * needed // SLOTS, kept=kept) as world:
        finished(world, asked(50, 100, continuations=(), front=(ids(40, 60),)))  # whose run is in the way
        jobs = [world.add(request), world.add(replace(request, token_ids=ids(12, 51)))]
        most = 0
        while not world.scheduler.idle:
            world.step()
            most = max(most, world.pool.used)
        assert most <= needed
        assert same(jobs[0].stream.result(), expected)
        assert counts(jobs[0].stream.result()) == (0, 3, 1)


def test_a_step_loads_few_runs_and_others_are_served_meanwhile(tiny: Tiny, tmp_path: Path) -> None:
    passages = tuple(ids(60, 300 + number) for number in range(6))
    kept = prepared(tiny(), tmp_path, passages)
    with stepped(tiny(), 100, kept=kept) as world:
        other = world.add(asked(8, 10, continuations=(), max_new_tokens=30))
        world.step()
        job = world.add(question(passages=passages))
        loaded = [0]
        while not job.sequences:
            written = len(other._generated)
            world.step()
            assert len(other._generated) == written + 1
            loaded.append(job.run_loads)
        assert loaded == [0, 0, 2, 4, 6]  # the front is read first
        world.finish()


@pytest.mark.parametrize("steps", range(1, 5))
def test_whoever_leaves_while_runs_are_loaded_takes_them_from_nobody(
    steps: int, tiny: Tiny, tmp_path: Path
) -> None:
    kept = prepared(tiny(), tmp_path)
    with stepped(tiny(), kept=kept) as world:
        expected = finished(world, question())
    with stepped(tiny(), 24, kept=kept) as world:
        gone, stays = world.add(question(7)), world.add(question())
        world.step(steps)
        gone.cancelled = True
        world.finish()
        assert gone.stream.result().finish_reason == "cancelled"
        assert same(stays.stream.result(), expected)
        assert world.pool.used == world.run_blocks


def test_a_damaged_run_is_read_and_counted_so(tiny: Tiny, tmp_path: Path) -> None:
    kept = prepared(tiny(), tmp_path)
    with stepped(tiny()) as world:
        expected = finished(world, question())
    some, other, _ = sorted(tmp_path.iterdir())
    some.write_bytes(some.read_bytes()[:-7])
    other.unlink()
    with stepped(tiny(), kept=kept) as world:
        found = finished(world, question())
    assert counts(found) == (0, 1, 3)
    assert same(found, expected)


def test_what_another_reader_kept_is_not_used(tiny: Tiny, tmp_path: Path) -> None:
    model = packed(tiny())
    adapters = [load_adapter(trained(tiny(), tmp_path / f"{seed}", seed=seed), model) for seed in (1, 2)]
    (tmp_path / "runs").mkdir()
    kept = prepared(model, tmp_path / "runs", adapter=adapters[0])
    loads = []
    with stepped(model, kept=kept) as world:
        for adapter in (None, adapters[1], adapters[0]):
            loads.append(finished(world, question(adapter=adapter)).run_loads)
    for other in (tiny("qwen2"), replace(tiny(), fingerprint="other")):
        with stepped(other, kept=Kept(tmp_path / "runs", other)) as world:
            loads.append(finished(world, question()).run_loads)
    assert loads == [0, 0, 3, 0, 0]
    assert len({runs_reader(tiny(), None), runs_reader(model, adapters[0]), runs_reader(tiny("qwen2"), None)}) == 3
    assert runs_reader(replace(tiny(), dtype=torch.bfloat16), None) != runs_reader(tiny(), None)


def test_thinned_passages_are_read(tiny: Tiny, tmp_path: Path) -> None:
    kept = prepared(tiny(), tmp_path)
    for options in list(POLICIES.values())[1:]:
        request = asked(33, 10, memory_options(options), front=(PREFIX,), passages=PASSAGES)
        with stepped(tiny(), kept=kept) as world:
            assert counts(finished(world, request)) == (0, 0, 4)


def test_what_is_there_already_is_not_read_again(tiny: Tiny, tmp_path: Path) -> None:
    passages = tuple(ids(30 + number, 200 + number) for number in range(10))
    runs = PassageRuns(tiny(), None, (PREFIX,), passages)
    told: list[int] = []
    read: list[int] = []

    def until(done: int) -> None:
        told.append(done)
        if done > 200:
            raise KeyboardInterrupt

    with Engine(tiny()) as engine:

        def submit(request: GenerationRequest) -> Stream:
            read.append(len(request.token_ids))
            return engine.submit(request)

        with pytest.raises(KeyboardInterrupt):
            runs.prepare(submit, tmp_path, until)
        assert not runs.are_in(tmp_path)
        assert told == [0, sum(range(30, 34)), sum(range(30, 38))]
        whole = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
        assert len(whole) == 8
        damaged = min(whole)
        damaged.write_bytes(b"." * damaged.stat().st_size)
        read.clear()
        runs.prepare(submit, tmp_path, told.append)
        assert len(read) == 3
        assert told[-1] == runs.tokens == sum(range(30, 40))
        assert runs.are_in(tmp_path)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) == runs.bytes
        assert all(file.stat().st_mtime_ns == time for file, time in whole.items() if file != damaged)
        read.clear()
        runs.prepare(submit, tmp_path, told.append)
        assert read == []
    assert all(Kept(tmp_path, tiny()).find(RunKey(tokens, RunKey(PREFIX))) for tokens in passages)


def test_passages_are_kept_as_answers_read_them(tiny: Tiny, tmp_path: Path) -> None:
    """With their titles, behind the instructions, each once, whatever the question and the form."""
    model = tiny("llama", 2048)
    shelf: list[Passage] = [*wide_shelf("", 3, None), *wide_shelf("", 1, None)]
    runs = PassageRuns.of(shelf, model)
    with Engine(model) as engine:
        runs.prepare(engine.submit, tmp_path)
        read = QA(lambda question, k, documents: shelf, model, engine).answer(
            "Where?", AnswerOptions(reading="apart", stop=())
        )
    with Engine(model, kept=Kept(tmp_path, model)) as engine:
        qa = QA(lambda question, k, documents: shelf, model, engine)
        first = qa.answer("Where?", AnswerOptions(reading="apart", stop=()))
        other = qa.answer("When?", AnswerOptions(reading="apart", form="quote"))
        together = qa.answer("Where?", AnswerOptions(reading="together"))
    assert len(runs.passages) == len(set(shelf)) == 3
    assert (first.usage.run_hits, first.usage.run_loads, first.usage.run_misses) == (0, 3, 1)
    assert (other.usage.run_hits, other.usage.run_loads, other.usage.run_misses) == (4, 0, 0)
    assert together.usage.run_loads == 0
    assert first.text == read.text and read.usage.run_loads == 0


def test_a_passage_that_the_window_has_no_room_for_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with Engine(tiny()) as engine, pytest.raises(PromptTooLong, match="window of 512"):
        PassageRuns(tiny(), None, (PREFIX,), (ids(600, 1),)).prepare(engine.submit, tmp_path)
    assert not list(tmp_path.iterdir())
