"""How likely texts are to the model, by the engine and over shared runs: what prompt compression rests on.

Perception Compressor (arXiv 2409.19272) asks for the likelihood of questions given documents, and of one segment
of text after another given what was kept so far. Both are continuations behind runs: a document is read once for
all questions, and what was kept is not read again.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from refdesk.reader.errors import InvalidOption, PromptTooLong
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.submission import Submit, generated

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.reader.model import ReaderModel

Tokens = tuple[int, ...]


class EngineScorer:
    """Scores texts with the model's own weights, for any number of threads. `submit` must reach an engine that
    runs `model`. All likelihoods are negative logarithms, in nats.

    Raises:
        InvalidOption: a model whose tokenizer has no token that begins or ends a text.
    """

    def __init__(self, model: "ReaderModel", submit: Submit) -> None:
        self._model = model
        self._submit = submit
        self._start = _start_token(model)

    @property
    def window(self) -> int:
        """Tokens that may stand behind the one that begins a text: those in front and the text to score."""
        return self._model.window - 1

    def tokens(self, text: str) -> tuple[Tokens, tuple[tuple[int, int], ...]]:
        """The token ids of a text, and the characters `[start, end)` of each. Control tokens that it spells are
        read as plain characters. The spans cover the text in order, without gaps or overlap: a character that is
        several tokens belongs to the first of them, and the others have nothing."""
        encoding = self._model.literal_tokenizer.encode(text, add_special_tokens=False)
        ends = list(accumulate((stop for _, stop in encoding.offsets), max))
        if ends:
            ends[-1] = len(text)
        return tuple(encoding.ids), tuple(pairwise([0, *ends]))

    def question_nll(self, documents: Sequence[Tokens], questions: Sequence[Tokens]) -> list[list[float]]:
        """Of each document (row) and question the mean over the question's tokens, behind the document. An empty
        document is none: how likely the questions are by themselves. Raises what `nll` raises."""
        scored = self._scored([self.begin(document) for document in documents], questions)
        return [[sum(nll) / len(nll) for nll in row] for row in scored]

    def begin(self, *texts: Tokens) -> "Prior":
        """What texts may be scored behind: these, one behind the other, the token that begins a text in front. An
        empty one is none."""
        prior = Prior(self._start)
        for text in texts:
            prior.keep(text)
        return prior

    def nll(self, priors: "Sequence[Prior]", token_ids: Tokens) -> list[list[float]]:
        """Of each prior the likelihood of each token behind it and the tokens before; all priors in one batch.

        Raises:
            PromptTooLong: a prior and the text behind it do not fit the model's window; nothing has been read.
            InvalidOption: a text without tokens, or a token id that the model does not know.
            MemoryTooSmall: they can never fit the memory that the engine may use.
            Interrupted: it was cancelled or late, or the engine was closed while it read.
            EngineClosed: the engine is closed.
        """
        return [nll for (nll,) in self._scored(priors, [token_ids])]

    def _scored(self, priors: "Sequence[Prior]", texts: Sequence[Tokens]) -> list[list[list[float]]]:
        """Of each prior and text the likelihood of each token."""
        window, longest = self._model.window, max(map(len, texts), default=0)
        for prior in priors:
            if len(prior) + longest > window:
                raise PromptTooLong(len(prior), longest, window, "the text in front", "the text to score takes")
        found = generated(self._submit, [prior.request(texts) for prior in priors])
        return [[list(nll) for nll in generation.continuation_nll] for generation in found]


class Prior:
    """Texts one behind the other, behind which others are scored. Each is a run, shared with all who begin with
    the same ones; the last token is held out of them, for what comes next is predicted where it is read.

    For one thread at a time. Made by `EngineScorer.begin`.
    """

    def __init__(self, start: int) -> None:
        self._front: tuple[Tokens, ...] = ()
        self._last = start

    def __len__(self) -> int:
        """Tokens, the one that begins the text included."""
        return sum(map(len, self._front)) + 1

    def keep(self, token_ids: Tokens) -> None:
        """From now on these stand at its end; they are read with what is scored next. No tokens change nothing."""
        if token_ids:
            self._front += ((self._last, *token_ids[:-1]),)
            self._last = token_ids[-1]

    def request(self, texts: Iterable[Tokens]) -> GenerationRequest:
        """What the engine is asked, for the likelihoods of these texts behind it."""
        return GenerationRequest(
            (self._last,),
            max_new_tokens=1,  # chosen from what the last token says already: no forward more
            continuations=tuple(texts),
            front=self._front,
        )


def _start_token(model: "ReaderModel") -> int:
    """What stands in front of every text, so that its first token has a likelihood too: the token that the
    tokenizer itself puts in front of a text, as the model was trained. Else the one that ends texts: in training,
    what comes behind it begins a new one. (SmolLM2 and Qwen put none; which of its marks SmolLM2 sees there made a
    difference of 0.003 nats per token.)"""
    tokenizer = model.tokenizer
    if tokenizer.bos_token_id is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]:
        return int(tokenizer.bos_token_id)
    if tokenizer.eos_token_id is None:
        raise InvalidOption("model", model.name, "one whose tokenizer has a token that begins or ends a text")
    return int(tokenizer.eos_token_id)
