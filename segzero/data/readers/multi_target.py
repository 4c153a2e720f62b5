"""Reader of MUSE's and MMR's files: questions about several objects of a COCO image, or about parts of them.

[{"file_name": "train2017/7.jpg", "coco_url": "http://.../train2017/7.jpg", "width": 640, "height": 480, "image_id": 7,
  "questions": ["What could one sit on?", ...],
  "answers": [[{"id": 3, "bbox": [x, y, w, h], "segmentation": ..., "category_name": "chair"}, ...], ...]}]

MUSE's masks are polygons, MMR's are RLEs, some of them of parts of objects.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import coco_object
from segzero.data.readers.fields import Record, get, get_id, get_size, question, read_json
from segzero.data.readers.pictures import image_folder, inside
from segzero.errors import UserError
from segzero.sample import Sample

TRAIN2014 = "train2014"  # folder of images whose name comes without one, as in MUSE


def read_multi_target(source: str | Path, images: str | Path = "") -> Iterator[Record]:
    """Read a Sample of each question, each of its targets an object with a mask.

    `images` is the folder that holds COCO's train2014/, train2017/ and val2017/, by default images/ beside the file,
    or the file's own folder.
    """
    file = Path(source)
    pictures = read_json(file)
    if not isinstance(pictures, list):
        raise UserError(f"{file} must hold a list of images with questions; see `segzero docs data`")
    root = image_folder(file, images)
    for number, picture in enumerate(pictures):
        where = f"{file}, image {number}"
        try:
            pairs = _pairs(picture)
        except UserError as error:
            yield Record(where, partial(_refuse, str(error)))
            continue
        for place, (text, targets) in enumerate(pairs):
            samples = partial(_samples, picture, text, targets, root, f"{number}-{place}", file.stem)
            yield Record(f"{where}, question {place}", samples)
        pictures[number] = None  # an image that was read need not stay in memory


def _pairs(picture: Any) -> list[tuple[Any, Any]]:
    """The questions about an image, each with its targets; some releases write `answer` for `answers`."""
    questions, answers = get(picture, "questions", list), get(picture, "answers", list, default=None)
    if answers is None:
        answers = get(picture, "answer", list)
    if len(questions) != len(answers):
        raise UserError(f"it has {len(questions)} questions and {len(answers)} answers")
    return list(zip(questions, answers, strict=True))


def _refuse(problem: str) -> list[Sample]:
    raise UserError(problem)


def _samples(picture: Any, text: Any, targets: Any, root: Path, id: str, source: str) -> list[Sample]:
    size = get_size(picture)
    if not isinstance(targets, list) or not targets:
        raise UserError("its answer must be a list of one target or more")
    names = list(dict.fromkeys(_name(target) for target in targets))
    meta: dict[str, Any] = {"ann_id": [get_id(target, "id", default="") for target in targets], "targets": names}
    for name in ("image_id", "id"):
        if isinstance(picture.get(name), int | str):
            meta["image_id"] = get_id(picture, name)
            break
    return [
        Sample(
            id,
            str(_image(picture, root)),
            question(text),
            *size,
            tuple(coco_object(target, size) for target in targets),
            category=names[0] if len(names) == 1 else "",
            source=source,
            meta=meta,
        )
    ]


def _name(target: Any) -> str:
    return get(target, "category_name", str, default="") or get(target, "rephrased_name", str, default="")


def _image(picture: Any, root: Path) -> Path:
    """The image's file: `file_name` below the root or in train2014/, or the last two parts of its address."""
    name = get(picture, "file_name", str, default="")
    if not name:
        return inside(root, "/".join(get(picture, "coco_url", str).split("/")[-2:]))
    if "/" not in name and (root / TRAIN2014).is_dir():
        return inside(root / TRAIN2014, name)
    return inside(root, name)
