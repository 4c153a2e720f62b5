"""Responses: wait for the models' result, then write it as JSON in a thread, as encoding large masks takes time."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive

from segzero.dialogue import Registry, Round
from segzero.images import data_url
from segzero.io import finite_or_zero
from segzero.masks import RLE, Mask, box_of, decode, encode, mask_png
from segzero.programs.trace import Trace
from segzero.result import Segmentation
from segzero.segmenter import MaskPrediction
from segzero.segmenter.everything import FoundMask
from segzero.segmenter.protocol import best_first
from segzero.serving.errors import ClientDisconnected, ModelUnavailable, QueueFull, api_error, timed_out
from segzero.serving.sessions import Session
from segzero.serving.threads import writing

T = TypeVar("T")
ROUND_FIELDS = ("number", "question", "state", "error", "think", "raw_text")


async def wait_for_models(request: Request, submit: Callable[..., "Future[T]"], *arguments: Any) -> T:
    """Wait for the future of `submit(*arguments)`; it is cancelled when the client leaves or the deadline is over."""
    leaving = asyncio.create_task(wait_for_disconnect(request.receive))
    result: asyncio.Future[T] | None = None
    try:
        result = asyncio.wrap_future(submit(*arguments))
        either: set[asyncio.Future[Any]] = {result, leaving}
        seconds = request.scope["segzero.deadline"] - time.monotonic()
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if leaving.done():
            raise ClientDisconnected
        raise timed_out()
    except (QueueFull, ModelUnavailable) as error:
        raise api_error(error) from None
    finally:
        if result is not None:
            result.cancel()  # and with it the queued work, if it has not begun
        leaving.cancel()


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def json_response(
    request: Request, convert: Callable[..., dict[str, Any]], *arguments: Any, status: int = 200
) -> Response:
    """Respond with `convert(*arguments)` as JSON."""
    body = await writing.run(request.scope, lambda: to_bytes(convert(*arguments)))
    return Response(body, status, media_type="application/json")


def to_bytes(content: dict[str, Any]) -> bytes:
    """Encode as JSON in plain ASCII, so that a lone surrogate does no harm."""
    return json.dumps(content, allow_nan=False).encode()


def segmentation_json(result: Segmentation, format: str) -> dict[str, Any]:
    """Convert a result as `Segmentation.to_dict` does, with PNGs in place of the RLEs if wanted."""
    content = result.to_dict()
    if format == "png":
        for written, instance in zip(content["instances"], result.instances, strict=True):
            del written["rle"]
            written["png"] = data_url(mask_png(instance.mask))
    return content


def objects_json(
    predictions: Sequence[MaskPrediction], size: tuple[int, int], all_masks: bool, format: str
) -> dict[str, Any]:
    """Convert the masks of each prompt, best first; only the best one unless `all_masks`."""
    return {
        "size": {"width": size[0], "height": size[1]},
        "objects": [{"masks": _predicted_masks(each, all_masks, format)} for each in predictions],
    }


def everything_json(found: Sequence[FoundMask], size: tuple[int, int], format: str) -> dict[str, Any]:
    """Convert the masks of everything mode."""
    masks = [each.to_dict() | {"score": finite_or_zero(each.score)} for each in found]
    if format == "png":
        masks = [mask | {"png": data_url(mask_png(decode(mask.pop("rle"))))} for mask in masks]
    return {"size": {"width": size[0], "height": size[1]}, "masks": masks}


def words_json(results: Sequence[Segmentation], size: tuple[int, int], format: str) -> dict[str, Any]:
    """Convert the instances of each phrase."""
    return {
        "size": {"width": size[0], "height": size[1]},
        "phrases": [
            {
                "phrase": result.question,
                "presence": None if result.presence is None else finite_or_zero(result.presence),
                "error": result.error,
                "instances": [
                    _scored_mask(one.mask, one.score, format) | {"box": [float(v) for v in one.box]} for one in result
                ],
            }
            for result in results
        ],
    }


def program_json(trace: Trace, format: str) -> dict[str, Any]:
    """Convert a program's trace."""
    content = trace.to_dict()
    values = [step["value"] for step in content["steps"] if step["type"] == "Masks"]
    values += [content["result"]] if content["type"] == "Masks" else []
    if format == "png":
        for one in chain.from_iterable(values):
            one["png"] = data_url(mask_png(decode(one.pop("rle"))))
    return content


def round_json(round: Round, format: str) -> dict[str, Any]:
    """Convert a round of a dialogue as it stands, after corrections."""
    return {name: getattr(round, name) for name in ROUND_FIELDS} | {
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
                **_encoded_mask(region.rle, format),
            }
            for region in round.regions
        ],
        "steps": list(round.steps),
    }


def dialogue_json(session: Session, registry: Registry, steps: int, idle: float) -> dict[str, Any]:
    """Convert a whole dialogue, masks as RLE; `idle`: seconds without use after which it expires."""
    return {
        "id": session.id,
        "size": {"width": registry.size[0], "height": registry.size[1]},
        "policy": session.models.policy,
        "segmenter": session.models.segmenter,
        "memory": session.dialogue.memory,
        "idle": idle,
        "steps": steps,
        "rounds": [round_json(round, "rle") for round in registry.rounds],
    }


def candidates_json(masks: Sequence[tuple[Mask, float]], format: str) -> dict[str, Any]:
    """Convert masks with their predicted IoU."""
    return {"masks": [_scored_mask(mask, score, format) for mask, score in masks]}


def _predicted_masks(prediction: MaskPrediction, all_masks: bool, format: str) -> list[dict[str, Any]]:
    order = best_first(prediction)[: None if all_masks else 1]
    masks = prediction.masks
    return [_scored_mask(masks[place], float(prediction.scores[place]), format) for place in order]


def _scored_mask(mask: Mask, score: float, format: str) -> dict[str, Any]:
    return {"score": finite_or_zero(score), "box": box_of(mask), **_encoded_mask(encode(mask), format)}


def _encoded_mask(rle: RLE, format: str) -> dict[str, Any]:
    return {"rle": rle} if format == "rle" else {"png": data_url(mask_png(decode(rle)))}
