"""/v1/dialogues/ID/export: a dialogue as a file."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Literal

from fastapi import APIRouter, Query, Request, Response
from PIL import Image

from segzero.dialogue import Registry
from segzero.dialogue.session_file import dialogue_file
from segzero.io import png_bytes
from segzero.masks import coco_annotation, decode, mask_png
from segzero.serving.errors import ERRORS
from segzero.serving.requests import OwnSession
from segzero.serving.threads import exporting
from segzero.viz.overlay import draw_overlay

BY_HAND = "drawn by hand"  # the category of regions without a question

router = APIRouter(prefix="/v1/dialogues", tags=["dialogues"], responses=ERRORS)


@router.get("/{id}/export", response_class=Response)
async def export(
    request: Request,
    session: OwnSession,
    format: Literal["coco", "overlay", "masks", "json"] = "json",
    round: int | None = Query(default=None, description="Of an overlay: this round alone."),
) -> Response:
    """COCO JSON of all regions, a picture, masks as PNGs in a zip, or the file that `segzero chat` continues."""
    dialogue = session.dialogue
    registry, image = dialogue.registry, dialogue.image
    make: Callable[[], bytes]
    if format == "coco":
        name, kind, make = "dialogue_coco.json", "application/json", partial(coco_file, registry)
    elif format == "masks":
        name, kind, make = "dialogue_masks.zip", "application/zip", partial(masks_file, registry)
    elif format == "overlay":
        name = f"round_{round}_overlay.png" if round is not None else "dialogue_overlay.png"
        kind, make = "image/png", partial(overlay_file, registry, image, round)
    else:
        name, kind = "dialogue.json", "application/json"
        make = partial(dialogue_file, registry, image, dialogue.memory)
    data = await exporting.run(request.scope, make)
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def coco_file(registry: Registry) -> bytes:
    """Write all regions as COCO JSON: an annotation per region, and a category per question."""
    categories: dict[str, int] = {}
    annotations = []
    for region in registry.regions:
        category = categories.setdefault(region.question or BY_HAND, len(categories) + 1)
        place = {"id": region.id, "image_id": 1, "category_id": category} | coco_annotation(region.box, region.rle)
        annotations.append(place | {"score": region.score, "round": region.round})
    width, height = registry.size
    content = {
        "images": [{"id": 1, "file_name": "image.png", "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": question} for question, number in categories.items()],
    }
    return json.dumps(content, allow_nan=False).encode()


def overlay_file(registry: Registry, image: Image.Image, number: int | None = None) -> bytes:
    """Draw the regions of one round, or of all rounds, on the image; a PNG."""
    regions = registry.regions if number is None else registry.round(number).regions
    return png_bytes(draw_overlay(image, [region.instance for region in regions]))


def masks_file(registry: Registry) -> bytes:
    """Write a zip with a PNG mask per region, 0 and 255."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for region in registry.regions:
            archive.writestr(f"round_{region.round}_instance_{region.id}.png", mask_png(decode(region.rle)))
    return file.getvalue()
