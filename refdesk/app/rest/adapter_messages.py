"""What goes over the wire about adapters."""

from datetime import datetime
from typing import Any

import msgspec

from refdesk.app.adapters import AdapterEntry
from refdesk.app.craft import CraftSettings
from refdesk.app.rest.messages import ProgressMessage, moment
from refdesk.craft.recipe import DataRecipe, TrainingRecipe, changed

_DEFAULT = CraftSettings()


class AdapterRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An adapter to train on a `collection`, or on an uploaded `dataset`. `questions`: to make of its passages;
    `start`: the adapter that it begins as, null for the service's own where the rank is the same, `none` for none;
    `data` and `training`: settings of docs/craft.md by name, in place of the defaults."""

    name: str
    collection: str | None = None
    dataset: str | None = None
    questions: int = _DEFAULT.questions
    start: str | None = None
    data: dict[str, Any] = {}
    training: dict[str, Any] = {}

    def settings(self) -> CraftSettings:
        """Raises InvalidRecipe, naming the value and what was expected."""
        return CraftSettings(
            collection=self.collection,
            dataset=self.dataset,
            questions=self.questions,
            start=self.start,
            data=changed(DataRecipe(), self.data),
            training=changed(TrainingRecipe(), self.training),
        )


class AdapterMessage(msgspec.Struct):
    """An adapter and how far it is. `ready`: whether questions can be answered with it; `card`: what it was made
    of and what it came to, null until then."""

    name: str
    ready: bool
    state: str
    stage: str
    progress: ProgressMessage
    error: str | None
    job: str | None
    settings: dict[str, Any]
    card: dict[str, Any] | None
    created_at: datetime | None


class AdaptersMessage(msgspec.Struct):
    """The shipped adapter, then the newest first."""

    items: list[AdapterMessage]


def adapter_message(entry: AdapterEntry) -> AdapterMessage:
    """An adapter for the wire."""
    return AdapterMessage(
        name=entry.name,
        ready=entry.ready,
        state=entry.state,
        stage=entry.stage,
        progress=ProgressMessage(entry.done, entry.total),
        error=entry.error,
        job=entry.job_id,
        settings=dict(entry.settings),
        card=None if entry.card is None else dict(entry.card),
        created_at=None if entry.created_at is None else moment(entry.created_at),
    )
