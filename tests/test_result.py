import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segzero.errors import UserError
from segzero.masks import box_of, decode, points_of
from segzero.result import FORMATS, InstanceMask, Segmentation, coco_dataset, write_atomically

SIZE = (60, 40)


def found(x: int, y: int, score: float = 0.9) -> InstanceMask:
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[y : y + 10, x : x + 20] = True
    return InstanceMask(mask, box_of(mask), points_of(mask, 2), score)


def result(*instances: InstanceMask, **other) -> Segmentation:
    return Segmentation(Image.new("RGB", SIZE, (90, 120, 60)), "the red mug", instances, **other)


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_union_and_empty():
    two = result(found(0, 0), found(10, 5))
    assert two.union.dtype == bool and two.union.shape == (40, 60)
    assert two.union.sum() == 200 + 200 - 10 * 5 and not two.empty
    nothing, failed = result(), result(error="not_json")
    assert nothing.empty and nothing.union.shape == (40, 60) and not nothing.union.any()
    assert not failed.empty and not failed.union.any()


def test_a_result_is_a_sequence_of_its_instances():
    two, nothing = result(found(0, 0), found(30, 20)), result()
    assert len(two) == 2 and list(two) == list(two.instances)
    assert len(nothing) == 0 and list(nothing) == [] and nothing  # no instances are an answer, too


def test_filter_keeps_instances_of_at_least_that_score():
    low, middle, high = found(0, 0, 0.2), found(10, 5, 0.5), found(30, 20, 0.9)
    all_three = result(low, middle, high, found(5, 5, float("nan")), think="three", timings={"policy": 1.0})
    kept = all_three.filter(score=0.5)
    assert list(kept) == [middle, high] and len(all_three) == 4
    assert (kept.question, kept.think, kept.timings) == (all_three.question, "three", {"policy": 1.0})
    assert kept.union.sum() == (middle.mask | high.mask).sum()
    assert list(kept.filter(score=0.0)) == [middle, high]


def test_a_result_prints_without_its_pixels():
    text = repr(result(found(0, 0), think="one mug"))
    assert "the red mug" in text and "one mug" in text and "array" not in text and len(text) < 400


def test_masks_of_another_size_are_our_own_mistake():
    with pytest.raises(AssertionError):
        Segmentation(Image.new("RGB", (10, 10)), "q", (found(0, 0),))


def test_save_writes_what_was_asked_for(tmp_path):
    saved = result(found(5, 5), found(30, 20), think="two").save(tmp_path / "new" / "deep", "mug")
    assert tuple(saved) == FORMATS
    assert left_behind(tmp_path / "new" / "deep") == [
        "mug.json", "mug_coco.json", "mug_mask.png", "mug_overlay.png", "mug_panel.png"
    ]  # fmt: skip
    mask = Image.open(saved["mask"])
    assert mask.mode == "L" and mask.size == SIZE
    assert np.array_equal(np.array(mask), result(found(5, 5), found(30, 20)).union * 255)
    assert Image.open(saved["overlay"]).tobytes() == result(found(5, 5), found(30, 20)).plot().tobytes()
    assert Image.open(saved["panel"]).width > Image.open(saved["overlay"]).width
    again = result(found(0, 0)).save(tmp_path / "one", formats=("mask",))
    assert left_behind(tmp_path / "one") == ["result_mask.png"] and list(again) == ["mask"]


def test_saved_json_holds_everything(tmp_path):
    original = result(
        found(5, 5, score=float(np.float32(0.75))),
        found(30, 20, score=float("nan")),
        think="在左边 \ud800",
        raw_text="<think>在左边</think>",
        warnings=("bad_box",),
        timings={"policy": 0.5},
    )
    text = original.save(tmp_path)["json"].read_text("utf-8")
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert "在左边" in text
    assert read == original.to_dict() == json.loads(original.to_json())
    assert read["size"] == {"width": 60, "height": 40} and read["think"] == original.think
    assert read["warnings"] == ["bad_box"] and read["error"] is None and read["timings"] == {"policy": 0.5}
    first, second = read["instances"]
    assert first["box"] == [5, 5, 25, 15] and first["score"] == 0.75 and second["score"] == 0
    assert [tuple(p) for p in first["points"]] == list(original.instances[0].points)
    for row, instance in zip(read["instances"], original.instances, strict=True):
        assert np.array_equal(decode(row["rle"]), instance.mask)


def test_numpy_numbers_do_not_reach_the_json():
    mask = np.ones((40, 60), bool)
    box = tuple(np.array([0, 1, 2, 3], np.float32))
    instance = InstanceMask(mask, box, ((np.float32(1), np.int64(2)),), np.float32(0.5))
    assert json.loads(result(instance).to_json())["instances"][0]["box"] == [0, 1, 2, 3]


def test_coco_file_is_read_by_pycocotools(tmp_path):
    original = result(found(5, 5, 0.8), found(30, 20, 0.6))
    coco = COCO(original.save(tmp_path, "mug")["coco"])
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["bbox"] for a in annotations] == [[5, 5, 20, 10], [30, 20, 20, 10]]
    assert [a["area"] for a in annotations] == [200, 200] and [a["score"] for a in annotations] == [0.8, 0.6]
    for annotation, instance in zip(annotations, original.instances, strict=True):
        assert np.array_equal(coco.annToMask(annotation).astype(bool), instance.mask)
    assert coco.loadCats(coco.getCatIds())[0]["name"] == "the red mug"
    results = coco.loadRes(original.to_coco())
    assert len(results.getAnnIds()) == 2


def test_many_results_make_one_coco_file(tmp_path):
    other = Segmentation(Image.new("RGB", SIZE), "the plate", (found(0, 0),))
    dataset = coco_dataset([("a.png", result(found(0, 0), found(9, 9))), ("b.png", result()), ("c.png", other)])
    assert [i["file_name"] for i in dataset["images"]] == ["a.png", "b.png", "c.png"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in dataset["annotations"]] == [
        (1, 1, 1),
        (2, 1, 1),
        (3, 3, 2),
    ]
    assert [c["name"] for c in dataset["categories"]] == ["the red mug", "the plate"]


def test_supervision_gets_everything():
    original = result(found(5, 5, 0.75), found(30, 20, 0.5))
    detections = original.to_supervision()
    assert len(detections) == 2 and detections.xyxy.tolist() == [[5, 5, 25, 15], [30, 20, 50, 30]]
    assert np.array_equal(detections.mask, np.array([f.mask for f in original.instances]))
    assert detections.confidence.tolist() == [0.75, 0.5]
    assert detections.data["points"][1] == original.instances[1].points
    assert detections[detections.confidence > 0.6].data["class_name"].tolist() == ["the red mug"]
    assert detections.area.tolist() == [200, 200]


def test_supervision_gets_nothing_when_nothing_is_there():
    detections = result().to_supervision()
    assert len(detections) == 0 and detections.mask.shape == (0, 40, 60) and detections.is_empty()


def test_an_unknown_format_or_a_name_with_a_folder_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="did you mean 'panel'"):
        result().save(tmp_path, formats=("json", "panle"))
    for name in ("", "a/b", "../b", "/etc/b"):
        with pytest.raises(UserError, match="plain file name"):
            result().save(tmp_path, name)
    assert left_behind(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write") as error:
        result().save(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_a_write_cut_short_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # as on a full disk, the write stops in the middle
    try:
        with pytest.raises(UserError, match=r"cannot write .*result\.json: File too large"):
            write_atomically(path, b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_behind(tmp_path) == ["result.json"] and path.read_bytes() == b"old"


def test_a_rename_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "taken", b"x")
    assert left_behind(tmp_path) == ["taken"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 3_000_000 for i in (1, 2)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write():
        for i in range(20):
            write_atomically(path, contents[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(path.read_bytes() in contents)
    writer.join()
    assert len(seen) > 3 and all(seen)


def test_files_get_the_usual_rights(tmp_path):
    write_atomically(tmp_path / "file", b"x")
    (tmp_path / "other").write_bytes(b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_importing_is_light():
    code = """
import sys, segzero.result, segzero.images
heavy = {"torch", "transformers", "vllm", "matplotlib", "supervision", "cv2", "datasets"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
