"""/v1/segment and /v1/prompt: one question, or prompts of the segmenter's own; nothing is remembered of them."""

from fastapi import FastAPI, Request, Response

from segzero.serving import responses
from segzero.serving.errors import ERRORS
from segzero.serving.limits import Limits
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.requests import check_masks, check_question, describe_body, open_image, read_body, read_prompt
from segzero.serving.responses import answer_of, json_answer
from segzero.serving.schema import PromptAnswer, PromptBody, SegmentAnswer, SegmentBody
from segzero.serving.threads import reading


def add_segmenting(app: FastAPI, models: Models, limits: Limits, extras: Extras) -> None:
    """Add the routes."""

    @app.post(
        "/v1/segment",
        tags=["segment"],
        response_model=SegmentAnswer,
        responses=ERRORS,
        openapi_extra=describe_body(SegmentBody),
    )
    async def segment(request: Request) -> Response:
        """Ask a question about an image."""
        body = await read_body(request, SegmentBody)
        chosen = models.choose(body.policy, body.segmenter)
        question = check_question(body.question, limits)
        image = await open_image(request, body.image, limits, extras.fetch)
        result = await answer_of(request, models, models.segment, image, question, chosen)
        return await json_answer(request, responses.segmentation, result, body.format)

    @app.post(
        "/v1/prompt",
        tags=["segment"],
        response_model=PromptAnswer,
        responses=ERRORS,
        openapi_extra=describe_body(PromptBody),
    )
    async def prompt(request: Request) -> Response:
        """Draw masks from points, boxes and earlier masks."""
        body = await read_body(request, PromptBody)
        chosen = models.choose(body.policy, body.segmenter)
        image = await open_image(request, body.image, limits, extras.fetch)
        check_masks(len(body.prompts), image.size)
        asked = await reading.run(request.scope, lambda: [read_prompt(each, image.size) for each in body.prompts])
        prompts, earlier = [each for each, _ in asked], [rle for _, rle in asked]
        drawn = await answer_of(request, models, models.draw, image, prompts, earlier, chosen)
        return await json_answer(request, responses.objects, drawn, image.size, body.all_masks, body.format)
