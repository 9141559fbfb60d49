"""Who may import whom: the folders of docs/architecture.md, held to it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "refdesk"

# What each folder may import of the others; everybody may import the leaf modules of the package's root.
MAY_IMPORT = {
    "retriever": set(),
    "compressor": set(),
    "memory": set(),
    "reader": {"memory"},
    "craft": {"reader", "memory"},
    "eval": {"retriever", "compressor", "memory", "reader", "craft"},
    "app": {"retriever", "compressor", "memory", "reader", "craft", "eval"},
    "migrations": set(),
}


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def test_every_folder_has_its_rule() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders <= MAY_IMPORT.keys()


@pytest.mark.parametrize("folder", [folder for folder in MAY_IMPORT if (ROOT / folder).exists()])
def test_folders_import_only_what_they_may(folder: str) -> None:
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[folder] - {folder}
    for file in _files(folder):
        for name in _imports(file):
            parts = name.split(".")
            assert parts[0] != "refdesk" or parts[1:2] == [] or parts[1] not in forbidden, f"{file}: {name}"


def test_litestar_stays_in_app() -> None:
    for folder in MAY_IMPORT.keys() - {"app"}:
        for file in _files(folder):
            assert not any(name.split(".")[0] in {"litestar", "granian"} for name in _imports(file)), file


def test_torch_stays_out_of_stores_indexes_and_controllers() -> None:
    for file in [*_files("app"), *_files("migrations"), *_files("retriever")]:
        if file.name == "embedder.py":
            continue
        names = {name.split(".")[0] for name in _imports(file)}
        assert not names & {"torch", "transformers", "sentence_transformers"}, file


def test_only_build_names_concrete_classes_of_other_folders() -> None:
    concrete = {"FaissIndex", "PgvectorIndex", "Embedder", "load_model"}
    for file in [*_files("app"), *_files("eval")]:
        if file.name != "build.py":
            assert not {name.split(".")[-1] for name in _imports(file)} & concrete, file


def test_no_file_is_longer_than_400_lines() -> None:
    for file in ROOT.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file
