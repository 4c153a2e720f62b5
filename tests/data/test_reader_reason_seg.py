"""ReasonSeg's files, as LISA publishes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import lisa_annotation, lisa_shape
from tests.helpers.reader_files import box_mask, jpeg, write_json


def write(folder: Path, split: str, name: str, value: dict) -> Path:
    jpeg(folder / split / f"{name}.jpg")
    return write_json(folder / split / f"{name}.json", value)


TARGET = lisa_annotation(lisa_shape("target", 2, 1, 5, 4))


def test_texts_splits_and_edges(tmp_path):
    write(
        tmp_path, "train", "1_a", lisa_annotation(lisa_shape("target", 2, 1, 5, 4), text=("a", "b"), is_sentence=False)
    )
    write(tmp_path, "val", "2_b", TARGET)
    first, second, val = read(tmp_path, "reason_seg")
    assert [s.id for s in (first, second, val)] == ["train-1_a-0", "train-1_a-1", "val-2_b-0"]
    assert [s.meta for s in (first, second)] == [{"text": i, "is_sentence": False} for i in range(2)]
    assert (val.split, val.size, val.question) == ("val", (12, 8), "the thing to sit on")
    assert (decode(first.objects[0].rle) == box_mask(2, 1, 6, 5)).all()
    assert first.objects[0].box == (2, 1, 6, 5)
    assert first.ignore is None
    assert list(read(tmp_path, "reason_seg", split="val")) == [val]
    assert [s.id for s in read(tmp_path / "val", "reason_seg")] == ["val-2_b-0"]
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        list(read(tmp_path, "reason_seg", split="test"))


def test_a_small_shape_wins_over_a_large_one(tmp_path):
    shapes = [lisa_shape("ignore", 4, 2, 5, 3), lisa_shape("target", 1, 1, 8, 6), lisa_shape("flag", 0, 0, 11, 7)]
    write(tmp_path, "val", "a", lisa_annotation(*shapes))
    write(tmp_path, "val", "b", lisa_annotation(lisa_shape("target", 4, 2, 5, 3), lisa_shape("Ignore_1", 1, 1, 8, 6)))
    a, b = read(tmp_path, "reason_seg")
    large, small = box_mask(1, 1, 9, 7), box_mask(4, 2, 6, 4)
    assert (decode(a.objects[0].rle) == (large & ~small)).all()
    assert (decode(a.ignore) == small).all()
    assert (decode(b.objects[0].rle) == small).all()
    assert (decode(b.ignore) == (large & ~small)).all()


def test_masks_are_those_of_the_published_loader(tmp_path):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    size = (320, 240)
    for number in range(12):
        angles = np.sort(rng.random(20)) * 2 * np.pi
        radius = 30 + rng.random(20) * 70
        points = np.stack([160 + radius * np.cos(angles), 120 + radius * np.sin(angles)], axis=1)
        expected = np.zeros(size[::-1], np.uint8)
        corners = np.array([points], np.int32)
        cv2.polylines(expected, corners, True, 1, 1)
        cv2.fillPoly(expected, corners, 1)
        jpeg(tmp_path / f"{number}.jpg", size)
        write_json(
            tmp_path / f"{number}.json", lisa_annotation(lisa_shape("target", 0, 0, 0, 0) | {"points": points.tolist()})
        )
        [sample] = [s for s in read(tmp_path, "reason_seg") if s.id.endswith(f"-{number}-0")]
        mask = decode(sample.objects[0].rle)
        assert (mask & (expected > 0)).sum() / (mask | (expected > 0)).sum() > 0.995


def test_windows_text_and_upright_photos(tmp_path):
    write(tmp_path, "val", "a", TARGET)
    text = json.dumps(lisa_annotation(lisa_shape("target", 2, 1, 5, 4), text=["the café"]), ensure_ascii=False)
    (tmp_path / "val/a.json").write_bytes(text.encode("cp1252"))
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    jpeg(tmp_path / "val/a.jpg", (8, 12), exif=exif)
    [sample] = read(tmp_path, "reason_seg")
    assert sample.question == "the café"
    assert sample.size == sample.open().size == (12, 8)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lisa_annotation(), "none of its pixels is target"),
        (lisa_annotation(lisa_shape("ignore", 2, 1, 5, 4)), "none of its pixels is target"),
        (lisa_annotation(lisa_shape("target", 2, 1, 5, 4), text=[]), "no text"),
        (lisa_annotation(lisa_shape("target", 2, 1, 5, 4), text=["\t"]), "prompt is empty"),
        (lisa_annotation(lisa_shape("target", 2, 1, 5, 4), text=[None]), "must be text"),
        (lisa_annotation(lisa_shape("target", 2, 1, float("nan"), 4)), "not finite"),
        (lisa_annotation(lisa_shape("target", 2, 1, 1e8, 4)), "within its image"),
        (lisa_annotation({"label": "target", "points": [[1, 1], [5, 5]]}), "has 2 corners"),
        (lisa_annotation({"label": "target", "points": [[1]]}), "a corner must be x, y"),
        (lisa_annotation({"label": "target", "points": [[1, 1]] * 100_001}), "100001 corners"),
        (lisa_annotation({"points": []}), "it lacks 'label'"),
        ({"text": ["x"]}, "it lacks 'shapes'"),
        ([TARGET], "must be an object"),
    ],
)
def test_bad_annotations_are_listed(tmp_path, value, message):
    write(tmp_path, "val", "bad", value)
    write(tmp_path, "val", "good", TARGET)
    problems: list[str] = []
    assert [s.id for s in read(tmp_path, "reason_seg", problems)] == ["val-good-0"]
    [problem] = problems
    assert "bad.json: " in problem
    assert message in problem


def test_files_that_are_absent_or_not_json(tmp_path):
    for name in "abcd":
        write(tmp_path, "val", name, TARGET)
    (tmp_path / "val/a.jpg").unlink()
    (tmp_path / "val/b.jpg").write_bytes(b"")
    (tmp_path / "val/c.json").write_text('{"text": ')
    (tmp_path / "val/d.json").write_text("[" * 100_000)
    problems: list[str] = []
    assert not list(read(tmp_path, "reason_seg", problems))
    for problem, message in zip(problems, ["no file 'a.jpg'", "is empty", "not JSON", "not JSON"], strict=True):
        assert message in problem
    with pytest.raises(UserError, match="no such folder"):
        list(read(tmp_path / "nowhere", "reason_seg"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.json files"):
        list(read(tmp_path / "empty", "reason_seg"))
