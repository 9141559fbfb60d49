"""Whether the disk has room for what is to be written, known before it is begun."""

import shutil
from pathlib import Path

from refdesk.memory.errors import InvalidMemory


def check_room(folder: Path, size: int, what: str, expected: str) -> None:
    """Raise InvalidMemory where `what`, of `size` bytes in all, does not fit the disk beside what is in `folder`
    of it already; `expected`: what may be done about that."""
    needed = size - sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidMemory(
            f"{what} takes another {needed / 2**20:.0f} MiB, and the disk has {free / 2**20:.0f} MiB left;"
            f" expected {expected}"
        )
