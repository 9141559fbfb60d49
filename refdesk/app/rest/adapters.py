"""`/v1/adapters`: the model, trained on a collection."""

from litestar import Controller, Response, delete, get, post

from refdesk.app.adapters import get_adapter, list_adapters
from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.rest.adapter_messages import AdapterMessage, AdapterRequest, AdaptersMessage, adapter_message


class AdaptersController(Controller):
    """Adapters: what was trained, and training more."""

    path = "/adapters"
    tags = ("adapters",)

    @post(operation_id="TrainAdapter", status_code=202, guards=[require("admin")], sync_to_thread=True)
    def train(self, data: AdapterRequest, desk: Desk) -> Response[AdapterMessage]:
        """Train an adapter on a collection, as a job: questions are made of its passages, then learned.

        A service that goes down goes on with it at its next start. `GET /v1/jobs/{job}` tells how far it is, and
        `DELETE /v1/jobs/{job}` stops it.
        """
        entry = desk.start_training(data.name, data.settings())
        return Response(
            adapter_message(entry), status_code=202, headers={"Location": f"/v1/adapters/{entry.name}"}
        )

    @get(operation_id="ListAdapters", sync_to_thread=True)
    def list(self, desk: Desk) -> AdaptersMessage:
        """Every adapter: the one that is shipped, then the newest first."""
        return AdaptersMessage([adapter_message(entry) for entry in list_adapters(desk.engine)])

    @get("/{name:str}", operation_id="GetAdapter", sync_to_thread=True)
    def retrieve(self, name: str, desk: Desk) -> AdapterMessage:
        """One adapter with its card."""
        return adapter_message(get_adapter(desk.engine, name))

    @delete("/{name:str}", operation_id="DeleteAdapter", guards=[require("admin")], sync_to_thread=True)
    def remove(self, name: str, desk: Desk) -> None:
        """Remove an adapter that is not being trained, and that no collection is asked with."""
        desk.delete_adapter(name)
