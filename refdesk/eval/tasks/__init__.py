"""The benchmarks, one file each; a new one is a file beside these and a line in `TASKS`."""

from dataclasses import fields
from typing import Any, get_type_hints

from refdesk.eval.errors import InvalidTaskOption, UnknownTask
from refdesk.eval.task import Task
from refdesk.eval.tasks.clapnq import ClapNQ
from refdesk.eval.tasks.covidqa import CovidQA
from refdesk.eval.tasks.cranfield import Cranfield
from refdesk.eval.tasks.fairytaleqa import FairytaleQA
from refdesk.eval.tasks.kv import KeyValue
from refdesk.eval.tasks.multihop import HotpotQA, MuSiQue, TwoWiki
from refdesk.eval.tasks.needle import Needle
from refdesk.eval.tasks.nq import NaturalQuestions, NaturalQuestionsOracle
from refdesk.eval.tasks.policyqa import PolicyQA
from refdesk.eval.tasks.pubmedqa import PubMedQA
from refdesk.eval.tasks.qmsum import QMSum
from refdesk.eval.tasks.scifact import SciFact
from refdesk.eval.tasks.sec10q import Sec10Q
from refdesk.eval.tasks.squad import Squad, SquadV2
from refdesk.eval.tasks.squality import Squality
from refdesk.eval.tasks.tatqa import TatQA
from refdesk.eval.tasks.wikitables import WikiTables

TASKS: dict[str, type[Task]] = {
    "nq": NaturalQuestions,
    "nq-oracle": NaturalQuestionsOracle,
    "squad": Squad,
    "squad-v2": SquadV2,
    "hotpotqa": HotpotQA,
    "musique": MuSiQue,
    "2wiki": TwoWiki,
    "fairytaleqa": FairytaleQA,
    "covidqa": CovidQA,
    "policyqa": PolicyQA,
    "tatqa": TatQA,
    "wikitables": WikiTables,
    "pubmedqa": PubMedQA,
    "clapnq": ClapNQ,
    "qmsum": QMSum,
    "squality": Squality,
    "sec10q": Sec10Q,
    "kv": KeyValue,
    "needle": Needle,
    "scifact": SciFact,
    "cranfield": Cranfield,
}


def find_task(name: str, options: dict[str, Any] | None = None) -> Task:
    """The task of this name with these options; values may be given as text, as on a command line.

    Raises:
        UnknownTask: no task of this name; the message lists those that exist.
        InvalidTaskOption: the task has no such option, or cannot use its value.
    """
    if name not in TASKS:
        raise UnknownTask(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    kind = TASKS[name]
    types = {option.name: get_type_hints(kind)[option.name] for option in fields(kind)}
    values = {}
    for option, value in (options or {}).items():
        if option not in types:
            known = f"known: {', '.join(types)}" if types else "it has none"
            raise InvalidTaskOption(f"{name}: unknown option {option!r}; {known}")
        try:
            values[option] = types[option](value)
        except (TypeError, ValueError):
            raise InvalidTaskOption(f"{name}: {option} is {value!r}; expected {types[option].__name__}") from None
    return kind(**values)
