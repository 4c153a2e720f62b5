"""Questions with several targets, as MUSE and MMR publish them."""

import copy

import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import MMR_IMAGE, MUSE_IMAGE
from tests.helpers.reader_files import box_mask, jpeg, write_json


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "coco"
    for name in ("train2017/7.jpg", "train2014/COCO_train2014_7.jpg"):
        jpeg(folder / name)
    return folder


def test_each_target_is_an_object(tmp_path, images):
    file = write_json(tmp_path / "muse_val.json", [MUSE_IMAGE])
    seats, animal = read(file, "multi_target", images=images)
    assert (seats.id, seats.question, seats.source) == ("0-0", "what could one sit on?", "muse_val")
    assert [o.box for o in seats.objects] == [(2, 1, 6, 4), (7, 4, 10, 7)]
    assert (decode(seats.objects[1].rle) == box_mask(7, 4, 10, 7)).all()
    assert seats.meta == {"ann_id": ["11", "12"], "targets": ["chair", "sofa"], "image_id": "7"}
    assert (seats.category, animal.category) == ("", "the cat")
    assert seats.image == animal.image == str(images / "train2017/7.jpg")


def test_parts_with_rle_masks(tmp_path, images):
    file = write_json(tmp_path / "MMR_val.json", [MMR_IMAGE])
    [handle] = read(file, "multi_target", images=images)
    assert (decode(handle.mask()) == box_mask(2, 1, 6, 4)).all()
    assert (handle.category, handle.meta["image_id"]) == ("mug_handle", "7")


def test_names_without_a_folder_are_of_train2014(tmp_path, images):
    picture = MUSE_IMAGE | {"file_name": "COCO_train2014_7.jpg", "answer": MUSE_IMAGE["answers"]}
    picture.pop("answers")
    file = write_json(tmp_path / "muse_val.json", [picture])
    first, second = read(file, "multi_target", images=images)
    assert first.image == str(images / "train2014/COCO_train2014_7.jpg") and second.objects


@pytest.mark.parametrize(
    ("change", "left", "message"),
    [
        ({"answers": [MUSE_IMAGE["answers"][0], []]}, 1, "question 1: its answer must be a list of one target or more"),
        ({"answers": MUSE_IMAGE["answers"][:1]}, 0, "image 0: it has 2 questions and 1 answers"),
        ({"questions": ["", "Which animal sleeps?"]}, 1, "question 0: its prompt is empty"),
        ({"width": 10_000_000, "height": 10_000_000}, 0, "question 0: an image of"),
        ({"coco_url": "http://x/../../secret.jpg"}, 0, "lies outside"),
        ({"answers": [[{"bbox": [0, 0, 2, 2], "segmentation": [[1, 1, 2, 2]]}], MUSE_IMAGE["answers"][1]]}, 1, "pixel"),
    ],
)
def test_a_malformed_question_leaves_the_others(tmp_path, images, change, left, message):
    file = write_json(tmp_path / "muse_val.json", [copy.deepcopy(MUSE_IMAGE) | change])
    problems: list[str] = []
    assert len(list(read(file, "multi_target", problems, images=images))) == left
    assert message in problems[0]
    with pytest.raises(UserError):
        list(read(write_json(tmp_path / "other.json", {"data": []}), "multi_target"))
