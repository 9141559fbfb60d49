"""The service: controllers, errors, the OpenAPI page and the life of its parts, put together."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import structlog
import swagger_ui
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.static_files import create_static_files_router

from refdesk import __version__
from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.problems import respond
from refdesk.app.rest.adapters import AdaptersController
from refdesk.app.rest.answers import AnswersController
from refdesk.app.rest.collections import CollectionsController
from refdesk.app.rest.documents import DocumentsController
from refdesk.app.rest.evaluations import DatasetsController, EvaluationsController
from refdesk.app.rest.health import HealthController
from refdesk.app.rest.jobs import JobsController
from refdesk.app.rest.memories import MemoriesController

log = structlog.get_logger()

_ASSETS = "/schema/assets"
# A request may carry this many files of the largest size.
_FILES_PER_REQUEST = 4


def create_app(desk: Desk) -> Litestar:
    """The ASGI application over a desk; it starts the job worker, and closes the desk at the end."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        desk.start()
        # The models load beside the first requests: /health/ready tells when they are there.
        threading.Thread(target=_warm, args=(desk,), name="warm", daemon=True).start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(desk.close)

    api = Router(
        "/v1",
        route_handlers=[
            AdaptersController,
            AnswersController,
            CollectionsController,
            DatasetsController,
            DocumentsController,
            EvaluationsController,
            JobsController,
            MemoriesController,
        ],
        guards=[require("read")],
        security=[{"key": []}],
    )
    assets = create_static_files_router(
        _ASSETS, [Path(swagger_ui.__file__).parent / "static"], include_in_schema=False
    )
    return Litestar(
        route_handlers=[api, HealthController, assets],
        dependencies={"desk": Provide(_desk, sync_to_thread=False)},
        exception_handlers={Exception: respond},
        lifespan=[lifespan],
        state=State({"desk": desk}),
        openapi_config=_openapi(),
        request_max_body_size=_FILES_PER_REQUEST * desk.settings.max_upload_bytes + 2**20,
        multipart_form_part_limit=2000,
    )


def _desk(state: State) -> Desk:
    desk: Desk = state.desk
    return desk


def _openapi() -> OpenAPIConfig:
    """The schema at /schema/openapi.json and its page at /schema, whose scripts come from this process."""
    page = SwaggerRenderPlugin(
        js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        css_url=f"{_ASSETS}/swagger-ui.css",
        standalone_preset_js_url=f"{_ASSETS}/swagger-ui-standalone-preset.js",
        favicon=f'<link rel="icon" href="{_ASSETS}/favicon-32x32.png">',
        path="/",
    )
    return OpenAPIConfig(
        title="Refdesk",
        version=__version__,
        description="A reference desk for long private documents. Errors are problem+json (RFC 9457).",
        render_plugins=[page],
        components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
    )


def _warm(desk: Desk) -> None:
    try:
        desk.warm()
    except Exception as error:
        log.exception("models_not_loaded", error=str(error))
