"""/v1/words: all instances of phrases in an image; nothing is stored unless a person flags what was found."""

import threading
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from PIL import Image

from segzero.dialogue import Registry, Round
from segzero.errors import UserError
from segzero.masks import box_of, check_rle, decode
from segzero.pipeline import Pipeline
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter.words import check_phrases
from segzero.serving.errors import ERRORS, ApiError
from segzero.serving.feedback import FeedbackStore
from segzero.serving.requests import State, check_prompt_count, describe_body, feedback_store, open_image, read_body
from segzero.serving.responses import json_response, wait_for_models, words_json
from segzero.serving.schema import WordsAnswer, WordsBody, WordsFlagBody
from segzero.serving.threads import reading, writing
from segzero.words import find_words

MASK_PIXELS = 1 << 29  # of all masks of an answer: some seconds
router = APIRouter(prefix="/v1", tags=["words"], responses=ERRORS)


@router.post("/words", response_model=WordsAnswer, openapi_extra=describe_body(WordsBody))
async def words(request: Request, state: State, body: Annotated[WordsBody, Depends(read_body(WordsBody))]) -> Response:
    """Find all instances of phrases: a segmenter reads them, or a policy finds boxes."""
    models = state.pool.choose(body.policy, body.segmenter)
    check_phrases(body.phrases)
    image = await open_image(request, body.image, state.limits, state.options.fetch)
    exemplars = [(each.box, each.label) for each in body.exemplars]

    def step(pipeline: Pipeline) -> list[Segmentation]:
        return find_words(
            pipeline, image, body.phrases, body.box_threshold, body.text_threshold, exemplars, MASK_PIXELS
        )

    results = await wait_for_models(request, state.pool.run_step, step, threading.Lock(), models)
    return await json_response(request, words_json, results, image.size, body.format)


@router.post("/words/flag", status_code=204, openapi_extra=describe_body(WordsFlagBody))
async def flag(
    request: Request,
    state: State,
    store: Annotated[FeedbackStore, Depends(feedback_store)],
    body: Annotated[WordsFlagBody, Depends(read_body(WordsFlagBody))],
) -> Response:
    """Flag the instances of a phrase as good or bad; they are stored with the image, as data to train on."""
    models = state.pool.choose(body.policy, body.segmenter)
    [question] = check_phrases([body.phrase])
    image = await open_image(request, body.image, state.limits, state.options.fetch)
    check_prompt_count(max(1, len(body.masks)), image.size)
    registry = await reading.run(request.scope, _registry, question, body.masks, image)
    feedback = {"verdict": body.verdict, "note": body.note, "policy": models.policy, "segmenter": models.segmenter}
    await writing.run(request.scope, store.add, image, registry, 1, feedback)
    return Response(status_code=204)


def _registry(question: str, rles: list[dict], image: Image.Image) -> Registry:
    """The masks of a page as the only round of a dialogue."""
    try:
        masks = [decode(check_rle(rle, image.size)) for rle in rles]
    except UserError as error:
        raise ApiError(422, "bad_request", f"masks: {error}") from None
    boxes = [box_of(mask) for mask in masks]
    found = tuple(InstanceMask(mask, box) for mask, box in zip(masks, boxes, strict=True) if box is not None)
    registry = Registry(image.size)
    return registry.add(Round(1, question, registry.number(question, found)))
