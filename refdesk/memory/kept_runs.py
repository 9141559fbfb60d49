"""Runs that are kept on disk, a file each: what was read once need not be read again after the process has ended.

A file is named by all that the entries in it depend on, so what is found is right. It holds keys, then values, as
the pool has them, and a checksum; positions follow from what the run stands behind, for all of it is held whole.
"""

import zlib
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.pool import CacheShape
from refdesk.memory.runs import RunKey

Entries = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of a run, `[layers, kv_heads, tokens, head_dim]` each, keys turned for where it was read."""

SUFFIX = ".run"

_FORMAT = 1
_CHECKSUM_BYTES = 4


class KeptRuns(Protocol):
    """What is asked for a run before it is read."""

    def find(self, key: RunKey) -> Entries | None:
        """The entries of the run; None where it is not kept, or not whole. Raises nothing: then it is read."""


def run_file_name(key: RunKey, model: str, dtype: torch.dtype) -> str:
    """Of the file of a run, as read by the weights with the fingerprint `model` into entries of `dtype`."""
    return sha256(f"run {_FORMAT} {model} {dtype} {key.digest}".encode()).hexdigest() + SUFFIX


def run_bytes(tokens: int, shape: CacheShape) -> int:
    """Of the file of a run of so many tokens."""
    return _entry_bytes(tokens, shape) + _CHECKSUM_BYTES


def write_run(file: Path, entries: Entries) -> None:
    """Keep a run: the file is there when all of it is written. Raises InvalidMemory where it cannot be."""
    content = torch.stack(entries).view(torch.uint8).numpy().reshape(-1).data
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as opened:
            opened.write(content)
            opened.write(zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little"))
        part.replace(file)
    except OSError as error:
        size = len(content) / 2**20
        raise InvalidMemory(f"the run of a passage takes {size:.1f} MiB: {error.strerror}") from error


def read_run(file: Path, tokens: int, shape: CacheShape) -> Entries:
    """A run of so many tokens. It is read and not mapped: it is wanted once, in the pool, and a mapped file that
    somebody cuts short ends the process.

    Raises:
        InvalidMemory: the file is damaged.
        OSError: it cannot be read.
    """
    content = np.fromfile(file, dtype=np.uint8)
    size = _entry_bytes(tokens, shape)
    if len(content) != size + _CHECKSUM_BYTES:
        raise InvalidMemory(f"{file} has {len(content)} bytes; expected {size + _CHECKSUM_BYTES}")
    if zlib.crc32(content[:size].data) != int.from_bytes(content[size:].tobytes(), "little"):
        raise InvalidMemory(f"{file} has another checksum than what was written")
    entries = torch.from_numpy(content[:size]).view(shape.dtype)
    keys, values = entries.view(2, shape.layers, shape.kv_heads, tokens, shape.head_dim)
    return keys, values


def _entry_bytes(tokens: int, shape: CacheShape) -> int:
    return 2 * shape.slots * tokens * shape.head_dim * shape.dtype.itemsize
