"""Retrieval heads of the desk's model: choosing them by lessons, and finding those that there are."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refdesk.app.lessons import LESSONS, Desk
from refdesk.craft.card import CARD, read_card, write_card
from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import read_lessons
from refdesk.eval.provenance import source_commit

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.retrieval_heads import Heads

_FOLDER = "retrieval_heads"
_SHIPPED = Path(__file__).parent.parent / "weights" / _FOLDER


def find_retrieval_heads(data: Path, model: "ReaderModel") -> "Heads | None":
    """Those that were chosen for the model here, else the shipped ones, if there are any.

    Raises:
        HeadsNotFound, HeadsMismatch: they are damaged.
    """
    from refdesk.reader.retrieval_heads import load_retrieval_heads

    for card in (_card(data, model.fingerprint), _SHIPPED / f"{model.fingerprint}.json"):
        if card.exists():
            return load_retrieval_heads(card, model)
    return None


def list_retrieval_heads(data: Path) -> list[tuple[bool, dict[str, Any]]]:
    """Whether they are shipped, and their cards, empty where one is damaged: those that were chosen here first."""
    found = []
    for folder in (data / _FOLDER, _SHIPPED):
        for path in sorted(folder.glob("*.json")):
            card: dict[str, Any] = {}
            with suppress(InvalidLessons):
                card = read_card(path)
            found.append((folder == _SHIPPED, card))
    return found


def choose_retrieval_heads(
    desk: Desk, lessons: Path, adapter_name: str | None, seed: int, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Choose some for the desk's model, looking as it does with an adapter (None: the service's own), in place of
    any that were chosen before; their card comes back.

    Raises:
        InvalidLessons: `lessons` is not what `prepare` wrote, there are too few, or the best heads find less by
            them than all do. What was chosen before stays.
        InvalidOption: the model cannot have memories of documents.
        PromptTooLong: a question does not fit the model's window.
        AdapterNotFound, AdapterMismatch: see `Desk.adapter`.
    """
    from refdesk.craft.retrieval_choice import choose_retrieval_heads as choose

    data = read_card(lessons / CARD)
    adapter = desk.adapter(adapter_name)
    model, engine = desk.reader
    chosen = choose(model, adapter, engine.submit, read_lessons(lessons / LESSONS), seed, report)
    card = {
        "base_name": model.name,
        "base_fingerprint": model.fingerprint,
        "adapter_name": adapter.name if adapter else "",
        **asdict(chosen),
        "seed": seed,
        "data": data,
        "commit": source_commit(),
    }
    path = _card(desk.settings.data, model.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_card(path, card)
    return card


def _card(data: Path, fingerprint: str) -> Path:
    return data / _FOLDER / f"{fingerprint}.json"
