"""Samples through parquet and back, by our own reader and by `datasets`."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.masks import decode, encode
from segzero.sample import Object, Sample


def png(color: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(file, "png")
    return file.getvalue()


MASK = np.zeros((4, 6), bool)
MASK[1:3, 2:5] = True
FULL = Sample(
    id="a",
    image=png(),
    question="the mug „links“",
    width=6,
    height=4,
    objects=(
        Object((2.0, 1.0, 5.0, 3.0), ((3.0, 1.0), (4.5, 2.25)), encode(MASK)),
        Object((0.0, 0.0, 1.0, 1.0)),
    ),
    ignore=encode(~MASK),
    category="mug",
    concept="affordance",
    split="val",
    source="made up",
    turns=({"question": "the table", "boxes": [[0, 0, 6, 4]]},),
    meta={"seed": 3, "nested": {"a": [1.5, None, True]}},
)
BARE = Sample("b", "images/cat.jpg", "the dog", 640, 480)
SAMPLES = [FULL, BARE, Sample("c", png((0, 0, 0)), "the cat", 6, 4, (Object((0.1, 0.2, 1e-9, 3.3), ((1.0, 2.0),)),))]


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[::-1], [BARE], []])
def test_nothing_is_lost(samples, tmp_path):
    file = to_parquet(iter(samples), tmp_path / "deep" / "x.parquet")
    assert file == tmp_path / "deep" / "x.parquet"
    assert list(from_parquet(file)) == samples
    assert [p.name for p in file.parent.iterdir()] == ["x.parquet"]


def test_more_samples_than_a_row_group(tmp_path):
    samples = [Sample(str(i), f"{i}.png", f"question {i}", 10, 20) for i in range(250)]
    assert list(from_parquet(to_parquet(samples, tmp_path))) == samples


def test_a_folder_holds_files_read_by_name(tmp_path):
    assert to_parquet([FULL], tmp_path) == tmp_path / "samples.parquet"
    to_parquet([BARE], tmp_path / "more.parquet")
    assert list(from_parquet(tmp_path)) == [BARE, FULL]


def test_a_pattern_picks_files_by_name(tmp_path):
    for name in ("train-00001", "train-00000", "val"):
        to_parquet([Sample(name, "cat.png", "the cat", 10, 20)], tmp_path / f"{name}.parquet")
    assert [s.id for s in from_parquet(tmp_path / "train*.parquet")] == ["train-00000", "train-00001"]
    with pytest.raises(UserError, match=r"no test\*.parquet in"):
        from_parquet(tmp_path / "test*.parquet")


def test_the_schema_does_not_depend_on_the_samples(tmp_path):
    schemas = [pq.read_schema(to_parquet(samples, tmp_path / "x.parquet")) for samples in ([], [BARE], SAMPLES)]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert schemas[0].equals(schemas[2], check_metadata=True)


def test_datasets_reads_and_writes_the_same(tmp_path):
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(to_parquet([FULL], tmp_path)), cache_dir=str(tmp_path / "cache"))
    row = dataset[0]
    assert row["image"].getpixel((0, 0)) == (200, 30, 40)
    assert row["objects"][0]["rle"] == FULL.objects[0].rle
    assert row["objects"][1]["rle"] is None
    dataset.to_parquet(str(tmp_path / "again.parquet"))
    assert list(from_parquet(tmp_path / "again.parquet")) == [FULL]


def test_other_widths_and_more_columns_are_taken(tmp_path):
    table = pq.read_table(to_parquet(SAMPLES, tmp_path))
    for name, kind in [("id", pa.large_string()), ("width", pa.int64())]:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(kind))
    table = table.append_column("note", pa.array(["x"] * 3)).select([*reversed(table.column_names), "note"])
    pq.write_table(table, tmp_path / "other.parquet")
    assert list(from_parquet(tmp_path / "other.parquet")) == SAMPLES


def test_uncompressed_rles_are_written_compressed(tmp_path):
    rle = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}
    sample = Sample("d", "x.png", "q", 6, 4, (Object((2, 1, 5, 3), rle=rle),))
    [again] = from_parquet(to_parquet([sample], tmp_path))
    assert again.objects[0].rle == encode(MASK)


def test_the_masks_of_a_sample():
    assert (decode(Sample("e", "x.png", "q", 6, 4, FULL.objects[:1]).mask()) == MASK).all()
    assert FULL.mask() is None  # one of its objects has no mask
    assert not decode(BARE.mask()).any()
    assert (BARE.empty, FULL.empty, FULL.size) == (True, False, (6, 4))


def test_open(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png())
    for image in [png(), str(path)]:
        opened = Sample("f", image, "q", 6, 4).open()
        assert (opened.mode, opened.size, opened.getpixel((0, 0))) == ("RGB", (6, 4), (200, 30, 40))
    with pytest.raises(UserError, match=r"no such image: images/cat\.jpg"):
        BARE.open()
    with pytest.raises(UserError, match="the image of sample 'g'"):
        Sample("g", b"\x89PNG\r\n\x1a\n and no more", "q", 6, 4).open()


def write_row(path, **changes):
    """A file of two rows, of which the second has other values."""
    rows = pq.read_table(to_parquet([FULL, FULL], path)).to_pylist()
    rows[1] |= changes
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    return path


OBJECT = {"box": [1.0, 2.0, 3.0, 4.0], "points": [], "rle": None}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": None}, "id has no value"),
        ({"image": None}, "image has no value"),
        ({"image": {"bytes": None, "path": None}}, "image has no value"),
        ({"width": None}, "width has no value"),
        ({"objects": [OBJECT | {"box": [1.0, 2.0, 3.0]}]}, "box of four"),
        ({"objects": [OBJECT | {"box": None}]}, "box of four"),
        ({"objects": [OBJECT | {"box": [1.0, 2.0, None, 4.0]}]}, "box of four"),
        ({"objects": [OBJECT | {"points": [[1.0]]}]}, "points of two"),
        ({"objects": [OBJECT | {"points": [[1.0, None]]}]}, "points of two"),
        ({"objects": [None]}, "box of four"),
        ({"turns": "[1"}, "JSON list"),
        ({"turns": None}, "JSON list"),
        ({"turns": '"ab"'}, "JSON list"),
        ({"meta": '{"a":' * 100_000}, "JSON object"),
        ({"meta": "7"}, "JSON object"),
        ({"meta": "[[1, 2]]"}, "JSON object"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(changes, why, tmp_path):
    samples = from_parquet(write_row(tmp_path / "x.parquet", **changes))
    assert next(samples) == FULL
    with pytest.raises(UserError, match=rf"x\.parquet, row 1: .*{why}") as raised:
        next(samples)
    assert "\n" not in str(raised.value)


def test_what_is_no_samples_file_is_refused_at_once(tmp_path):
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"id": ["a"], "question": ["q"]}), tmp_path / "other.parquet")
    table = pq.read_table(to_parquet([FULL], tmp_path / "good.parquet"))
    place = table.schema.get_field_index("objects")
    pq.write_table(table.set_column(place, "objects", pa.array(["x"])), tmp_path / "wrong.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for name, why in [
        ("nothing.parquet", "no such file"),
        ("empty", r"no \*.parquet in"),
        ("junk.parquet", "not a whole parquet file"),
        ("cut.parquet", "not a whole parquet file"),
        ("other.parquet", "lacks the column 'image'"),
        ("wrong.parquet", "wrong type"),
    ]:
        with pytest.raises(UserError, match=why) as raised:
            from_parquet(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_damaged_page_is_one_line(tmp_path):
    file = to_parquet([FULL] * 50, tmp_path)
    raw = bytearray(file.read_bytes())
    raw[4:400] = b"\xff" * 396
    file.write_bytes(raw)
    with pytest.raises(UserError, match="damaged"):
        list(from_parquet(file))


def test_columns_that_nobody_reads_may_hold_anything(tmp_path):
    table = pq.read_table(to_parquet(SAMPLES, tmp_path / "all" / "x.parquet"))
    beyond = pa.array([2**60] * 3, pa.timestamp("ms"))  # a year that Python's dates don't have
    pq.write_table(table.append_column("when", beyond).append_column("note", beyond), tmp_path / "x.parquet")
    assert list(from_parquet(tmp_path / "x.parquet")) == SAMPLES


def test_a_column_that_is_there_twice_is_one_line(tmp_path):
    table = pq.read_table(to_parquet(SAMPLES, tmp_path / "all" / "x.parquet"))
    pq.write_table(table.append_column("id", table.column("id")), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has the column 'id' more than once"):
        list(from_parquet(tmp_path / "x.parquet"))


def test_text_that_is_none_is_one_line(tmp_path):
    table = pq.read_table(to_parquet([FULL, FULL], tmp_path / "x.parquet"))
    text = pa.Array.from_buffers(pa.string(), 2, pa.array([b"the mug", b"\xff\xfe"]).buffers())
    place = table.schema.get_field_index("question")
    pq.write_table(table.set_column(place, "question", text), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"cannot read .*x\.parquet.*utf") as raised:
        list(from_parquet(tmp_path / "x.parquet"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("empty", "numbers", "why"), [(5_000_000, 4, "column 'objects' holds"), (2_500_000, 2_500_000, "objects of rows")]
)
def test_endless_lists_are_refused_before_they_become_objects(empty, numbers, why, tmp_path):
    """Points without coordinates take no room in a file, and 64 bytes each in Python."""
    file = to_parquet([FULL], tmp_path / "x.parquet")
    table, schema = pq.read_table(file), pq.read_schema(file)
    kind = schema.field("objects").type.value_type
    inner = pa.ListArray.from_arrays(pa.array(np.zeros(empty + 1, np.int32)), pa.array([], pa.float64()))
    points = pa.ListArray.from_arrays(pa.array([0, empty], pa.int32()), inner)
    box = pa.ListArray.from_arrays(pa.array([0, numbers], pa.int32()), pa.array(np.zeros(numbers)))
    fields = {"box": box, "points": points, "rle": pa.nulls(1, kind.field("rle").type)}
    values = pa.StructArray.from_arrays([fields[field.name] for field in kind], fields=list(kind))
    objects = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values)
    place = schema.get_field_index("objects")
    pq.write_table(table.set_column(place, schema.field("objects"), objects), file)
    assert file.stat().st_size < 20_000
    with pytest.raises(UserError, match=why):
        list(from_parquet(file))


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (Sample("h", "x.png", "q", 6, 4, meta={"a": object()}), "'h'.*JSON"),
        (Sample("h", "x.png", 7, 6, 4), "wrong type"),
        (Sample("h", "x.png", "q", 1 << 40, 4), "wrong type"),
        (
            Sample("h", "x.png", "q", 6, 4, (Object((1, 2, 3, 4), rle={"size": [4, 6], "counts": "zz"}),)),
            "malformed RLE",
        ),
    ],
)
def test_a_bad_sample_leaves_no_file_and_spoils_none(sample, why, tmp_path):
    file = to_parquet([BARE], tmp_path)
    with pytest.raises(UserError, match=why):
        to_parquet([FULL, sample], tmp_path)
    assert list(from_parquet(file)) == [BARE]
    assert [p.name for p in tmp_path.iterdir()] == ["samples.parquet"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        to_parquet([BARE], tmp_path / "file" / "x.parquet")


def test_meta_is_json(tmp_path):
    [again] = from_parquet(to_parquet([Sample("i", "x.png", "q", 6, 4, meta={"box": (1, 2)})], tmp_path))
    assert again.meta == json.loads(json.dumps({"box": (1, 2)}))


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for action in (lambda: to_parquet([FULL], tmp_path), lambda: from_parquet(tmp_path / "a.parquet")):
        with pytest.raises(UserError, match=rf"{package} does not import here .*; pip install 'segzero\[infer\]'"):
            action()
