"""Plain text: decoded, otherwise as it is; offsets are those of the source."""

import codecs
import re
from pathlib import PurePosixPath

from charset_normalizer import from_bytes

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, line_starts

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_GUESS_BYTES = 64 * 1024
_LEGACY = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
)
_LARGEST_CHAOS = 0.35
_LARGEST_CONTROL_SHARE = 0.01


def parse_text(content: bytes, name: str) -> ParsedDocument:
    """Raises UnreadableDocument when the bytes are not text."""
    text = decode(content, name)
    return ParsedDocument(text, PurePosixPath(name).stem, MEDIA_TYPES["txt"], "line", line_starts(text))


def decode(content: bytes, name: str) -> str:
    """Bytes as text: by its byte order mark, as UTF-8, or in the legacy encoding that fits best.

    Raises:
        UnreadableDocument: binary content, or bytes that no encoding explains.
    """
    encoding = marked_encoding(content)
    if encoding is None and b"\x00" in content:
        raise UnreadableDocument(f"{name}: it is binary, not text (a zero byte at {content.index(0)})")
    try:
        # Not "utf-8-sig", whose errors count bytes from behind the mark.
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise UnreadableDocument(
                f"{name}: wrong encoding: its first bytes say {encoding}, but byte {error.start} is not"
            ) from None
        text = _decode_legacy(content, name, error.start)
    if "\x00" in text or looks_binary(text):
        raise UnreadableDocument(f"{name}: it is binary, not text (control characters all over)")
    return text


def marked_encoding(content: bytes) -> str | None:
    """The encoding that a byte order mark tells."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)


def looks_binary(text: str) -> bool:
    """Whether control characters that no text has are more than an accident."""
    controls = len(_CONTROL.findall(text, 0, _GUESS_BYTES))
    return controls > min(len(text), _GUESS_BYTES) * _LARGEST_CONTROL_SHARE


def _decode_legacy(content: bytes, name: str, bad: int) -> str:
    # Guess from a part that has the offending byte in it: guessing is slow, and the whole may be megabytes.
    begin = max(0, bad - _GUESS_BYTES // 2)
    sample = content[begin : begin + _GUESS_BYTES]
    if _is_damaged_utf8(sample):  # which every legacy encoding would make gibberish of
        raise UnreadableDocument(f"{name}: wrong encoding: it is UTF-8, but not at byte {bad}")
    matches = from_bytes(sample, cp_isolation=list(_LEGACY), threshold=_LARGEST_CHAOS)
    best = matches.best()
    refused = UnreadableDocument(
        f"{name}: wrong encoding: byte {bad} is not UTF-8 and no other encoding fits; save it as UTF-8"
    )
    if best is None:
        raise refused
    # Where several read the bytes equally well, the first of the list is the most widespread.
    equal = {name for match in matches if match.chaos == best.chaos for name in match.could_be_from_charset}
    encoding = next((name for name in _LEGACY if name in equal), best.encoding)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise refused from None


def _is_damaged_utf8(sample: bytes) -> bool:
    """Bytes over 127 that make up UTF-8 characters by chance are few, those that do not by damage are fewer."""
    text = sample.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - damaged > 2 * damaged
