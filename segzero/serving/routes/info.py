"""/v1/models and /v1/examples: what there is to choose from."""

import asyncio
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from segzero.dialogue.memory import MEMORIES
from segzero.serving.errors import ERRORS, Problem, dead
from segzero.serving.examples import Example, made_examples
from segzero.serving.limits import Limits
from segzero.serving.metrics import Metrics
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.schema import ExampleAnswer, ModelsAnswer


def add_offer(app: FastAPI, models: Models, limits: Limits, extras: Extras) -> None:
    """Add the routes."""
    common: dict[str, Any] = {"tags": ["offer"], "responses": {401: ERRORS[401]}}

    async def shown() -> tuple[Example, ...]:
        return await asyncio.to_thread(made_examples) if extras.examples is None else extras.examples

    @app.get("/v1/models", response_model=ModelsAnswer, **common)
    async def offered() -> Response:
        """The models, the memories of dialogues, and the limits."""
        return JSONResponse(
            {
                "policies": [{"name": name, "default": not place} for place, name in enumerate(models.policies)],
                "segmenters": [{"name": name, "default": not place} for place, name in enumerate(models.segmenters)],
                "memories": list(MEMORIES),
                "flags": extras.flags is not None,
                "limits": {
                    "megabytes": limits.body / (1 << 20),
                    "pixels": limits.pixels,
                    "question": limits.question,
                },
            }
        )

    @app.get("/v1/examples", response_model=list[ExampleAnswer], **common)
    async def examples() -> Response:
        """Pictures to begin with, and questions about them."""
        return JSONResponse(
            [
                {
                    "name": each.name,
                    "question": each.question,
                    "followups": list(each.followups),
                    "image": f"/v1/examples/{number}/image",
                }
                for number, each in enumerate(await shown(), 1)
            ]
        )

    @app.get("/v1/examples/{number}/image", response_class=Response, **common)
    async def picture(number: int) -> Response:
        """One of them."""
        known = await shown()
        if not 1 <= number <= len(known):
            raise Problem(404, "not_found", f"there are examples 1 to {len(known)}")
        return Response(known[number - 1].image, media_type=known[number - 1].kind)


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
