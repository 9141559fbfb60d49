"""Compression of passages: the options of a request, put to work on what was retrieved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from refdesk.compressor.compressor import Compressor, Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import CompressionOptions
from refdesk.reader.errors import MemoryTooSmall, PromptTooLong
from refdesk.reader.guiding import guiding_questions
from refdesk.reader.passage import Passage
from refdesk.reader.scoring import EngineScorer
from refdesk.reader.sentences import split_sentences
from refdesk.reader.shortening import Shortening
from refdesk.reader.submission import Submit
from refdesk.retriever.ingest import PassageEmbedder

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.reader.model import ReaderModel

# Tokens that a passage may take more than its pieces did, when they stand together behind a title: at most 4 in
# 1,000 passages cut from docs/memory.md, under the tokenizer of SmolLM2.
_SEAM = 4


@dataclass(frozen=True)
class PassageCompression:
    """Takes out of passages what a question does not need, as a request has it. `tools`: what strategies work
    with, where they ask the engine so."""

    options: CompressionOptions
    tools: Callable[[Submit], Tools]

    def __call__(
        self, question: str, passages: Sequence[Passage], room: int, submit: Submit
    ) -> tuple[Sequence[Passage], Shortening]:
        """See `reader.shortening.Shorten`. `auto` takes nothing out of what fits the window and the budget, nor of
        what cannot be compressed, and then says why.

        Raises:
            InvalidCompression: the window has no room for any text, or nothing stays.
            PromptTooLong, MemoryTooSmall: the passages cannot be scored within the window or the memory.
            Interrupted, DeadlineExceeded: the answer was cancelled, or is late.
            EngineClosed: the engine is closed.
        """
        compressor = self.options.compressor(self.tools(submit))
        tokens = sum(len(compressor.tools.scorer.tokens(passage.text)[0]) for passage in passages)
        asked, room = self.options.budget_for(tokens), room - _SEAM * len(passages)
        if self.options.auto and tokens <= min(asked, room):
            return passages, Shortening(tokens_before=tokens, tokens_after=tokens)
        try:
            return self._compressed(compressor, question, passages, asked, room)
        except (InvalidCompression, PromptTooLong, MemoryTooSmall) as error:
            if not self.options.auto:
                raise
            reason = f"nothing is taken out: {error}"
            return passages, Shortening(tokens_before=tokens, tokens_after=tokens, reason=reason)

    def _compressed(
        self, compressor: Compressor[Any], question: str, passages: Sequence[Passage], asked: int, room: int
    ) -> tuple[Sequence[Passage], Shortening]:
        """`asked`: how many tokens are to stay; `room`: how many the window lets stay."""
        if room < 1:
            raise InvalidCompression(
                f"the question and the titles of {len(passages)} passages leave the window no room for what"
                " compression would let stay; expected fewer or shorter ones"
            )
        budget = min(asked, room)
        texts, titles = zip(*((passage.text, passage.title) for passage in passages), strict=True)
        found = compressor.compress(question, texts, budget, titles)
        if not found.order:
            raise InvalidCompression(f"compression budget is {budget}, of which no token stays; expected more")
        kept = [
            replace(passages[index], kept=ranges) for index, ranges in zip(found.order, found.kept, strict=True)
        ]
        narrow = f"the window has room for {room} tokens" if room < min(asked, found.tokens_before) else ""
        reason = "; ".join(filter(None, (found.reason, narrow)))
        return kept, Shortening(self.options.name, found.tokens_before, found.tokens_after, reason)


def engine_tools(model: "ReaderModel", embedder: Callable[[], PassageEmbedder]) -> Callable[[Submit], Tools]:
    """What strategies work with, where `model` scores and makes guiding questions without any adapter, for those
    are trained to answer; the embedder is called for when it is needed."""

    def tools(submit: Submit) -> Tools:
        return Tools(
            EngineScorer(model, submit),
            lambda question, count: guiding_questions(question, count, model, submit),
            embedded_similarity(embedder),
            split_sentences,
        )

    return tools


def embedded_similarity(embedder: Callable[[], PassageEmbedder]) -> Callable[[str, Sequence[str]], list[float]]:
    """Of a question and others, the cosine of their embeddings."""

    def similarity(question: str, others: Sequence[str]) -> list[float]:
        first, *rest = embedder().embed_documents([question, *others])
        return [float(np.dot(first, one)) for one in rest]

    return similarity
