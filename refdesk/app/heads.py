"""Retaining heads: training them for the model and an adapter of it, and finding those that there are."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any

from refdesk.app.lessons import LESSONS, VALIDATION, Desk
from refdesk.craft.card import CARD, read_card
from refdesk.craft.errors import HeadsExist, InvalidLessons, InvalidRecipe
from refdesk.craft.heads_lessons import heads_lessons
from refdesk.craft.lesson import Lesson, read_lessons
from refdesk.craft.recipe import HeadsRecipe
from refdesk.eval.provenance import source_commit

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.craft.course import Step
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

_SHIPPED = Path(__file__).parent.parent / "weights" / "heads"


@dataclass(frozen=True)
class HeadsEntry:
    """Heads in a `folder`, by whose name they go, written at `written` (ns). `card`: whose they are, and what they
    were made of; empty where it cannot be read, so that they are used for nothing."""

    folder: Path
    written: int
    shipped: bool
    card: dict[str, Any] = field(compare=False)

    @property
    def name(self) -> str:
        """For people."""
        return self.folder.name


def list_heads(data: Path) -> list[HeadsEntry]:
    """Those that were trained here, the newest first, then the shipped ones."""
    return [*_entries(data / "heads", shipped=False), *_entries(_SHIPPED, shipped=True)]


def find_heads(data: Path, base_fingerprint: str, adapter_fingerprint: str) -> HeadsEntry | None:
    """The first of these that were trained for this model with this adapter (empty: with none)."""
    wanted = (base_fingerprint, adapter_fingerprint)
    for entry in list_heads(data):
        if (entry.card.get("base_fingerprint"), entry.card.get("adapter_fingerprint")) == wanted:
            return entry
    return None


class LoadedHeads:
    """The heads of a desk whose data are in `data`, each loaded once."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._loaded: dict[HeadsEntry, RetainingHeads] = {}
        self._loading = Lock()

    def of(self, model: "ReaderModel", adapter: "Adapter | None") -> "RetainingHeads | None":
        """See `find_heads`. Raises HeadsNotFound, HeadsMismatch where they are damaged."""
        found = find_heads(self._data, model.fingerprint, adapter.fingerprint if adapter else "")
        if found is None:
            return None
        with self._loading:
            if found not in self._loaded:
                from refdesk.reader.heads import load_heads

                self._loaded[found] = load_heads(found.folder, model, adapter)
            return self._loaded[found]


def heads_folder(data: Path, name_or_folder: str) -> Path:
    """Where heads are written: a name is that of a folder of the desk's own. Raises InvalidRecipe for none, and
    for one that would not be found again."""
    folder = Path(name_or_folder).expanduser()
    if not folder.name or folder.name.startswith("."):
        raise InvalidRecipe(f"heads name {name_or_folder!r}: expected a name that begins with no dot, or a folder")
    return data / "heads" / folder if folder.name == name_or_folder else folder


def train_heads(
    desk: Desk,
    folder: Path,
    lessons: Path,
    adapter_name: str | None,
    recipe: HeadsRecipe,
    report: "Callable[[Step], None]",
) -> dict[str, Any]:
    """Train heads for the desk's model with an adapter (None: the service's own) and write them with their card,
    which comes back. Interrupted, the same call goes on with it.

    Raises:
        HeadsExist: there is something in `folder`.
        InvalidLessons: `lessons` is not what `prepare` wrote, or nothing in it can be learned from.
        InvalidRecipe: what an earlier call left was of other settings.
        AdapterNotFound, AdapterMismatch: see `Desk.adapter`.
    """
    from refdesk.craft.course import result
    from refdesk.craft.encoding import encode_lessons
    from refdesk.craft.heads_folder import save_heads
    from refdesk.craft.heads_training import train_heads as train

    if folder.exists():
        raise HeadsExist(f"{folder} exists already; delete it, or choose another name")
    data = read_card(lessons / CARD)
    adapter = desk.adapter(adapter_name)
    model, engine = desk.reader
    if not engine.moves_entries:
        raise InvalidRecipe(f"{model.name} turns positions in a way that cannot be undone; no heads can be used")

    def chosen(file: str) -> Iterator[Lesson]:
        return heads_lessons(read_lessons(lessons / file), recipe.question_share, recipe.seed)

    learned, too_long = encode_lessons(chosen(LESSONS), model, recipe.longest)
    held, held_too_long = encode_lessons(chosen(VALIDATION), model, recipe.longest)
    held = Random(recipe.seed).sample(held, min(recipe.validation, len(held)))
    checkpoint = folder.with_name(f".{folder.name}.checkpoint.pt")
    outcome = train(model, adapter, learned, held, recipe, checkpoint, report)
    card = {
        "name": folder.name,
        "base_name": model.name,
        "base_fingerprint": model.fingerprint,
        "adapter_name": adapter.name if adapter else "",
        "adapter_fingerprint": adapter.fingerprint if adapter else "",
        "dtype": str(model.dtype).removeprefix("torch."),
        "recipe": asdict(recipe),
        "result": result(outcome, ("all", "overlap")),
        "lessons": len(learned),
        "validation_lessons": len(held),
        "lessons_too_long": too_long + held_too_long,
        "data": data,
        "commit": source_commit(),
    }
    save_heads(folder, outcome, card)
    checkpoint.unlink(missing_ok=True)
    return card


def _entries(root: Path, shipped: bool) -> list[HeadsEntry]:
    found = []
    for path in root.glob(f"*/{CARD}"):
        if path.parent.name.startswith("."):
            continue
        with suppress(FileNotFoundError):  # deleted meanwhile
            written, card = path.stat().st_mtime_ns, {}
            with suppress(InvalidLessons):
                card = read_card(path)
            found.append(HeadsEntry(path.parent, written, shipped, card))
    return sorted(found, key=lambda entry: (-entry.written, entry.folder))
