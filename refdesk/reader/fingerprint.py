"""Which weights are these: a digest that is the same for the same model and differs between any two others."""

import hashlib
import json
from pathlib import Path

_SAMPLES = 64
_SAMPLE_BYTES = 65536
_INCIDENTAL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}


def model_fingerprint(folder: Path) -> str:
    """16 hex digits over the config (without what does not change the computation) and the weight files."""
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256()
    digest.update(json.dumps({k: v for k, v in config.items() if k not in _INCIDENTAL}, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name}:{file_identity(file)};".encode())
    return digest.hexdigest()[:16]


def file_identity(file: Path) -> str:
    """A sha256 over the size and evenly spread samples of the content (4 MiB at most, so that large weights cost
    no more than small ones; training touches all of a tensor, so a sample sees it)."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as handle:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(handle.read())
        else:
            for i in range(_SAMPLES):
                handle.seek(i * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()
