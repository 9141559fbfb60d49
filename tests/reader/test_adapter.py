"""Adapters run beside the model and beside each other as if each were merged into a model of its own."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from refdesk.reader.adapter import Adapter, load_adapter
from refdesk.reader.engine import Engine
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.packing import pack_linears
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, AnswerOptions
from tests.reader.test_runs import PASSAGES, PREFIX, asked, same, stepped

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
KINDS = ["llama", "qwen2", "qwen3"]


def packed(plain: ReaderModel) -> ReaderModel:
    """The same model for the engine."""
    model = copy.deepcopy(plain.model)
    return replace(plain, model=model, low_rank=pack_linears(model))


def trained(plain: ReaderModel, folder: Path, seed: int = 0, spread: float = 0.3, **config: Any) -> Path:
    """What peft saves of an adapter, here of random numbers, and the card that training writes."""
    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
    model = get_peft_model(copy.deepcopy(plain.model), LoraConfig(**chosen))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=spread)
    model.save_pretrained(folder)
    write_card(folder, base_name=plain.name, base_fingerprint=plain.fingerprint)
    return folder


def write_card(folder: Path, **card: Any) -> None:
    (folder / "card.json").write_text(json.dumps(card))


def merged(plain: ReaderModel, folder: Path) -> ReaderModel:
    """The oracle: peft adds the adapter to the weights."""
    return replace(plain, model=PeftModel.from_pretrained(copy.deepcopy(plain.model), folder).merge_and_unload())


def generated(model: ReaderModel, ids: tuple[int, ...], max_new_tokens: int) -> tuple[int, ...]:
    """The oracle: transformers' own greedy search."""
    prompt = torch.tensor([ids])
    output = model.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=max_new_tokens
    )
    return tuple(output[0, len(ids) :].tolist())


def answered(model: ReaderModel, request: GenerationRequest, **options: Any) -> Generation:
    """By an engine with nothing else to do."""
    with Engine(model, **options) as engine:
        return engine.submit(request).result()


@dataclass
class World:
    """A model for the engine with two adapters, and the base model and both merged as oracles."""

    plain: ReaderModel
    model: ReaderModel
    adapters: tuple[Adapter, Adapter]
    merged: tuple[ReaderModel, ReaderModel]


@pytest.fixture(scope="module")
def world(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """`world(kind)`: of different ranks, one of them no multiple of four."""
    made: dict[str, World] = {}

    def make(kind: str = "llama") -> World:
        if kind not in made:
            plain, folder = tiny(kind), tmp_path_factory.mktemp(kind)
            model = packed(plain)
            folders = [trained(plain, folder / f"{kind}-{rank}", seed=rank, r=rank) for rank in (4, 6)]
            first, second = (load_adapter(one, model) for one in folders)
            made[kind] = World(
                plain, model, (first, second), (merged(plain, folders[0]), merged(plain, folders[1]))
            )
        return made[kind]

    return make


@pytest.mark.parametrize("chunk_tokens", [7, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate_of_the_merged_model(
    kind: str, chunk_tokens: int, world: Callable[[str], World]
) -> None:
    it = world(kind)
    for length in (1, 40, 200):
        request = replace(asked(length, length), max_new_tokens=40, continuations=())
        expected = {generated(model, request.token_ids, 40) for model in (it.plain, *it.merged)}
        assert len(expected) == 3  # they have something to say
        for adapter, oracle in zip((None, *it.adapters), (it.plain, *it.merged), strict=True):
            found = answered(it.model, replace(request, adapter=adapter), chunk_tokens=chunk_tokens)
            assert found.token_ids == generated(oracle, request.token_ids, 40), (length, adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_the_model_and_merged_into_it_an_adapter_says_the_same(
    kind: str, world: Callable[[str], World]
) -> None:
    it = world(kind)
    for options in ({}, {"front": (PREFIX,), "passages": PASSAGES}, {"temperature": 1.0, "seed": 4}):
        request = replace(asked(5), **options)
        for adapter, oracle in zip(it.adapters, it.merged, strict=True):
            assert same(answered(it.model, replace(request, adapter=adapter)), answered(packed(oracle), request))


def test_continuations_are_as_likely_as_the_merged_model_says(world: Callable[[str], World]) -> None:
    it = world("llama")
    request = asked(8, 30)
    for adapter, oracle in zip(it.adapters, it.merged, strict=True):
        found = answered(it.model, replace(request, adapter=adapter)).continuation_nll
        for continuation, nll in zip(request.continuations, found, strict=True):
            tokens = torch.tensor([request.token_ids + continuation])
            logits = oracle.model(input_ids=tokens).logits[0, len(request.token_ids) - 1 : -1].log_softmax(-1)
            expected = -logits.gather(1, torch.tensor(continuation)[:, None])[:, 0]
            assert nll == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_an_adapter_is_as_close_as_the_model_is(kind: str, world: Callable[[str], World]) -> None:
    """The oracle is the merged model in float32, within what rounding costs the base model."""
    it = world(kind)
    request = asked(6, 40, continuations=(asked(7, 60).token_ids,))
    brief = copy.deepcopy(it.plain.model).to(torch.bfloat16)
    model = replace(it.plain, model=brief, dtype=torch.bfloat16, low_rank=pack_linears(brief))
    off = []
    for adapter, oracle in zip((None, *it.adapters), (it.plain, *it.merged), strict=True):
        found = torch.tensor(answered(model, replace(request, adapter=adapter)).continuation_nll[0])
        expected = torch.tensor(answered(packed(oracle), request).continuation_nll[0])
        off.append(float((found - expected).abs().mean() / expected.std()))
    assert max(off[1:]) < 2 * off[0]


@pytest.mark.parametrize("kind", KINDS)
def test_in_one_batch_everybody_says_what_they_say_alone(kind: str, world: Callable[[str], World]) -> None:
    """Chunks of prompts and of passages beside tokens that are generated, in small batches and in large."""
    it = world(kind)
    requests = [
        replace(asked(30 + i, (9, 60, 140)[i % 3], **options), adapter=adapter, max_new_tokens=10 + 4 * i)
        for options in ({}, {"front": (PREFIX,), "passages": PASSAGES})
        for i, adapter in enumerate((None, *it.adapters, it.adapters[0], None, it.adapters[1]))
    ]
    expected = [answered(it.model, request) for request in requests]
    assert len({one.token_ids for one in expected}) == len(expected)
    for chunk_tokens, steps in ((24, 1), (24, 5), (100, 2)):
        with stepped(it.model, chunk_tokens) as company:
            jobs = []
            for request in requests:
                jobs.append(company.add(request))
                company.step(steps)
            company.finish()
            for job, alone in zip(jobs, expected, strict=True):
                found = job.stream.result()
                assert found.token_ids == alone.token_ids
                for one, other in zip(found.continuation_nll, alone.continuation_nll, strict=True):
                    assert one == pytest.approx(other, abs=1e-3)


def test_a_run_belongs_to_the_adapter_that_read_it(world: Callable[[str], World]) -> None:
    it = world("llama")
    request = asked(50, 10, front=(PREFIX,), passages=PASSAGES)
    with stepped(it.model) as company:
        misses = []
        for adapter in (None, *it.adapters, None, *it.adapters, replace(it.adapters[0], name="alias")):
            job = company.add(replace(request, adapter=adapter))
            company.finish()
            misses.append(job.stream.result().run_misses)
    assert misses == [4, 4, 4, 0, 0, 0, 0]


def test_an_adapter_that_has_learned_nothing_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    model = packed(tiny())
    adapter = load_adapter(trained(tiny(), tmp_path / "fresh", spread=0.0), model)
    request = asked(9, front=(PREFIX,), passages=PASSAGES)
    plain, found = answered(model, request), answered(model, replace(request, adapter=adapter))
    assert (found.token_ids, found.continuation_nll) == (plain.token_ids, plain.continuation_nll)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["up_proj"]},
        {"target_modules": ["o_proj", "down_proj"], "layers_to_transform": [1]},
        {"use_rslora": True, "r": 9},
        {"rank_pattern": {"q_proj": 2, r"model\.layers\.1\.mlp\..*": 7}, "alpha_pattern": {"up_proj": 3}},
        {"rank_pattern": {"layers.0.self_attn.k_proj": 1}, "use_rslora": True},
        {"init_lora_weights": "orthogonal"},
    ],
)
def test_what_an_adapter_is_made_of_is_honoured(config: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    plain = tiny("qwen3")
    model, folder = packed(plain), trained(plain, tmp_path / "some", **config)
    adapter = load_adapter(folder, model)
    request = replace(asked(12, 30), adapter=adapter, continuations=())
    expected = generated(merged(plain, folder), request.token_ids, 30)
    assert answered(model, request).token_ids == expected
    assert generated(plain, request.token_ids, 30) != expected
    with stepped(model) as company:  # beside one that adds to everything
        everything = load_adapter(trained(plain, tmp_path / "all", seed=1), model)
        jobs = [company.add(request), company.add(replace(request, adapter=everything))]
        company.finish()
        assert jobs[0].stream.result().token_ids == expected


def test_behind_a_forward_no_row_is_anybodys_even_if_it_failed(world: Callable[[str], World]) -> None:
    it = world("llama")
    low_rank = it.model.low_rank
    assert low_rank is not None
    with pytest.raises(ZeroDivisionError), low_rank.rows([it.adapters[0]]):
        assert low_rank.batch is not None
        raise ZeroDivisionError
    assert low_rank.batch is None
    with low_rank.rows([None, None]):
        assert low_rank.batch is None


def test_an_answer_is_by_the_adapter_that_is_asked_for_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    plain = tiny("llama", 8192)
    model = packed(plain)
    adapter = load_adapter(trained(plain, tmp_path / "mine"), model)
    shelf = [Passage("desk", "The desk", "The desk is in the hall.", 0, 24, 1.0)]
    with Engine(model) as engine:
        qa = QA(lambda question, k, documents: shelf, model, engine)
        answers = [
            qa.answer("where?", AnswerOptions(max_new_tokens=20, reading="apart", adapter=one, reference="hall"))
            for one in (None, adapter, adapter)
        ]
    assert [answer.usage.adapter for answer in answers] == ["none", "mine", "mine"]
    assert [answer.usage.run_misses for answer in answers] == [2, 2, 0]
    assert answers[0].text != answers[1].text == answers[2].text
    assert answers[0].reference_nll != answers[1].reference_nll == answers[2].reference_nll
