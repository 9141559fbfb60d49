"""`/v1/collections`: named sets of documents."""

from litestar import Controller, delete, get, post

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.rest.messages import (
    CollectionMessage,
    CollectionRequest,
    CollectionsMessage,
    collection_message,
)
from refdesk.retriever.collections import get_collection, list_collections


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
        collection = desk.create_collection(data.name, data.chunk_size, data.chunk_overlap)
        return collection_message(collection, {"documents": 0, "chunks": 0})

    @get("/{name:str}", operation_id="GetCollection", sync_to_thread=True)
    def retrieve(self, name: str, desk: Desk) -> CollectionMessage:
        """One collection."""
        collection = get_collection(desk.engine, name)
        return next(
            collection_message(found, counts)
            for found, counts in list_collections(desk.engine)
            if found.id == collection.id
        )

    @delete("/{name:str}", operation_id="DeleteCollection", guards=[require("admin")], sync_to_thread=True)
    def remove(self, name: str, desk: Desk) -> None:
        """Remove a collection with everything in it."""
        desk.delete_collection(name)
