"""Exports to the formats of other tools, and back."""

import base64
import io
import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from segzero.data.exports import EXPORTS, export
from segzero.data.parquet import to_parquet
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode, encode
from segzero.sample import Object, Sample
from tests.helpers.reader_files import box_mask, jpeg, png

SIZE = (40, 30)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """A box with a hole and a speck beside it."""
    found = box_mask(x0, y0, x1, y1, SIZE)
    found[(y0 + y1) // 2, (x0 + x1) // 2] = False
    found[0, 0] = True
    return found


def thing(x0: int = 5) -> Object:
    found = mask(x0, 4, x0 + 12, 20)
    return Object((0.0, 0.0, x0 + 12.0, 20.0), ((x0 + 2.0, 6.0),), encode(found))


ONE, TWO = thing(), thing(20)
RED, BLUE = png(SIZE, (200, 0, 0)), png(SIZE, (0, 0, 200))
CAT = Sample("cat", RED, "the cat, left", *SIZE, (ONE,), category="cat", concept="spatial", split="val")
BOTH = replace(CAT, id="both", question="both 动物", objects=(ONE, TWO), category="")
AGAIN = replace(CAT, id="again", objects=(TWO,))  # the same question about the same image
BIRD = replace(CAT, id="bird", question="the bird", objects=())
DOG = replace(CAT, id="dog", image=BLUE, question='the "dog" & <ball>')
FRAMED = replace(CAT, id="framed", question="the frame", objects=(Object((1.5, 2.0, 20.0, 25.5)),))
CROWD = replace(CAT, id="crowd", question="the people", ignore=encode(mask(25, 2, 38, 9)))
LATER = replace(CAT, id="later", question="[REF:1] its tail", turns=({"question": "the cat"},))
ALL = [CAT, BOTH, AGAIN, BIRD, DOG, FRAMED, CROWD, LATER]


def content(sample: Sample, *without: str) -> tuple:
    """Content of a sample except its id and the fields named in `without`."""
    pixels = sample.open().tobytes()
    shown = {
        "pixels": pixels,
        "question": sample.question,
        "boxes": tuple(tuple(round(v, 6) for v in true.box) for true in sample.objects),
        "masks": tuple(None if true.rle is None else true.rle["counts"] for true in sample.objects),
        "union": None if sample.mask() is None else sample.mask()["counts"],
        "ignore": None if sample.ignore is None else sample.ignore["counts"],
        "split": sample.split,
        "concept": sample.concept,
        "category": sample.category,
    }
    return tuple(value for name, value in shown.items() if name not in without)


def everything(samples, *without: str) -> list[tuple]:
    return sorted((content(sample, *without) for sample in samples), key=repr)


@pytest.fixture
def folder(tmp_path) -> Path:
    return to_parquet(ALL, tmp_path / "data").parent


def left_out(done) -> set[str]:
    return {line.split("'")[1] for line in done.left_out}


def test_coco_and_back(folder, tmp_path):
    done = export(folder, "coco", tmp_path / "out")
    assert left_out(done) == {"later"} and done.samples == 7
    back = read(tmp_path / "out/instances.json", "coco")
    without = ("split", "concept", "category")
    assert everything(back, *without) == everything(ALL[:-1], *without)
    value = json.loads((tmp_path / "out/instances.json").read_text())
    from pycocotools.coco import COCO

    coco = COCO(tmp_path / "out/instances.json")
    assert len(coco.anns) == len(value["annotations"]) == 8
    crowd = coco.anns[coco.getAnnIds(iscrowd=True)[0]]
    assert (coco.annToMask(crowd) == decode(CROWD.ignore)).all()
    assert len({image["file_name"] for image in value["images"]}) == 2


def test_coco_has_a_file_for_each_split(tmp_path):
    data = to_parquet([CAT, replace(DOG, split="train"), replace(BIRD, split="../up")], tmp_path / "data")
    export(data, "coco", tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").glob("*.json")}
    assert names == {"instances_val.json", "instances_train.json", "instances____up.json"}
    [dog] = read(tmp_path / "out/instances_train.json", "coco")
    assert dog.question == DOG.question


def test_refer_and_back(folder, tmp_path):
    done = export(folder, "refcoco", tmp_path / "out")
    assert left_out(done) == {"crowd", "later"}
    one = list(read(tmp_path / "out/refcoco", "refer"))
    many = list(read(tmp_path / "out/grefcoco", "grefcoco"))
    assert everything([*one, *many], "category", "concept") == everything(ALL[:-2], "category", "concept")
    assert {len(sample.objects) for sample in one} == {1} and {len(sample.objects) for sample in many} == {0, 2}
    assert {sample.category for sample in one} == {"cat"}
    refs = pickle.loads((tmp_path / "out/refcoco/refs(segzero).p").read_bytes())
    assert set(refs[0]) >= {"ref_id", "ann_id", "image_id", "category_id", "split", "sentences", "sent_ids"}


def test_converseg_and_back(folder, tmp_path):
    done = export(folder, "converseg", tmp_path / "out")
    assert left_out(done) == {"framed", "crowd", "later"}
    back = list(read(tmp_path / "out/items.json", "converseg"))
    assert [sample.id for sample in back] == [sample.id for sample in ALL[:5]]
    without = ("boxes", "masks", "category")
    assert everything(back, *without) == everything(ALL[:5], *without)


def test_label_studio_and_back(folder, tmp_path):
    done = export(folder, "label-studio", tmp_path / "out")
    assert left_out(done) == {"bird", "crowd", "later"}
    back = list(read(tmp_path / "out/tasks.json", "label_studio", images=tmp_path / "out/images"))
    written = [CAT, BOTH, AGAIN, DOG, FRAMED]
    without = ("boxes", "split", "concept", "category")
    assert everything(back, *without) == everything(written, *without)
    [framed] = [sample for sample in back if sample.question == "the frame"]
    assert np.allclose(framed.objects[0].box, FRAMED.objects[0].box)
    config = ElementTree.fromstring((tmp_path / "out/label_config.xml").read_text())
    assert DOG.question in {label.get("value") for label in config.iter("Label")}


def test_large_strokes_are_written_in_several_runs(tmp_path):
    size = (400, 300)
    wide = replace(CAT, image=png(size), width=400, height=300, objects=(Object((0, 0, 400, 290), rle=wide_rle()),))
    export(to_parquet([wide], tmp_path / "data"), "label-studio", tmp_path / "out")
    [back] = read(tmp_path / "out/tasks.json", "label_studio", images=tmp_path / "out/images")
    assert back.objects[0].rle == wide.objects[0].rle


def wide_rle():
    return encode(box_mask(0, 0, 400, 290, (400, 300)))


def test_fiftyone_holds_everything(folder, tmp_path):
    """Read as FiftyOne's own importer does: relative boxes, and NumPy files that are compressed and in base64."""
    done = export(folder, "fiftyone", tmp_path / "out")
    assert left_out(done) == {"later"}
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["media_type"] == "image" and "version" not in metadata
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert [sample["sample_id"] for sample in samples] == [sample.id for sample in ALL[:-1]]

    def array(value):
        return np.load(io.BytesIO(zlib.decompress(base64.b64decode(value["$binary"]["base64"]))))

    for found, sample in zip(samples, ALL, strict=False):
        assert (tmp_path / "out" / found["filepath"]).read_bytes() == sample.image
        assert (found["question"], found["tags"]) == (sample.question, ["val"])
        for detection, true in zip(found["ground_truth"]["detections"], sample.objects, strict=True):
            x, y, width, height = (v * side for v, side in zip(detection["bounding_box"], (*SIZE, *SIZE), strict=True))
            assert detection["box"] == list(true.box)
            if true.rle is None:
                assert np.allclose((x, y, x + width, y + height), true.box)
                continue
            whole = np.zeros(SIZE[::-1], bool)
            part = array(detection["mask"])
            assert part.shape == (round(height), round(width))
            whole[round(y) : round(y) + part.shape[0], round(x) : round(x) + part.shape[1]] = part
            assert (whole == decode(true.rle)).all()
    assert (array(samples[6]["ignore"]["mask"]) == decode(CROWD.ignore)).all()


@pytest.mark.parametrize("to", EXPORTS)
def test_images_with_the_same_name_and_absent_ones(to, tmp_path):
    paths = [jpeg(tmp_path / name, SIZE) for name in ("a/1.jpg", "b/1.jpg", "c/1.JPG")]
    samples = [replace(CAT, id=f"s{i}", image=str(path)) for i, path in enumerate(paths)]
    samples.append(replace(CAT, id="absent", image=str(tmp_path / "absent.jpg")))
    samples.append(replace(CAT, id="secret", image=str(secret(tmp_path))))
    samples.append(replace(CAT, id="lies", image=png((9, 9))))
    samples.append(replace(BIRD, id="counted", meta={"count": 2}))
    done = export(to_parquet(samples, tmp_path / "data"), to, tmp_path / "out")
    assert left_out(done) == {"absent", "secret", "lies", "counted"} and done.samples == 3
    assert len((tmp_path / "out/left_out.txt").read_text().splitlines()) == 4
    assert len({file.name.lower() for file in (tmp_path / "out").rglob("*.[jJ]*[gG]")}) == 3
    assert not any(b"hunter2" in file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())


def secret(folder: Path) -> Path:
    """A file that a path in the data may name, but which is no image."""
    path = folder / "passwords.txt"
    path.write_text("hunter2")
    return path


def test_nothing_is_left_of_an_export_that_failed(folder, tmp_path):
    with pytest.raises(UserError, match=r"nothing of .* can be written as label-studio: .*nothing there"):
        export(to_parquet([BIRD], tmp_path / "birds"), "label-studio", tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*out*"))
    with pytest.raises(UserError, match="unknown export format 'cocoo'; did you mean 'coco'"):
        export(folder, "cocoo", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is there already"):
        export(folder, "coco", tmp_path / "full")
