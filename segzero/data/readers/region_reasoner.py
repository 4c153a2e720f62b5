"""Reader of RegionReasoner's dialogues: rounds about an image, which may refer to the region of an earlier one.

[{"image_id": 7, "image_path": "train2014/7.jpg", "conversational_turns": [
    {"question": "the man", "bboxes": [[x0, y0, x1, y1]], "masks": [[[false, ...], ...]], "ann_ids": [3]},
    {"question": "what <box>{context_bbox}</box> holds", "context_from_turn": 0, ...}]}]
"""

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import boolean_mask, coco_mask, rle_object, xyxy
from segzero.data.readers.fields import Record, get, get_id, question, read_json
from segzero.data.readers.pictures import existing_folder, image_size, inside
from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import encode
from segzero.sample import Object, Sample, with_turns

PLACEHOLDER = "<box>{context_bbox}</box>"  # the literal text that the published scripts replace with the earlier box


def read_region_reasoner(source: str | Path, images: str | Path = "") -> Iterator[Record]:
    """Read a Sample of each round, with the rounds before it and their true regions in `turns`.

    In a question, `[REF:k]` stands for the region of round k, counted from 1. All masks of a round are objects; the
    published evaluation scores the first. `images` is the folder of the images, by default the file's own. Of absolute
    paths, as in the published files, the last part is looked up in that folder.
    """
    file = Path(source)
    dialogues = read_json(file)
    if not isinstance(dialogues, list):
        raise UserError(f"{file} must hold a list of dialogues")
    root = existing_folder(images or file.parent, "the dialogues' images")
    for number, dialogue in enumerate(dialogues):
        yield Record(f"{file}, dialogue {number}", partial(_samples, dialogue, root, number, file.stem))


def _samples(dialogue: Any, root: Path, number: int, source: str) -> list[Sample]:
    path = Path(get(dialogue, "image_path", str))
    image = inside(root, path.name if path.is_absolute() else str(path))
    width, height = size = image_size(image)
    image_id = get_id(dialogue, "image_id", default="")
    rounds = []
    for index, turn in enumerate(get(dialogue, "conversational_turns", list)):
        objects = _objects(turn, size)
        reference = get(turn, "context_from_turn", int, default=None)
        text = _question(turn, reference, index)
        meta = {"image_id": image_id, "dialogue": number, "round": index + 1}
        if reference is not None:
            meta["reference"] = reference + 1
        name = f"{number}-{index + 1}"
        rounds.append(Sample(name, str(image), text, width, height, objects, source=source, meta=meta))
    return with_turns(rounds)


def _question(turn: Any, reference: int | None, index: int) -> str:
    text = get(turn, "question", str)
    if reference is None and PLACEHOLDER in text:
        raise UserError(f"its round {index + 1} refers to a region, but has no context_from_turn")
    if reference is not None and not 0 <= reference < index:
        raise UserError(f"its round {index + 1} refers to round {reference + 1}, which is not before it")
    return question(text if reference is None else text.replace(PLACEHOLDER, f"[REF:{reference + 1}]"))


def _objects(turn: Any, size: Size) -> tuple[Object, ...]:
    """The objects of a round: boxes and masks of the same index; either list may be shorter or absent."""
    objects = []
    for box, mask in zip_longest(get(turn, "bboxes", list, default=[]), get(turn, "masks", list, default=[])):
        if mask is None:
            objects.append(Object(xyxy(box, size)))
            continue
        rle = coco_mask(mask, size) if isinstance(mask, dict) else encode(boolean_mask(mask, size))
        masked = rle_object(rle)
        objects.append(masked if box is None else Object(xyxy(box, size), rle=rle))
    return tuple(objects)
