"""`/health`: whether the process lives, and whether it can answer."""

from typing import Any

from litestar import Controller, Response, get

from refdesk.app.build import Desk


class HealthController(Controller):
    """Health; open to all, and silent about what is stored."""

    path = "/health"
    tags = ("health",)

    @get("/live", operation_id="GetLiveness", sync_to_thread=False)
    def live(self) -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @get("/ready", operation_id="GetReadiness", sync_to_thread=True)
    def ready(self, desk: Desk) -> Response[dict[str, Any]]:
        """The database answers and the models are loaded; 503 until then."""
        checks = desk.readiness()
        good = all(state == "ok" for state in checks.values())
        return Response(
            {"status": "ok" if good else "not ready", "checks": checks}, status_code=200 if good else 503
        )
