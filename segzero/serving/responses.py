"""Results as JSON. Run in a thread: encoding large masks takes time."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive

from segzero.dialogue import Registry, Round
from segzero.images import data_url
from segzero.io import finite_or_zero
from segzero.masks import RLE, Mask, box_of, decode, encode, mask_png
from segzero.result import Segmentation
from segzero.segmenter import MaskPrediction
from segzero.segmenter.protocol import best_first
from segzero.serving import responses, threads
from segzero.serving.batching import Busy, Dead
from segzero.serving.errors import ClientLeft, busy, dead, timed_out
from segzero.serving.model_pool import Models


def segmentation(result: Segmentation, format: str) -> dict[str, Any]:
    """As `Segmentation.to_dict`, or with PNGs in place of the RLEs."""
    answer = result.to_dict()
    if format == "png":
        for instance, found in zip(answer["instances"], result.instances, strict=True):
            del instance["rle"]
            instance["png"] = data_url(mask_png(found.mask))
    return answer


def objects(drawn: Sequence[MaskPrediction], size: tuple[int, int], all_masks: bool, format: str) -> dict[str, Any]:
    """The masks of each prompt, best first."""
    return {
        "size": {"width": size[0], "height": size[1]},
        "objects": [{"masks": _masks(each, all_masks, format)} for each in drawn],
    }


def dialogue_round(round: Round, format: str) -> dict[str, Any]:
    """A round as it stands, after corrections."""
    told = ("number", "question", "state", "error", "think", "raw_text")
    return {name: getattr(round, name) for name in told} | {
        "refers": list(round.refers),
        "warnings": list(round.warnings),
        "regions": [
            {
                "id": region.id,
                "box": list(region.box),
                "points": [list(point) for point in region.points],
                "labels": list(region.labels),
                "score": region.score,
                "color": list(region.color),
                **_written(region.rle, format),
            }
            for region in round.regions
        ],
    }


def dialogue_state(
    id: str, registry: Registry, policy: str, segmenter: str, memory: str, idle: float, steps: int
) -> dict[str, Any]:
    """All rounds, masks as RLE."""
    return {
        "id": id,
        "size": {"width": registry.size[0], "height": registry.size[1]},
        "policy": policy,
        "segmenter": segmenter,
        "memory": memory,
        "idle": idle,
        "steps": steps,
        "rounds": [dialogue_round(round, "rle") for round in registry.rounds],
    }


def candidates(masks: Sequence[tuple[Mask, float]], format: str) -> dict[str, Any]:
    """Masks to choose from."""
    return {"masks": [_mask(mask, score, format) for mask, score in masks]}


def as_bytes(answer: dict[str, Any]) -> bytes:
    """In plain ASCII, so that no half character can spoil it."""
    return json.dumps(answer, allow_nan=False).encode()


def _masks(drawn: MaskPrediction, all_masks: bool, format: str) -> list[dict[str, Any]]:
    order = best_first(drawn)[: None if all_masks else 1]
    masks = drawn.masks
    return [_mask(masks[place], float(drawn.scores[place]), format) for place in order]


def _mask(mask: Mask, score: float, format: str) -> dict[str, Any]:
    return {"score": finite_or_zero(score), "box": box_of(mask), **_written(encode(mask), format)}


def _written(rle: RLE, format: str) -> dict[str, Any]:
    return {"rle": rle} if format == "rle" else {"png": data_url(mask_png(decode(rle)))}


T = TypeVar("T")


async def answer_of(request: Request, models: Models, submit: Callable[..., "Future[T]"], *arguments: Any) -> T:
    """What `submit(*arguments)` promises; the place is given up when the client leaves or its time is over."""
    leaving = asyncio.create_task(gone(request.receive))
    waiting: asyncio.Future[T] | None = None
    try:
        waiting = asyncio.wrap_future(submit(*arguments))
        either: set[asyncio.Future[Any]] = {waiting, leaving}
        seconds = request.scope["segzero.ends"] - time.monotonic()
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if leaving.done():
            raise ClientLeft
        raise timed_out()
    except Busy:
        raise busy(models.wait()) from None
    except Dead:
        raise dead() from None
    finally:
        if waiting is not None:
            waiting.cancel()  # and with it what was submitted: what has not begun will not
        leaving.cancel()


async def json_answer(
    request: Request, write: Callable[..., dict[str, Any]], *arguments: Any, status: int = 200
) -> Response:
    """What `write` makes of the result, as a response."""
    body = await threads.writing.run(request.scope, lambda: responses.as_bytes(write(*arguments)))
    return Response(body, status, media_type="application/json")


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
