"""Zip files that may be out to harm: everything is inflated once, in small steps and within bounds."""

import io
import zipfile

from refdesk.retriever.errors import UnreadableDocument

_LARGEST_INFLATED = 512 * 2**20
_LARGEST_XML = 128 * 2**20  # a tree takes about ten times the memory of its XML
_LARGEST_RATIO = 200  # XML of a real document packs to a hundredth at best
_RATIO_COUNTS_FROM = 16 * 2**20
_READ_BYTES = 2**20
_XML = (".xml", ".rels")


def refuse_bombs(content: bytes, name: str, *, expected: str) -> None:
    """Read every member; what a zip says about its own sizes is not believed.

    Raises:
        UnreadableDocument: without the `expected` member, declaring XML entities, or inflating to far more
            than its size.
        Exception: not a zip, damaged or encrypted; zipfile has many errors for that.
    """
    limit = min(_LARGEST_INFLATED, max(len(content) * _LARGEST_RATIO, _RATIO_COUNTS_FROM))
    left = limit
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if expected not in archive.namelist():
            raise UnreadableDocument(f"{name}: a zip, but not a Word file (no {expected})")
        for member in archive.infolist():
            bound = min(left, _LARGEST_XML) if member.filename.endswith(_XML) else left
            size = _inflated(archive, member, bound, name)
            if size > bound:
                raise UnreadableDocument(
                    f"{name}: a zip bomb: {len(content):,} bytes inflate to more than {limit - left + bound:,}"
                )
            left -= size


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo, bound: int, name: str) -> int:
    """Bytes of the member; reading ends soon behind `bound`."""
    with archive.open(member) as file:
        piece = file.read(_READ_BYTES)
        # Word never declares entities; whoever does wants them expanded. (The parser would not expand them.)
        if member.filename.endswith(_XML) and b"<!DOCTYPE" in piece:
            raise UnreadableDocument(
                f"{name}: {member.filename} declares a document type, which Word files do not"
            )
        size = len(piece)
        while size <= bound and (piece := file.read(_READ_BYTES)):
            size += len(piece)
    return size
