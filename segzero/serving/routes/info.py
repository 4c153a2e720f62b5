"""/v1/models and /v1/examples, and the server's own state: /healthz, /readyz and /metrics."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from segzero.dialogue.memory import MEMORIES
from segzero.serving.errors import ERRORS, ApiError, models_gone
from segzero.serving.examples import Example, synthetic_examples
from segzero.serving.model_pool import ModelPool
from segzero.serving.requests import State
from segzero.serving.schema import ExampleAnswer, ModelsAnswer

offer_router = APIRouter(prefix="/v1", tags=["offer"], responses={401: ERRORS[401]})
state_router = APIRouter(tags=["state"])


async def shown_examples(state: State) -> tuple[Example, ...]:
    """The examples of the server's own folder, or synthetic scenes."""
    examples = state.options.examples
    return await asyncio.to_thread(synthetic_examples) if examples is None else examples


Examples = Annotated[tuple[Example, ...], Depends(shown_examples)]


@offer_router.get("/models", response_model=ModelsAnswer)
async def offered(state: State) -> Response:
    """The models, the memories of dialogues, and the limits."""
    limits = state.limits
    return JSONResponse(
        {
            "policies": _named(state.pool, state.pool.policies),
            "segmenters": _named(state.pool, state.pool.segmenters),
            "memories": list(MEMORIES),
            "flags": state.feedback is not None,
            "program_writer": state.options.writer and state.options.writer.name,
            "limits": {"megabytes": limits.body / (1 << 20), "pixels": limits.pixels, "question": limits.question},
        }
    )


@offer_router.get("/examples", response_model=list[ExampleAnswer])
async def examples(shown: Examples) -> Response:
    """Pictures to begin with, and questions about them."""
    return JSONResponse(
        [
            {
                "name": example.name,
                "question": example.question,
                "followups": list(example.followups),
                "image": f"/v1/examples/{number}/image",
            }
            for number, example in enumerate(shown, 1)
        ]
    )


@offer_router.get("/examples/{number}/image", response_class=Response)
async def picture(number: int, shown: Examples) -> Response:
    """The picture of an example."""
    if not 1 <= number <= len(shown):
        raise ApiError(404, "not_found", f"there are examples 1 to {len(shown)}")
    return Response(shown[number - 1].image, media_type=shown[number - 1].media_type)


@state_router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@state_router.get("/readyz", responses={503: ERRORS[503]})
async def readyz(state: State) -> JSONResponse:
    """Whether the models answer, and which they are."""
    if state.pool.failure:
        error = models_gone()
        return JSONResponse(error.body(), error.status, error.headers)
    return JSONResponse({"status": "ready", "policy": state.pool.policies[0], "segmenter": state.pool.segmenters[0]})


@state_router.get("/metrics")
async def metrics_page(state: State) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _named(pool: ModelPool, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "default": place == 0, "mask_model": name in pool.mask_models, "shipped": name in pool.shipped}
        for place, name in enumerate(names)
    ]
