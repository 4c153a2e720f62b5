"""Reader of SegLLM's conversations: rounds about an image, with masks from the annotation files of many data sets.

[{"task": ..., "conv_id": ..., "conversations": [
    {"from": "human", "value": "[IMAGE256:coco/train2014/7.jpg] Segment the man."},
    {"from": "gpt", "value": "[MASK-DECODE:coco/train2014/7.jpg|refcoco|3]"},
    {"from": "human", "value": "[MASK-ENCODE:7.jpg|refcoco|3][BOX-ENCODE:7.jpg|refcoco|3] what he holds", "ind": [1]},
    {"from": "gpt", "value": "[MASK-DECODE:positional:3:4:coco/train2014/7.jpg:refcoco]"}]}]
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from segzero.data.readers.annotations import coco_mask, rle_object
from segzero.data.readers.fields import Record, get, get_id, question, read_json
from segzero.data.readers.pictures import existing_folder, image_size, inside, read_values
from segzero.data.readers.reason_seg import ENCODINGS, paint
from segzero.errors import UserError, unknown_name
from segzero.frames import Size
from segzero.masks import encode
from segzero.sample import Object, Sample, with_turns

SPLITS = ("train", "val")
# Places of each data set's masks below the folder of annotations; {split} is train or val.
BY_ID = {  # COCO's layout: annotations with an id
    "refcoco": "refcoco/instances.json",
    "refcoco+": "refcoco+/instances.json",
    "refcocog": "refcocog/instances.json",
    "paco_lvis": "paco_lvis/annotations/paco_lvis_v1_{split}.json",
    "lvis": "lvis/lvis_v1_{split}.json",
}
BY_KEY = {  # one JSON object of masks by name
    "pascal": {"train": "pascal/pascal_labels.json", "val": "pascal/pascal_labels_val.json"},
    "visual_genome": dict.fromkeys(SPLITS, "visual_genome/vg_masks_train_new.json"),
    "description_based_coco": dict.fromkeys(SPLITS, "description_based_coco/seg_mask_per_instance.json"),
}
BY_CLASS = {  # an image of class numbers per image, and the number that is added to a class before it is stored
    "ade20k": ("ade20k/annotations/training", 1),
    "cocostuff": ("cocostuff/train2017", 0),
}
BY_IMAGE = {"reason_seg": "reason_seg/annotations/{split}"}  # LISA's JSON per image
DATASETS = [*BY_ID, *BY_KEY, *BY_CLASS, *BY_IMAGE]

_MARK = re.compile(r"\[(IMAGE256|MASK-ENCODE|BOX-ENCODE|MASK-DECODE):([^\[\]]*)\]")


class MaskName(NamedTuple):
    """Name of one mask of one data set, as in a mark."""

    dataset: str
    mask_id: str


def read_seg_llm(
    source: str | Path, annotations: str | Path = "", images: str | Path = "", split: str = "train"
) -> Iterator[Record]:
    """Read a Sample of each round, with the rounds before it and their true regions in `turns`.

    `annotations` and `images` are SegLLM's annotations_folder and images_folder; by default those beside the
    conversations_folder, in which the file is two levels deep. `split` chooses the annotation files of the masks. In a
    question, `[REF:k]` stands for the region of round k, counted from 1.
    """
    file = Path(source)
    if split not in SPLITS:
        raise unknown_name("split", split, list(SPLITS))
    conversations = read_json(file)
    if not isinstance(conversations, list):
        raise UserError(f"{file} must hold a list of conversations")
    above = file.absolute().parent.parent.parent
    masks = Masks(existing_folder(annotations or above / "annotations_folder", "SegLLM's annotations"), split)
    folder = existing_folder(images or above / "images_folder", "SegLLM's images")
    for number, conversation in enumerate(conversations):
        yield Record(
            f"{file}, conversation {number}", partial(_samples, conversation, masks, folder, number, file.stem)
        )


class Masks:
    """Masks of all data sets; an annotation file is read when its first mask is needed, and kept."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.tables: dict[str, dict[str, Any]] = {}  # data set -> mask id -> segmentation

    def find(self, name: MaskName, image: str, size: Size) -> Object:
        """Find the object that a mark names, for an image of that file name and size."""
        dataset, mask_id = name
        if dataset in BY_CLASS:
            folder, offset = BY_CLASS[dataset]
            if not (mask_id.isascii() and mask_id.isdecimal() and len(mask_id) < 6):
                raise UserError(f"{mask_id[:40]!r} is not a class of {dataset}")
            values = read_values(inside(self.folder / folder, Path(image).with_suffix(".png").name), size)
            return rle_object(encode(values == int(mask_id) + offset))
        if dataset in BY_IMAGE:
            folder = BY_IMAGE[dataset].format(split=self.split)
            file = inside(self.folder / folder, Path(image).with_suffix(".json").name)
            targets, _ = paint(read_json(file, ENCODINGS), size)
            return rle_object(encode(targets))
        if dataset not in DATASETS:
            raise unknown_name("data set of SegLLM", dataset[:40], DATASETS)
        if dataset not in self.tables:
            self.tables[dataset] = self._load(dataset)
        if mask_id not in self.tables[dataset]:
            raise UserError(f"{dataset} has no mask {mask_id[:40]!r}")
        return rle_object(coco_mask(self.tables[dataset][mask_id], size))

    def _load(self, dataset: str) -> dict[str, Any]:
        name = BY_ID[dataset].format(split=self.split) if dataset in BY_ID else BY_KEY[dataset][self.split]
        file = inside(self.folder, name)
        content = read_json(file, ENCODINGS)
        try:
            if dataset in BY_ID:
                items = ((get_id(item, "id"), item) for item in get(content, "annotations", list))
            else:
                items = ((key, get({key: item}, key, dict)) for key, item in _items(content))
            return {key: _segmentation(item) for key, item in items}
        except UserError as error:
            raise UserError(f"{file}: {error}") from error


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Masks by name, or by their index in a list."""
    if not isinstance(content, dict | list):
        raise UserError("it must be an object or a list of masks")
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    return ((str(key), item) for key, item in pairs)


def _segmentation(item: dict) -> Any:
    """The segmentation of an annotation, or the RLE that stands in place of an annotation."""
    return item if "counts" in item else get(item, "segmentation", list, dict)


def _samples(conversation: Any, masks: Masks, folder: Path, number: int, source: str) -> list[Sample]:
    turns = get(conversation, "conversations", list)
    if not turns or len(turns) % 2:
        raise UserError("it must have an answer for each question")
    questions = [get(turn, "value", str) for turn in turns[::2]]
    answers = [get(turn, "value", str) for turn in turns[1::2]]
    images = [body for kind, body in _MARK.findall(questions[0]) if kind == "IMAGE256"]
    if not images:
        raise UserError("its first question names no image")
    image = _image_file(folder, images[0])
    width, height = size = image_size(image)
    common: dict[str, Any] = {"dialogue": number, "conversation": get_id(conversation, "conv_id", default=str(number))}
    common |= {name: get(conversation, name, str, default="") for name in ("task", "base")}
    rounds = []
    round_of: dict[MaskName, int] = {}
    for index, (question_text, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        names = [_mask_name(body) for kind, body in _MARK.findall(answer) if kind == "MASK-DECODE"]
        if not names:
            raise UserError(f"its round {index} names no mask")
        text, references = _question(question_text, round_of, index)
        objects = tuple(masks.find(name, image.name, size) for name in names)
        meta = common | {"round": index, "references": references}
        rounds.append(Sample(f"{number}-{index}", str(image), text, width, height, objects, source=source, meta=meta))
        round_of |= dict.fromkeys(names, index)
    return with_turns(rounds)


def _question(text: str, round_of: dict[MaskName, int], index: int) -> tuple[str, list[int]]:
    """The text with `[REF:k]` in place of the masks it refers to, and the numbers of those rounds."""
    references: list[int] = []

    def replace(mark: re.Match) -> str:
        if mark[1] != "MASK-ENCODE":
            return ""
        name = _mask_name(mark[2])
        if name not in round_of:
            raise UserError(f"its round {index} refers to a mask that no earlier round has")
        references.append(round_of[name])
        return f"[REF:{round_of[name]}] "

    return question(" ".join(_MARK.sub(replace, text).split())), references


def _mask_name(body: str) -> MaskName:
    """Parse `image|data set|mask`, or `task:reference:mask:image:data set` with one reference or two."""
    parts = body.split("|")
    if len(parts) == 3:
        return MaskName(parts[1], parts[2])
    parts = body.split(":")
    if len(parts) not in (5, 6):
        raise UserError(f"it holds a mark that names no mask: {body[:60]!r}")
    return MaskName(parts[-1], parts[-3])


def _image_file(root: Path, name: str) -> Path:
    """The image's path; as in the published loader, it may be in another folder than the one named."""
    train2014 = name.replace("val2014", "train2014").replace("new_", "")
    others = (train2014, f"vg/{name}", name.replace("val2017", "train2017"))
    for other in others:
        with suppress(UserError):
            return inside(root, other)
    return inside(root, name)
