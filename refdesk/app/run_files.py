"""The runs of passages that were prepared, found for whoever is about to read them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from refdesk.app.memories import written_at
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.kept_runs import SUFFIX, read_run, run_file_name
from refdesk.reader.forward import cache_shape

if TYPE_CHECKING:
    from refdesk.memory.kept_runs import Entries
    from refdesk.memory.runs import RunKey
    from refdesk.reader.model import ReaderModel

log = structlog.get_logger()


class RunFiles:
    """Those that `model` has read of passages, below the folder of `app.memories.Memories`: `KeptRuns` for its
    engine. For one thread.

    Which files there are is listed again when that folder says that something has changed, in whatever process. A
    list that is behind does no harm: a file is what its name says, and what is not found is read.
    """

    def __init__(self, folder: Path, model: "ReaderModel") -> None:
        self._folder = folder
        self._fingerprint = model.fingerprint
        self._shape = cache_shape(model)
        self._changed = 0
        self._names: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}

    def find(self, key: "RunKey") -> "Entries | None":
        """See `KeptRuns`. A damaged file is removed, so that whoever prepares the document again makes it anew."""
        self._list()
        if not any(names for _, names in self._names.values()):
            return None
        name = run_file_name(key, self._fingerprint, self._shape.dtype)
        for folder, (_, names) in self._names.items():
            if name in names and (entries := self._read(folder / name, len(key.tokens))) is not None:
                return entries
        return None

    def _read(self, file: Path, tokens: int) -> "Entries | None":
        try:
            return read_run(file, tokens, self._shape)
        except FileNotFoundError:
            return None  # dropped in this moment
        except InvalidMemory as error:
            log.warning("run_damaged", file=str(file), reason=str(error))
            with suppress(OSError):
                file.unlink()
        except OSError as error:
            log.warning("run_unreadable", file=str(file), reason=str(error))
        return None

    def _list(self) -> None:
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed == self._changed:
                return
            known, self._names = self._names, {}
            for folder in self._folder.glob("*/*/*"):
                written = written_at(folder)
                if written is None or folder.suffix == ".part":
                    continue
                if folder not in known or known[folder][0] != written:
                    known[folder] = written, frozenset(one for one in os.listdir(folder) if one.endswith(SUFFIX))
                self._names[folder] = known[folder]
            self._changed = changed  # as it was before: what comes meanwhile is listed the next time
        except OSError:
            return  # nothing was ever remembered, or it goes in this moment: looked for again the next time
