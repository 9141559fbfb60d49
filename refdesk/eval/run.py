"""A run: one pipeline over the questions of one task, with everything that is needed to repeat it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """`job_id`: of the job that does it. `dataset`: the id of the uploaded data set, None for a benchmark.
    `settings`: what was asked for, as in `refdesk.eval.plan.RunSettings`, with every default filled in.
    `versions`: of the libraries, the names and fingerprints of the models, the machine. `commit`: of Refdesk's
    source, empty when it was installed from a package. `metrics`: the quality metrics, the main one first.
    `state`: of the job: queued, running, succeeded, failed or cancelled. `done` of `total` questions have a score.
    """

    id: str
    job_id: str
    dataset: str | None
    task: str
    pipeline: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    metrics: tuple[str, ...]
    state: str
    done: int
    total: int
    error: str | None
    created_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """What one question came to.

    `values`: quality metrics and costs by name, None where a metric does not apply to this question. Costs are
    `prompt_tokens`, `completion_tokens`, `kv_entries` and `kv_bytes` (both at the peak), `kv_held_bytes`,
    `kv_freed_bytes`, `run_hits`, `run_loads`, `run_misses` and `seconds_<stage>` with `seconds_total`.
    `facts`: the example's, to group by. `error`: why there is no answer, such as a prompt longer than the window;
    then every quality metric is None.
    """

    example_id: str
    question: str
    references: tuple[str, ...]
    answer: str
    values: Mapping[str, float | None]
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str | None = None
