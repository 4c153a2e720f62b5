"""The terms that compare objects, by hand."""

import numpy as np
import pytest

from rewards import object_terms as terms
from rewards import read_case, score
from segzero.answer import Answer, Instance, render_answer
from segzero.errors import UserError
from segzero.masks import encode
from segzero.sample import Object, Sample

# Two true objects of 100x100; what is said: the first exactly, the second 50 px too far right.
TRUE = [Instance((0, 0, 100, 100), ((50, 50),)), Instance((400, 400, 500, 500), ((450, 450),))]
MOVED = Instance((450, 400, 550, 500), ((490, 480),))  # IoU 1/3; edges 25 px off; the point 50 px off

ON_OBJECTS = [
    terms.presence, terms.count_ratio, terms.box_iou_hard, terms.box_iou_mean, terms.box_iou_squared, terms.box_near,
    terms.box_closeness, terms.points_near, terms.points_closeness, terms.predicted_mask_iou,
]  # fmt: skip


def case_of(predicted, true=TRUE):
    truth = [{"bbox_2d": i.box, **({"point_2d": i.points[0]} if i.points else {})} for i in true]
    return read_case(render_answer(Answer(instances=tuple(predicted))), truth)


@pytest.mark.parametrize(
    ("term", "value"),
    [
        (terms.presence, 1),
        (terms.count_ratio, 1),
        (terms.box_iou_hard, 1 / 2),
        (terms.box_iou_mean, (1 + 1 / 3) / 2),
        (terms.box_iou_squared, (1 + 1 / 9) / 2),
        (terms.box_near, 1 / 2),
        (terms.box_closeness, (1 + 10 / 35) / 2),
        (terms.points_near, 1 / 2),
        (terms.points_closeness, (1 + 30 / 80) / 2),
        (terms.predicted_mask_iou, (1 + 1 / 3) / 2),
    ],
)
def test_worth_of_one_right_and_one_moved(term, value):
    assert term(case_of([TRUE[0], MOVED])) == pytest.approx(value)
    assert term(case_of([MOVED, TRUE[0]])) == pytest.approx(value)
    assert term(case_of(TRUE)) == 1


@pytest.mark.parametrize("term", ON_OBJECTS)
def test_nothing_there(term):
    assert term(read_case("<answer>[]</answer>", [])) == 1
    assert term(case_of([], TRUE)) == 0
    assert term(case_of(TRUE, [])) == 0
    for unreadable in ("", "<answer></answer>", "<answer>{</answer>", "<answer>none</answer>"):
        assert term(read_case(unreadable, [])) == 0


@pytest.mark.parametrize("term", [term for term in ON_OBJECTS if term is not terms.presence])
def test_too_few_and_too_many(term):
    assert term(case_of(TRUE[:1])) == 1 / 2
    assert term(case_of([*TRUE, Instance((700, 0, 800, 100), ((750, 50),))])) == pytest.approx(2 / 3)
    assert term(case_of([*TRUE, TRUE[1]])) == pytest.approx(2 / 3)
    assert term(case_of([TRUE[0], TRUE[0]])) == 1 / 2  # a copy in the second's place


@pytest.mark.parametrize("term", [term for term in ON_OBJECTS if term not in (terms.presence, terms.count_ratio)])
def test_a_box_elsewhere_is_worth_nothing(term):
    assert term(case_of([Instance((600, 0, 700, 100), ((650, 50),))], TRUE[:1])) == 0


def test_counting_copies():
    near = Instance((10, 0, 110, 100), ((50, 50),))  # overlaps the first by 9/11
    assert terms.count_ratio(case_of([TRUE[0], near])) == 1 / 2
    assert terms.count_ratio(case_of([TRUE[0], near], [TRUE[0], near])) == 1  # where two true boxes overlap, two may
    chain = [Instance((30 * i, 0, 30 * i + 100, 100), ((30 * i + 50, 50),)) for i in range(3)]
    assert terms.count_ratio(case_of(chain, [*TRUE, MOVED])) == 1 / 3  # linked through the middle one


def test_points():
    outside = Instance(TRUE[0].box, ((120, 50),))
    assert terms.points_closeness(case_of([outside, TRUE[1]])) == 1 / 2
    pointless = read_case(
        '<answer>[{"bbox_2d": [0,0,100,100]}]</answer>', [{"bbox_2d": TRUE[0].box, "point_2d": [1, 1]}]
    )
    assert terms.points_closeness(pointless) == terms.points_near(pointless) == 0
    assert terms.box_iou_mean(pointless) == 1
    for term in (terms.points_near, terms.points_closeness):
        with pytest.raises(UserError, match="a true object has no point"):
            term(case_of(TRUE, [Instance((0, 0, 9, 9))]))


def test_two_points_may_come_in_either_order():
    truth = [{"bbox": [0, 0, 100, 100], "points_1": [20, 20], "points_2": [80, 80]}]
    text = '<answer>{"bbox": [0,0,100,100], "points_1": [80,80], "points_2": [20,50]}</answer>'
    assert terms.points_closeness(read_case(text, truth, format="seg_zero")) == 2 / 3  # 0 and 30 px: 15 on average


def test_pairs_are_the_same_for_boxes_and_points():
    swapped = [Instance(TRUE[0].box, TRUE[1].points), Instance(TRUE[1].box, TRUE[0].points)]
    assert terms.box_iou_mean(case_of(swapped)) == 1
    assert terms.points_closeness(case_of(swapped)) == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("[]", 1),
        ('[{"bbox_2d": [0,0,9,9], "point_2d": [1,1]}]', 1),
        ('[{"bbox_2d": [0,0,9,9], "point_2d": [1,1]}, {"bbox_2d": [0,0]}]', 1 / 2),
        ('[{"bbox_2d": [0,0,9,9]}]', 1 / 2),
        ('[{"bbox_2d": [0,0]}]', 0),
        ("nothing", 0),
        ("", 0),
    ],
)
def test_clean_answer(answer, value):
    assert terms.clean_answer(read_case(f"<answer>{answer}</answer>", [])) == value


def rle(x0, y0, x1, y1):
    mask = np.zeros((60, 80), bool)
    mask[y0:y1, x0:x1] = True
    return encode(mask)


def test_masks_that_were_drawn():
    objects = (
        Object((0, 0, 10, 10), ((5, 5),), rle(0, 0, 10, 10)),
        Object((20, 0, 30, 10), ((25, 5),), rle(20, 0, 30, 10)),
    )
    sample = Sample("s", "a.png", "q", 80, 60, objects)
    predicted = render_answer(Answer(instances=tuple(Instance(o.box, o.points) for o in objects)))

    def iou(masks, truth=sample):
        return score("mask", predicted, truth, masks=masks).terms["mask_iou"]

    assert iou([rle(0, 0, 10, 10), rle(20, 0, 30, 10)]) == 1
    assert iou([rle(0, 0, 10, 5), rle(20, 0, 40, 10)]) == 150 / 300
    assert iou([np.ones((60, 80), bool)]) == 200 / 4800
    assert iou([]) == 0
    ignored = Sample("s", "a.png", "q", 80, 60, objects, ignore=rle(30, 0, 40, 10))
    assert iou([rle(0, 0, 10, 5), rle(20, 0, 40, 10)], ignored) == 150 / 200
    nothing = Sample("s", "a.png", "q", 80, 60)
    assert iou([rle(0, 0, 1, 1)], nothing) == iou([], nothing) == 0  # it said that something is there
    assert score("mask", "<think></think><answer>[]</answer>", nothing, masks=[]).total == 8
    with pytest.raises(UserError, match="for an image of"):
        iou([encode(np.ones((50, 80), bool))])
