"""Scenes: what is said about a shape is what is drawn."""

import numpy as np
import pytest

from segzero.masks import box_of, mask_iou, points_of
from segzero.tiny.scenes import COLOURS, KINDS, make_scene


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(11)
    return [make_scene(rng) for _ in range(60)]


def test_boxes_and_points_are_the_masks_own(scenes):
    for scene in scenes:
        for shape in scene.shapes:
            assert shape.box == box_of(shape.mask)
            assert (shape.point,) == points_of(shape.mask)
            x, y = (int(v) for v in shape.point)
            assert shape.mask[y, x]


def test_shapes_do_not_touch_each_other_or_the_border(scenes):
    for scene in scenes:
        assert 1 <= len(scene.shapes) <= 5
        assert sum(shape.mask.astype(int) for shape in scene.shapes).max() == 1
        for shape in scene.shapes:
            border = np.concatenate([shape.mask[0], shape.mask[-1], shape.mask[:, 0], shape.mask[:, -1]])
            assert not border.any()


def test_a_part_lies_inside_a_large_shape_in_its_own_colour(scenes):
    large = [s for scene in scenes for s in scene.shapes if s.size_name == "large" and s.kind != "ring"]
    with_part = [s for s in large if s.part is not None]
    assert 0.2 < len(with_part) / len(large) < 0.65
    for scene in scenes:
        for shape in scene.shapes:
            if shape.part is None:
                continue
            assert shape.size_name == "large" and shape.kind != "ring"
            assert not (shape.part & ~shape.mask).any()
            assert 0.1 < shape.part.sum() / shape.mask.sum() < 0.7
            inside, around = scene.image[shape.part], scene.image[shape.mask & ~shape.part]
            assert np.abs(np.median(inside, axis=0) - np.median(around, axis=0)).max() > 40


def test_pixels_inside_a_mask_have_the_colour_of_the_shape(scenes):
    for scene in scenes:
        for shape in scene.shapes:
            body = shape.mask if shape.part is None else shape.mask & ~shape.part
            seen = np.median(scene.image[body], axis=0)
            nearest = min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum())
            assert nearest == shape.colour


def test_rings_have_a_hole_and_all_kinds_their_own_outline(scenes):
    shapes = [shape for scene in scenes for shape in scene.shapes]
    assert {shape.kind for shape in shapes} == set(KINDS)
    filled = {}
    for shape in shapes:
        x0, y0, x1, y1 = shape.box
        filled.setdefault(shape.kind, []).append(shape.mask.sum() / ((x1 - x0) * (y1 - y0)))
        x, y = (int(v) for v in shape.centre)
        assert shape.mask[y, x] == (shape.kind != "ring")
    means = {kind: np.mean(values) for kind, values in filled.items()}
    assert means["triangle"] < means["ring"] < means["circle"] < means["square"]


def test_the_seed_decides_the_scene():
    first, again, other = (make_scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert [s.box for s in first.shapes] == [s.box for s in again.shapes]
    assert not np.array_equal(first.image, other.image)


def test_a_larger_picture_shows_the_same_proportions():
    small, large = (make_scene(np.random.default_rng(1), size) for size in (224, 448))
    assert large.image.shape == (448, 448, 3)
    first, second = small.shapes[0], large.shapes[0]  # later ones may find another place
    assert first.name == second.name
    assert mask_iou(first.mask, second.mask[::2, ::2]) > 0.9


def test_max_shapes_is_a_limit():
    rng = np.random.default_rng(0)
    assert max(len(make_scene(rng, max_shapes=2).shapes) for _ in range(20)) == 2
