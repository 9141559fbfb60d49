"""A document is read once into a memory, and what attends to it is what would have read it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refdesk.memory import unlimiformer
from refdesk.memory.document_memory import DocumentMemory
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import memory_options
from refdesk.memory.overlap import left_overlapping
from refdesk.memory.unlimiformer import Places, Recall, RecallRequest
from refdesk.reader.engine import Engine
from refdesk.reader.errors import InvalidOption, MemoryMismatch, PromptTooLong
from refdesk.reader.forward import cache_shape
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.stream import Stream
from refdesk.reader.thinning import Keep
from tests.reader.stepped import ids, made_heads

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
FRONT, TEXT, ASKED, RIGHT = ids(11, 1), ids(150, 2), ids(13, 3), ids(4, 4)
ALL = (0, 1, 2)


def asked(recall: RecallRequest | None, **options: object) -> GenerationRequest:
    return GenerationRequest(ASKED, 12, front=(FRONT,), recall=recall, continuations=(RIGHT,), **options)  # type: ignore[arg-type]


def read_whole(engine: Engine) -> Generation:
    """The oracle: everything in one prompt."""
    return engine.submit(GenerationRequest(FRONT + TEXT + ASKED, 12, continuations=(RIGHT,))).result()


@pytest.mark.parametrize(("places", "near"), [("true", 1), ("true", 40), ("clipped", 150), ("scaled", 1)])
@pytest.mark.parametrize("chunk_tokens", [7, 512])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_document_that_fits_the_window_is_answered_as_if_it_had_been_read(
    kind: str, chunk_tokens: int, places: Places, near: int, tiny: Tiny
) -> None:
    """Methods 4.8, 2."""
    with Engine(tiny(kind), chunk_tokens=chunk_tokens) as engine:
        options = RememberOptions(window=150, overlap=0, near=near, layers=ALL)
        memory = remember(engine.submit, tiny(kind), TEXT, (FRONT,), options)
        recall = RecallRequest((memory,), 150, places, span=150)
        found, whole = engine.submit(asked(recall)).result(), read_whole(engine)
        assert found.token_ids == whole.token_ids
        assert found.continuation_nll[0] == pytest.approx(whole.continuation_nll[0], abs=1e-3)
        assert found.prompt_tokens == len(FRONT) + len(ASKED)
        assert found.recall is not None


def test_a_forward_reads_as_many_rows_as_it_may_look_at_entries_for_and_that_changes_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(tiny()) as engine:
        memory = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8))
        found, rows = [], []
        attend = Recall.attend

        def counted(self: Recall, layer: int, query: torch.Tensor, *rest: Any) -> torch.Tensor:
            rows.append(query.shape[2])
            return attend(self, layer, query, *rest)

        monkeypatch.setattr(Recall, "attend", counted)
        for looked_at, most in ((2**22, len(ASKED)), (5 * 142, 5), (1, 1)):
            monkeypatch.setattr(unlimiformer, "_LOOKED_AT", looked_at)
            rows.clear()
            found.append(engine.submit(asked(RecallRequest((memory,), 9))).result())
            assert max(rows) == most
    for other in found[1:]:
        assert other.token_ids == found[0].token_ids
        assert other.continuation_nll[0] == pytest.approx(found[0].continuation_nll[0], abs=1e-4)


def test_a_memory_held_in_bfloat16_is_attended_to_as_one_in_float32(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        memory = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8))
        rounded = DocumentMemory(
            replace(memory.plan, dtype="bfloat16"), memory.far.bfloat16(), memory.near.bfloat16(), None
        )
        found, right = (
            engine.submit(asked(RecallRequest((one,), 150))).result().continuation_nll[0]
            for one in (rounded, memory)
        )
    assert found == pytest.approx(right, abs=0.03)
    assert found != right


def test_whoever_else_is_served_changes_nothing(tiny: Tiny) -> None:
    with Engine(tiny(), chunk_tokens=16) as engine:
        options = RememberOptions(window=64, overlap=16, near=8)
        memories = [remember(engine.submit, tiny(), ids(150, seed), (FRONT,), options) for seed in (2, 5)]
        requests = [asked(RecallRequest(tuple(some), 9)) for some in (memories[:1], memories[1:], memories)]
        requests.append(GenerationRequest(ASKED, 12, front=(FRONT,)))
        alone = [engine.submit(request).result().token_ids for request in requests]
        streams = [engine.submit(request) for request in requests * 2]
        assert [stream.result().token_ids for stream in streams] == alone * 2
        assert len(set(alone)) > 2


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_what_is_held_is_what_each_token_was_read_as_behind_its_overlap(kind: str, tiny: Tiny) -> None:
    model = tiny(kind)
    with Engine(model) as engine:
        memory = remember(engine.submit, model, TEXT, (FRONT,), RememberOptions(64, 16, 8, layers=ALL))
    for chunk in left_overlapping(150, 64, 16):
        keys, values = plain_entries(model, FRONT + TEXT[chunk.start : chunk.end])
        first = len(FRONT) + chunk.kept - chunk.start
        held = torch.cat([memory.far, memory.near], dim=3)[:, :, :, chunk.kept : chunk.end]
        assert (held[0] - keys[:, :, first:]).abs().max() < 1e-4
        assert (held[1] - values[:, :, first:]).abs().max() < 1e-4


def plain_entries(model: ReaderModel, tokens: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' own cache holds, turned back: `[layers, kv_heads, n, head_dim]`."""
    cache = model.model(torch.tensor([tokens]), use_cache=True).past_key_values
    assert model.rotation is not None
    keys = torch.stack([layer.keys[0] for layer in cache.layers])
    values = torch.stack([layer.values[0] for layer in cache.layers])
    return model.rotation.turn(keys, -torch.arange(len(tokens))), values


class Killed(Exception):
    pass


@pytest.mark.parametrize(("rate", "keep"), [(1.0, "auto"), (4.0, "locret"), (4.0, "infinipot")])
def test_a_reading_cut_short_is_gone_on_with_and_comes_to_the_same(
    rate: float, keep: Keep, tmp_path: Path, tiny: Tiny
) -> None:
    options = RememberOptions(64, 16, 8, rate=rate, keep=keep)
    with Engine(tiny()) as engine:
        submitted: list[GenerationRequest] = []

        def submit(request: GenerationRequest) -> Stream:
            submitted.append(request)
            return engine.submit(request)

        def begin(progress: Callable[[int], None], folder: Path | None) -> DocumentMemory:
            submitted.clear()
            return remember(
                submit, tiny(), TEXT, (FRONT,), options, heads=made_heads(), folder=folder, progress=progress
            )

        def killed(done: int) -> None:
            if done > 100:
                raise Killed

        with pytest.raises(Killed):
            begin(killed, tmp_path / "memory")
        assert [len(request.token_ids) for request in submitted] == [64, 64]
        with pytest.raises(InvalidMemory, match="no whole memory"):
            DocumentMemory.load(tmp_path / "memory")
        told: list[int] = []
        begin(told.append, tmp_path / "memory")
        assert told == [150]
        assert len(submitted) == 1
        whole = begin(told.append, None)
        assert len(submitted) == 3
        loaded = DocumentMemory.load(tmp_path / "memory")
        assert torch.equal(loaded.far, whole.far)
        assert torch.equal(loaded.near, whole.near)
        assert sorted(path.name for path in (tmp_path / "memory").iterdir()) == sorted(
            ["far.bin", "near.bin", "memory.json"] + ["places.bin"] * (rate > 1)
        )


def test_a_chunk_is_on_the_disk_before_it_is_noted_as_read(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    sync = DocumentMemory.sync

    def synced(memory: DocumentMemory) -> None:
        progress = tmp_path / "progress.json"
        noted.append(json.loads(progress.read_text())["done"] if progress.exists() else "nothing")
        sync(memory)

    monkeypatch.setattr(DocumentMemory, "sync", synced)
    with Engine(tiny()) as engine:
        remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8), folder=tmp_path)
    assert noted == ["nothing", 64, 112, 150]  # the last before it is told to be whole


def test_what_was_begun_otherwise_is_begun_again(tmp_path: Path, tiny: Tiny) -> None:
    def killed(done: int) -> None:
        raise Killed

    with Engine(tiny()) as engine:
        for text, options in (
            (TEXT, RememberOptions(64, 16, 8)),
            (TEXT[::-1], RememberOptions(64, 16, 8)),
            (TEXT, RememberOptions(64, 16, 9)),
            (TEXT, RememberOptions(64, 17, 9)),
        ):
            with pytest.raises(Killed):
                remember(engine.submit, tiny(), text, (FRONT,), options, folder=tmp_path, progress=killed)
            told: list[int] = []
            whole = remember(engine.submit, tiny(), text, (FRONT,), options, folder=tmp_path, progress=told.append)
            assert told[0] > 64  # the first chunk is not read again
            assert torch.equal(DocumentMemory.load(tmp_path).far, whole.far)
            (tmp_path / "progress.json").write_text("{}")
            remember(engine.submit, tiny(), text, (FRONT,), options, folder=tmp_path, progress=told.append)
            assert told.count(64) == 1


def test_a_reading_begun_in_the_place_of_a_whole_memory_leaves_none_until_it_is_whole(
    tmp_path: Path, tiny: Tiny
) -> None:
    def killed(done: int) -> None:
        raise Killed

    options = RememberOptions(64, 16, 8)
    with Engine(tiny()) as engine:
        remember(engine.submit, tiny(), TEXT, (FRONT,), options, folder=tmp_path)
        with pytest.raises(Killed):
            remember(engine.submit, tiny(), TEXT[::-1], (FRONT,), options, folder=tmp_path, progress=killed)
    with pytest.raises(InvalidMemory, match="no whole memory"):
        DocumentMemory.load(tmp_path)


def test_another_reader_s_memory_is_refused(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        memory = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8))
        with pytest.raises(MemoryMismatch, match="made by another reader"):
            engine.submit(GenerationRequest(ASKED, 2, recall=RecallRequest((memory,))))
    with Engine(tiny("qwen3")) as engine, pytest.raises(MemoryMismatch, match="than qwen3 with no adapter"):
        engine.submit(asked(RecallRequest((memory,))))


def test_a_place_outside_the_window_is_refused(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        long = remember(engine.submit, tiny(), ids(600), (FRONT,), RememberOptions(64, 16, 8))
        with pytest.raises(PromptTooLong, match="takes 624 tokens"):
            engine.submit(asked(RecallRequest((long,), places="true")))
        engine.submit(asked(RecallRequest((long,)))).result()
        with pytest.raises(InvalidOption, match="window is 64; expected 1 to 11"):
            remember(engine.submit, tiny(), TEXT, (ids(500),), RememberOptions(64, 16, 8))


def test_policies_and_memories_do_not_go_together(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        memory = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8))
    with pytest.raises(InvalidOption, match="memory policy is 'streaming'; expected none"):
        asked(RecallRequest((memory,)), memory=memory_options({"policy": "streaming", "budget": 64}))


def test_who_fails_to_collect_is_told_and_nobody_else_is(tiny: Tiny) -> None:
    def broken(sequence: object) -> None:
        raise OSError("the disk is full")

    with Engine(tiny()) as engine:
        other = engine.submit(GenerationRequest(TEXT, 60))
        with pytest.raises(OSError, match="the disk is full"):
            engine.submit(GenerationRequest(TEXT, 1, collect=broken)).result()
        assert other.result().finish_reason in ("length", "stop")
        assert engine.submit(GenerationRequest(TEXT, 4)).result().token_ids
        engine._scheduler.check_integrity()


def test_cancelled_while_it_recalls_it_leaves_nothing_behind(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        memory = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8))
        streams = [engine.submit(asked(RecallRequest((memory,), 9))) for _ in range(4)]
        for stream in streams:
            stream.cancel()
        assert all(stream.result().finish_reason in ("cancelled", "length", "stop") for stream in streams)
    engine._scheduler.check_integrity()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"overlap": 64}, "overlap is 64; expected 0 or more, and less than the window of 64"),
        ({"window": 0, "overlap": None}, "window is 0"),
        ({"overlap": -1}, "overlap is -1"),
        ({"near": 0}, "near is 0"),
        ({"layers": ()}, r"layers is \[\]; expected at least one layer that retrieves"),
        ({"rate": 0.5}, "rate is 0.5"),
        ({"rate": 65.0}, "rate is 65"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        RememberOptions(**({"window": 64, "overlap": 16} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 5000}, r"window is 5000; expected 1 to \d+, what there is room for in the model's"),
        ({"overlap": 5000}, r"overlap is 5000; expected less than the \d+ tokens that are read"),
        ({"near": 5000}, r"near is 5000; expected 1 to 256, half of the model's window"),
    ],
)
def test_options_that_the_model_has_no_room_for_are_named(options: dict[str, int], match: str, tiny: Tiny) -> None:
    with Engine(tiny()) as engine, pytest.raises(InvalidOption, match=match):
        remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(**options))


def test_a_layer_that_the_model_does_not_have_is_refused(tiny: Tiny) -> None:
    with (
        Engine(tiny()) as engine,
        pytest.raises(InvalidMemory, match=r"layers are \[3\]; expected some of 0 to 2"),
    ):
        remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8, layers=(3,)))


def test_the_shape_is_the_model_s(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        plan = remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(64, 16, 8)).plan
    shape = cache_shape(tiny())
    assert (plan.layers, plan.kv_heads, plan.head_dim, plan.dtype) == (shape.layers, shape.kv_heads, 16, "float32")
    assert plan.retrieving == (1, 2)
    assert plan.tokens == 150


def test_by_default_as_much_is_read_at_once_as_the_window_has_room_for(tiny: Tiny) -> None:
    with Engine(tiny()) as engine:
        told: list[int] = []
        remember(engine.submit, tiny(), ids(1200), (FRONT,), RememberOptions(), progress=told.append)
    assert told[0] == tiny().window - len(FRONT) - 1
    assert told[1] - told[0] == told[0] - told[0] // 4
    with (
        Engine(tiny()) as engine,
        pytest.raises(InvalidOption, match="overlap is 600; expected less than the 500"),
    ):
        remember(engine.submit, tiny(), TEXT, (FRONT,), RememberOptions(overlap=600))
