"""What of a document a thinned memory holds, against a slow and plain reading of each chunk. Methods 1.2.1 and
6.1.2."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refdesk.memory.document_memory import DocumentMemory, MemoryPlan
from refdesk.memory.overlap import Chunk
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.engine import Engine
from refdesk.reader.errors import InvalidOption
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.prompt import encode_catalyst
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.thinning import Keep, thinning_of
from tests.reader.pot import INF, Pot
from tests.reader.stepped import ids, made_heads

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
FRONT, TEXT, ASKED = ids(11, 1), ids(150, 2), ids(13, 3)
OPTIONS = RememberOptions(window=64, overlap=16, near=8, layers=(0, 1, 2))
each = pytest.mark.parametrize("keep", ["locret", "infinipot"])


def read_plainly(model: ReaderModel, chunk: Chunk) -> tuple[Pot, torch.Tensor]:
    """What is held behind a chunk that the catalyst has looked at, and what of its tokens was expected how little;
    of the first, which nothing stands in front of, not at all."""
    tokens, pot = TEXT[chunk.start : chunk.end], Pot(model, made_heads())
    pot.forward(FRONT)
    pot.keep()
    logits = pot.forward(tokens, chunk.start)
    pot.keep()
    pot.look(encode_catalyst(model))
    expected = logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return pot, torch.cat([torch.tensor([INF]), -expected])


def plain_choice(model: ReaderModel, keep: Keep, plan: MemoryPlan, chunks: list[Chunk]) -> list[list[list[int]]]:
    """The tokens that each head of each layer holds, one by one."""
    held: list[list[list[int]]] = [[[] for _ in range(plan.kv_heads)] for _ in range(plan.layers)]
    for chunk in chunks:
        pot, novelty = read_plainly(model, chunk)
        far = list(range(chunk.kept, min(chunk.end, plan.far)))
        room = int(min(chunk.end, plan.far) / plan.rate) - int(min(chunk.kept, plan.far) / plan.rate)
        newest = sorted(far, key=lambda token: -float(novelty[token - chunk.start]))[: room // 2]
        for layer, row in enumerate(pot.rows):
            for head in range(plan.kv_heads):
                worth = (row.scores if keep == "locret" else row.seen)[head, len(FRONT) :]
                best = sorted(far, key=lambda token: -float(worth[token - chunk.start]))
                if keep == "infinipot":
                    best = newest + [token for token in best if token not in newest]
                held[layer][head] += sorted(best[:room])
    return held


def remembered(
    model: ReaderModel, options: RememberOptions, chunk_tokens: int = 512, company: int = 0
) -> DocumentMemory:
    with Engine(model, chunk_tokens=chunk_tokens) as engine:
        for seed in range(company):
            engine.submit(GenerationRequest(ids(40, seed), 60))
        return remember(engine.submit, model, TEXT, (FRONT,), options, heads=made_heads())


@each
@pytest.mark.parametrize(("chunk_tokens", "company"), [(7, 0), (512, 0), (24, 3)])
@pytest.mark.parametrize(("rate", "overlap"), [(1.5, 16), (5.0, 0)])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_of_each_chunk_every_head_holds_what_a_plain_reading_ranks_highest(
    kind: str, rate: float, overlap: int, chunk_tokens: int, company: int, keep: Keep, tiny: Tiny
) -> None:
    """Whatever the engine reads at once, and whoever else is served."""
    model, options = tiny(kind), replace(OPTIONS, rate=rate, overlap=overlap, keep=keep)
    memory = remembered(model, options, chunk_tokens, company)
    assert memory.places is not None
    expected = plain_choice(model, keep, memory.plan, options.chunks(len(TEXT), 512))
    assert memory.places.tolist() == expected
    assert expected[0][0] != expected[0][1] != expected[2][1]


@each
def test_a_thinned_memory_holds_of_what_it_keeps_what_a_whole_one_does(keep: Keep, tiny: Tiny) -> None:
    """So the catalyst leaves no trace: methods 6.1.5, 5."""
    whole, thin = remembered(tiny(), OPTIONS), remembered(tiny(), replace(OPTIONS, rate=5.0, keep=keep))
    assert thin.places is not None
    assert thin.places.shape == (3, 2, 28)
    assert 1 < thin.plan.bytes * 5 / whole.plan.bytes < 2  # places, and what is near, besides
    places = thin.places.long()[None, ..., None].expand(2, -1, -1, -1, 16)
    assert torch.allclose(thin.far, whole.far.gather(3, places), atol=1e-5)
    assert torch.allclose(thin.near, whole.near, atol=1e-5)
    with Engine(tiny()) as engine:
        found = GenerationRequest(ASKED, 4, front=(FRONT,), recall=RecallRequest((thin,), 9))
        assert engine.submit(found).result().token_ids


def test_half_of_what_infinipot_keeps_is_the_same_in_all_heads(tiny: Tiny) -> None:
    memory = remembered(tiny(), replace(OPTIONS, rate=5.0, keep="infinipot"))
    assert memory.places is not None
    rows = [set(row.tolist()) for row in memory.places.flatten(0, 1)]
    assert 28 > len(set.intersection(*rows)) >= sum(room // 2 for room in (12, 10, 6))
    assert 0 in set.intersection(*rows)  # the first of a text is infinitely new


def test_what_is_near_has_no_place_among_what_is_new(tiny: Tiny) -> None:
    """Else the last chunk would hold fewer for their novelty than its share."""
    options = replace(OPTIONS, rate=3.0, near=40, keep="infinipot")
    memory = remembered(tiny(), options)
    expected = plain_choice(tiny(), "infinipot", memory.plan, options.chunks(len(TEXT), 512))
    assert memory.places is not None and memory.places.tolist() == expected
    assert memory.places.max() < 110


def test_heads_choose_where_there_are_some_and_infinipot_where_there_are_none(tiny: Tiny) -> None:
    heads, model = made_heads(), tiny()
    for keep, given, chosen in (
        ("auto", heads, "locret"),
        ("auto", None, "infinipot"),
        ("locret", heads, "locret"),
        ("infinipot", heads, "infinipot"),
        ("infinipot", None, "infinipot"),
    ):
        found = thinning_of(keep, 2.0, model, None, given)  # type: ignore[arg-type]
        assert found.keep == chosen
        assert (found.heads is None) == (found.catalyst != ()) == (chosen == "infinipot")
        assert thinning_of("auto", 1.0, model, None, given).keep == "auto"
    with pytest.raises(
        InvalidOption, match="keep is 'locret'; expected infinipot or auto, for there are no retain"
    ):
        thinning_of("locret", 2.0, model, None, None)


class Killed(Exception):
    pass


def killed(done: int) -> None:
    raise Killed


def test_what_was_begun_to_be_chosen_otherwise_is_begun_again(tmp_path: Path, tiny: Tiny) -> None:
    heads, options = made_heads(), replace(OPTIONS, rate=2.0)
    ways = [heads, replace(heads, fingerprint="others"), None]
    with Engine(tiny()) as engine:

        def begin(given: RetainingHeads | None, progress: Callable[[int], None]) -> None:
            remember(
                engine.submit, tiny(), TEXT, (FRONT,), options, heads=given, folder=tmp_path, progress=progress
            )

        for before, after in zip(ways, ways[1:] + ways[:1], strict=True):
            told: list[int] = []
            with pytest.raises(Killed):
                begin(before, killed)
            begin(after, told.append)
            assert told == [64, 112, 150]


def test_a_window_has_room_for_the_catalyst_behind_what_is_read(tiny: Tiny) -> None:
    told: list[int] = []
    with Engine(tiny()) as engine:
        remember(engine.submit, tiny(), ids(1200), (FRONT,), RememberOptions(rate=4.0), progress=told.append)
    assert told[0] == tiny().window - len(FRONT) - len(encode_catalyst(tiny()))


@pytest.mark.parametrize(
    ("rate", "keep", "match"),
    [
        (2.0, "best", "keep is 'best'; expected one of auto, locret, infinipot"),
        (1.0, "infinipot", "keep is 'infinipot'; expected auto, for at the rate 1 everything is held"),
        (1.0, "locret", "keep is 'locret'; expected auto"),
    ],
)
def test_a_choice_that_is_none_or_has_no_effect_is_refused(rate: float, keep: Keep, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        RememberOptions(rate=rate, keep=keep)
