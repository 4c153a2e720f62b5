import time

import numpy as np
import pytest
from PIL import Image

from segzero.masks import box_of, points_of
from segzero.result import InstanceMask
from segzero.viz.overlay import MAX_DRAWN, PALETTE, color_of, draw_overlay


def found(mask: np.ndarray, points: int = 1, score: float = 0.9) -> InstanceMask:
    return InstanceMask(mask, box_of(mask) or (0, 0, 0, 0), points_of(mask, points), score)


def disc(size: tuple[int, int], center: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def gap(a, b) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())


def plain(size=(224, 224), color=(120, 120, 120)) -> Image.Image:
    return Image.new("RGB", size, color)


@pytest.mark.parametrize("color", [(8, 8, 8), (250, 250, 250), (120, 120, 120), PALETTE[0]])
def test_a_mask_is_tinted_inside_lined_at_its_edge_and_nowhere_else(color):
    mask = disc((224, 224), (110, 110), 60)
    overlay = np.array(draw_overlay(plain(color=color), [InstanceMask(mask, (0, 0, 0, 0))], (672, 672)), int)
    inside, outside = overlay[331, 400], overlay[20, 20]
    assert gap(outside, color) == 0
    share = np.abs(inside - color).sum() / np.abs(np.array(PALETTE[0]) - color).sum() if color != PALETTE[0] else 0.3
    assert 0.2 < share < 0.5 and gap(inside, np.array(color) * (1 - share) + np.array(PALETTE[0]) * share) < 3
    # Along a ray from the middle of the disc across its right edge: the colour, and beside it light and dark.
    edge = round((110 + 60 + 0.5) * 3)
    ray = overlay[331, edge - 20 : edge + 20]
    assert min(gap(pixel, PALETTE[0]) for pixel in ray) < 25
    brightness = ray.sum(1)
    assert brightness.max() - brightness.min() > 200


def test_a_hole_stays_clear():
    ring = disc((224, 224), (110, 110), 60) & ~disc((224, 224), (110, 110), 30)
    overlay = draw_overlay(plain(), [InstanceMask(ring, (0, 0, 0, 0))])
    assert gap(overlay.getpixel((overlay.width * 110 // 224, overlay.height * 110 // 224)), (120, 120, 120)) == 0


def test_the_contour_lies_on_the_edge_at_any_size():
    mask = np.zeros((300, 400), bool)
    mask[100:200, 150:250] = True
    for size in [(400, 300), (800, 600), (1000, 750), (120, 90)]:
        overlay = np.array(draw_overlay(plain((400, 300)), [InstanceMask(mask, (0, 0, 0, 0))], size), int)
        row = overlay[size[1] // 2]
        near = np.abs(row - PALETTE[0]).max(1) < 60
        edges = np.flatnonzero(near) / size[0] * 400
        assert len(edges) and abs(edges.min() - 150) < 5 and abs(edges.max() - 250) < 5, size


def test_box_and_point_show_their_colour():
    mask = np.zeros((640, 640), bool)
    overlay = draw_overlay(plain((640, 640)), [InstanceMask(mask, (100, 150, 400, 500), ((250, 300),))])
    assert overlay.getpixel((250, 150)) == PALETTE[0] and overlay.getpixel((100, 300)) == PALETTE[0]
    assert overlay.getpixel((250, 300)) == PALETTE[0]
    assert overlay.getpixel((250, 250)) == (120, 120, 120)
    ring = [overlay.getpixel((250 + x, 300)) for x in range(10)]
    assert max(map(min, ring)) > 220 and min(map(max, ring)) < 90  # light, and dark around it


def test_each_instance_has_its_own_colour():
    masks = [disc((640, 640), (80 + 150 * (i % 4), 80 + 150 * (i // 4)), 40) for i in range(10)]
    overlay = draw_overlay(plain((640, 640)), [found(mask) for mask in masks])
    seen = {overlay.getpixel((80 + 150 * (i % 4) + 22, 80 + 150 * (i // 4) + 22)) for i in range(10)}
    assert len(seen) == 10
    assert len(set(PALETTE)) == len(PALETTE) and color_of(len(PALETTE)) == color_of(0)


def test_numbers_come_with_the_second_instance_and_keep_clear_of_points():
    one = InstanceMask(np.zeros((640, 640), bool), (300, 300, 304, 304), ((302, 302),))
    alone = np.array(draw_overlay(plain((640, 640)), [one]), int)
    two = InstanceMask(np.zeros((640, 640), bool), (500, 500, 504, 504))
    both = np.array(draw_overlay(plain((640, 640)), [one, two]), int)
    changed = np.argwhere(np.abs(alone - both).max(2)[:400] > 0)
    assert len(changed) > 200
    assert np.abs(changed - 302).max(1).min() > 5  # the dot itself is as it was


def test_the_image_given_is_left_alone():
    image = plain((700, 700))
    draw_overlay(image, [found(disc((700, 700), (300, 300), 100))])
    assert image.getextrema() == ((120, 120),) * 3


@pytest.mark.parametrize(
    "size, drawn",
    [
        ((224, 224), (672, 672)),
        ((640, 20), (640, 20)),
        ((1, 1), (640, 640)),
        ((20000, 10), (20000, 10)),
        ((3, 2), (642, 428)),
    ],
)
def test_small_images_are_enlarged_and_no_shape_is_too_odd(size, drawn):
    masks = [np.ones(size[::-1], bool), np.zeros(size[::-1], bool), np.eye(size[1], size[0], dtype=bool)]
    assert draw_overlay(plain(size), [found(mask, 2) for mask in masks]).size == drawn


def test_boxes_and_points_far_outside_are_harmless():
    wild = InstanceMask(np.zeros((50, 50), bool), (-1e9, -1e9, 1e9, 1e9), ((1e6, -1e6),))
    upside_down = InstanceMask(np.zeros((50, 50), bool), (40, 40, 10, 10))
    assert draw_overlay(plain((50, 50)), [wild, upside_down]).size == (650, 650)


def test_thousands_of_instances_take_seconds():
    mask = disc((224, 224), (110, 110), 20)
    begin = time.perf_counter()
    overlay = draw_overlay(plain(), [found(mask)] * 5000)
    assert time.perf_counter() - begin < 30
    assert overlay.tobytes() == draw_overlay(plain(), [found(mask)] * MAX_DRAWN).tobytes()
