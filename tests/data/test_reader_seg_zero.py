"""Seg-Zero's and VisionReasoner's sets, as their columns are on the hub."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from reader_files import box_mask, png

from rewards import score
from segzero.data.readers import read
from segzero.data.sample import Object
from segzero.errors import UserError
from segzero.masks import decode, encode

ONE = "<box>(100,200),(300,420)</box><points>(150,250),(280,400)</points>"
FIRST, SECOND = [
    '{"bbox_2d": [10, 20, 200, 210], "point_2d": [30, 110]}',
    '{"bbox_2d": [225, 296, 706, 786], "point_2d": [302, 410]}',
]
MANY = f"[{FIRST}, {SECOND}]"
TRAINING = Features(
    {
        "id": Value("string"),
        "problem": Value("string"),
        "solution": Value("string"),
        "image": Image(),
        "img_height": Value("int64"),
        "img_width": Value("int64"),
    }
)
EVALUATION = Features(
    {
        "image": Image(),
        "text": Value("string"),
        "mask": List(List(Value("bool"))),
        "image_id": Value("string"),
        "ann_id": Value("string"),
        "img_height": Value("int64"),
        "img_width": Value("int64"),
    }
)


def training_row(solution: str = ONE, **changes) -> dict:
    image = {"bytes": png((840, 840)), "path": None}
    row = {"id": "7", "problem": "the mug", "solution": solution, "image": image, "img_height": 480, "img_width": 640}
    return row | changes


def training_set(*rows: dict) -> Dataset:
    return Dataset.from_list([row | {"id": str(i)} for i, row in enumerate(rows)], features=TRAINING)


def evaluation_set(*masks: np.ndarray | list) -> Dataset:
    rows = [
        {
            "image": {"bytes": png(), "path": None},
            "text": f"thing {i}",
            "mask": mask if isinstance(mask, list) else mask.tolist(),
        }
        | {"image_id": "im", "ann_id": str(i), "img_height": 8, "img_width": 12}
        for i, mask in enumerate(masks)
    ]
    return Dataset.from_list(rows, features=EVALUATION)


def test_both_solution_formats():
    one, many = read(training_set(training_row(), training_row(MANY)), "seg_zero")
    assert one.objects == (Object((100, 200, 300, 420), ((150.0, 250.0), (280.0, 400.0))),)
    assert (one.question, one.size, one.meta) == ("the mug", (840, 840), {"original_size": [640, 480], "id": "0"})
    assert one.open().size == (840, 840)
    assert [o.box for o in many.objects] == [(10, 20, 200, 210), (225, 296, 706, 786)]
    assert [o.points for o in many.objects] == [((30.0, 110.0),), ((302.0, 410.0),)]


def test_what_is_read_scores_as_the_published_text_does():
    [sample] = read(training_set(training_row(MANY)), "seg_zero")
    text = f"<think>two of them</think><answer>{MANY}</answer>"
    assert score("vision_reasoner", text, sample) == score("vision_reasoner", text, MANY)
    assert score("vision_reasoner", text, sample).total == 7.0


def test_no_objects_means_nothing_there():
    [sample] = read(training_set(training_row("[]")), "seg_zero")
    assert sample.empty


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ("<box>(300,200),(100,420)</box>", "has no area"),
        ("<box>(100,200),(300,9000)</box>", "leaves its image of 840x840"),
        ("no box at all", "a solution is"),
        ('[{"bbox_2d": [NaN, 2, 3, 4]}]', "finite"),
        ('[{"bbox_2d": [1, 2, 3]}]', "4 finite numbers"),
        ('[{"bbox_2d": [1, 2, 30, 40], "point_2d": [1, 900]}]', "point [1, 900] lies outside"),
    ],
)
def test_a_bad_solution_is_one_line(solution, message):
    dataset = training_set(training_row(), training_row(solution))
    with pytest.raises(UserError, match=r"row 1: ") as caught:
        list(read(dataset, "seg_zero"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    problems: list[str] = []
    assert [sample.id for sample in read(dataset, "seg_zero", problems)] == ["row-0"]
    assert len(problems) == 1


def test_empty_prompts_and_damaged_images_are_listed():
    damaged = {"bytes": png((840, 840))[:20], "path": None}
    rows = [
        training_row(problem=" \u200b\n"),
        training_row(image=damaged),
        training_row(image={"bytes": b"GIF", "path": None}),
        training_row(problem="  die Tasse „links“ 🍵 "),
    ]
    problems: list[str] = []
    [sample] = read(training_set(*rows), "seg_zero", problems)
    assert sample.question == "die Tasse „links“ 🍵"
    assert "prompt is empty" in problems[0]
    assert "damaged" in problems[1]
    assert "not an image" in problems[2]


@pytest.mark.parametrize("how", ["parquet", "folder", "saved", "saved_dict", "object"])
def test_every_way_a_data_set_is_stored(how, tmp_path):
    dataset = evaluation_set(box_mask(2, 1, 6, 4), box_mask(0, 0, 0, 0))
    source = tmp_path / "set"
    if how == "parquet":
        source = tmp_path / "test.parquet"
        dataset.to_parquet(str(source))
    elif how == "folder":
        (source / "data").mkdir(parents=True)
        dataset.to_parquet(str(source / "data" / "test-00000-of-00001.parquet"))
    elif how == "saved":
        dataset.save_to_disk(str(source))
    elif how == "saved_dict":
        DatasetDict(test=dataset, train=dataset.select([0])).save_to_disk(str(source))
    found = list(read(dataset if how == "object" else source, "seg_zero_eval", split="test"))
    assert [sample.id for sample in found] == ["test-0", "test-1"]
    assert found[0].objects == (Object((2, 1, 6, 4), rle=encode(box_mask(2, 1, 6, 4))),)
    assert (found[0].split, found[0].meta) == ("test", {"image_id": "im", "ann_id": "0"})
    assert found[1].empty


def test_a_set_of_the_hub_is_read_from_the_cache_without_a_network(tmp_path, monkeypatch):
    """The cache is made by `datasets` itself from a local folder, and named as for a set of the hub."""
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    (tmp_path / "name/data").mkdir(parents=True)
    evaluation_set(box_mask(2, 1, 6, 4)).to_parquet(str(tmp_path / "name/data/test-00000-of-00001.parquet"))
    datasets.load_dataset(str(tmp_path / "name"))
    (cache / "name").rename(cache / "owner___name")
    [sample] = read("owner/name", "seg_zero_eval", split="test")
    assert sample.objects[0].box == (2, 1, 6, 4) and sample.id == "test-0"
    with pytest.raises(UserError, match="cannot get owner/other from the hub or its cache"):
        list(read("owner/other", "seg_zero_eval"))


def test_a_mask_must_have_its_images_size():
    ragged = [[True] * 12] * 7 + [[True] * 11]
    problems: list[str] = []
    assert not list(read(evaluation_set(box_mask(0, 0, 3, 3, (11, 8)), ragged, [[]], []), "seg_zero_eval", problems))
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "its mask is 11x8, its image 12x8",
        "its mask is not a rectangle, its image 12x8",
        "its mask is 0x1, its image 12x8",
        "its mask is not a rectangle, its image 12x8",
    ]


def test_boxes_instead_of_a_mask_and_counts():
    image = {"bytes": png(), "path": None}
    shared = {"image": image, "text": "the cups", "image_id": 3, "img_height": 8, "img_width": 12}
    boxes = Dataset.from_list([shared | {"bbox": [[1.0, 1.0, 5.0, 4.0], [6.0, 2.0, 12.0, 8.0]], "cat_id": 47}])
    [sample] = read(boxes.cast_column("image", Image()), "seg_zero_eval")
    assert [o.box for o in sample.objects] == [(1, 1, 5, 4), (6, 2, 12, 8)]
    assert sample.meta["cat_id"] == 47
    whole = Dataset.from_list([shared | {"bbox": [[1, 1, 5, 4]]}])
    assert [o.box for s in read(whole, "seg_zero_eval") for o in s.objects] == [(1, 1, 5, 4)]
    for wrong in ([3], "all", [[1.0, 2.0]], []):
        with pytest.raises(UserError):
            list(read(Dataset.from_list([shared | {"bbox": wrong}]), "seg_zero_eval"))
    one = Dataset.from_list(
        [shared | {"bbox": [1.0, 1.0, 5.0, 4.0], "mask": box_mask(1, 1, 5, 4).tolist(), "count": 1}]
    )
    [sample] = read(one.cast_column("image", Image()), "seg_zero_eval")
    assert (sample.meta["boxes"], sample.meta["count"]) == ([[1, 1, 5, 4]], 1)
    assert decode(sample.objects[0].rle).sum() == 12


def test_counts_without_masks_or_boxes():
    row = {"image": {"bytes": png(), "path": None}, "text": "the cups", "img_height": 8, "img_width": 12, "count": 3}
    [sample] = read(Dataset.from_list([row]), "seg_zero_eval")
    assert (sample.meta, sample.objects) == ({"count": 3}, ())
    with pytest.raises(UserError, match="neither a mask, nor a bbox, nor a count"):
        list(read(Dataset.from_list([row | {"count": None}]), "seg_zero_eval"))


def test_wrong_columns_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="lacks the column 'problem'; it has image, text, mask"):
        list(read(evaluation_set(box_mask(0, 0, 1, 1)), "seg_zero"))
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"test\.parquet: it is no whole parquet file"):
        list(read(tmp_path, "seg_zero"))
    with pytest.raises(UserError, match=r"no \.parquet file of the split 'val'"):
        list(read(tmp_path, "seg_zero", split="val"))
    with pytest.raises(UserError, match="no such file or folder"):
        list(read(tmp_path / "absent", "seg_zero"))
    with pytest.raises(UserError, match="cannot get nobody/nothing from the hub or its cache"):
        list(read("nobody/nothing", "seg_zero"))
