"""Retrieval attention equals plain attention over what it says that it attends to (methods 4.8)."""

from dataclasses import dataclass, replace

import pytest
import torch

from refdesk.memory import document_memory, key_index, unlimiformer
from refdesk.memory.attention import PagedAttention, ReferenceAttention
from refdesk.memory.document_memory import DocumentMemory, MemoryPlan
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.rotation import Rotation
from refdesk.memory.unlimiformer import Places, Recall, RecallRequest
from tests.memory.worlds import Story, Turn, World, shape

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS, KV_HEADS, DIM = 3, 2, 16
both = pytest.mark.parametrize("kind", [ReferenceAttention, FastAttention])
everywhere = pytest.mark.parametrize("places", ["clipped", "scaled", "true"])


@dataclass
class Book:
    """A memory, and all that was told to it: `keys` and `values` `[layers, kv_heads, tokens, head_dim]`."""

    memory: DocumentMemory
    keys: torch.Tensor
    values: torch.Tensor


def book(
    tokens: int = 60,
    near: int = 8,
    rate: float = 1.0,
    seed: int = 0,
    retrieving: tuple[int, ...] = (0, 2),
    kv_heads: int = KV_HEADS,
) -> Book:
    generator = torch.Generator().manual_seed(seed)
    plan = MemoryPlan(tokens, LAYERS, kv_heads, DIM, retrieving, near, rate, "float32")
    keys, values = torch.randn(2, LAYERS, kv_heads, tokens, DIM, generator=generator)
    memory = DocumentMemory.create(plan)
    memory.write(0, keys, values, torch.randn(LAYERS, kv_heads, tokens, generator=generator))
    memory.close()
    return Book(memory, keys, values)


def rotation() -> Rotation:
    """That of the world."""
    return World(ReferenceAttention)._rotation


def begun(world: World, request: RecallRequest, front: int = 5) -> tuple[Story, Recall]:
    """Somebody who has read `front` tokens, and then attends to memories."""
    story = world.story()
    world.read(Turn(story, front))
    story.sequence.position += request.width
    return story, Recall(request, world._rotation, story.sequence.position)


def held_tokens(one: Book, layer: int, head: int) -> torch.Tensor:
    """Which far tokens a head holds."""
    plan = one.memory.plan
    if layer not in plan.retrieving:
        return torch.empty(0, dtype=torch.long)
    if one.memory.places is None:
        return torch.arange(plan.far)
    return one.memory.places[plan.retrieving.index(layer), head].long()


def stand(one: Book, request: RecallRequest, token: int, end: int) -> int:
    """The position of a token, in words."""
    plan = one.memory.plan
    if token >= plan.far or request.places == "true":
        return end - plan.tokens + token
    if request.places == "clipped":
        return end - plan.held_near - 1
    assert request.span is not None
    room = min(plan.tokens, request.span) - plan.held_near
    return end - plan.held_near - room + token * room // plan.far


def expected(
    world: World, story: Story, request: RecallRequest, books: list[Book], queries: torch.Tensor, end: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One row of one head at a time: `[layers, rows, heads, dim]`, and what each token of each book was given in
    layers that retrieve."""
    told, turn = story.everything(), world._rotation.turn
    layers, kv_heads, group, rows, dim = queries.shape
    out = torch.zeros(layers, rows, kv_heads, group, dim)
    mass = [torch.zeros(one.memory.plan.tokens) for one in books]
    read = told.positions.shape[0]
    for layer in range(layers):
        for head in range(kv_heads):
            tokens, keys, values, far = [], [], [], []
            for number, one in enumerate(books):
                near = torch.arange(one.memory.plan.far, one.memory.plan.tokens)
                for token in torch.cat([held_tokens(one, layer, head), near]).tolist():
                    by = torch.tensor(stand(one, request, token, end))
                    tokens.append((number, token))
                    keys.append(turn(one.keys[layer, head, token], by))
                    values.append(one.values[layer, head, token])
                    far.append(token < one.memory.plan.far)
            recalled, is_far = torch.stack(keys), torch.tensor(far)
            for row in range(rows):
                seen = read - rows + row + 1
                query = queries[layer, head, :, row]
                logits = query @ recalled.T * dim**-0.5
                before = query @ told.keys[layer, head, :seen].T * dim**-0.5
                whole = torch.cat([before, logits], -1).softmax(-1)[:, seen:]
                shares = whole.masked_fill(~is_far, -1.0).amax(0)
                keep = ~is_far
                keep[shares.argsort(descending=True)[: min(request.entries, int(is_far.sum()))]] = True
                logits = torch.cat(
                    [query @ told.keys[layer, head, :seen].T * dim**-0.5, logits.masked_fill(~keep, -torch.inf)],
                    -1,
                )
                weights = logits.softmax(-1)
                out[layer, row, head] = weights @ torch.cat([told.values[layer, head, :seen], torch.stack(values)])
                if layer in books[0].memory.plan.retrieving:
                    for (number, token), weight in zip(tokens, weights[:, seen:].sum(0).tolist(), strict=True):
                        mass[number][token] += weight
    return out.flatten(2, 3), mass


@pytest.mark.parametrize(
    ("entries", "rate", "others"),
    [(1, 1, ()), (7, 1, ()), (7, 3, ()), (100, 1, ()), (9, 1, (30, 4)), (9, 4, (90,))],
)
@pytest.mark.parametrize("group", [1, 3])
@everywhere
@both
def test_attention_is_over_what_is_near_what_is_held_and_the_far_that_weigh_most(
    kind: type[PagedAttention], places: Places, group: int, entries: int, rate: float, others: tuple[int, ...]
) -> None:
    books = [book(rate=rate), *(book(tokens, rate=rate, seed=tokens) for tokens in others)]
    request = RecallRequest(tuple(one.memory for one in books), entries, places, span=40)
    world = World(kind, shape(LAYERS, KV_HEADS, DIM), group=group)
    story, recall = begun(world, request)
    end = story.sequence.position
    mass = [torch.zeros(one.memory.plan.tokens) for one in books]
    for rows in (6, 1, 1):
        read = world.read(Turn(story, rows, recall=recall))
        right, more = expected(world, story, request, books, torch.stack(list(read.queries))[0], end)
        assert (read.out - right).abs().max() < 1e-5
        mass = [before + now for before, now in zip(mass, more, strict=True)]
    for found, wanted in zip(recall.attended, mass, strict=True):
        assert (found - wanted).abs().max() < 1e-4
    assert recall.count > 0


@both
def test_in_a_batch_everybody_recalls_his_own(kind: type[PagedAttention]) -> None:
    world = World(kind, shape(LAYERS, KV_HEADS, DIM))
    books = [book(), book(80, seed=3)]
    requests = [RecallRequest((one.memory,), 5) for one in books]
    several = [begun(world, request) for request in requests]
    ends = [story.sequence.position for story, _ in several]
    alone = world.story()
    turns = [Turn(story, rows, recall=recall) for rows, (story, recall) in zip((4, 1), several, strict=True)]
    read = world.read(*([Turn(alone, 1)]), *turns)
    start = 1
    for number, (turn, one, request, end) in enumerate(zip(turns, books, requests, ends, strict=True)):
        right, _ = expected(world, turn.story, request, [one], read.queries[number + 1], end)
        assert (read.out[:, start : start + turn.rows] - right).abs().max() < 1e-5
        start += turn.rows
    assert (read.out[:, :1] - read.expected[:, :1]).abs().max() < 1e-5


@everywhere
def test_rows_and_entries_are_looked_at_in_stretches_and_that_changes_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for at_once in (2**24, 70):
        monkeypatch.setattr(unlimiformer, "_AT_ONCE", at_once)
        world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
        story, recall = begun(world, RecallRequest((book().memory,), 6, places, span=30))
        found.append(world.read(Turn(story, 7, recall=recall)).out)
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_the_error_falls_with_the_entries_and_is_none_where_all_are_attended_to(seed: int) -> None:
    """Methods 4.8, 3."""
    errors = []
    whole: torch.Tensor | None = None
    for entries in (52, 40, 26, 13, 6, 3, 1):
        world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM), group=1, seed=seed)
        story, recall = begun(world, RecallRequest((book(seed=seed).memory,), entries, "true"))
        out = world.read(Turn(story, 40, recall=recall)).out
        whole = out if whole is None else whole
        errors.append(float((out - whole).norm()))
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[1] > 0


@pytest.mark.parametrize(("kv_heads", "group"), [(2, 2), (3, 3), (2, 1)])
def test_where_everything_fits_it_is_full_attention(kv_heads: int, group: int) -> None:
    """Methods 4.8, 2 and 6: all layers retrieve, all entries are attended to, and stand where they were read."""
    one = book(40, near=1, retrieving=(0, 1, 2), kv_heads=kv_heads)
    world = World(FastAttention, shape(LAYERS, kv_heads, DIM), group=group)
    story, recall = begun(world, RecallRequest((one.memory,), 40, "true"))
    read = world.read(Turn(story, 9, recall=recall))
    told, queries = story.everything(), read.queries[0]
    at = torch.arange(5, 45)
    keys = torch.cat([told.keys[:, :, :5], world._rotation.turn(one.keys, at), told.keys[:, :, 5:]], 2)
    values = torch.cat([told.values[:, :, :5], one.values, told.values[:, :, 5:]], 2)
    logits = torch.einsum("lhgrd,lhnd->lhgrn", queries, keys) * DIM**-0.5
    later = torch.ones(9, 54, dtype=torch.bool).triu(46)
    right = torch.einsum("lhgrn,lhnd->lrhgd", logits.masked_fill(later, -torch.inf).softmax(-1), values)
    assert (read.out - right.flatten(2, 3)).abs().max() < 1e-5


def test_a_layer_that_does_not_retrieve_sees_what_is_near_and_nothing_far() -> None:
    """Methods 4.8, 8."""
    outs = []
    for seed in (0, 1):
        one = book()
        one.memory.far.copy_(torch.randn(one.memory.far.shape, generator=torch.Generator().manual_seed(seed)))
        world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
        story, recall = begun(world, RecallRequest((one.memory,), 5))
        outs.append(world.read(Turn(story, 3, recall=recall)).out)
    assert torch.equal(outs[0][1], outs[1][1])
    assert not torch.equal(outs[0][0], outs[1][0])


@both
def test_the_first_row_recalls(kind: type[PagedAttention]) -> None:
    """Methods 4.8, 7: what is read before the first token of an answer is chosen."""
    world = World(kind, shape(LAYERS, KV_HEADS, DIM))
    story, recall = begun(world, RecallRequest((book().memory,), 5))
    world.read(Turn(story, 1, recall=recall))
    assert recall.count == 2 * KV_HEADS * 5


def test_scores_see_every_dimension() -> None:
    """Methods 4.8, 5 and case B: public code adds halves so that the first one cancels, and finds 10."""
    query, key = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 5.0])
    logits = Recall._logits(query.view(1, 1, 1, 2), key.view(1, 1, 2), 1.0)
    assert logits.item() == 8
    one = book()
    world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM), group=1)
    for half in (slice(0, DIM // 2), slice(DIM // 2, DIM)):
        story, recall = begun(world, RecallRequest((one.memory,), 1))
        before = world.read(Turn(story, 20, recall=recall)).out
        changed = DocumentMemory(one.memory.plan, one.memory.far.clone(), one.memory.near, None)
        changed.far[0, ..., half] = 0
        other = World(FastAttention, shape(LAYERS, KV_HEADS, DIM), group=1)
        story, recall = begun(other, RecallRequest((changed,), 1))
        assert not torch.equal(before, other.read(Turn(story, 20, recall=recall)).out)
        world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM), group=1)


def test_without_positions_one_vector_a_token_would_do() -> None:
    """Methods 4.8, 4: what Unlimiformer rests on, and rotation takes away."""
    generator = torch.Generator().manual_seed(0)
    states, queried = torch.randn(2, 9, 12, generator=generator)
    w_q, w_k = torch.randn(2, 12, DIM, generator=generator)
    bias = torch.randn(DIM, generator=generator)
    scores = (queried @ w_q) @ (states @ w_k + bias).T
    factored = (queried @ w_q @ w_k.T) @ states.T
    constant = scores - factored
    assert (constant - constant[:, :1]).abs().max() < 1e-4  # the same for all tokens: it ranks nothing
    turn = rotation().turn
    turned = turn(queried @ w_q, torch.full((9,), 50)) @ turn(states @ w_k, torch.arange(9)).T
    assert (turned - factored).abs().max() > 1


def test_a_silent_recall_attends_and_notes_nothing() -> None:
    world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
    story, recall = begun(world, RecallRequest((book().memory,), 5))
    loud = world.read(Turn(story, 2, recall=recall)).out
    again = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
    story, recall = begun(again, RecallRequest((book().memory,), 5))
    assert torch.equal(again.read(Turn(story, 2, recall=recall.silenced())).out, loud)
    assert recall.count == 0
    assert not recall.attended[0].any()


@pytest.mark.parametrize("rate", [1, 3])
@both
def test_heads_that_are_counted_by_themselves_add_up_to_all_and_change_nothing(
    kind: type[PagedAttention], rate: float
) -> None:
    memory = book(rate=rate).memory
    every = tuple((layer, head) for layer in range(LAYERS) for head in range(3 * KV_HEADS))
    some = ((1, 4), (1, 0), (0, 2))
    found = {}
    for heads in (None, every, some):
        world = World(kind, shape(LAYERS, KV_HEADS, DIM), group=3)
        story, recall = begun(world, RecallRequest((memory,), 5, heads=heads))
        found[heads] = world.read(Turn(story, 4, recall=recall)).out, recall
    out, together = found[None]
    assert all(torch.equal(other, out) for other, _ in found.values())
    assert len({recall.count for _, recall in found.values()}) == 1
    assert together.by_head[0].shape == (1, memory.plan.tokens)
    apart = found[every][1].by_head[0]
    assert (apart.sum(0) - together.attended[0]).abs().max() < 1e-4
    for place, one in enumerate(some):
        assert torch.equal(found[some][1].by_head[0][place], apart[every.index(one)])
    silent = [index for index, (layer, _) in enumerate(every) if layer not in memory.plan.retrieving]
    assert silent and not apart[silent].any()


def test_what_is_near_counts_where_nothing_is_far() -> None:
    world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
    one = book(6)
    story, recall = begun(world, RecallRequest((one.memory,), 5))
    end = story.sequence.position
    read = world.read(Turn(story, 2, recall=recall))
    _, mass = expected(world, story, recall.request, [one], read.queries[0], end)
    assert mass[0].min() > 0
    assert (recall.attended[0] - mass[0]).abs().max() < 1e-5


def test_the_width_is_that_of_what_stands_in_front() -> None:
    memory = book().memory
    assert RecallRequest((memory,), places="true").width == 60
    assert RecallRequest((memory,), places="clipped").width == 9
    assert RecallRequest((memory,), places="scaled", span=20).width == 20
    assert RecallRequest((memory,), places="scaled", span=200).width == 60
    assert RecallRequest((book(6).memory,), places="clipped").width == 6
    assert RecallRequest((memory, book(100).memory), places="true").width == 100


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"memories": ()}, "no memory is named"),
        ({"entries": 0}, "entries of a document is 0; expected 1 to 65536"),
        ({"entries": 65537}, "entries of a document is 65537; expected 1 to 65536"),
        ({"places": "near"}, "places is 'near'"),
        ({"places": "scaled"}, "span is None; expected more than 8"),
        ({"places": "scaled", "span": 8}, "span is 8; expected more than 8"),
        ({"memories": (book().memory, book(retrieving=(1,)).memory)}, "differ in the layers"),
    ],
)
def test_what_cannot_be_attended_to_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidMemory, match=match):
        replace(RecallRequest((book().memory,)), **change)


def test_memories_of_different_readers_are_not_mixed() -> None:
    other = book().memory
    other.plan = replace(other.plan, reader="another")
    with pytest.raises(InvalidMemory, match="made by readers that differ"):
        RecallRequest((book().memory, other))


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories of a few entries have indexes, too, of which all lists are looked at."""
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 20)
    monkeypatch.setattr(key_index, "_PROBED", 1)
    monkeypatch.setattr(unlimiformer, "_SPARSE", 0)


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize(
    ("entries", "rate", "others"), [(52, 1, ()), (20, 2, ()), (60, 1, (60, 10)), (400, 1, (90,))]
)
@both
def test_what_an_index_proposes_is_attended_to_by_the_keys_themselves(
    kind: type[PagedAttention], entries: int, rate: float, others: tuple[int, ...]
) -> None:
    books = [book(rate=rate), *(book(tokens, rate=rate, seed=tokens) for tokens in others)]
    request = RecallRequest(tuple(one.memory for one in books), entries)
    world = World(kind, shape(LAYERS, KV_HEADS, DIM), group=3)
    story, recall = begun(world, request)
    end = story.sequence.position
    mass = [torch.zeros(one.memory.plan.tokens) for one in books]
    for rows in (5, 1):
        read = world.read(Turn(story, rows, recall=recall))
        right, more = expected(world, story, request, books, read.queries[0], end)
        assert (read.out - right).abs().max() < 1e-5
        mass = [before + now for before, now in zip(mass, more, strict=True)]
    for found, wanted in zip(recall.attended, mass, strict=True):
        assert (found - wanted).abs().max() < 1e-4


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize(
    ("places", "exact", "sparse"), [("true", False, 0), ("clipped", True, 0), ("clipped", False, 11)]
)
def test_no_index_is_asked_where_it_would_be_wrong_or_of_no_use_or_is_not_wanted(
    places: Places, exact: bool, sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlimiformer, "_SPARSE", sparse)
    one = book()
    one.memory.key_index = None  # type: ignore[assignment,method-assign]
    world = World(FastAttention, shape(LAYERS, KV_HEADS, DIM))
    story, recall = begun(world, RecallRequest((one.memory,), 5, places, exact=exact))
    end = story.sequence.position
    read = world.read(Turn(story, 3, recall=recall))
    right, _ = expected(world, story, recall.request, [one], read.queries[0], end)
    assert (read.out - right).abs().max() < 1e-5
