"""The desk: what it puts right of a process that was killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from refdesk.app.settings import Settings
from refdesk.reader.model import ReaderModel
from refdesk.retriever.index.flat import FaissIndex
from tests.craft.worlds import Killed
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]


def test_an_index_file_goes_with_its_collection_even_if_a_kill_comes_between(
    tmp_path: Path, tiny: Callable[..., ReaderModel]
) -> None:
    def open_desk() -> SmallDesk:
        return SmallDesk(Settings(tmp_path / "data", f"sqlite:///{tmp_path / 'refdesk.db'}"), tiny("llama", 1024))

    def kill(_: FaissIndex) -> None:
        raise Killed

    desk = open_desk()
    for name in ("kept", "deleted"):
        desk.open_store(desk.create_collection(name)).add_texts(["The cat sat on the mat."])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaissIndex, "drop", kill)
        with pytest.raises(Killed):
            desk.delete_collection("deleted")
    desk.close()
    files = set((tmp_path / "data" / "index").iterdir())
    another = open_desk()
    another.start("ingest")
    kept = tmp_path / "data" / "index" / f"{another.ensure_collection('kept').id}.faiss"
    assert set(kept.parent.iterdir()) == {kept} < files
    another.close()
