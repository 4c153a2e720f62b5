"""Checks of data sets without a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewards import PRESETS
from segzero.data.check import check
from segzero.data.parquet import to_parquet
from segzero.data.prepare import prepare
from segzero.errors import UserError
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.tiny.questions import make_samples
from tests.helpers.reader_files import SIZE, box_mask, jpeg, mask_png, png

MASK = box_mask(2, 1, 8, 6)
FOUND = Object((2, 1, 8, 6), ((4.0, 3.0),), encode(MASK))
GOOD = Sample("good", png(color=(200, 0, 0)), "the mug", *SIZE, objects=(FOUND,))


def checked(folder: Path, *samples: Sample):
    return check(to_parquet(samples, folder / "train.parquet"))


def test_good_data(tmp_path):
    samples = make_samples(27, seed=5)
    report = checked(tmp_path, *samples)
    assert report.ok, report.wrong
    assert (report.samples, report.images) == (27, len({s.image for s in samples}))
    assert report.nothing_there == sum(s.empty for s in samples) > 0
    assert report.scored["soft"] == report.highest["soft"] == 27
    assert report.highest["vision_reasoner"] == 27 - report.nothing_there
    assert report.highest["seg_zero"] == report.objects[1] > 0
    assert "nothing is wrong" in str(report)
    assert all(preset in str(report) for preset in PRESETS)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"objects": (replace(FOUND, box=(8.0, 1.0, 2.0, 6.0)),)}, "a box has no area"),
        ({"objects": (replace(FOUND, box=(2.0, 1.0, 13.0, 6.0)),)}, "a box leaves its image"),
        ({"objects": (replace(FOUND, box=(2.0, float("nan"), 8.0, 6.0)),)}, "a coordinate is not finite"),
        ({"objects": (replace(FOUND, box=(0.0, 6.0, 3.0, 8.0)),)}, "a box is not its mask's"),
        ({"objects": (replace(FOUND, points=((11.0, 7.0),)),)}, "a point lies outside its box"),
        (
            {"objects": (replace(FOUND, box=(2.0, 1.0, 9.0, 6.0), points=((8.5, 3.0),)),)},
            "a point lies outside its mask",
        ),
        ({"objects": (replace(FOUND, rle=encode(box_mask(0, 0, 0, 0))),)}, "a mask has no pixels"),
        ({"objects": (replace(FOUND, rle=encode(np.ones((9, 12)))),)}, "a mask is malformed or of another size"),
        ({"ignore": encode(np.ones((9, 12)))}, "its ignored pixels are malformed or of another size"),
        ({"image": png((13, 8))}, "its image has another size than it says"),
        ({"image": png()[:40]}, "its image is absent or can't be decoded"),
        ({"image": "absent.png"}, "its image is absent or can't be decoded"),
        ({"question": "the mug " * 101}, "its question has more than 800 letters"),
        ({"question": " ?! "}, "its question is empty or can't be asked"),
        ({"id": "good"}, "its id is another's too"),
    ],
)
def test_each_problem_is_named_with_its_ids(tmp_path, change, what):
    bad = replace(GOOD, **({"id": "bad"} | change))
    report = checked(tmp_path, GOOD, bad)
    assert not report.ok
    assert report.wrong[what] == [bad.id]
    assert f"WRONG: {what}: {bad.id}" in str(report)


def test_an_object_too_small_to_be_written_loses_points(tmp_path):
    tiny = Object((100.0, 50.0, 100.2, 50.2), ((100.1, 50.1),))
    report = checked(tmp_path, Sample("tiny", png((840, 840)), "the speck", 840, 840, (tiny,)))
    assert report.wrong["the truth loses points under soft: format, box_iou, box_l1, points, presence"] == ["tiny"]


def test_data_without_points_is_not_scored(tmp_path):
    report = checked(tmp_path, replace(GOOD, objects=(replace(FOUND, points=()),)))
    assert report.ok
    assert report.scored["soft"] == 0
    assert "the truth earns the most in 0 of 0; 1 are not for it, or lack points or masks" in str(report)


def test_boxes_alone_cannot_be_scored_by_the_mask_reward(tmp_path):
    report = checked(tmp_path, replace(GOOD, objects=(replace(FOUND, rle=None),)))
    assert report.ok
    assert (report.scored["mask"], report.scored["soft"]) == (0, 1)


def test_an_image_in_two_splits(tmp_path):
    """As files of two kinds, or as one file's column; the pixels count, not the file."""
    jpeg(tmp_path / "a.jpg")
    from PIL import Image

    Image.open(tmp_path / "a.jpg").save(tmp_path / "b.png")
    one = replace(GOOD, image=str(tmp_path / "a.jpg"))
    two = replace(GOOD, id="two", image=str(tmp_path / "b.png"), question="the cup")
    to_parquet([one], tmp_path / "set/train-00000-of-00001.parquet")
    to_parquet([two, GOOD, replace(GOOD, id="other")], tmp_path / "set/val.parquet")
    report = check(tmp_path / "set")
    assert report.wrong == {"its image is in 'train' and 'val'": ["good", "two"], "its id is another's too": ["good"]}
    assert report.splits == {"train": 1, "val": 3}
    assert report.images == 2
    report = checked(tmp_path, replace(one, split="train"), replace(two, split="test"))
    assert report.wrong == {"its image is in 'test' and 'train'": ["good", "two"]}


def test_questions_that_repeat_are_counted(tmp_path):
    again = replace(GOOD, id="again", question=" The  mug")
    report = checked(tmp_path, GOOD, again, replace(GOOD, id="other", image=png(color=(0, 9, 0))))
    assert report.ok and report.repeated == 1
    assert "1 ask what another one asks of the same image" in str(report)


def test_long_lists_are_cut_in_the_table_only(tmp_path):
    report = checked(tmp_path, *(replace(GOOD, id=str(i), image="absent.png") for i in range(9)))
    assert len(report.wrong["its image is absent or can't be decoded"]) == 9
    assert "0, 1, 2, 3, 4 and 4 more" in str(report)


def test_own_data_becomes_good_data(tmp_path):
    """The way that docs/data.md shows."""
    jpeg(tmp_path / "mine/images/cat.jpg")
    mask_png(tmp_path / "mine/masks/cat.png", box_mask(1, 1, 4, 4))
    (tmp_path / "mine/prompts.csv").write_text("image,prompt,mask\ncat.jpg,the cat,\ncat.jpg,the bird,none\n")
    prepare(str(tmp_path / "mine"), "folder", tmp_path / "out")
    report = check(tmp_path / "out")
    assert report.ok, report.wrong
    one_object = ("seg_zero", "seg_zero_strict", "vision_reasoner")
    assert report.highest == {preset: 1 if preset in one_object else 2 for preset in PRESETS}


def test_folders_may_share_ids_but_no_image(tmp_path):
    for name, color in (("train", 1), ("eval", 2), ("leak", 1)):
        to_parquet([replace(GOOD, image=png(color=(color, 0, 0)))], tmp_path / name)
    assert check(tmp_path / "train", tmp_path / "eval").ok
    report = check(tmp_path / "train", tmp_path / "eval", tmp_path / "leak")
    [what] = report.wrong
    assert what.startswith("its image is in") and "leak: " in what and "train: " in what
    assert report.samples == 3 and report.images == 2


def test_no_samples_to_check(tmp_path):
    with pytest.raises(UserError, match=r"no \*.parquet in"):
        check(tmp_path)
    with pytest.raises(UserError, match="holds no samples"):
        checked(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        check(tmp_path / "absent.parquet")
