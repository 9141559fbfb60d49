"""The command line, run as its user runs it."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.service import free_port
from tests.retriever.bad_files import BAD_FILES

pytestmark = pytest.mark.models


@pytest.fixture
def data(tmp_path: Path, model_folder: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "models").symlink_to(model_folder)
    return folder


def refdesk(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REFDESK_")}
    return subprocess.run(
        [sys.executable, "-m", "refdesk", *arguments],
        env=clean | {"REFDESK_DATA": str(data)} | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_files_go_in_and_answers_come_out(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "papers"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "tower.txt").write_text("The tower of Babel Street was built in 1931.")
    (source / "skip.xyz").write_text("not a known format")
    (source / "bad.pdf").write_bytes(b"no pdf")
    done = refdesk(data, "ingest", str(source))
    assert done.returncode == 1
    assert "bad.pdf: it is not a PDF" in done.stderr
    assert "1 done, 1 rejected" in done.stdout
    again = refdesk(data, "ingest", str(source / "deep"), "--json")
    assert again.returncode == 0
    assert [job["state"] for job in json.loads(again.stdout)["jobs"]] == ["succeeded"]
    listed = json.loads(refdesk(data, "documents", "--json").stdout)
    assert [document["source_id"] for document in listed] == ["deep/tower.txt", "tower.txt"]
    asked = refdesk(data, "ask", "When was the tower of Babel Street built?", "--json", "--max-new-tokens", "24")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert "1931" in answer["answer"]
    held = ("--memory", "policy=streaming", "--memory", "budget=64", "--reading", "together", "--json")
    thinned = json.loads(refdesk(data, "ask", "When was the tower built?", *held).stdout)
    assert thinned["usage"]["memory_policy"] == "streaming"
    assert thinned["usage"]["memory"]["freed_entries"] > 0
    shorter = ("--compression", "strategy=best", "--compression", "budget=9")
    asked = refdesk(data, "ask", "When was the tower built?", *shorter, "--json")
    assert json.loads(asked.stdout)["usage"]["compression"]["tokens_after"] == 9
    assert re.search(r"\(9 of \d+ tokens, by best\)", refdesk(data, "ask", "When?", *shorter).stderr)
    assert answer["citations"][0]["quote"] == "The tower of Babel Street was built in 1931."
    jobs = json.loads(refdesk(data, "jobs", "--json").stdout)
    assert [job["state"] for job in jobs] == ["succeeded", "succeeded"]
    assert refdesk(data, "documents", "delete", "tower.txt").returncode == 0
    assert refdesk(data, "documents", "text", "deep/tower.txt").stdout.startswith("The tower")


def test_documents_are_remembered_and_answered_over(data: Path, tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text(" ".join(f"The tower number {n} was built in {1900 + n}." for n in range(40)))
    assert refdesk(data, "ingest", str(story)).returncode == 0
    over = ("ask", "When was the tower number 7 built?", "--context", "document", "--document", "story.txt")
    early = refdesk(data, *over)
    assert (early.returncode, "make one by" in early.stderr) == (1, True)
    done = refdesk(data, "remember", "story.txt", "--near", "32", "--layer", "10", "--layer", "20")
    assert (done.returncode, done.stdout.startswith("1 done in")) == (0, True), done.stderr
    assert [job["kind"] for job in json.loads(refdesk(data, "jobs", "--json").stdout)] == ["memory", "ingest"]
    (memory,) = json.loads(refdesk(data, "memories", "--json").stdout)
    assert (memory["document"], memory["options"]["layers"], memory["fits"]) == ("story.txt", [10, 20], True)
    asked = refdesk(data, *over, "--entries", "64", "--places", "true", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["usage"]["document_tokens"] == memory["tokens"]
    told = " ".join(refdesk(data, *over).stderr.split())
    assert re.search(r"read together, found in documents of [\d,]+ tokens", told)
    attended = ("ask", "When was number 7 built?", "--context", "attended", "--document", "story.txt")
    assert re.search(r"over documents of [\d,]+ tokens", refdesk(data, *attended).stderr)
    refused = refdesk(data, *attended, "--memory", "rate=8")
    assert (refused.returncode, "memory policy is 'kv_compress'" in refused.stderr) == (1, True)
    assert refdesk(data, "remember", "--colour", "red").returncode == 2
    assert refdesk(data, "remember", "--rate", "4", "--keep", "best").returncode == 2
    refused = refdesk(data, "remember", "--keep", "infinipot")
    assert (refused.returncode, "keep is 'infinipot'; expected auto" in refused.stderr) == (1, True)
    assert refdesk(data, "remember", "--rate", "4", "--keep", "infinipot").returncode == 0
    assert "rate 4 by infinipot" in refdesk(data, "memories").stdout
    assert "fits  story.txt" in refdesk(data, "memories").stdout
    assert refdesk(data, "memories", "delete", "story.txt").returncode == 0
    assert refdesk(data, "memories").stdout == ""


def test_passages_are_prepared_for_answers_of_later_processes(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tower.txt").write_text("The tower of Babel Street was built in 1931.")
    assert refdesk(data, "ingest", str(tmp_path / "tower.txt")).returncode == 0
    done = refdesk(data, "remember", "--of", "passages")
    assert (done.returncode, done.stdout.startswith("1 done in")) == (0, True), done.stderr
    assert "of passages  fits  tower.txt" in refdesk(data, "memories").stdout
    answer = json.loads(refdesk(data, "ask", "When was it built?", "--reading", "apart", "--json").stdout)
    assert (answer["usage"]["run_loads"], answer["usage"]["run_misses"]) == (1, 1)
    refused = refdesk(data, "remember", "--of", "passages", "--near", "32")
    assert (refused.returncode, "near is 32; expected nothing" in refused.stderr) == (1, True)
    assert refdesk(data, "remember", "--of", "chapters").returncode == 2


def test_every_bad_file_is_named_with_its_reason_and_the_others_come_in(data: Path, tmp_path: Path) -> None:
    bad = {file.name: file for file in BAD_FILES.values()}
    for name, content, _ in bad.values():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("Good.")
    done = refdesk(data, "ingest", *(str(tmp_path / name) for name in [*bad, "good.txt"]))
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    for file in bad.values():
        assert file.name in told
        assert file.reason in told
    assert refdesk(data, "documents", "list").stdout.count("\n") == 1


def test_a_file_that_cannot_be_read_or_named_is_told_and_the_others_come_in(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "papers"
    source.mkdir()
    (source / "good.txt").write_text("Good.")
    (source / "memory.txt").symlink_to("/proc/self/mem")  # cannot be read even by root
    (source / os.fsdecode(b"caf\xe9.txt")).write_text("Named in Latin-1.")
    done = refdesk(data, "ingest", str(source), "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert [job["state"] for job in told["jobs"]] == ["succeeded"]
    assert [(entry["source_id"], entry["detail"].split(":")[0]) for entry in told["rejected"]] == [
        ("memory.txt", "the file cannot be read (Input/output error)"),
        ("caf\ufffd.txt", r"source id 'caf\udce9.txt'"),
    ]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "reason"),
    [
        (["ask", "x", "--collection", "nope"], {}, 1, "unknown collection 'nope'"),
        (["ask", "x", "--colour", "red"], {}, 2, "--colour"),
        (["ask"], {}, 2, "QUESTION"),
        (["ingest", "nowhere.txt"], {}, 2, "nowhere.txt"),
        (["jobs", "show", "nope"], {}, 1, "unknown job 'nope'"),
        (["documents", "list"], {}, 1, "none exists yet"),
        (["documents", "--json", "list"], {}, 2, "behind 'list'"),
        (["collections", "create", "Not OK"], {}, 1, "Not OK"),
        (["keys", "remove", "nope"], {}, 1, "nope"),
        (["jobs", "list"], {"REFDESK_COLOUR": "red"}, 1, "REFDESK_COLOUR: unknown setting"),
        (["jobs", "list"], {"REFDESK_PORT": "many"}, 1, "REFDESK_PORT 'many'"),
        (["jobs", "list"], {"REFDESK_DATABASE": "oracle://x"}, 1, "oracle"),
        (["jobs", "list"], {"REFDESK_INDEX": "pgvector"}, 1, "needs a postgresql"),
        (["jobs", "list"], {"REFDESK_KV_MEMORY_MB": "0"}, 1, "REFDESK_KV_MEMORY_MB 0: expected 1 to"),
        (["ask", "why?", "--memory", "eight"], {}, 2, "'eight'; expected NAME=VALUE"),
        (
            ["ask", "why?", "--memory", "policy=elephant", "--memory", "rate=8"],
            {},
            1,
            "'elephant'; expected one of",
        ),
        (["ask", "why?", "--memory", "rate=2", "--memory", "rate=4"], {}, 2, "rate stands there twice"),
        (["eval", "run", "kv", "--memory", "rate=0.1"], {}, 1, "0.1; expected 1 to 1024"),
        (["ask", "why?", "--compression", "four"], {}, 2, "'four'; expected NAME=VALUE"),
        (["ask", "why?", "--compression", "strategy=zip"], {}, 1, "'zip'; expected one of none, auto"),
        (["eval", "run", "kv", "--compression", "rate=0.1"], {}, 1, "0.1; expected 1 to 1024"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    data: Path, arguments: list[str], environment: dict[str, str], code: int, reason: str
) -> None:
    done = refdesk(data, *arguments, **environment)
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", "serve", "ingest", "ask", "documents", "collections", "jobs", "keys"])
def test_every_command_helps(data: Path, command: str) -> None:
    done = refdesk(data, *command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_an_address_that_others_reach_is_refused_until_a_key_exists(data: Path) -> None:
    refused = refdesk(data, "serve", "--host", "0.0.0.0", "--port", str(free_port()))
    assert refused.returncode == 1
    assert "not a loopback address" in refused.stderr


def test_a_port_that_is_taken_is_told(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = refdesk(data, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
