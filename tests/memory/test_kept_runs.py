"""Runs on disk: named by all that their entries depend on, the same to the bit when they are read, or refused."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.kept_runs import Entries, read_run, run_bytes, run_file_name, write_run
from refdesk.memory.options import memory_options
from refdesk.memory.pool import CacheShape
from refdesk.memory.runs import RunKey

TOKENS = 37
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def shape(dtype: torch.dtype = torch.float32) -> CacheShape:
    return CacheShape(3, 2, 8, dtype, torch.device("cpu"))


def entries(dtype: torch.dtype) -> Entries:
    numbers = torch.randn(2, 3, 2, TOKENS, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    numbers[0, 0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    return numbers[0], numbers[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_written_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    written = entries(dtype)
    write_run(tmp_path / "a.run", written)
    assert [file.name for file in tmp_path.iterdir()] == ["a.run"]
    assert (tmp_path / "a.run").stat().st_size == run_bytes(TOKENS, shape(dtype))
    for found, expected in zip(read_run(tmp_path / "a.run", TOKENS, shape(dtype)), written, strict=True):
        assert (found.dtype, found.shape) == (dtype, expected.shape)
        assert torch.equal(found.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "flipped", "checksum", "tokens"])
def test_a_damaged_run_is_refused(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "a.run"
    write_run(file, entries(torch.bfloat16))
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "checksum":
        content[-1] ^= 1
    else:
        content = {"empty": bytearray(), "cut": content[:-1], "longer": content + b"."}.get(damage, content)
    file.write_bytes(content)
    with pytest.raises(InvalidMemory, match=r"a\.run has"):
        read_run(file, TOKENS + (damage == "tokens"), shape(torch.bfloat16))


def test_a_run_that_cannot_be_written_leaves_none_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidMemory, match=r"takes 0\.0 MiB: No such file or directory"):
        write_run(tmp_path / "gone" / "a.run", entries(torch.float32))


FRONT = RunKey((1, 2), adapter="x")
KEY = RunKey((3, 4), FRONT, adapter="x")


def test_whatever_the_entries_depend_on_makes_another_name() -> None:
    others = [
        RunKey((3, 5), FRONT, adapter="x"),
        RunKey((34,), FRONT, adapter="x"),
        RunKey((3, 4), adapter="x"),
        RunKey((3, 4), RunKey((1, 2), RunKey((1,), adapter="x"), adapter="x"), adapter="x"),
        RunKey((2, 3, 4), RunKey((1,), adapter="x"), adapter="x"),
        replace(KEY, adapter="y"),
        replace(KEY, memory=memory_options({"policy": "snapkv", "budget": 64})),
        replace(KEY, memory=memory_options({"policy": "snapkv", "budget": 65})),
        replace(KEY, parts=2),
        replace(KEY, heads="h"),
        replace(KEY, catalyst=(1,)),
    ]
    names = {run_file_name(key, "model", torch.float32) for key in (KEY, *others)}
    names |= {run_file_name(KEY, "other", torch.float32), run_file_name(KEY, "model", torch.bfloat16)}
    assert len(names) == len(others) + 3


def test_the_name_is_the_same_in_every_process() -> None:
    program = (
        "import torch; from refdesk.memory.kept_runs import run_file_name; from refdesk.memory.runs import RunKey;"
        "print(run_file_name(RunKey((3, 4), RunKey((1, 2), adapter='x'), adapter='x'), 'model', torch.float32))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    told = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert told.strip() == run_file_name(KEY, "model", torch.float32)
