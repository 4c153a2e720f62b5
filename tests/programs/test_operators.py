"""Each operator on drawn masks, with models that must not be called unless the operator calls them."""

import numpy as np
import pytest
from PIL import Image

from segzero.masks import encode
from segzero.programs import geometry
from segzero.programs.operators import OPERATORS, crop_view
from segzero.programs.values import ObjectMask, View, objects_of, summary_of
from segzero.result import InstanceMask

SIZE = (80, 60)  # width, height


def box(x0, y0, x1, y1, score=0.9):
    mask = np.zeros(SIZE[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return ObjectMask(encode(mask), score)


def disc(x, y, radius, hole=0):
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    away = np.hypot(xs - x, ys - y)
    return ObjectMask(encode((away < radius) & (away >= hole)))


class NoModels:
    """Models of a picture, none of which may be called."""

    def __init__(self, image=None):
        self.whole = View.of(image or Image.new("RGB", SIZE, "white"))


def call(name, *arguments, models=None):
    return OPERATORS[name].function(models or NoModels(), *arguments)


LEFT, MIDDLE, RIGHT = box(2, 20, 12, 40), box(30, 5, 45, 15), box(60, 30, 80, 60)
ALL = (LEFT, MIDDLE, RIGHT)


@pytest.mark.parametrize(
    ("name", "chosen", "two"),
    [
        ("LARGEST", (RIGHT,), (RIGHT, LEFT)),
        ("SMALLEST", (MIDDLE,), (MIDDLE, LEFT)),
        ("LEFTMOST", (LEFT,), (LEFT, MIDDLE)),
        ("RIGHTMOST", (RIGHT,), (RIGHT, MIDDLE)),
        ("TOPMOST", (MIDDLE,), (MIDDLE, LEFT)),
        ("BOTTOMMOST", (RIGHT,), (RIGHT, LEFT)),
    ],
)
def test_extremes(name, chosen, two):
    assert call(name, ALL) == chosen and call(name, ALL, 2.0) == two
    assert call(name, ()) == () and len(call(name, ALL, 99.0)) == 3 and call(name, ALL, 0.0) == ()


@pytest.mark.parametrize(
    ("name", "of", "beyond"),
    [
        ("LEFT_OF", MIDDLE, (LEFT,)),
        ("RIGHT_OF", MIDDLE, (RIGHT,)),
        ("ABOVE", LEFT, (MIDDLE,)),
        ("BELOW", LEFT, (RIGHT,)),
    ],
)
def test_relations(name, of, beyond):
    assert call(name, ALL, (of,)) == beyond
    assert call(name, ALL, ()) == () and call(name, (), (of,)) == ()


def test_a_relation_to_several_means_all_of_them_and_nothing_is_beside_itself():
    assert call("LEFT_OF", ALL, (MIDDLE, RIGHT)) == (LEFT,)
    shifted = box(29, 5, 44, 15)  # the middle one again, as another prompt drew it
    assert call("LEFT_OF", (shifted,), (MIDDLE,)) == ()


def test_nearest_is_from_edge_to_edge():
    wide = box(0, 50, 55, 60)  # its edge is near to the right one, its centre far away
    assert call("NEAREST", (LEFT, MIDDLE, wide), (RIGHT,)) == (wide,)
    assert call("NEAREST", ALL, (RIGHT,), 2.0) == (MIDDLE, LEFT)  # not the right one itself
    assert call("NEAREST", ALL, ()) == () == call("NEAREST", (), (LEFT,))


def test_inside_counts_holes_and_not_the_thing_itself():
    ring, dot, far = disc(30, 30, 20, 12), disc(30, 30, 6), disc(70, 10, 6)
    assert call("INSIDE", (ring, dot, far), (ring,)) == (dot,)
    half, less = box(38, 5, 52, 15), box(39, 5, 53, 15)
    assert call("INSIDE", (half, less), (MIDDLE,)) == (half,)


def test_sets_of_objects():
    again = box(2, 20, 12, 39)  # the left one, drawn a little smaller
    assert call("UNION", (LEFT, MIDDLE), (again, RIGHT)) == (LEFT, MIDDLE, RIGHT)
    assert call("UNION", (LEFT, again), ()) == (LEFT,)
    assert call("EXCEPT", ALL, (again,)) == (MIDDLE, RIGHT) and call("EXCEPT", ALL, ()) == ALL
    assert call("COUNT", ALL) == 3.0 and call("COUNT", ()) == 0.0


def test_subtract_takes_pixels_and_drops_what_is_hardly_left():
    handle = box(60, 30, 65, 60)
    [mug] = call("SUBTRACT", (RIGHT,), (handle,))
    assert mug.area == 15 * 30 and mug.bounds == (65, 30, 80, 60) and mug.score == RIGHT.score
    assert call("SUBTRACT", ALL, (box(2, 20, 12, 38),)) == (MIDDLE, RIGHT)  # a tenth of the left one was left
    assert call("SUBTRACT", ALL, ()) == ALL


def test_intersect_keeps_shared_parts_and_no_specks():
    [part] = call("INTERSECT", ALL, (box(70, 0, 80, 60),))
    assert part.bounds == (70, 30, 80, 60)
    [strip] = call("INTERSECT", ALL, (box(79, 0, 80, 60),))  # little of the right one, half of the other
    assert strip.bounds == (79, 30, 80, 60)
    assert call("INTERSECT", (box(0, 0, 20, 20),), (box(19, 0, 60, 20),)) == ()  # a twentieth of either


def test_select_by_colour_place_and_measure():
    image = Image.new("RGB", SIZE, (120, 120, 120))
    image.paste((220, 30, 30), (2, 20, 12, 40))
    image.paste((40, 60, 220), (30, 5, 45, 15))
    image.paste((240, 240, 240), (60, 30, 80, 60))
    models = NoModels(image)

    def select(where):
        return call("SELECT", ALL, where, models=models)

    assert select("red") == (LEFT,) and select("blue") == (MIDDLE,) and select("white") == (RIGHT,)
    assert select("left") == (LEFT,) and select("top") == (MIDDLE,) and select("bottom right") == (RIGHT,)
    assert select("area > 0.05") == (RIGHT,) and select("Area < 0.04") == (MIDDLE,)
    assert select("not red and x < 0.6") == (MIDDLE,) and select("red, x > 0.5") == ()
    assert select("width > 0.2") == (RIGHT,) and select("height > 0.49") == (RIGHT,) and select("y < 0.2") == (MIDDLE,)
    assert select("score > 0.95") == ()


def test_measures_of_form_tell_shapes_apart():
    circle, ring, square = disc(30, 30, 20), disc(30, 30, 20, 10), box(10, 10, 50, 50)
    holes, roundness = (geometry.MEASURES[name][1] for name in ("holes", "roundness"))
    assert roundness(circle, SIZE) > 0.95 and 0.6 < roundness(square, SIZE) < 0.8
    assert holes(circle, SIZE) == 0 and abs(holes(ring, SIZE) - 0.25) < 0.02 and roundness(ring, SIZE) > 0.95


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((215, 45, 45), "red"), ((230, 120, 30), "orange"), ((225, 205, 45), "yellow"), ((45, 165, 60), "green"),
        ((60, 200, 210), "cyan"), ((50, 80, 215), "blue"), ((155, 60, 185), "purple"), ((235, 110, 180), "pink"),
        ((110, 65, 25), "brown"), ((10, 10, 10), "black"), ((128, 130, 127), "grey"), ((250, 250, 250), "white"),
    ],
)  # fmt: skip
def test_colours(rgb, name):
    assert geometry.colour_of(LEFT, Image.new("RGB", SIZE, rgb)) == name


def test_a_crop_keeps_its_place():
    view = call("CROP", (LEFT,), 0.0)
    assert view.box == (2, 20, 12, 40) and view.image.size == (10, 20) and not view.is_whole
    assert call("CROP", (LEFT,)).box == (1, 18, 13, 42)
    assert call("CROP", ((70.0, 50.0, 90.0, 90.0),), 0.0).box == (70, 50, 80, 60)  # cut to the picture
    assert call("CROP", ()).is_whole
    mask = np.zeros((20, 10), bool)
    mask[3:5, 2:4] = True
    found = objects_of(view, (InstanceMask(mask, (2.0, 3.0, 4.0, 5.0), ((3.0, 4.0),), 0.5),))
    assert found[0].bounds == found[0].box == (4, 23, 6, 25) and found[0].points == ((5.0, 24.0),)
    assert crop_view(NoModels().whole, [(79.5, 59.5, 80.0, 60.0)], 0.0).image.size == (1, 1)


def test_boxes_and_points_of_objects():
    assert call("BOXES", (LEFT,)) == ((2, 20, 12, 40),)
    [(x, y)] = call("POINTS", (LEFT,))
    assert 2 < x < 12 and 20 < y < 40
    assert summary_of((LEFT,), "Masks") == "1 object of 200 pixels"
    assert summary_of(((2, 20, 12, 40),), "Boxes") == "1 box" and summary_of((), "Points") == "no points"


@pytest.mark.parametrize("text", ["", "red or blue", "area", "area > x", "area > 1e9", "red and", "x" * 300, "not"])
def test_a_condition_that_makes_no_sense(text):
    with pytest.raises(ValueError, match="condition"):
        geometry.read_condition(text)
