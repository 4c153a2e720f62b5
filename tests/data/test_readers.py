"""`read` and malformed values at every place of a record."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from segzero.data.parquet import to_parquet
from segzero.data.readers import READERS, read
from segzero.data.readers.plain_pickle import loads
from segzero.errors import UserError
from tests.helpers.published_records import (
    BRUSH,
    COCO_CAT,
    COCO_FILE,
    CONVERSEG_ITEM,
    FLAG,
    MMR_IMAGE,
    MUSE_IMAGE,
    POLYGON,
    RECTANGLE,
    REFER_IMAGE,
    REFER_INSTANCES,
    REFER_REFS,
    REGION_DIALOGUE,
    lisa_annotation,
    lisa_shape,
    seg_llm_conversation,
    studio_task,
)
from tests.helpers.reader_files import box_mask, jpeg, mask_png, write_json

ODD = [None, True, -1, 0, 10**30, 1.5, float("nan"), "", "x", "\ud800", [], [[]], {}, {"a": []}, [None], [{}]]


def test_unknown_names():
    with pytest.raises(UserError, match="unknown data format 'refcoco'"):
        read("x", "refcoco")
    with pytest.raises(UserError, match="unknown option of the format refer 'splitt'; did you mean 'split'"):
        read("x", "refer", splitt="val")


def test_every_reader_has_a_docstring():
    for reader in READERS.values():
        assert reader.__doc__


def mutated(value, rng: random.Random):
    """Copy a JSON value with one value in it replaced."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return value
        key = rng.choice(list(keys))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice(ODD)
        return value


def published(format: str, folder: Path) -> tuple[Path, list[tuple[Path, Any]]]:
    """Make the source for `read`, and the JSON files that it reads, with their contents."""
    for name in ("5.jpg", "7.jpg", "cat.jpg", "images/5.jpg", "images/cat.jpg", "images/0001.jpg", "a.jpg"):
        jpeg(folder / name)
    jpeg(folder / "images/mscoco/images/train2014" / REFER_IMAGE)
    mask_png(folder / "masks/0001.png", box_mask(1, 1, 4, 4))
    boxes = lisa_annotation(lisa_shape("target", 2, 1, 5, 4), lisa_shape("ignore", 0, 0, 3, 3))
    refer = [(folder / "grefcoco/grefs(unc).json", REFER_REFS), (folder / "grefcoco/instances.json", REFER_INSTANCES)]
    seg_llm = [
        (
            folder / "conversations_folder/a/x.json",
            [seg_llm_conversation(f"[MASK-DECODE:7.jpg|refcoco|{i}]", "7.jpg") for i in (3, 4)],
        ),
        (
            folder / "annotations_folder/refcoco/instances.json",
            {"annotations": [COCO_CAT | {"id": 3}, COCO_CAT | {"id": 4}]},
        ),
    ]
    jpeg(folder / "images_folder/7.jpg")
    jpeg(folder / "images/train2017/7.jpg")
    return {
        "coco": (folder / "file.json", [(folder / "file.json", COCO_FILE)]),
        "reason_seg": (folder, [(folder / "a.json", boxes)]),
        "grefcoco": (folder / "grefcoco", refer),
        "converseg": (
            folder / "items.json",
            [(folder / "items.json", {"items": [CONVERSEG_ITEM, CONVERSEG_ITEM | {"id": 2}]})],
        ),
        "folder": (folder, [(folder / "prompts.jsonl", {"image": "cat.jpg", "prompt": "x", "mask": ["0001.png"]})]),
        "label_studio": (folder / "ls.json", [(folder / "ls.json", [studio_task(POLYGON, RECTANGLE, BRUSH)])]),
        "region_reasoner": (folder / "rr.json", [(folder / "rr.json", [REGION_DIALOGUE])]),
        "seg_llm": (folder / "conversations_folder/a/x.json", seg_llm),
        "multi_target": (folder / "muse.json", [(folder / "muse.json", [MUSE_IMAGE, MMR_IMAGE])]),
        "flags": (folder, [(folder / "flags.jsonl", FLAG)]),
    }[format]


@pytest.mark.parametrize(
    "format",
    [
        "coco",
        "reason_seg",
        "grefcoco",
        "converseg",
        "folder",
        "label_studio",
        "region_reasoner",
        "seg_llm",
        "multi_target",
        "flags",
    ],
)
def test_malformed_files_are_read_or_refused_in_one_line(format, tmp_path):
    """No other exception is raised, each problem is a single line, and samples that are read can be stored."""
    rng = random.Random(5)
    source, files = published(format, tmp_path)
    for file, value in files:
        write_json(file, value)
    assert list(read(source, format))
    listed = 0
    for round in range(120):
        file, value = files[round % len(files)]
        write_json(file, mutated(value, rng))
        problems: list[str] = []
        try:
            samples = list(read(source, format, problems))
            to_parquet(samples, tmp_path / "read.parquet")
        except UserError as error:
            problems.append(str(error))
        assert all("\n" not in problem and len(problem) < 1000 for problem in problems)
        listed += bool(problems)
        write_json(file, value)
    assert 20 < listed < 120


def test_random_bytes_are_refused_as_a_pickle():
    rng = random.Random(7)
    refused = 0
    for _ in range(2000):
        try:
            loads(b"\x80\x04" + rng.randbytes(rng.randrange(40)) + b".")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 1900
