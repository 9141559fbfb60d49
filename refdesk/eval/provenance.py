"""What a run is made with: enough to tell why two runs differ, and to refuse to mix them."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import refdesk
from refdesk.eval.desk import Desk
from refdesk.retriever.collections import get_collection

_LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers", "faiss-cpu", "numpy")
# Other answers could come from these; a run that began with one of them goes on with no other.
DECISIVE = (
    *("data", "model", "model_fingerprint", "dtype", "adapter", "heads", "retrieval_heads", "embedder"),
    "collection",
)


def versions(
    desk: Desk,
    *,
    reads: bool,
    indexed: bool,
    remembers: bool = False,
    adapter: str | None = None,
    collection: str | None = None,
) -> dict[str, str]:
    """Libraries, machine, and the models that are used: the reader with its `adapter` and their retaining heads
    if the run `reads`, the embedder if its documents are `indexed` or it `remembers` them, and then the
    retrieval heads that look through them; the `collection` that a user filled."""
    found = {"refdesk": refdesk.__version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # the GPU build has another name
            continue
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if reads:
        model = desk.reader[0]
        found["model"] = model.name
        found["model_fingerprint"] = model.fingerprint
        found["dtype"] = str(model.dtype).removeprefix("torch.")
        found["device"] = model.device.type
        used = desk.adapter(adapter, collection)
        found["adapter"] = "none" if used is None else f"{used.name} {used.fingerprint}"
        heads = desk.heads(used)
        found["heads"] = "none" if heads is None else heads.fingerprint
    if indexed or remembers:
        found["embedder"] = desk.embedder.name
    if remembers:
        found["retrieval_heads"] = str(desk.retrieval_heads)
    if collection is not None:
        asked = get_collection(desk.engine, collection)
        found["collection"] = f"{asked.name} {asked.id} at revision {asked.revision}"
    return found


def source_commit() -> str:
    """The commit that Refdesk's source is at, with `+` if it has changes; empty for an installed package."""
    root = Path(refdesk.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + (
            "+" if _git(root, "status", "--porcelain", "--untracked-files=no", "--", "refdesk") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
