"""Locret and InfiniPot in the engine, against an oracle that turns every key anew. Methods 1.5 and 6.1.5."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.policies.infinipot import InfiniPot, InfiniPotQ
from refdesk.memory.policies.locret import Locret, LocretQ
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy
from refdesk.reader.engine import Engine
from refdesk.reader.errors import HeadsMismatch, InvalidOption, PromptTooLong
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from tests.reader.pot import INF, Pot, tell
from tests.reader.stepped import SLOTS, ids, made_heads, stepped

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
PREFIX = ids(11, 500)
CATALYST = ids(6, 501)
every = pytest.mark.parametrize(
    "policy",
    [
        Locret(local=5),
        Locret(stabilizers=0, local=0),
        InfiniPot(local=5),
        InfiniPotQ(novelty=0),
        InfiniPot(novelty=100),
    ],
    ids=str,
)


def asked(policy: EvictionPolicy, room: int, tokens: int = 150, **options: Any) -> GenerationRequest:
    """That `room` entries of its document stay. No token of a short one comes twice: in the first layer both would
    have the same score, and rounding decides."""
    front = options.get("front", (PREFIX,))
    distinct = torch.randperm(253, generator=torch.Generator().manual_seed(7))[:tokens] + 3
    return GenerationRequest(
        ids(tokens, 7) if tokens > 253 else tuple(distinct.tolist()),
        **{
            "memory": MemoryOptions(policy, budget=sum(map(len, front)) + room + policy.local),
            "front": front,
            "max_new_tokens": 12,
            "continuations": (ids(5, 8), ids(1, 9)),
            "catalyst": CATALYST if policy.catalyst != "none" else (),
            "heads": made_heads() if policy.learned else None,
            **options,
        },
    )


def locret(pot: Pot, layer: int, last: bool, stable: int) -> torch.Tensor:
    row = pot.rows[layer]
    worth = row.scores.clone()
    if not last and stable:
        worth[:, -stable:] = INF
    return worth


def infinipot(pot: Pot, layer: int, room: int, percent: int) -> torch.Tensor:
    row = pot.rows[layer]
    own = row.novelty.masked_fill(row.tokens < 0, -1.0)
    newest = own.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return torch.where(newest < room * percent // 100, INF, row.seen)


def expected(model: ReaderModel, request: GenerationRequest, room: int, chunk: int) -> Any:
    policy = request.memory.policy

    def choose(pot: Pot, layer: int, last: bool) -> torch.Tensor:
        if isinstance(policy, Locret):
            return locret(pot, layer, last, policy.stable(room))
        assert isinstance(policy, InfiniPot)
        return infinipot(pot, layer, room, policy.novelty)

    assert policy is not None
    return tell(
        Pot(model, request.heads),
        sum(request.front, ()),
        request.token_ids,
        choose,
        room=room,
        local=policy.local,
        chunk=chunk,
        new=request.max_new_tokens,
        catalyst=request.catalyst,
        continuations=request.continuations,
    )


@pytest.mark.parametrize("front", [(PREFIX,), (PREFIX[:4], PREFIX[4:]), ()], ids=["instructions", "cut", "alone"])
@every
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_engine_keeps_and_answers_what_the_oracle_does(
    kind: str, policy: EvictionPolicy, front: tuple[tuple[int, ...], ...], tiny: Tiny
) -> None:
    """Methods 1.5 (8, 9) and 6.1.5 (1, 4, 5, 6): the same entries, positions, likelihoods and words."""
    model, room, chunk = tiny(kind), 24, 13
    request = asked(policy, room, front=front)
    before = sum(map(len, front))
    told = expected(model, request, room, chunk)
    with stepped(model, chunk) as world:
        job = world.add(request)
        while job._read is None:
            world.step()
        sequence = job.sequences[-1]
        assert (sequence.entries == sequence.position).all()
        assert sequence.position == before + room + policy.local
        world.finish()
        generation = job.stream.result()
    assert list(generation.token_ids) == told.token_ids
    for found, nll in zip(generation.continuation_nll, told.nll, strict=True):
        assert found == pytest.approx(nll, abs=2e-3)
    (held,) = generation.held
    assert held.tolist() == pytest.approx(told.held)
    use, aside = generation.memory, len(request.catalyst)
    most = max(chunk + aside, policy.local + generation.completion_tokens - 1)
    assert use.peak_entries == (before + room + most) * SLOTS
    read = request.prompt_tokens + generation.completion_tokens - 1
    assert use.held_entries + use.freed_entries == read * SLOTS


@pytest.mark.parametrize("chunk", [7, 64])
@every
def test_what_fits_the_budget_is_read_as_if_there_were_none(
    policy: EvictionPolicy, chunk: int, tiny: Tiny
) -> None:
    """Methods 1.5 (1) and 6.1.5 (2, 5): to the last token, catalyst or not."""
    model, request = tiny(), asked(policy, 150)
    plain = replace(request, memory=MemoryOptions(), heads=None, catalyst=())
    with Engine(model, chunk_tokens=chunk) as engine:
        found, whole = (engine.submit(one).result() for one in (request, plain))
    assert found.token_ids == whole.token_ids
    for one, other in zip(found.continuation_nll, whole.continuation_nll, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert found.memory.held_entries == whole.memory.held_entries
    assert found.memory.freed_entries == found.memory.freed_bytes == 0


def stored(model: ReaderModel, request: GenerationRequest, chunk: int, what: str) -> torch.Tensor:
    """What the pool has of the document's entries in the order of the text, `[layers, kv_heads, n]`."""
    with stepped(model, chunk) as world:
        job = world.add(replace(request, max_new_tokens=2, continuations=()))
        while job._read is None:
            world.step()
        slots, _ = job.sequences[0].own_slots()
        order = world.pool.positions.view(-1)[slots].argsort(-1)
        return getattr(world.pool, what).view(-1)[slots.gather(-1, order)].clone()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_scores_do_not_depend_on_chunks_nor_on_what_comes_later(kind: str, tiny: Tiny) -> None:
    """Methods 1.5, 2 and 3."""
    model, request = tiny(kind), asked(Locret(local=0), 150)
    found = [stored(model, request, chunk, "scores") for chunk in (1, 7, 64, 512)]
    assert found[0].shape == (3, 2, 150) and found[0].std() > 0
    for other in found[1:]:
        assert torch.allclose(found[0], other, atol=1e-3)
    changed = replace(request, token_ids=request.token_ids[:90] + ids(60, 77))
    later = stored(model, changed, 64, "scores")
    assert torch.allclose(later[..., :90], found[0][..., :90], atol=1e-3)
    assert not torch.allclose(later[..., 90:], found[0][..., 90:], atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_novelty_is_the_loss_of_one_ordinary_forward_across_chunks(kind: str, tiny: Tiny) -> None:
    """Methods 6.1.5, 4."""
    model, request = tiny(kind), asked(InfiniPot(local=0), 150, front=())
    logits = model.model(input_ids=torch.tensor([request.token_ids])).logits[0, :-1]
    loss = -logits.log_softmax(-1).gather(1, torch.tensor(request.token_ids[1:])[:, None])[:, 0]
    for chunk in (1, 7, 64, 512):
        found = stored(model, request, chunk, "novelty")
        assert (found[..., 0] == INF).all()
        assert torch.allclose(found[..., 1:], loss.expand(3, 2, -1), atol=1e-3)


def test_a_text_of_many_windows_is_read_in_a_memory_that_does_not_grow(tiny: Tiny) -> None:
    """Methods 1.5 (8) and 6.1.5 (1)."""
    model = tiny("llama", 512)
    for policy in (Locret(), InfiniPot()):
        use = []
        for tokens in (2000, 6000):
            request = asked(policy, 100, tokens)
            with stepped(model, 64, tokens=11 + 100 + 32 + 64 + 6 + 5 * 16) as world:
                job = world.add(request)
                while not world.scheduler.idle:
                    world.step()
                    assert all(one.position <= 143 + 64 + 6 for one in job.sequences)
                use.append(job.stream.result().memory)
        assert use[0].peak_entries == use[1].peak_entries <= (143 + 64 + len(request.catalyst)) * SLOTS


def test_passages_read_apart_are_thinned_one_by_one_and_found_again(tiny: Tiny) -> None:
    model, passages = tiny(), (ids(150, 31), ids(20, 32), ids(90, 33))
    for policy in (Locret(), InfiniPot()):
        request = replace(asked(policy, 60, 9), passages=passages)
        request = replace(request, memory=MemoryOptions(policy, budget=90))
        with stepped(model, 24) as world:
            jobs = []
            for one in (request, replace(request, token_ids=ids(14, 55))):
                jobs.append(world.add(one))
                world.finish()
            held = [int(run.entries.max()) for run in world.scheduler._runs._runs.values()]
        assert sorted(held) == [11, 20, 30, 30]
        assert [job.stream.result().run_hits for job in jobs] == [0, 4]
        assert list(jobs[0].runs.values())[1].position - len(PREFIX) in (20, 30)
        whole = replace(request, memory=MemoryOptions(policy, rate=1))
        plain = replace(request, memory=MemoryOptions(), heads=None, catalyst=())
        with Engine(model, chunk_tokens=24) as engine:
            found = [engine.submit(one).result().token_ids for one in (whole, plain)]
        assert found[0] == found[1]


def test_runs_of_other_heads_and_catalysts_are_other_runs(tiny: Tiny) -> None:
    passages = (ids(50, 31),)
    with stepped(tiny(), 24) as world:
        misses = []
        for policy, options in (
            (Locret(), {}),
            (Locret(), {"heads": replace(made_heads(), fingerprint="other")}),
            (LocretQ(), {}),
            (InfiniPotQ(), {}),
            (InfiniPotQ(), {"catalyst": ids(3, 3)}),
            (InfiniPotQ(), {"catalyst": ids(3, 3)}),
        ):
            job = world.add(replace(asked(policy, 40, 9, **options), passages=passages))
            world.finish()
            misses.append(job.stream.result().run_misses)
    assert misses == [2, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("policy", [Locret(), InfiniPot()], ids=["locret", "infinipot"])
def test_cancelling_at_any_step_loses_no_block(policy: EvictionPolicy, tiny: Tiny) -> None:
    for steps in range(1, 16, 2):
        with stepped(tiny(), 24) as world:
            jobs = [world.add(asked(policy, 30)), world.add(replace(asked(policy, 30, 9), passages=(ids(99, 1),)))]
            world.step(steps)
            for job in jobs:
                job.cancelled = True
            world.step()
            assert world.scheduler.idle
            assert world.pool.used == world.run_blocks


def test_a_policy_that_learns_is_refused_without_heads(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        with pytest.raises(
            InvalidOption, match=r"'locret'; expected retaining heads trained for llama without an"
        ):
            engine.submit(asked(Locret(), 100, heads=None))
        with pytest.raises(InvalidOption, match="such as infinipot"):
            engine.submit(asked(LocretQ(), 100, heads=None))
        assert engine.memory_used == 0


def test_heads_of_other_shapes_are_refused_before_anything_is_read(tiny: Tiny) -> None:
    heads = made_heads()
    with Engine(tiny()) as engine:
        with pytest.raises(HeadsMismatch, match="heads other has shapes"):
            engine.submit(asked(Locret(), 100, heads=replace(heads, fingerprint="other", down=heads.down[1:])))
        assert engine.memory_used == 0


def test_what_belongs_to_no_policy_is_refused() -> None:
    with pytest.raises(InvalidOption, match="heads is 'random'; expected none"):
        asked(Streaming(), 100, heads=made_heads())
    with pytest.raises(InvalidOption, match="heads is 'random'; expected none"):
        GenerationRequest((5,), heads=made_heads(), collect=print)
    with pytest.raises(InvalidOption, match=r"catalyst is \(\); expected tokens"):
        asked(InfiniPot(), 100, catalyst=())
    with pytest.raises(InvalidOption, match="catalyst is"):
        asked(Locret(), 100, catalyst=CATALYST)
    with pytest.raises(InvalidOption, match="memory policy is 'auto'; expected the policy that was chosen"):
        GenerationRequest((5,), memory=MemoryOptions(budget=50, auto=True))
    with pytest.raises(InvalidMemory, match="budget is 42; expected at least 44: 11 tokens stand in front"):
        asked(Locret(), 100, memory=MemoryOptions(Locret(), budget=42))


def test_a_budget_that_does_not_fit_the_window_is_refused(tiny: Tiny) -> None:
    with Engine(tiny("llama", 512), chunk_tokens=64) as engine:
        engine.submit(asked(InfiniPot(), 300, 5000, max_new_tokens=1)).cancel()
        with pytest.raises(PromptTooLong, match="window of 512"):
            engine.submit(asked(InfiniPot(), 400, 5000))


def twice_as_far(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are turned by another angle than the frequencies say."""
    rope = model.model.rotary_emb
    forward = rope.forward
    monkeypatch.setattr(rope, "forward", lambda x, position_ids: forward(x, 2 * position_ids))


def not_in_one_layer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer turns nothing."""
    attention = model.model.layers[1].self_attn
    forward = attention.forward

    def unturned(hidden_states: torch.Tensor, position_embeddings: Any, *more: Any, **named: Any) -> Any:
        cos, sin = position_embeddings
        return forward(hidden_states, (torch.ones_like(cos), torch.zeros_like(sin)), *more, **named)

    monkeypatch.setattr(attention, "forward", unturned)


def by_length(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frequencies depend on the length of the text: a kind of model that says so."""
    rope = model.model.rotary_emb
    constant = type(rope).forward.__wrapped__.__wrapped__  # without what would look up the others
    monkeypatch.setattr(rope, "rope_type", "longrope")
    monkeypatch.setattr(rope, "forward", lambda x, position_ids: constant(rope, x, position_ids))


@pytest.mark.parametrize("change", [twice_as_far, not_in_one_layer, by_length])
def test_a_model_whose_turning_is_not_known_runs_but_takes_no_policy_that_moves_entries(
    change: Callable[[Any, pytest.MonkeyPatch], None], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(tiny("qwen3"))  # which has not been asked yet
    change(model.model, monkeypatch)
    with Engine(model) as engine:
        assert not engine.moves_entries
        with pytest.raises(InvalidOption, match="in_line is True; expected false"):
            engine.submit(asked(Streaming(), 100, memory=KEEP_EVERYTHING, in_line=True))
        with pytest.raises(InvalidOption, match="'infinipot'; expected one that leaves positions as they are"):
            engine.submit(asked(InfiniPot(), 100))
        memory = MemoryOptions(Streaming(), budget=60)
        assert engine.submit(asked(Streaming(), 100, memory=memory)).result().completion_tokens
