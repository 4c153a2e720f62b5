"""Everything mode with the shipped tiny SAM2, and its filters on arrays that show what each of them does."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.masks import area, box_of, decode, mask_iou
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.segmenter.everything import (
    BOUNDS,
    PRESETS,
    Candidates,
    EverythingSettings,
    crop_boxes,
    find_candidates,
    find_everything,
    measure,
    nms,
    remove_specks,
)
from segzero.segmenter.protocol import enlarge
from segzero.shipped import segmenter_path
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene

# The shipped SAM2 draws on 48x48 cells, where the masks of small shapes change more with the cut than SAM2's own.
SETTINGS = EverythingSettings(points_per_side=16, stability_thresh=0.8, skip_covered=True)


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(segmenter_path(), device="cpu")


@pytest.fixture(scope="module")
def scene():
    return make_scene(np.random.default_rng(HELD_OUT_SEED + 33))


@pytest.fixture(scope="module")
def image(scene):
    return Image.fromarray(scene.image)


@pytest.fixture(scope="module")
def found(segmenter, image):
    return find_everything(segmenter, image, SETTINGS)


def test_the_shapes_of_a_scene_are_found(scene, found):
    assert len(scene.shapes) >= 4
    for shape in scene.shapes:
        assert max(mask_iou(each.mask, shape.mask) for each in found) > 0.8, shape.name


def test_what_is_told_of_a_mask_is_true_of_it(segmenter, image, found):
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert len({each.rle["counts"] for each in found}) == len(found) > 3
    for each in found:
        mask = decode(each.rle, image.size)
        assert (each.area, each.box) == (area(each.rle), box_of(mask)) and (each.mask == mask).all()
        assert each.score > SETTINGS.pred_iou_thresh and each.stability >= SETTINGS.stability_thresh
        assert each.crop == (0, 0, 224, 224)
        [[again]] = segmenter.decode(segmenter.embed([image]), [[MaskPrompt(points=[each.point])]], all_masks=True)
        assert max(mask_iou(mask, one) for one in again.masks) > 0.999


def test_an_encoded_image_is_not_encoded_again(segmenter, image, found, monkeypatch):
    embeddings = segmenter.embed([image])
    monkeypatch.setattr(segmenter, "embed", None)
    again = find_everything(segmenter, image, SETTINGS, embeddings)
    assert [each.rle for each in again] == [each.rle for each in found]


def test_points_in_known_masks_are_skipped_and_nothing_is_lost(segmenter, scene, image, found, monkeypatch):
    asked = []
    decode = segmenter.decode
    monkeypatch.setattr(
        segmenter, "decode", lambda e, prompts, all_masks: asked.extend(prompts[0]) or decode(e, prompts, all_masks)
    )
    find_everything(segmenter, image, SETTINGS)
    few = {prompt.points[0] for prompt in asked}
    asked.clear()
    every = find_everything(segmenter, image, replace(SETTINGS, skip_covered=False))
    points = {prompt.points[0] for prompt in asked}
    assert len(points) == len(asked) == 256 and few < points
    assert (3.5 * 2, 3.5 * 2) in points and (224 - 7.0, 224 - 7.0) in points  # the middles of 16x16 cells
    for shape in scene.shapes:
        best, skipped = (max(mask_iou(each.mask, shape.mask) for each in masks) for masks in (every, found))
        assert skipped > best - 0.05, shape.name


@pytest.mark.parametrize("size", [(224, 160), (48, 48), (31, 77), (1500, 900)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_mask_is_measured_as_if_it_were_enlarged(size):
    rng = np.random.default_rng(3)
    ys, xs = np.mgrid[:48, :48]
    for radius in (1.2, 4, 13, 40):
        x, y = rng.uniform(0, 48, 2)
        logits = (radius - np.hypot(ys - y, xs - x) + rng.normal(0, 0.4, (48, 48))).astype(np.float32)
        seen = np.array(size) if max(size) <= 1024 else np.array(size) * 1024 // max(size)
        masks = [enlarge(logits[None] - cut, tuple(map(int, seen)))[0] for cut in (1.0, 0.0, -1.0)]
        stability, box = measure(logits, size, 1.0)
        if (true := box_of(masks[1])) is None:
            assert box is None
            continue
        assert stability == pytest.approx(masks[0].sum() / masks[2].sum(), abs=1e-3)
        assert np.allclose(np.array(box) * (seen[0] / size[0]), true, atol=1e-6)


def test_thresholds_drop_masks(segmenter, image, found):
    strict = replace(SETTINGS, pred_iou_thresh=0.9, stability_thresh=0.9)
    fewer = find_everything(segmenter, image, strict)
    assert 0 < len(fewer) < len(found)
    assert all(each.score > 0.9 and each.stability >= 0.9 for each in fewer)
    assert find_everything(segmenter, image, replace(SETTINGS, pred_iou_thresh=1.0)) == []


def test_more_masks_than_can_be_written_are_refused(segmenter, image, found):
    with pytest.raises(UserError, match=r"\d+ masks of 224x224 pixels are left, too many; raise pred_iou_thresh"):
        find_everything(segmenter, image, SETTINGS, most_pixels=(len(found) - 1) * 224 * 224)


def test_boxes_at_low_resolution_are_those_of_the_enlarged_masks(segmenter, image):
    """A wide image, whose pixels are not those of the logits in either direction."""
    wide = image.resize((500, 333))
    loose = replace(SETTINGS, pred_iou_thresh=0, stability_thresh=0.5, box_nms_thresh=1, skip_covered=False)
    candidates = find_candidates(segmenter, segmenter.embed([wide]), loose)
    assert len(candidates) > 300
    masks = enlarge(candidates.logits, wide.size)
    pairs = [(box, box_of(mask)) for box, mask in zip(candidates.boxes, masks, strict=True) if mask.any()]
    errors = np.abs([np.subtract(box, true) for box, true in pairs])  # tips and specks may lie between pixels
    assert np.mean(errors == 0) > 0.85 and np.mean(errors > 1) < 0.05


def test_crops_find_what_the_image_finds_and_tell_where(segmenter, scene, image):
    settings = replace(SETTINGS, points_per_side=8, crop_layers=1)
    found = find_everything(segmenter, image, settings)
    crops = {each.crop for each in found}
    assert len(crops) > 1 and crops <= {crop for layer in crop_boxes((224, 224), 1, 512 / 1500) for crop in layer}
    for each in found:
        assert each.mask.shape == (224, 224)
        x0, y0, x1, y1 = each.crop
        assert not each.mask[:y0].any() and not each.mask[y1:].any()
        assert not each.mask[:, :x0].any() and not each.mask[:, x1:].any()
        assert x0 <= each.point[0] <= x1 and y0 <= each.point[1] <= y1
        near_edge = np.abs(np.subtract(each.box, each.crop)) <= 20
        assert not (near_edge & ~(np.abs(np.subtract(each.box, (0, 0, 224, 224))) <= 20)).any()
    whole = find_everything(segmenter, image, replace(settings, crop_layers=0))
    for shape in scene.shapes:
        with_crops, without = (max(mask_iou(each.mask, shape.mask) for each in masks) for masks in (found, whole))
        assert without > 0.8 and with_crops > 0.6  # the smaller crop wins, be its mask worse


def test_crops_cover_the_image_and_overlap():
    [[image], four, sixteen] = crop_boxes((300, 200), 2, 512 / 1500)
    assert image == (0, 0, 300, 200) and len(four) == 4 and len(sixteen) == 16
    for layer in (four, sixteen):
        covered = np.zeros((200, 300), int)
        for x0, y0, x1, y1 in layer:
            covered[y0:y1, x0:x1] += 1
        assert covered.min() == 1 and covered.max() == 4
    assert [len(layer) for layer in crop_boxes((1, 1), 3, 0.34)] == [1, 1, 1, 1]


def test_of_overlapping_boxes_the_best_stays_and_of_equals_the_first():
    boxes = np.array([(0, 0, 10, 10), (0, 0, 10, 9), (50, 0, 60, 10), (0, 0, 10, 5)], float)
    assert nms(boxes, np.array([0.5, 0.9, 0.7, 0.6]), 0.7).tolist() == [1, 2, 3]
    assert nms(boxes, [0, 0, 0, 0], 0.7).tolist() == [0, 2, 3]
    assert nms(boxes, [0, 0, 0, 0], 1.0).tolist() == [0, 1, 2, 3]
    assert nms(np.zeros((0, 4)), [], 0.7).tolist() == []


def test_small_holes_are_filled_and_small_islands_removed():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[4, 4] = False  # a hole of one pixel
    mask[7:10, 7:10] = False  # a hole of nine
    mask[15, 15] = mask[16, 16] = True  # an island of two that touch at a corner
    cleaned = remove_specks(mask, 5)
    assert cleaned[4, 4] and not cleaned[8, 8] and not cleaned[15, 15] and cleaned.sum() == 91
    assert remove_specks(cleaned, 5) is cleaned
    alone = np.zeros((20, 20), bool)
    alone[3, 3:6] = alone[10, 10] = True
    assert remove_specks(alone, 50).sum() == 3, "the largest island stays"
    assert remove_specks(np.ones((4, 4), bool), 5).all()


def test_a_least_area_leaves_no_smaller_pieces(segmenter, image):
    for each in find_everything(segmenter, image, replace(SETTINGS, points_per_side=8, min_area=60)):
        assert remove_specks(each.mask, 60).sum() == each.area == each.mask.sum()
        assert each.box == box_of(each.mask)


def test_presets_are_the_published_defaults():
    assert PRESETS["sam2"] == EverythingSettings(32, 64, 0.8, 0.95, 1.0, 0.7, 0, 512 / 1500, 1, 0.7, 0)
    assert PRESETS["sam"] == replace(PRESETS["sam2"], pred_iou_thresh=0.88)


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_settings_out_of_range_are_refused(name):
    low, high = BOUNDS[name]
    for value in (low, high):
        assert getattr(EverythingSettings(**{name: type(getattr(EverythingSettings, name))(value)}), name) == value
    for value in (low - 1, high + 1, float("nan"), float("inf"), "8", None, True):
        with pytest.raises(UserError, match=f"^{name} must be a number from "):
            EverythingSettings(**{name: value})


def test_a_count_is_a_whole_number():
    with pytest.raises(UserError, match=r"points_per_side must be a whole number, not 8\.5"):
        EverythingSettings(points_per_side=8.5)


def test_candidates_are_chosen_by_place():
    numbers = np.arange(6.0).reshape(3, 2)
    candidates = Candidates(np.zeros((3, 2, 2), np.float32), np.float32([1, 2, 3]), np.ones(3), numbers, numbers)
    assert candidates[np.array([2, 0])].scores.tolist() == [3, 1] and len(candidates[np.zeros(3, bool)]) == 0
