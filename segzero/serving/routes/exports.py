"""/v1/dialogues/ID/export: a dialogue as files to take home."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Query, Request, Response
from PIL import Image

from segzero.dialogue import Registry
from segzero.dialogue.session_file import dialogue_file
from segzero.io import png_bytes
from segzero.masks import coco_annotation, decode, mask_png
from segzero.serving.model_pool import Models
from segzero.serving.sessions import Kept
from segzero.serving.threads import exporting
from segzero.viz.overlay import draw_overlay

BY_HAND = "drawn by hand"  # the category of regions without a question


def add_exports(app: FastAPI, models: Models, kept_for: Callable[[Request, str], Kept], common: dict[str, Any]) -> None:
    """Add the route."""

    @app.get("/v1/dialogues/{id}/export", response_class=Response, **common)
    async def export(
        request: Request,
        id: str,
        format: Literal["coco", "overlay", "masks", "json"] = "json",
        round: int | None = Query(default=None, description="Of an overlay: this round alone."),
    ) -> Response:
        """COCO JSON of all regions, a picture, masks as PNGs in a zip, or the file that `segzero chat` goes on with."""
        dialogue = kept_for(request, id).dialogue
        registry, image = dialogue.registry, dialogue.image
        make: Callable[[], bytes]
        if format == "coco":
            name, kind, make = "dialogue_coco.json", "application/json", partial(as_coco, registry)
        elif format == "masks":
            name, kind, make = "dialogue_masks.zip", "application/zip", partial(as_masks, registry)
        elif format == "overlay":
            name = f"round_{round}_overlay.png" if round is not None else "dialogue_overlay.png"
            kind, make = "image/png", partial(as_overlay, registry, image, round)
        else:
            name, kind = "dialogue.json", "application/json"
            make = partial(dialogue_file, registry, image, dialogue.memory)
        data = await exporting.run(request.scope, make)
        return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def as_coco(registry: Registry) -> bytes:
    """One annotation a region, with its number; the questions are the categories."""
    categories: dict[str, int] = {}
    annotations = []
    for region in registry.regions:
        category = categories.setdefault(region.question or BY_HAND, len(categories) + 1)
        place = {"id": region.id, "image_id": 1, "category_id": category} | coco_annotation(region.box, region.rle)
        annotations.append(place | {"score": region.score, "round": region.round})
    width, height = registry.size
    whole = {
        "images": [{"id": 1, "file_name": "image.png", "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": question} for question, number in categories.items()],
    }
    return json.dumps(whole, allow_nan=False).encode()


def as_overlay(registry: Registry, image: Image.Image, number: int | None = None) -> bytes:
    """The image with a round's regions drawn on it, or with those of all rounds, numbered."""
    regions = registry.regions if number is None else registry.round(number).regions
    return png_bytes(draw_overlay(image, [region.instance for region in regions]))


def as_masks(registry: Registry) -> bytes:
    """A zip of a PNG for each region, 0 and 255."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zipped:  # PNGs are compressed already
        for region in registry.regions:
            zipped.writestr(f"round_{region.round}_instance_{region.id}.png", mask_png(decode(region.rle)))
    return file.getvalue()
