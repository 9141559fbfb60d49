"""Ask: question -> retrieve -> compress -> prompt -> generate -> citations -> answer, with what each step took."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from refdesk.memory.choice import choose
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import AS_NEEDED, KEEP_EVERYTHING, MemoryOptions
from refdesk.reader.abstention import check_threshold
from refdesk.reader.answer_form import AnswerForm, check_form, read_answer, room_for
from refdesk.reader.answer_plan import AnswerPlan
from refdesk.reader.cancellation import Cancellation
from refdesk.reader.citations import Citation, cite, cite_quotes
from refdesk.reader.errors import DeadlineExceeded, Interrupted, InvalidOption, PromptTooLong
from refdesk.reader.generation import FinishReason, Generation, GenerationRequest, check_sampling
from refdesk.reader.held_text import HeldText, held_text
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import AskedReading, Prompt, check_reading, encode_segments
from refdesk.reader.shortening import READ_WHOLE, Shorten, Shortening
from refdesk.reader.submission import Submit
from refdesk.reader.usage import Clock, Context, Usage

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.engine import Engine
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.stream import Stream
    from refdesk.reader.whole_documents import WholeDocuments

_CITED = 5  # passages that citations are looked for in, where none are read
NOTHING_FOUND = "I could not find anything about this in the collection."

Retrieve = Callable[[str, int, tuple[str, ...] | None], Sequence[Passage]]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a caller may choose for one question.

    `k`: passages to retrieve, 1 to 100; few by default, for a small model reads worse with every distractor.
    `max_new_tokens`: None for what an answer of this form needs.
    `stop`: by default where a small model goes on with a question or a heading of its own. `deadline_s`: for the
    whole answer, from the call. `reading`: the passages `together`, as one text, or `apart`, each by itself and
    shared with other questions; `auto` is together if they fit the window so. `memory`: how much the model holds
    of what it reads; by default everything, if it fits the window. `heads`: what a policy that is learned keeps
    by; those that were trained for the model and `adapter`. `form`: short, long, or with a quote first. `abstain`:
    from which probability of it on the answer is that it cannot be found, by default where the model's likeliest
    words say so; 1 is never.
    `reference`: a right answer whose likelihood is asked for; it changes nothing of the answer. `shorten`: what
    makes passages shorter before they are read. `whole`: documents that are attended to, in place of retrieving
    passages or of passages at all. The rest as in `GenerationRequest`.

    Raises:
        InvalidOption: a value out of range, or one that has no effect where whole documents are attended to.
    """

    k: int = 3
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ("\n\nQuestion:", "\n\n##")
    deadline_s: float | None = None
    documents: tuple[str, ...] | None = None
    reading: AskedReading = "auto"
    memory: MemoryOptions = AS_NEEDED
    form: AnswerForm = "short"
    abstain: float | None = None
    adapter: "Adapter | None" = None
    heads: "RetainingHeads | None" = None
    reference: str | None = None
    shorten: Shorten | None = None
    whole: "WholeDocuments | None" = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 100:
            raise InvalidOption("k", self.k, "1 to 100")
        check_form(self.form)
        check_threshold(self.abstain)
        if not 1 <= self.room <= 4096:
            raise InvalidOption("max_new_tokens", self.max_new_tokens, "1 to 4096")
        if self.documents is not None and (isinstance(self.documents, str) or not self.documents):
            raise InvalidOption("documents", self.documents, "at least one document id, or nothing for all")
        if self.reference is not None and not self.reference.strip():
            raise InvalidOption("reference", self.reference, "at least one word, or nothing")
        check_reading(self.reading)
        check_sampling(self.room, self.temperature, self.top_p, self.seed, self.stop, self.deadline_s)
        if self.attends:
            for option, value in self.of_passages_alone.items():
                raise InvalidOption(option, value, "nothing, for whole documents are attended to, not passages")

    @property
    def attends(self) -> bool:
        """Whether the answer attends to whole documents itself, and nothing of them is read."""
        return self.whole is not None and not self.whole.read

    @property
    def of_passages_alone(self) -> dict[str, object]:
        """What is asked for and changes only how passages are read, by its name."""
        asked: dict[str, object] = {}
        if self.shorten is not None:
            asked["shorten"] = self.shorten
        if self.memory not in (AS_NEEDED, KEEP_EVERYTHING):
            asked["memory policy"] = "auto" if self.memory.policy is None else self.memory.policy.name
        if self.reading != "auto":
            asked["reading"] = self.reading
        return asked

    @property
    def room(self) -> int:
        """Tokens that the answer may have."""
        return room_for(self.form) if self.max_new_tokens is None else self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """`passages` are those that the answer was made from, best first; `usage` counts those that were dropped.
    `finish_reason` is the generation's, or `no_passages` when there was nothing to make an answer from. An answer
    that is cancelled while its passages are compressed is made from none.
    `reference_nll`: the mean negative log-likelihood (nats per token) of the reference, given exactly what the
    model had read when it began to answer; None where there was none. `well_formed`: whether the model kept to the
    form that was asked for, and every quote of it stands in a passage. `held`: what was held of each passage
    when the model began to answer, token by token; empty without a reference, or where no policy thinned."""

    text: str
    citations: tuple[Citation, ...]
    usage: Usage
    finish_reason: FinishReason | Literal["no_passages"]
    passages: tuple[Passage, ...]
    reference_nll: float | None = None
    well_formed: bool = True
    held: tuple[tuple[HeldText, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages found, best first; comes once, first."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The whole answer; comes once, last."""

    answer: Answer


Event = Retrieved | Token | Done


class QA:
    """Answers questions. `retrieve(question, k, documents)` gives at most `k` passages, best first; `model` must
    be the one that `engine` runs. `closed_book`: where nothing is retrieved the model answers from what it knows,
    which is the floor that every other way of answering is measured against; otherwise it says that nothing was
    found."""

    def __init__(
        self, retrieve: Retrieve, model: "ReaderModel", engine: "Engine", *, closed_book: bool = False
    ) -> None:
        self._retrieve = retrieve
        self._closed_book = closed_book
        self._model = model
        self._engine = engine

    def answer(
        self, question: str, options: AnswerOptions | None = None, cancellation: Cancellation | None = None
    ) -> Answer:
        """Wait for the whole answer. Raises what `stream` raises."""
        for event in self.stream(question, options, cancellation):
            if isinstance(event, Done):
                return event.answer
        raise AssertionError("a stream ends with Done")

    def stream(
        self, question: str, options: AnswerOptions | None = None, cancellation: Cancellation | None = None
    ) -> Iterator[Event]:
        """The answer while it is made: `Retrieved`, any number of `Token`, `Done`. Work begins with the first
        `next`; closing the iterator cancels the generation, and so does `cancellation` while `next` waits.

        Raises:
            InvalidOption: a question without a word.
            PromptTooLong: question and best passage do not fit the window; nothing has been generated.
            InvalidMemory: a budget that the instructions alone use up.
            MemoryTooSmall: they can never fit the memory that the engine may use.
            DeadlineExceeded: the time was over before the first word. Later it ends the answer, whose
                `finish_reason` is then `deadline`.
            MemoryMismatch: others than model and adapter made the memories of whole documents.
            EngineClosed: the engine is closed.
        """
        if not question.strip():
            raise InvalidOption("question", question, "at least one word")
        return self._events(question, options or AnswerOptions(), cancellation or Cancellation())

    def _events(self, question: str, options: AnswerOptions, cancellation: Cancellation) -> Iterator[Event]:
        clock = Clock()
        whole = options.whole if options.attends else None
        submit = self._submit(options, cancellation, clock)
        try:
            passages = self._found(question, options, submit)
        except Interrupted as interrupted:
            clock.lap("retrieve")
            yield from _interrupted(interrupted, (), options, clock)
            return
        clock.lap("retrieve")
        if not passages and not whole and not self._closed_book:
            yield Retrieved(passages)
            yield Token(NOTHING_FOUND)
            yield Done(_unread(NOTHING_FOUND, "no_passages", 0, clock))
            return
        asked = AnswerPlan.of(options, self._model, open_book=bool(passages or whole))
        try:
            shorter, shortening = self._shortened(question, passages, asked.room, options, submit)
        except Interrupted as interrupted:
            clock.lap("compress")
            yield from _interrupted(interrupted, passages, options, clock)
            return
        clock.lap("compress")
        if whole:
            prompt, request = self._over(whole, question, asked)
        else:
            prompt, request = self._fitted(question, shorter, asked)
        clock.lap("prompt")
        stream = submit(request)  # what cannot be served fails here, before any event
        try:
            yield Retrieved(passages)
            for piece in stream:
                if options.form != "quote":  # else what comes is not the answer yet, and perhaps never
                    yield Token(piece)
            generation = stream.result()
        finally:
            stream.cancel()  # of a finished stream: nothing
        if generation.finish_reason == "deadline" and not generation.text and options.deadline_s is not None:
            raise DeadlineExceeded(options.deadline_s)
        clock.lap()
        clock.leave_out(generation.score_s)
        written = read_answer(generation.text, options.form)
        if options.form == "quote" and written.text:
            yield Token(written.text)
        used = prompt.used
        if whole and generation.recall is not None:
            used = tuple(whole.passages(generation.recall.attended, _CITED, None))
        quoted = cite_quotes(written.quotes, used)
        citations = quoted or cite(written.text, question, used)
        clock.lap("cite")
        yield Done(
            Answer(
                text=written.text,
                citations=tuple(citations),
                usage=_usage(len(passages), prompt, request.memory, shortening, options, generation, clock),
                finish_reason=generation.finish_reason,
                passages=used,
                reference_nll=_mean(generation.continuation_nll[0]) if generation.continuation_nll else None,
                well_formed=written.well_formed and all(cite_quotes([one], used) for one in written.quotes),
                held=held_text(prompt, generation.held, self._model) if asked.reference else (),
            )
        )

    def _submit(self, options: AnswerOptions, cancellation: Cancellation, clock: Clock) -> Submit:
        """How the engine is asked for this answer: all of it ends with the answer's deadline and cancellation."""

        def submit(request: GenerationRequest) -> "Stream":
            stream = self._engine.submit(replace(request, deadline_s=clock.left(options.deadline_s)))
            cancellation.follow(stream)
            return stream

        return submit

    def _found(self, question: str, options: AnswerOptions, submit: Submit) -> tuple[Passage, ...]:
        """What may be read, best first; nothing where whole documents are attended to in its place."""
        if options.whole is None:
            return tuple(self._retrieve(question, options.k, options.documents))
        if options.attends:
            return ()
        return options.whole.find(question, options.k, self._model, options.adapter, submit)

    def _shortened(
        self, question: str, passages: Sequence[Passage], new: int, options: AnswerOptions, submit: Submit
    ) -> tuple[Sequence[Passage], Shortening]:
        """What is to be read of the passages, and how they became so; the window leaves room for `new` tokens."""
        if options.shorten is None or not passages:
            return passages, READ_WHOLE
        bare = [replace(passage, kept=()) for passage in passages]
        segments = encode_segments(question, bare, self._model, options.form)
        around = len(segments.before) + len(segments.asked) + sum(map(len, segments.passages))
        return options.shorten(question, passages, self._model.window - new - around, submit)

    def _over(self, whole: "WholeDocuments", question: str, asked: AnswerPlan) -> tuple[Prompt, GenerationRequest]:
        """The prompt behind whole documents, and how the engine is asked for it; nothing of it is evicted."""
        segments = encode_segments(question, (), self._model, asked.options.form, open_book=True)
        prompt = segments.fitted(self._model.window, asked.room)
        return prompt, replace(asked.generation(prompt, KEEP_EVERYTHING), recall=whole.recall)

    def _fitted(
        self, question: str, passages: Sequence[Passage], asked: AnswerPlan
    ) -> tuple[Prompt, GenerationRequest]:
        """The prompt, and how the engine is asked for it. What a caller asks for stands. Where that is `auto`,
        nothing is thinned that fits the window as it is to be read, the engine's memory, and the budget; else all
        of it is read under a budget, and passages are dropped only where not even that is possible."""
        options = asked.options
        segments = encode_segments(question, passages, self._model, options.form)
        window, chunk, moves = self._model.window, self._engine.chunk_tokens, self._engine.moves_entries

        def fitted(memory: MemoryOptions) -> tuple[Prompt, GenerationRequest]:
            prompt = segments.fitted(window, asked.room, options.reading, memory=memory, chunk=chunk, moves=moves)
            return prompt, asked.generation(prompt, memory)

        wanted = options.memory
        if not wanted.auto:
            return fitted(wanted)
        whole: tuple[Prompt, GenerationRequest] | None = None
        with suppress(PromptTooLong):  # thinned, it may yet fit
            whole = prompt, request = fitted(KEEP_EVERYTHING)
            within = prompt.tokens <= wanted.budget_for(prompt.tokens)
            if within and not prompt.dropped and self._engine.can_hold(request):
                return whole
        chosen = choose(
            wanted,
            min(window, self._engine.capacity),
            chunk,
            len(segments.catalysts["question"]),
            shared=options.reading == "apart",
            heads=options.heads is not None,
            moves=moves,
        )
        try:
            thinned = fitted(chosen)
        except (PromptTooLong, InvalidMemory):
            if whole is None or wanted.sized:
                raise
            return whole
        if thinned[0].dropped and whole is not None and not wanted.sized:
            return whole
        return thinned


def _interrupted(
    interrupted: Interrupted, passages: tuple[Passage, ...], options: AnswerOptions, clock: Clock
) -> Iterator[Event]:
    """The end of an answer for which nothing was read. Raises DeadlineExceeded if it was late."""
    if interrupted.reason == "deadline" and options.deadline_s is not None:
        raise DeadlineExceeded(options.deadline_s) from interrupted
    yield Retrieved(passages)
    yield Done(_unread("", "cancelled", len(passages), clock))


def _unread(text: str, reason: Literal["cancelled", "no_passages"], retrieved: int, clock: Clock) -> Answer:
    """An answer for which the model has read nothing."""
    return Answer(text, (), Usage(0, 0, retrieved, 0, 0, clock.seconds()), reason, ())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _context(options: AnswerOptions, prompt: Prompt) -> Context:
    if options.attends:
        return "attended"
    if not prompt.used:
        return "none"
    return "document" if options.whole else "passages"


def _usage(
    retrieved: int,
    prompt: Prompt,
    memory: MemoryOptions,
    shortening: Shortening,
    options: AnswerOptions,
    generation: Generation,
    clock: Clock,
) -> Usage:
    return Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        passages_retrieved=retrieved,
        passages_used=len(prompt.used),
        passages_dropped=len(prompt.dropped),
        seconds=clock.seconds(queue=generation.queue_s, prefill=generation.prefill_s, decode=generation.decode_s),
        context=_context(options, prompt),
        document_tokens=options.whole.recall.tokens if options.whole else 0,
        reading=prompt.reading if prompt.used else "none",
        run_hits=generation.run_hits,
        run_loads=generation.run_loads,
        run_misses=generation.run_misses,
        memory_policy=memory.policy.name if memory.policy else "none",
        adapter=options.adapter.name if options.adapter else "none",
        memory=generation.memory,
        compression=shortening,
    )
