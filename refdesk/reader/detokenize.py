"""From tokens to text while they come: no half characters, nothing of a stop string.

A byte-level token may end inside a character, so its text is only known when later tokens complete it; and the
beginning of a stop string may turn out to be one or not. Both are held back until they are decided.
"""

from typing import Any

_REPLACEMENT = "\ufffd"
_WINDOW = 32  # tokens decoded again per step: long enough for every decoder's context, short enough to be free
_CHARACTER = 4  # tokens at most: its bytes


class Detokenizer:
    """Turns token ids into text piece by piece; the pieces joined are the text.

    Only a window of the last tokens is decoded again at each step, so a step costs the same at any length.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._emitted = 0  # characters of the window's text already handed out

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before; often a word, sometimes nothing."""
        self._window.append(token_id)
        text = self._decode(self._window)
        certain = text.rstrip(_REPLACEMENT)
        piece = certain[self._emitted :]
        self._emitted = max(self._emitted, len(certain))
        if len(self._window) > _WINDOW and len(certain) == len(text):
            self._shrink(text)
        return piece

    def _shrink(self, text: str) -> None:
        """Keep the last tokens of a window whose text ends with a whole character: so many that what they say by
        themselves is the end of it. Those that begin inside a character may say something else."""
        for kept in range(_WINDOW // 4, _WINDOW // 4 + _CHARACTER):
            tail = self._decode(self._window[-kept:])
            if tail and text.endswith(tail):
                self._window, self._emitted = self._window[-kept:], len(tail)
                return

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopFilter:
    """Lets text through up to the first stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that may go out, and whether a stop string was met (then nothing more may)."""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """The text that was held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
