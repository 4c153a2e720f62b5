"""`segzero everything` and `segzero edges`: files, counts, and mistakes in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from segzero.masks import area, box_of_rle, decode, mask_iou
from segzero.tiny.scenes import make_scene

FEW = ("--points-per-side", "12")


@pytest.fixture(scope="module")
def scene():
    return make_scene(np.random.default_rng(11), max_shapes=2)


@pytest.fixture
def folder(tmp_path, scene, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(scene.image).save(tmp_path / "images" / "scene.png")
    return tmp_path


def test_all_masks_of_a_folder_are_written_and_failures_counted(run_segzero, folder, scene):
    (folder / "images" / "broken.png").write_text("no image")
    code, out, _ = run_segzero("everything", "images", "--format", "panel,overlay,json,coco", "--out", "out", *FEW)
    assert code == 2 and "1 of 2 done" in out and "broken: not done: " in out
    assert {file.name for file in (folder / "out").iterdir()} == {
        "scene_panel.png", "scene_overlay.png", "scene.json", "coco.json",
    }  # fmt: skip
    content = json.loads((folder / "out" / "scene.json").read_text())
    assert content["settings"]["points_per_side"] == 12 and content["settings"]["stability_thresh"] == 0.85
    assert content["size"] == {"width": 224, "height": 224} and content["image"] == "images/scene.png"
    for each in content["masks"]:
        assert each["area"] == area(each["rle"]) and tuple(each["box"]) == box_of_rle(each["rle"])
        assert each["crop"] == [0, 0, 224, 224] and 0.8 < each["score"] <= 1 and 0.85 <= each["stability"] <= 1
    for shape in scene.shapes:
        assert max(mask_iou(decode(each["rle"]), shape.mask) for each in content["masks"]) > 0.75
    coco = json.loads((folder / "out" / "coco.json").read_text())
    [image], annotations = coco["images"], coco["annotations"]
    assert (image["file_name"], image["width"], image["height"]) == ("images/scene.png", 224, 224)
    assert [each["segmentation"] for each in annotations] == [each["rle"] for each in content["masks"]]
    for each in annotations:
        x0, y0, x1, y1 = box_of_rle(each["segmentation"])
        assert each["bbox"] == [x0, y0, x1 - x0, y1 - y0] and each["area"] == area(each["segmentation"])
    with Image.open(folder / "out" / "scene_overlay.png") as overlay:
        assert overlay.size == (672, 672)


def test_the_preset_of_another_segmenter_is_sam2s(run_segzero, folder):
    from segzero.shipped import segmenter_path

    command = ("everything", "images", "--segmenter", str(segmenter_path()), "--format", "json", "--out", "out")
    assert run_segzero(*command, "--points-per-side", "4", "--skip-covered")[0] == 0
    settings = json.loads((folder / "out" / "scene.json").read_text())["settings"]
    assert (settings["pred_iou_thresh"], settings["stability_thresh"]) == (0.8, 0.95)
    assert (settings["points_per_side"], settings["skip_covered"]) == (4, True)
    assert run_segzero(*command, "--points-per-side", "4", "--preset", "sam")[0] == 0
    assert json.loads((folder / "out" / "scene.json").read_text())["settings"]["pred_iou_thresh"] == 0.88


def test_edges_are_drawn(run_segzero, folder, scene):
    (folder / "images" / "broken.png").write_text("no image")
    code, out, _ = run_segzero("edges", "images", "--out", "out", "--points-per-side", "8")
    assert code == 2 and "1 of 2 done" in out and "broken: not done: " in out
    with Image.open(folder / "out" / "scene_edges.png") as picture:
        assert picture.mode == "L" and picture.size == (224, 224) and picture.getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("everything none.png", "no such image, folder or pattern: none.png"),
        ("everything empty", "no images in the folder empty"),
        ("everything images --format png", "unknown format 'png'"),
        ("everything images --preset sam3", "unknown preset 'sam3'; did you mean 'sam'? known: sam2, sam, scenes"),
        ("everything images --points-per-side 0", "points_per_side must be a number from 1 to 128, not 0"),
        ("everything images --points-per-side 100000", "points_per_side must be a number from 1 to 128, not 100000"),
        ("everything images --pred-iou-thresh 1.2", "pred_iou_thresh must be a number from 0 to 1, not 1.2"),
        ("everything images --stability-thresh nan", "stability_thresh must be a number from 0 to 1, not nan"),
        ("everything images --crop-layers 9", "crop_layers must be a number from 0 to 3, not 9"),
        ("everything images --segmenter none", "no such segmenter: none"),
        ("edges none.png", "no such image, folder or pattern: none.png"),
        ("edges images --points-per-side -1", "points_per_side must be a number from 1 to 128, not -1"),
    ],
)
def test_a_mistake_is_one_line(run_segzero, folder, command, message):
    (folder / "empty").mkdir()
    code, _, err = run_segzero(*command.split())
    assert code == 2 and err.startswith(f"segzero: {message}") and err.count("\n") == 1
    assert not (folder / "outputs").exists()
