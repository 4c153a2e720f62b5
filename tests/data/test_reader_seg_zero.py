"""Seg-Zero's and VisionReasoner's sets, as their columns are on the hub."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from rewards import score
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode, encode
from segzero.sample import Object
from tests.helpers.reader_files import box_mask, png

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


def test_samples_score_as_the_published_text_does():
    [sample] = read(training_set(training_row(MANY)), "seg_zero")
    text = f"<think>two of them</think><answer>{MANY}</answer>"
    assert score("vision_reasoner", text, sample) == score("vision_reasoner", text, MANY)
    assert score("vision_reasoner", text, sample).total == 7.0


def test_an_empty_solution_means_nothing_there():
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
    with pytest.raises(UserError, match=r"test\.parquet: it is not a whole parquet file"):
        list(read(tmp_path, "seg_zero"))
    with pytest.raises(UserError, match=r"no \.parquet file of the split 'val'"):
        list(read(tmp_path, "seg_zero", split="val"))
    with pytest.raises(UserError, match="no such file or folder"):
        list(read(tmp_path / "absent", "seg_zero"))
    with pytest.raises(UserError, match="cannot get nobody/nothing from the hub or its cache"):
        list(read("nobody/nothing", "seg_zero"))


def evaluation_table(rows: int = 1, **columns) -> pa.Table:
    """An evaluation set whose images are 12x8; `columns` are added, or stand in for others."""
    shared = {
        "image": [{"bytes": png(), "path": None}] * rows,
        "text": ["the cup"] * rows,
        "mask": [box_mask(1, 1, 5, 4).tolist()] * rows,
        "img_height": [8] * rows,
        "img_width": [12] * rows,
    }
    return pa.table(shared | columns)


def nested(rows: int, lists: int, values: int) -> pa.ChunkedArray:
    """A column of masks of that many rows of that many pixels, which takes a few bytes in a file."""
    flat = pa.array(np.zeros(lists * values, bool))
    inner = pa.ListArray.from_arrays(pa.array(np.arange(lists + 1, dtype=np.int32) * values), flat)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array([0, lists], pa.int32()), inner)] * rows)


@pytest.mark.parametrize(("lists", "values"), [(1, 1_000_000), (1_000_000, 0)])
def test_more_values_than_pixels_are_refused_before_they_are_decoded(lists, values, tmp_path):
    file = tmp_path / "test.parquet"
    pq.write_table(evaluation_table(8, mask=nested(8, lists, values)), file, compression="zstd")
    assert file.stat().st_size < 20_000
    pa.default_memory_pool().release_unused()
    before = pa.default_memory_pool().bytes_allocated()
    with pytest.raises(UserError, match=r"its column 'mask' holds 8000000 values in 8 rows; at most 4195072"):
        list(read(file, "seg_zero_eval"))
    assert pa.default_memory_pool().bytes_allocated() - before < 1_000_000


def test_a_footer_that_claims_fewer_values_than_its_pages_hold(tmp_path):
    file = tmp_path / "test.parquet"
    pq.write_table(evaluation_table(8, mask=nested(8, 1, 1_000_000)), file, compression="zstd")
    said, wanted = bytes([0x80, 0xC8, 0xD0, 0x07]), bytes([0x90, 0x80, 0x80, 0x00])  # 8,000,000 and 8 in four bytes
    raw = file.read_bytes()
    begin = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    assert said in raw[begin:]
    file.write_bytes(raw[:begin] + raw[begin:].replace(said, wanted))
    assert pq.read_metadata(file).row_group(0).column(3).num_values == 8
    with pytest.raises(UserError, match=r"its column 'mask' holds 8000000 values in 8 rows"):
        list(read(file, "seg_zero_eval"))


def test_as_many_values_as_pixels_are_read(tmp_path):
    """More than are read in any case, but an image of that size stands beside them."""
    mask = nested(2, 1500, 2000)
    image = [{"bytes": png((2000, 1500)), "path": None}] * 2
    pq.write_table(
        evaluation_table(2, mask=mask, image=image).drop_columns(["img_width", "img_height"]), tmp_path / "x.parquet"
    )
    one, two = read(tmp_path / "x.parquet", "seg_zero_eval")
    assert one.empty and two.empty and one.size == (2000, 1500)


def test_a_mask_of_another_size_is_not_laid_out(tmp_path):
    pq.write_table(evaluation_table(2, mask=nested(2, 1_000_000, 0)), tmp_path / "test.parquet")
    problems: list[str] = []
    list(read(tmp_path / "test.parquet", "seg_zero_eval", problems))  # what is imported is not counted
    tracemalloc.start()
    assert not list(read(tmp_path / "test.parquet", "seg_zero_eval", problems))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [problem.split(": ", 1)[1] for problem in problems] == ["its mask is 0x1000000, its image 12x8"] * 4
    assert peak < 1_000_000


def test_a_long_list_that_is_not_a_mask_is_listed(tmp_path):
    boxes = pa.array([[1.0, 1.0, 5.0, 4.0], [0.0] * 100_000])
    pq.write_table(evaluation_table(2, bbox=boxes), tmp_path / "test.parquet")
    problems: list[str] = []
    assert len(list(read(tmp_path / "test.parquet", "seg_zero_eval", problems))) == 1
    assert "its 'bbox' holds 100000 values; at most 65536 are read" in problems[0]


BEYOND = pa.array([0, 2**60], pa.timestamp("ms"))  # a year that Python's dates don't have
NO_TEXT = pa.Array.from_buffers(pa.string(), 2, pa.array([b"the cup", b"\xff\xfe"]).buffers())


def test_unread_columns_may_hold_anything(tmp_path):
    pq.write_table(evaluation_table(2, when=BEYOND, note=NO_TEXT), tmp_path / "test.parquet")
    assert len(list(read(tmp_path / "test.parquet", "seg_zero_eval"))) == 2


@pytest.mark.parametrize(("name", "column"), [("text", NO_TEXT), ("image_id", BEYOND), ("count", BEYOND)])
def test_a_value_that_python_cannot_hold_is_listed(name, column, tmp_path):
    table = evaluation_table(2, **{name: column})
    if name == "count":
        table = table.drop_columns(["mask"])
    pq.write_table(table, tmp_path / "test.parquet")
    problems: list[str] = []
    list(read(tmp_path / "test.parquet", "seg_zero_eval", problems))
    assert f"row 1: its {name!r} can't be read: " in problems[-1] and "\n" not in problems[-1]


def test_a_repeated_column_is_one_line(tmp_path):
    table = evaluation_table()
    pq.write_table(table.append_column("text", table.column("text")), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"has the column 'text' more than once"):
        list(read(tmp_path / "test.parquet", "seg_zero_eval"))


def test_saved_tables_with_offsets_beyond_their_file_are_one_line(tmp_path):
    """Arrow's own files hold offsets into their bytes, which Arrow follows without looking."""
    row = {"text": "the cup", "image": {"bytes": png(), "path": None}, "count": 3}
    Dataset.from_list([row] * 3).save_to_disk(tmp_path)
    [file] = tmp_path.glob("*.arrow")
    ends = np.array([0, 7, 14, 21], np.int32).tobytes()
    assert file.read_bytes().count(ends) == 1
    file.write_bytes(file.read_bytes().replace(ends, np.array([0, 7, 14, 2**31 - 1], np.int32).tobytes()))
    with pytest.raises(UserError, match=r"it is damaged: .*offset"):
        list(read(tmp_path, "seg_zero_eval"))
