"""/healthz, /readyz and /metrics: for whoever watches over the server."""

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from segzero.serving.metrics import Metrics
from segzero.serving.models import Models
from segzero.serving.problems import ERRORS, dead


def add_state(app: FastAPI, models: Models, metrics: Metrics) -> None:
    """Add the routes."""

    @app.get("/healthz", tags=["state"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["state"], responses={503: ERRORS[503]})
    async def readyz() -> JSONResponse:
        """The models answer, and which they are."""
        if models.batcher.why_dead:
            return JSONResponse(dead().body(), 503, dead().headers)
        return JSONResponse({"status": "ready", "policy": models.policies[0], "segmenter": models.segmenters[0]})

    @app.get("/metrics", tags=["state"])
    async def metrics_page() -> Response:
        """Figures in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
