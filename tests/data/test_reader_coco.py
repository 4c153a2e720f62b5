"""COCO's instances files, and what LVIS adds."""

import copy
from pathlib import Path

import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import COCO_FILE, COCO_IMAGE
from tests.helpers.reader_files import box_mask, jpeg, write_json


@pytest.fixture
def file(tmp_path) -> Path:
    jpeg(tmp_path / "images/5.jpg")
    return write_json(tmp_path / "instances_val2017.json", COCO_FILE)


def changed(file: Path, part: str, number: int, change: dict) -> Path:
    value = copy.deepcopy(COCO_FILE)
    value[part][number] |= change
    return write_json(file, value)


def test_a_category_of_an_image_is_a_sample(file):
    cats, dog = read(file, "coco")
    assert (cats.id, cats.question, cats.category, cats.source) == ("5-17", "cat", "cat", "instances_val2017")
    assert [o.box for o in cats.objects] == [(2, 1, 6, 4), (7, 4, 10, 7)]
    assert (decode(cats.mask()) == (box_mask(2, 1, 6, 4) | box_mask(7, 4, 10, 7))).all()
    assert (decode(cats.ignore) == box_mask(0, 0, 2, 2)).all()
    assert cats.meta == {"image_id": "5", "ann_id": [1, 2], "categories": ["cat", "person", "stuffed_dog"]}
    assert (dog.question, dog.category, dog.mask()) == ("stuffed dog", "stuffed_dog", None)
    assert dog.objects[0].box == (0, 0, 5, 4)
    assert cats.open().size == cats.size


def test_additions_of_lvis(file, tmp_path):
    address = "http://images.example.org/val2017/5.jpg"
    change = {"file_name": None, "coco_url": address, "neg_category_ids": [19]}
    changed(file, "images", 0, change)
    jpeg(tmp_path / "coco/val2017/5.jpg")
    found = {s.question: s for s in read(file, "coco", images=tmp_path / "coco")}
    assert found["cat"].image == str(tmp_path / "coco/val2017/5.jpg")
    assert found["stuffed dog"].objects
    assert "person" not in found  # there is a crowd of them, so it is no question with nothing there


def test_categories_that_are_not_there(file):
    change = {"neg_category_ids": [19], "file_name": "5.jpg"}
    changed(file, "images", 1, change)
    found = list(read(file, "coco"))
    assert [(s.id, s.empty) for s in found] == [("5-17", False), ("5-18", False), ("6-19", True)]


@pytest.mark.parametrize(
    ("part", "number", "change", "message"),
    [
        ("images", 0, {"width": "12"}, "image 0: 'width' must be a whole number, not '12'"),
        ("images", 0, {"file_name": "../secret.jpg"}, "image 0: '../secret.jpg' lies outside"),
        ("images", 0, {"file_name": "gone.jpg"}, "image 0: there is no file 'gone.jpg'"),
        ("images", 0, {"neg_category_ids": [[]]}, "image 0: neg_category_ids must be a list of numbers"),
        ("annotations", 0, {"segmentation": [[1, 1, 3, 3]]}, "image 0: its polygons or RLE enclose no pixel"),
        ("annotations", 0, {"bbox": [1, float("nan"), 3, 3]}, "image 0: a bbox holds a number that is not finite"),
        ("annotations", 0, {"category_id": 99}, "image 0: its category 99 is not in the file"),
        ("annotations", 2, {"segmentation": {"size": [8, 12], "counts": "zzzzzz"}}, "image 0: malformed RLE"),
        ("annotations", 2, {"segmentation": {"size": [80000, 80000], "counts": [6400000000]}}, "a mask must have 1 to"),
    ],
)
def test_bad_images_and_annotations_are_listed(file, part, number, change, message):
    changed(file, part, number, change)
    problems: list[str] = []
    assert not list(read(file, "coco", problems))
    [problem] = problems
    assert message in problem


@pytest.mark.parametrize(("image_id", "said"), [(99, "99"), (None, "without an id"), ([5], "without an id")])
def test_annotations_of_no_image(file, image_id, said):
    changed(file, "annotations", 0, {"image_id": image_id})
    problems: list[str] = []
    assert len(list(read(file, "coco", problems))) == 2
    assert [p.split(": ")[1] for p in problems] == [f"1 of its annotations are for an image {said} that is not in it"]


def test_the_same_image_twice(file):
    value = copy.deepcopy(COCO_FILE)
    value["images"].append(COCO_IMAGE)
    write_json(file, value)
    problems: list[str] = []
    assert len(list(read(file, "coco", problems))) == 2
    assert "image 2: its id '5-17' has been used already" in problems[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be an object"),
        ({"images": [], "annotations": []}, "it lacks 'categories'"),
        ({"categories": [{"id": 1}], "images": [], "annotations": []}, "it lacks 'name'"),
        ({"categories": [], "images": {}, "annotations": []}, "'images' must be a list"),
        ({"categories": [], "images": [], "annotations": []}, "no records"),
    ],
)
def test_files_of_another_format(file, value, message):
    write_json(file, value)
    with pytest.raises(UserError, match=message):
        list(read(file, "coco"))
