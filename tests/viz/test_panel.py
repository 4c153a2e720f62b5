import numpy as np
import pytest
from PIL import Image

from segzero.result import InstanceMask, Segmentation
from segzero.viz.overlay import draw_overlay, resize
from segzero.viz.panel import ALARM, CAUTION, PAPER, SIDE


def scene(size=(224, 224)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half(size=(224, 224)) -> InstanceMask:
    mask = np.zeros(size[::-1], bool)
    mask[:, : size[0] // 2] = True
    return InstanceMask(mask, (0, 0, size[0] / 2, size[1]), ((size[0] / 4, size[1] / 2),), 0.9)


def has_color(picture: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.array(picture) == color).all(2).any())


def places(panel: Image.Image, picture: Image.Image) -> list[tuple[int, int]]:
    """Left and top of each place in the panel where the middle of a picture stands, pixel by pixel."""
    middle = (picture.width // 4, picture.height // 4, picture.width // 4 * 3, picture.height // 4 * 3)
    part, sheet = np.array(picture.crop(middle)), np.array(panel)
    height, width = part.shape[:2]
    corners = np.argwhere((sheet[: 1 - height, : 1 - width] == part[0, 0]).all(2))
    found = [(x, y) for y, x in corners.tolist() if (sheet[y : y + height, x : x + width] == part).all()]
    return [(x - middle[0], y - middle[1]) for x, y in found]


def test_image_and_overlay_stand_side_by_side_within_a_margin():
    result = Segmentation(scene(), "the left half", (half(),), think="It is on the left.")
    panel = result.panel()
    pictures = [resize(result.image, (SIDE, SIDE)), draw_overlay(result.image, result.instances, (SIDE, SIDE))]
    [(left, top)], [(right, level)] = (places(panel, picture) for picture in pictures)
    assert level == top > 0 and left + SIDE < right
    assert panel.width - (right + SIDE) == left  # as wide a margin on both sides
    margins = np.array(panel)[:, :left], np.array(panel)[:, right + SIDE :]
    assert all((margin == PAPER).all() for margin in margins)


def test_the_truth_stands_beside_the_answer():
    result = Segmentation(scene(), "the left half", (half(),))
    overlay, image = draw_overlay(result.image, result.instances, (SIDE, SIDE)), resize(result.image, (SIDE, SIDE))
    [_], [alone] = places(result.panel(), image), places(result.panel(), overlay)
    answer, truth = places(result.panel([half()]), overlay)
    assert answer == alone and truth[1] == answer[1] and truth[0] > answer[0] + SIDE
    original, nothing = places(result.panel([]), image)
    assert nothing == truth and original[0] < answer[0]


def test_wide_images_stand_one_above_the_other():
    image, instance = scene((300, 60)), half((300, 60))
    panel = Segmentation(image, "it", (instance,)).panel()
    square = Segmentation(scene(), "it", (half(),)).panel()
    assert square.width < panel.width < 1.1 * square.width  # as wide as two pictures and the space between them
    content = np.flatnonzero((np.array(panel) != PAPER).any((0, 2)))
    width = int(content[-1] - content[0] + 1)
    size = width, round(60 * width / 300)
    pictures = [resize(image, size), draw_overlay(image, [instance], size)]
    [(left, top)], [(same, below)] = (places(panel, picture) for picture in pictures)
    assert same == left and below > top + size[1]


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
    assert panel.width == Segmentation(scene(), "q").panel().width and has_color(panel, CAUTION)


def test_a_large_image_makes_no_large_panel():
    assert max(Segmentation(scene((2000, 1500)), "q", (half((2000, 1500)),)).panel().size) < 1500
