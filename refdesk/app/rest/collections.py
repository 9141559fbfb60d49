"""`/v1/collections`: named sets of documents."""

from litestar import Controller, delete, get, patch, post

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.rest.messages import (
    CollectionChange,
    CollectionMessage,
    CollectionRequest,
    CollectionsMessage,
    collection_message,
)
from refdesk.retriever.collections import Collection, get_collection, list_collections


class CollectionsController(Controller):
    """Collections; their embedder is the service's, and stays theirs."""

    path = "/collections"
    tags = ("collections",)

    @get(operation_id="ListCollections", sync_to_thread=True)
    def list(self, desk: Desk) -> CollectionsMessage:
        """Every collection by name."""
        return CollectionsMessage([collection_message(*entry) for entry in list_collections(desk.engine)])

    @post(operation_id="CreateCollection", guards=[require("admin")], sync_to_thread=True)
    def create(self, data: CollectionRequest, desk: Desk) -> CollectionMessage:
        """Make an empty collection."""
        collection = desk.create_collection(data.name, data.chunk_size, data.chunk_overlap, data.adapter)
        return collection_message(collection, {"documents": 0, "chunks": 0})

    @get("/{name:str}", operation_id="GetCollection", sync_to_thread=True)
    def retrieve(self, name: str, desk: Desk) -> CollectionMessage:
        """One collection."""
        return _message(desk, get_collection(desk.engine, name))

    @patch("/{name:str}", operation_id="ChangeCollection", guards=[require("admin")], sync_to_thread=True)
    def change(self, name: str, data: CollectionChange, desk: Desk) -> CollectionMessage:
        """Answer a collection's questions with another adapter from now on."""
        return _message(desk, desk.set_adapter(name, data.adapter))

    @delete("/{name:str}", operation_id="DeleteCollection", guards=[require("admin")], sync_to_thread=True)
    def remove(self, name: str, desk: Desk) -> None:
        """Remove a collection with everything in it."""
        desk.delete_collection(name)


def _message(desk: Desk, collection: Collection) -> CollectionMessage:
    counts = next(counts for found, counts in list_collections(desk.engine) if found.id == collection.id)
    return collection_message(collection, counts)
