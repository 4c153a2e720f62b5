"""/v1/segment and /v1/prompt: masks for a question or for prompts of the segmenter; nothing is stored."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from segzero.serving.errors import ERRORS
from segzero.serving.requests import (
    State,
    check_prompt_count,
    check_question,
    describe_body,
    mask_prompt,
    open_image,
    read_body,
)
from segzero.serving.responses import json_response, objects_json, segmentation_json, wait_for_models
from segzero.serving.schema import PromptAnswer, PromptBody, SegmentAnswer, SegmentBody
from segzero.serving.threads import reading

router = APIRouter(prefix="/v1", tags=["segment"], responses=ERRORS)


@router.post("/segment", response_model=SegmentAnswer, openapi_extra=describe_body(SegmentBody))
async def segment(
    request: Request, state: State, body: Annotated[SegmentBody, Depends(read_body(SegmentBody))]
) -> Response:
    """Ask a question about an image."""
    models = state.pool.choose(body.policy, body.segmenter)
    question = check_question(body.question, state.limits)
    image = await open_image(request, body.image, state.limits, state.options.fetch)
    result = await wait_for_models(request, state.pool.segment, image, question, models)
    return await json_response(request, segmentation_json, result, body.format)


@router.post("/prompt", response_model=PromptAnswer, openapi_extra=describe_body(PromptBody))
async def prompt(
    request: Request, state: State, body: Annotated[PromptBody, Depends(read_body(PromptBody))]
) -> Response:
    """Draw masks from points, boxes and earlier masks."""
    models = state.pool.choose(body.policy, body.segmenter)
    image = await open_image(request, body.image, state.limits, state.options.fetch)
    check_prompt_count(len(body.prompts), image.size)
    pairs = await reading.run(request.scope, lambda: [mask_prompt(each, image.size) for each in body.prompts])
    prompts, earlier_masks = [each for each, _ in pairs], [rle for _, rle in pairs]
    predictions = await wait_for_models(request, state.pool.draw, image, prompts, earlier_masks, models)
    return await json_response(request, objects_json, predictions, image.size, body.all_masks, body.format)
