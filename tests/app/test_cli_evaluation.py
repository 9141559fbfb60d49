"""`refdesk eval`, run as its user runs it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.test_cli import data, refdesk
from tests.eval.conftest import ROWS, jsonl

pytestmark = pytest.mark.models

__all__ = ["data"]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "harrow.jsonl"
    path.write_bytes(jsonl(*ROWS))
    return path


def test_questions_of_ones_own_are_run_compared_and_reported(data: Path, questions: Path, tmp_path: Path) -> None:
    done = refdesk(
        data, "eval", "run", str(questions), "-p", "closed_book", "-p", "oracle", "--max-new-tokens", "12"
    )
    assert done.returncode == 0, done.stderr
    for word in ("closed_book", "oracle", "f1", "nll"):
        assert word in done.stdout
    listed = refdesk(data, "eval", "list").stdout.splitlines()
    assert [line.split()[-1] for line in listed] == ["oracle", "closed_book"]
    assert all(re.search(r"succeeded +3 of +3", line) for line in listed)
    ids = [line.split()[0] for line in reversed(listed)]
    report = tmp_path / "report.html"
    compared = refdesk(data, "eval", "compare", *ids, "--html", str(report))
    assert compared.returncode == 0, compared.stderr
    assert "kept_gold" in compared.stdout
    html = report.read_text()
    assert html.startswith("<!doctype html>")
    assert "When was the Harrow Tower finished?" in html
    assert "<svg" in html
    markdown = refdesk(data, "eval", "compare", *ids, "--markdown").stdout
    assert markdown.count("|") > 20
    shown = refdesk(data, "eval", "show", ids[1], "--questions").stdout
    assert "Who designed the Harrow Bridge?" in shown
    as_json = json.loads(refdesk(data, "eval", "show", ids[1], "--json").stdout)
    assert as_json["scores"]["kept_gold"]["mean"] == 1.0


def test_a_run_that_is_killed_is_gone_on_with(data: Path, tmp_path: Path) -> None:
    questions = tmp_path / "many.jsonl"
    questions.write_bytes(jsonl(*(ROWS[0] | {"id": str(number)} for number in range(30))))
    arguments = ["--data", str(data), "eval", "run", str(questions), "-p", "full", "--max-new-tokens", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "refdesk", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        runs = json.loads(refdesk(data, "eval", "list", "--json").stdout)
        if runs and runs[0]["progress"]["done"] > 0:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = refdesk(data, "eval", "list").stdout
    assert re.search(r"running +[12]?[0-9] of +30", before), before
    done = refdesk(data, "eval", "resume")
    assert done.returncode == 0, done.stderr
    assert re.search(r"succeeded +30 of +30", refdesk(data, "eval", "list").stdout)
    assert "every run is finished" in refdesk(data, "eval", "resume").stderr


BAD = {
    "unknown task 'trivia'; known: nq": ["run", "trivia"],
    "no benchmark data at /nowhere": ["run", "squad", "--shared-data", "/nowhere"],
    "squad: unknown option 'colour'": ["run", "squad", "-o", "colour=red"],
    "gold_at is 20; expected 0 to 19": ["run", "nq", "-o", "gold_at=20"],
    "gold_at is 'first'; expected int": ["run", "nq", "-o", "gold_at=first"],
    "line 2: answers is empty": ["run", "bad.jsonl"],
    "cannot be read: No such file": ["run", "missing.jsonl"],
    "unknown pipeline 'best'": ["run", "harrow.jsonl", "-p", "best"],
    "unknown metric 'f3'": ["run", "harrow.jsonl", "--metric", "f3"],
    "unknown run 'nope'": ["compare", "nope"],
}


def test_what_cannot_be_is_told_before_any_model_is_loaded(data: Path, questions: Path) -> None:
    (questions.parent / "bad.jsonl").write_bytes(jsonl(ROWS[0], ROWS[1] | {"answers": []}))
    for reason, arguments in BAD.items():
        located = [str(questions.parent / one) if one.endswith(".jsonl") else one for one in arguments]
        done = refdesk(data, "eval", *located)
        assert done.returncode == 1
        assert reason in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
        assert "loading" not in done.stderr
    assert refdesk(data, "eval", "list").stdout == ""


def test_tasks_pipelines_and_metrics_are_listed(data: Path) -> None:
    listed = refdesk(data, "eval", "tasks").stdout
    for word in ("squad", "gold_at=0", "closed_book", "kept_gold"):
        assert word in listed
