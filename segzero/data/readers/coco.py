"""Reader of COCO's and LVIS's instances and detection files: each category of an image becomes a question.

{"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
 "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "segmentation": ..., "iscrowd": 0}]}
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import coco_mask, coco_object, numbers
from segzero.data.readers.fields import Record, brief, get, get_id, get_size, question, read_json
from segzero.data.readers.pictures import image_folder, inside
from segzero.errors import UserError
from segzero.masks import union
from segzero.sample import Sample


def read_coco(source: str | Path, images: str | Path = "") -> Iterator[Record]:
    """Read a Sample of each category in each image. Crowds are ignored pixels; a crowd alone makes no Sample.

    LVIS also lists categories that were looked for and not found (`neg_category_ids`): Samples with nothing there.
    `images` is the folder of the images, by default images/ beside the file, or the file's own folder.
    """
    file = Path(source)
    content = read_json(file)
    root = image_folder(file, images)
    try:
        names = {get(c, "id", int): question(get(c, "name", str)) for c in get(content, "categories", list)}
        pictures, annotations = get(content, "images", list), get(content, "annotations", list)
    except UserError as error:
        raise UserError(f"{file}: {error}; see `segzero docs data` for COCO's layout") from error
    by_image: dict[Any, list] = defaultdict(list)
    for annotation in annotations:
        by_image[_id(annotation, "image_id")].append(annotation)
    for number, picture in enumerate(pictures):
        of_image = by_image.get(_id(picture, "id"), [])
        yield Record(f"{file}, image {number}", partial(_samples, picture, of_image, names, root, file.stem))
    known = {_id(picture, "id") for picture in pictures}
    for image_id, of_image in by_image.items():
        if image_id is None or image_id not in known:
            yield Record(str(file), partial(_refuse_orphans, image_id, len(of_image)))


def _id(item: Any, name: str) -> int | str | None:
    value = item.get(name) if isinstance(item, dict) else None
    return value if isinstance(value, int | str) else None


def _refuse_orphans(image_id: int | str | None, count: int) -> list[Sample]:
    which = "without an id" if image_id is None else brief(image_id)
    raise UserError(f"{count} of its annotations are for an image {which} that is not in it")


def _samples(picture: dict, annotations: list, names: dict[int, str], root: Path, source: str) -> list[Sample]:
    width, height = size = get_size(picture)
    image_id = get_id(picture, "id")
    absent = get(picture, "neg_category_ids", list, default=[])
    by_category: dict[int, list] = {int(id): [] for id in numbers(absent, "neg_category_ids")}
    for annotation in annotations:
        by_category.setdefault(get(annotation, "category_id", int), []).append(annotation)
    unknown = [id for id in by_category if id not in names]
    if unknown:
        raise UserError(f"its category {unknown[0]} is not in the file")
    meta: dict[str, Any] = {"image_id": image_id}
    if "neg_category_ids" not in picture:  # LVIS annotates no more than the categories it looked for
        meta["categories"] = sorted(names[id] for id in by_category)
    samples = []
    path = str(inside(root, _file_name(picture))) if by_category else ""
    for category, group in by_category.items():
        crowds = [a for a in group if get(a, "iscrowd", int, default=0)]
        counted = [a for a in group if not get(a, "iscrowd", int, default=0)]
        if crowds and not counted:
            continue
        ignored = [coco_mask(get(a, "segmentation", list, dict), size) for a in crowds]
        samples.append(
            Sample(
                f"{image_id}-{category}",
                path,
                names[category].replace("_", " "),  # as LVIS writes "aerosol_can"
                width,
                height,
                tuple(coco_object(a, size) for a in counted),
                ignore=union(ignored, size) if ignored else None,
                category=names[category],
                source=source,
                meta=meta | {"ann_id": [a.get("id") for a in counted]},
            )
        )
    return samples


def _file_name(picture: dict) -> str:
    """The image's file name; LVIS gives COCO's URL instead, whose last two parts are folder and name."""
    name = get(picture, "file_name", str, default="")
    return name or "/".join(get(picture, "coco_url", str).split("/")[-2:])
