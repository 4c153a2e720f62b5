"""Reader of REFER's folders (refcoco, refcoco+, refcocog, refclef) and gRefCOCO's: expressions for COCO objects.

refcoco/refs(unc).p, refs(google).p, instances.json        grefcoco/grefs(unc).json, instances.json
images/mscoco/images/train2014/, images/saiapr_tc-12/      beside those folders, or in the folder `images`
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from segzero.data.readers import plain_pickle
from segzero.data.readers.annotations import coco_object
from segzero.data.readers.fields import Record, brief, get, get_id, get_size, question, read_json
from segzero.data.readers.pictures import existing_folder, inside
from segzero.errors import UserError
from segzero.sample import Object, Sample

NOTHING = -1  # gRefCOCO's ann_id for "no such object"
PREFERRED = ("umd", "unc", "google", "berkeley")  # authors of splits, in the order in which they are usually reported
LEVELS = ("expression", "instance")


class Instances(NamedTuple):
    """Contents of instances.json, by id."""

    images: dict
    annotations: dict
    categories: dict[Any, str]
    present: dict[Any, set]  # image -> the categories of everything in it


def read_refer(
    source: str | Path, by: str = "", split: str = "", level: str = "expression", images: str | Path = ""
) -> Iterator[Record]:
    """Read a Sample of each expression, or with level="instance" one of each object with its first expression.

    `by` names the author of the splits, such as unc, umd or google. `images` is the folder that file names are relative
    to.
    """
    yield from _read(existing_folder(source, "REFER data"), "refs", by, split, level, images)


def read_grefcoco(
    source: str | Path, by: str = "", split: str = "", level: str = "expression", images: str | Path = ""
) -> Iterator[Record]:
    """Read gRefCOCO as `read_refer` reads the others; an expression may mean several objects, or none."""
    yield from _read(existing_folder(source, "gRefCOCO data"), "grefs", by, split, level, images)


def _read(folder: Path, prefix: str, by: str, split: str, level: str, images: str | Path) -> Iterator[Record]:
    if level not in LEVELS:
        raise UserError(f"unknown level {level!r}; use {' or '.join(LEVELS)}")
    file = _find(folder, prefix, by)
    root = existing_folder(images or _image_folder(folder), f"the images of {folder.name} (images=... names another)")
    instances = _instances(folder / "instances.json")
    refs = _load(file)
    for number, ref in enumerate(refs):
        if split and isinstance(ref, dict) and ref.get("split") != split:
            continue
        samples = partial(_samples, ref, instances, root, folder.name, level)
        yield Record(f"{file}, record {number}", samples)
        refs[number] = None  # a record that was read need not stay in memory


def _samples(ref: Any, instances: Instances, root: Path, source: str, level: str) -> list[Sample]:
    _, annotations, categories, present = instances
    ref_id, image_id = get_id(ref, "ref_id"), get(ref, "image_id", int, str)
    if image_id not in instances.images:
        raise UserError(f"its image {image_id} is not in instances.json")
    image = instances.images[image_id]
    width, height = size = get_size(image)
    path = inside(root, get(image, "file_name", str))
    ann_ids = get(ref, "ann_id", int, str, list)
    ann_ids = [id for id in (ann_ids if isinstance(ann_ids, list) else [ann_ids]) if id != NOTHING]
    objects = tuple(_object(annotations, id, image_id, size) for id in ann_ids)
    names = {categories.get(get(annotations[id], "category_id", int, str, default=0), "") for id in ann_ids}
    sentences = get(ref, "sentences", list)
    if not sentences:
        raise UserError("it has no sentences")
    split = get(ref, "split", str, default="")
    meta = {"ref_id": ref_id, "image_id": image_id, "ann_id": ann_ids}
    meta["categories"] = sorted(categories.get(id, "") for id in present.get(image_id, ()))
    return [
        Sample(
            f"{ref_id}-{get_id(sentence, 'sent_id', default=str(number))}",
            str(path),
            question(get(sentence, "sent", str)),
            width,
            height,
            objects,
            category=names.pop() if len(names) == 1 else "",
            split=split,
            source=source,
            meta=meta,
        )
        for number, sentence in enumerate(sentences if level == "expression" else sentences[:1])
    ]


def _object(annotations: dict, ann_id: Any, image_id: Any, size: tuple[int, int]) -> Object:
    if not isinstance(ann_id, int | str) or ann_id not in annotations:
        raise UserError(f"its annotation {brief(ann_id)} is not in instances.json")
    annotation = annotations[ann_id]
    if annotation.get("image_id", image_id) != image_id:
        raise UserError(f"its annotation {ann_id} belongs to another image")
    return coco_object(annotation, size)


def _find(folder: Path, prefix: str, by: str) -> Path:
    """Find refs(BY).p or .json; without `by`, the file of the splits that are usually reported."""
    files = {
        file.stem[len(prefix) + 1 : -1]: file
        for suffix in ("p", "json")  # if there are both, they hold the same refs, and JSON is faster to read
        for file in sorted(folder.glob(f"{prefix}(*).{suffix}"))
    }
    if not files:
        raise UserError(f"{folder} holds no {prefix}(...).p or .json; name the folder of one data set")
    chosen = by or next((name for name in PREFERRED if name in files), min(files))
    if chosen not in files:
        raise UserError(f"{folder} has no {prefix}({chosen}); it has {', '.join(files)}")
    return files[chosen]


def _image_folder(folder: Path) -> Path:
    images = folder.absolute().parent / "images"
    return images / ("saiapr_tc-12" if folder.name == "refclef" else "mscoco/images/train2014")


def _load(file: Path) -> list:
    if file.suffix == ".json":
        refs = read_json(file)
    else:
        try:
            refs = plain_pickle.loads(file.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    if not isinstance(refs, list):
        raise UserError(f"{file} must hold a list of refs")
    return refs


def _instances(file: Path) -> Instances:
    content = read_json(file)
    images, annotations, categories = (_by_id(file, content, name) for name in ("images", "annotations", "categories"))
    try:
        names = {id: get(category, "name", str) for id, category in categories.items()}
    except UserError as error:
        raise UserError(f"{file}, categories: {error}") from error
    present: dict[Any, set] = {}
    for annotation in annotations.values():
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if isinstance(image_id, int | str) and isinstance(category_id, int | str):
            present.setdefault(image_id, set()).add(category_id)
    return Instances(images, annotations, names, present)


def _by_id(file: Path, content: Any, name: str) -> dict:
    where = str(file)
    try:
        items = get(content, name, list)
        table = {}
        for number, item in enumerate(items):
            where = f"{file}, {name}[{number}]"
            table[get(item, "id", int, str)] = item
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return table
