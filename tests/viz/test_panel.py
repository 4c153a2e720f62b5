import numpy as np
import pytest
from PIL import Image

from segzero.result import InstanceMask, Segmentation
from segzero.viz.overlay import draw_overlay
from segzero.viz.panel import ALARM, CAUTION, GAP, MARGIN, PAPER, SIDE


def scene(size=(224, 224)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half(size=(224, 224)) -> InstanceMask:
    mask = np.zeros(size[::-1], bool)
    mask[:, : size[0] // 2] = True
    return InstanceMask(mask, (0, 0, size[0] / 2, size[1]), ((size[0] / 4, size[1] / 2),), 0.9)


def has_color(picture: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.array(picture) == color).all(2).any())


def test_image_and_overlay_stand_side_by_side():
    result = Segmentation(scene(), "the left half", (half(),), think="It is on the left.")
    panel = result.panel()
    pixels = np.array(panel)
    assert panel.width == 2 * SIDE + GAP // 2 + 2 * MARGIN
    assert (pixels[:MARGIN] == PAPER).all() and (pixels[:, -MARGIN:] == PAPER).all()
    top = next(row for row in range(MARGIN, panel.height) if (pixels[row, MARGIN + 320] != PAPER).any() and row > 80)
    overlay = np.array(draw_overlay(result.image, result.instances, (SIDE, SIDE)))
    shown = pixels[top : top + SIDE, MARGIN + SIDE + GAP // 2 :][:, :SIDE]
    assert (shown[50:590, 50:590] == overlay[50:590, 50:590]).all()


def test_the_truth_stands_beside_the_answer():
    result = Segmentation(scene(), "the left half", (half(),))
    alone, compared = np.array(result.panel()), np.array(result.panel([half()]))
    assert compared.shape[1] == 3 * SIDE + 2 * (GAP // 2) + 2 * MARGIN
    answer, truth = (compared[150:600, MARGIN + place * (SIDE + GAP // 2) :][:, :SIDE] for place in (1, 2))
    assert (answer == truth).all() and (answer == alone[150:600, MARGIN + SIDE + GAP // 2 :][:, :SIDE]).all()
    nothing = np.array(result.panel([]))[150:600, MARGIN + 2 * (SIDE + GAP // 2) :][:, :SIDE]
    assert (nothing == alone[150:600, MARGIN:][:, :SIDE]).all()


def test_wide_images_stand_one_above_the_other():
    panel = Segmentation(scene((300, 60)), "it", (half((300, 60)),)).panel()
    pictures = 2 * round(60 * (2 * SIDE + GAP) / 300)
    assert panel.width == 2 * SIDE + GAP + 2 * MARGIN and panel.height > pictures


def test_more_reasoning_makes_a_taller_panel_up_to_a_limit():
    heights = [
        Segmentation(scene(), "q", (half(),), think="think " * count).panel().height
        for count in (0, 10, 100, 2000, 9000)
    ]
    assert heights[0] < heights[1] < heights[2] < heights[3] == heights[4]


def test_nothing_there_and_an_error_look_different():
    found = Segmentation(scene(), "q", (half(),)).panel()
    nothing = Segmentation(scene(), "q").panel()
    failed = Segmentation(scene(), "q", error="not_json", raw_text="<answer>[{</answer>").panel()
    silent = Segmentation(scene(), "q", error="no_answer").panel()
    assert has_color(failed, ALARM) and has_color(silent, ALARM)
    assert not has_color(nothing, ALARM) and not has_color(found, ALARM)
    assert nothing.tobytes() != found.tobytes()


def test_warnings_are_shown():
    result = Segmentation(scene(), "q", (half(),), warnings=("bad_box",))
    assert has_color(result.panel(), CAUTION)
    assert not has_color(Segmentation(scene(), "q", (half(),)).panel(), CAUTION)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000), (3, 2)])
@pytest.mark.parametrize("count", [0, 2])
def test_odd_sizes_do_not_matter(size, count):
    panel = Segmentation(Image.new("RGB", size), "q" * 500, (half(size),) * count, think="\ud800 图像").panel()
    assert SIDE < panel.width < 3 * SIDE and panel.height < 2000


def test_thousands_of_instances_are_named_as_such():
    mask = np.zeros((224, 224), bool)
    mask[100:120, 100:120] = True
    panel = Segmentation(scene(), "q", (InstanceMask(mask, (100, 100, 120, 120)),) * 5000).panel()
    assert panel.width == 2 * SIDE + GAP // 2 + 2 * MARGIN and has_color(panel, CAUTION)


def test_a_large_image_makes_no_large_panel():
    assert max(Segmentation(scene((2000, 1500)), "q", (half((2000, 1500)),)).panel().size) < 1500
