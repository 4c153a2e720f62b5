"""/v1/everything: all masks of an image; nothing is stored."""

import threading
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from segzero.pipeline import Pipeline
from segzero.segmenter.everything import PRESETS, FoundMask, find_everything
from segzero.serving.errors import ERRORS
from segzero.serving.requests import State, describe_body, open_image, read_body
from segzero.serving.responses import everything_json, json_response, wait_for_models
from segzero.serving.schema import EverythingAnswer, EverythingBody

MASK_PIXELS = 1 << 29  # of all masks of an answer: some seconds
router = APIRouter(prefix="/v1", tags=["everything"], responses=ERRORS)


@router.post("/everything", response_model=EverythingAnswer, openapi_extra=describe_body(EverythingBody))
async def everything(
    request: Request, state: State, body: Annotated[EverythingBody, Depends(read_body(EverythingBody))]
) -> Response:
    """Find all masks of an image from a grid of points, without a question."""
    models = state.pool.choose(segmenter=body.segmenter)
    settings = replace(PRESETS[body.preset], **body.settings.model_dump(exclude_none=True))
    image = await open_image(request, body.image, state.limits, state.options.fetch)

    def step(pipeline: Pipeline) -> list[FoundMask]:
        assert pipeline.segmenter is not None, "a server draws by hand, too"
        return find_everything(pipeline.segmenter, image, settings, most_pixels=MASK_PIXELS)

    # Each batch of points waits in the models' queue, where other requests have their turn.
    found = await wait_for_models(request, state.pool.run_step, step, threading.Lock(), models)
    return await json_response(request, everything_json, found, image.size, body.format)
