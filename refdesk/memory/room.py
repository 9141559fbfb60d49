"""Whether there is room for what is to be written, on the disk or in memory, known before it is begun."""

import shutil
from pathlib import Path

import psutil

from refdesk.memory.errors import InvalidMemory

_SPARE = 2**30  # bytes of memory that are left to everybody else, or are no matter


def check_disk(folder: Path, size: int, what: str, expected: str) -> None:
    """Raise InvalidMemory where `what`, of `size` bytes in all, does not fit the disk beside what is in `folder`
    of it already; `expected`: what may be done about that."""
    needed = size - sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    _check(needed, shutil.disk_usage(folder).free, f"{what} takes another", "the disk", expected)


def check_memory(size: int, what: str, expected: str) -> None:
    """The same for what is held in memory. What is small is never refused."""
    if size > _SPARE:
        free = max(psutil.virtual_memory().available - _SPARE, 0)
        _check(size, free, f"{what} takes", "the machine's memory", expected)


def _check(needed: int, free: int, what: str, where: str, expected: str) -> None:
    if needed > free:
        raise InvalidMemory(
            f"{what} {needed / 2**20:.0f} MiB, and {where} has {free / 2**20:.0f} MiB left; expected {expected}"
        )
