"""What goes over the wire. Requests refuse fields that they do not know."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from refdesk.app.context import AnswerContext
from refdesk.app.jobs import Job
from refdesk.memory.options import memory_options
from refdesk.reader.passage import Passage
from refdesk.reader.qa import Answer, AnswerOptions
from refdesk.reader.shortening import Shorten
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import Document

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter

_DEFAULT = AnswerOptions()


class AnswerRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A question, and how to answer it; an option that is left out has the default of docs/api.md."""

    question: str
    collection: str = "default"
    k: int = _DEFAULT.k
    documents: list[str] | None = None
    max_new_tokens: int | None = None
    temperature: float = _DEFAULT.temperature
    top_p: float = _DEFAULT.top_p
    seed: int | None = None
    stop: list[str] = msgspec.field(default_factory=lambda: list(_DEFAULT.stop))
    deadline_s: float | None = None
    reading: str = _DEFAULT.reading
    memory: dict[str, Any] | None = None
    compression: dict[str, Any] | None = None
    form: str = _DEFAULT.form
    abstain: float | None = _DEFAULT.abstain
    adapter: str | None = None
    context: str = "passages"
    entries: int | None = None
    places: str | None = None
    stream: bool = False

    @property
    def asked_context(self) -> AnswerContext:
        """Raises InvalidOption."""
        return AnswerContext(self.context, self.entries, self.places)  # type: ignore[arg-type]  # it checks them

    def options(
        self, adapter: "Adapter | None", heads: "RetainingHeads | None", shorten: Shorten | None
    ) -> AnswerOptions:
        """Raises InvalidOption or InvalidMemory, naming the value and what was expected."""
        return AnswerOptions(
            k=self.k,
            documents=None if self.documents is None else tuple(self.documents),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop),
            deadline_s=self.deadline_s,
            reading=self.reading,  # type: ignore[arg-type]  # it is checked there
            memory=memory_options(self.memory),
            form=self.form,  # type: ignore[arg-type]  # likewise
            abstain=self.abstain,
            adapter=adapter,
            heads=heads,
            shorten=shorten,
        )


class CollectionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new collection; sizes in tokens of the embedder."""

    name: str
    chunk_size: int | None = None
    chunk_overlap: int | None = None
    adapter: str | None = None


class CollectionChange(msgspec.Struct, forbid_unknown_fields=True):
    """`adapter`: to answer with from now on; null for the service's own, `none` for the model as it is."""

    adapter: str | None


class CitationMessage(msgspec.Struct):
    """Where an answer stands: `source_text[start:end] == quote` of the document."""

    document: str  # its source id
    title: str
    page: int | None
    start: int
    end: int
    quote: str


class PassageMessage(msgspec.Struct):
    """A passage that the answer was made from; `score` tells only the order."""

    document: str
    title: str
    page: int | None
    start: int
    end: int
    score: float


class MemoryMessage(msgspec.Struct):
    """KV memory: entries over layers and heads, and the bytes of the blocks that hold them; at the peak, when the
    answer was done, and evicted on the way."""

    peak_entries: int
    peak_bytes: int
    held_entries: int
    held_bytes: int
    freed_entries: int
    freed_bytes: int


class CompressionMessage(msgspec.Struct):
    """What was taken out of passages before they were read: by which strategy, their tokens before and after, and
    why a budget was not met exactly, if it was not."""

    strategy: str
    tokens_before: int
    tokens_after: int
    reason: str


class UsageMessage(msgspec.Struct):
    """What an answer cost; seconds by stage. `context`: what it stands on: `passages` that were retrieved, those
    that attention found in whole documents of so many tokens (`document`), these themselves (`attended`), or
    `none`. Runs are texts that requests share: instructions, and passages read apart; a hit was in memory
    already, a load came from disk, a miss had to be read."""

    prompt_tokens: int
    completion_tokens: int
    passages_retrieved: int
    passages_used: int
    passages_dropped: int
    seconds: dict[str, float]
    context: str
    document_tokens: int
    reading: str
    run_hits: int
    run_loads: int
    run_misses: int
    memory_policy: str
    adapter: str
    memory: MemoryMessage
    compression: CompressionMessage


class AnswerMessage(msgspec.Struct):
    """An answer with what it stands on and what it cost."""

    answer: str
    citations: list[CitationMessage]
    passages: list[PassageMessage]
    usage: UsageMessage
    finish_reason: str
    well_formed: bool
    model: str


class CollectionMessage(msgspec.Struct):
    """A collection and how much it holds."""

    name: str
    embedder: str
    dimension: int
    chunk_size: int
    chunk_overlap: int
    documents: int
    chunks: int
    adapter: str | None
    created_at: datetime


class CollectionsMessage(msgspec.Struct):
    """All collections."""

    items: list[CollectionMessage]


class DocumentMessage(msgspec.Struct):
    """A searchable document; `id` names this version, `source_id` the document for ever."""

    id: str
    source_id: str
    title: str
    media_type: str
    content_hash: str
    size_bytes: int
    characters: int
    chunks: int
    created_at: datetime


class DocumentsMessage(msgspec.Struct):
    """A page of documents; `next_cursor` is null on the last one."""

    items: list[DocumentMessage]
    next_cursor: str | None


class JobItemMessage(msgspec.Struct):
    """What became of one document of a job."""

    source_id: str
    state: str
    error: str | None


class ProgressMessage(msgspec.Struct):
    """How far a job is, in characters or tokens of its documents, or in questions."""

    done: int
    total: int


class JobMessage(msgspec.Struct):
    """A job and what became of each of its documents."""

    id: str
    kind: str
    collection: str | None
    state: str
    stage: str
    progress: ProgressMessage
    error: str | None
    attempts: int
    documents: list[JobItemMessage]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RejectedMessage(msgspec.Struct):
    """A file that was not taken in, and why."""

    source_id: str
    type: str
    detail: str


class IngestionMessage(msgspec.Struct):
    """The job that works on the files taken in, and the files that were not."""

    job: JobMessage
    rejected: list[RejectedMessage]


def answer_message(answer: Answer, model: str) -> AnswerMessage:
    """An answer for the wire."""
    return AnswerMessage(
        answer=answer.text,
        citations=[
            CitationMessage(
                document=citation.document_id,
                title=citation.title,
                page=citation.page,
                start=citation.start,
                end=citation.end,
                quote=citation.quote,
            )
            for citation in answer.citations
        ],
        passages=[passage_message(passage) for passage in answer.passages],
        usage=msgspec.convert(answer.usage, UsageMessage, from_attributes=True),
        finish_reason=answer.finish_reason,
        well_formed=answer.well_formed,
        model=model,
    )


def passage_message(passage: Passage) -> PassageMessage:
    """A passage for the wire."""
    return PassageMessage(
        document=passage.document_id,
        title=passage.title,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        score=passage.score,
    )


def collection_message(collection: Collection, counts: dict[str, int]) -> CollectionMessage:
    """A collection for the wire."""
    return CollectionMessage(
        name=collection.name,
        embedder=collection.embedder,
        dimension=collection.dimension,
        chunk_size=collection.chunk_size,
        chunk_overlap=collection.chunk_overlap,
        adapter=collection.adapter,
        created_at=moment(collection.created_at),
        **counts,
    )


def document_message(document: Document) -> DocumentMessage:
    """A document for the wire."""
    return DocumentMessage(
        id=document.id,
        source_id=document.source_id,
        title=document.title,
        media_type=document.media_type,
        content_hash=document.content_hash,
        size_bytes=document.size_bytes,
        characters=document.num_characters,
        chunks=document.num_chunks,
        created_at=moment(document.created_at),
    )


def job_message(job: Job) -> JobMessage:
    """A job for the wire."""
    return JobMessage(
        id=job.id,
        kind=job.kind,
        collection=job.collection,
        state=job.state,
        stage=job.stage,
        progress=ProgressMessage(job.done, job.total),
        error=job.error,
        attempts=job.attempts,
        documents=[JobItemMessage(item.source_id, item.state, item.error) for item in job.items],
        created_at=moment(job.created_at),
        started_at=None if job.started_at is None else moment(job.started_at),
        finished_at=None if job.finished_at is None else moment(job.finished_at),
    )


def to_builtins(message: msgspec.Struct) -> Any:
    """A message as JSON-ready values, for the command line and for events."""
    return msgspec.to_builtins(message)


def moment(seconds: float) -> datetime:
    """A time for the wire."""
    return datetime.fromtimestamp(seconds, UTC)
