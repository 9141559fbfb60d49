"""Errors on the wire: RFC 9457 problem+json, from one table of exception to status, type and title."""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from refdesk.app.auth import Forbidden, Unauthorized
from refdesk.app.jobs import UnknownJob
from refdesk.app.memories import MemoryNotFound
from refdesk.compressor import errors as compressor
from refdesk.craft import errors as craft
from refdesk.eval import errors as evaluation
from refdesk.memory import errors as memory
from refdesk.reader import errors as reader
from refdesk.retriever import errors as retriever
from refdesk.retriever.embedder import EmbedderNotFound
from refdesk.retriever.index import VectorIndexError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

# The first class that fits wins: leaves stand before their bases.
TABLE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (retriever.UnsupportedFormat, 415, "unsupported-format", "Unsupported format"),
    (retriever.DocumentTooLarge, 413, "document-too-large", "Document too large"),
    (retriever.UnreadableDocument, 422, "unreadable-document", "Unreadable document"),
    (retriever.InvalidUpload, 422, "invalid-upload", "Invalid upload"),
    (retriever.InvalidCollection, 422, "invalid-collection", "Invalid collection"),
    (retriever.CollectionExists, 409, "collection-exists", "Collection exists"),
    (retriever.UnknownCollection, 404, "unknown-collection", "Unknown collection"),
    (retriever.EmbedderMismatch, 409, "embedder-mismatch", "Another embedder"),
    (retriever.UnknownDocument, 404, "unknown-document", "Unknown document"),
    (EmbedderNotFound, 503, "embedder-not-found", "Embedder not found"),
    (VectorIndexError, 503, "index-not-usable", "Index not usable"),
    (retriever.InvalidSearch, 422, "invalid-question", "Invalid question"),
    (reader.InvalidOption, 422, "invalid-option", "Invalid option"),
    (compressor.InvalidCompression, 422, "invalid-compression", "Invalid compression options"),
    (memory.InvalidMemory, 422, "invalid-memory", "Invalid memory options"),
    (memory.UnsupportedAttention, 503, "model-not-supported", "Model not supported"),
    (reader.AdapterNotFound, 404, "unknown-adapter", "Unknown adapter"),
    (reader.AdapterMismatch, 409, "adapter-mismatch", "Adapter of another model"),
    (MemoryNotFound, 404, "unknown-memory", "Unknown memory of a document"),
    (reader.MemoryMismatch, 409, "memory-mismatch", "Memory of another model"),
    (reader.HeadsNotFound, 404, "unknown-heads", "Unknown heads"),
    (reader.HeadsMismatch, 409, "heads-mismatch", "Heads of another model"),
    (craft.AdapterExists, 409, "adapter-exists", "Adapter exists"),
    (craft.AdapterBusy, 409, "adapter-busy", "Adapter busy"),
    (craft.CraftError, 422, "invalid-recipe", "Invalid recipe"),
    (reader.MemoryTooSmall, 422, "memory-too-small", "Memory too small"),
    (reader.PromptTooLong, 422, "prompt-too-long", "Prompt too long"),
    (reader.DeadlineExceeded, 503, "deadline-exceeded", "Deadline exceeded"),
    (reader.EngineClosed, 503, "shutting-down", "Shutting down"),
    (reader.ModelNotFound, 503, "model-not-found", "Model not found"),
    (evaluation.UnknownRun, 404, "unknown-evaluation", "Unknown evaluation"),
    (evaluation.UnknownDataset, 404, "unknown-dataset", "Unknown data set"),
    (evaluation.InvalidDataset, 422, "invalid-dataset", "Invalid data set"),
    (evaluation.MissingData, 422, "missing-data", "Missing data"),
    (evaluation.EvaluationError, 422, "invalid-evaluation", "Invalid evaluation"),
    (UnknownJob, 404, "unknown-job", "Unknown job"),
    (Unauthorized, 401, "unauthorized", "Unauthorized"),
    (Forbidden, 403, "forbidden", "Forbidden"),
)


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem of RFC 9457; `errors` tells several causes apart."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    errors: list[dict[str, Any]] = []


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is told as. What is not in the table is our fault, and says no more."""
    for kind, status, slug, title in TABLE:
        if isinstance(error, kind):
            causes = [
                {"source_id": source_id, **_cause(cause)} for source_id, cause in getattr(error, "rejected", ())
            ]
            return Problem(_urn(slug), title, status, str(error), errors=causes)
    if isinstance(error, HTTPException):
        return _http_problem(error)
    log.error("request_failed", exc_info=error)
    return Problem(_urn("internal-error"), "Internal error", 500, "the request failed; the log says why")


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Litestar's exception handler for everything."""
    problem = problem_of(error)
    problem.instance = request.url.path
    headers = dict(getattr(error, "headers", None) or {})
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _cause(error: Exception) -> dict[str, str]:
    problem = problem_of(error)
    return {"type": problem.type, "detail": problem.detail}


def _http_problem(error: HTTPException) -> Problem:
    status = HTTPStatus(error.status_code)
    if isinstance(error, ValidationException):
        causes = [
            dict(cause) if isinstance(cause, dict) else {"message": str(cause)} for cause in error.extra or []
        ]
        reasons = "; ".join(
            f"{cause['key']}: {cause['message']}" if cause.get("key") else str(cause.get("message"))
            for cause in causes
        )
        return Problem(_urn("invalid-request"), "Invalid request", status, reasons or error.detail, errors=causes)
    slug = status.phrase.lower().replace(" ", "-")
    return Problem(_urn(slug), status.phrase, status, error.detail)


def _urn(slug: str) -> str:
    return f"urn:refdesk:problem:{slug}"
