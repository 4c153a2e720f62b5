"""Votes over the masks of several answers."""

import numpy as np
import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.result import InstanceMask, Segmentation
from segzero.votes import VoteSettings, vote
from tests.helpers.reader_files import box_mask

SIZE = (40, 30)
IMAGE = Image.new("RGB", SIZE)


def answer(*boxes: tuple[int, int, int, int], score: float = 0.9, error: str | None = None) -> Segmentation:
    """An answer of filled boxes."""
    found = tuple(InstanceMask(box_mask(*box, size=SIZE), box, ((box[0] + 1, box[1] + 1),), score) for box in boxes)
    return Segmentation(IMAGE, "the mug", found, think=str(boxes), error=error, timings={"policy": 1.0})


LEFT, RIGHT, ODD = (2, 2, 12, 12), (20, 5, 35, 25), (0, 20, 9, 29)


def boxes(result: Segmentation) -> list[tuple[float, ...]]:
    return sorted(one.box for one in result)


def test_the_usual_objects_win_and_a_stray_one_does_not():
    assert boxes(vote([answer(LEFT, RIGHT), answer(ODD), answer(LEFT), answer(LEFT)])) == [LEFT]
    result = vote([answer(LEFT, RIGHT), answer(RIGHT, LEFT), answer(LEFT, RIGHT), answer(ODD)])
    assert boxes(result) == [LEFT, RIGHT]
    assert result.presence == 1.0 and result.error is None
    assert result.think == str((LEFT, RIGHT)) and result.timings == {"policy": 4.0}


@pytest.mark.parametrize(("empty", "found"), [(1, 1), (2, 1)])
def test_half_of_the_readable_answers_say_that_nothing_is_there(empty, found):
    result = vote([*[answer()] * empty, *[answer(LEFT)] * found])
    assert result.empty and result.presence == pytest.approx(found / (empty + found))


def test_fewer_than_half_do_not():
    result = vote([answer(), answer(LEFT), answer(LEFT)])
    assert boxes(result) == [LEFT] and result.presence == pytest.approx(2 / 3)


def test_unreadable_answers_have_no_vote():
    broken = answer(error="not_json")
    result = vote([broken, broken, broken, answer(), answer(LEFT), answer(LEFT)])
    assert boxes(result) == [LEFT] and result.presence == pytest.approx(2 / 3)
    assert vote([broken, answer(error="no_answer")]).error == "not_json"


def test_a_pixel_needs_half_of_the_scores():
    wide = (2, 2, 13, 12)  # IoU 10/11 with LEFT
    strip = box_mask(12, 2, 13, 12, size=SIZE)
    result = vote([answer(LEFT), answer(wide), answer(LEFT)])
    assert not (result.union & strip).any() and boxes(result) == [LEFT]
    result = vote([answer(LEFT, score=0.2), answer(wide, score=0.9), answer(LEFT, score=0.2)])
    assert (result.union & strip).sum() == strip.sum()
    half = vote([answer(LEFT), answer(wide)])
    assert (half.union & strip).all() == strip.all()


def test_masks_without_scores_count_alike():
    result = vote([answer(LEFT, score=0.0), answer(LEFT, score=0.0)])
    assert (result.union == box_mask(*LEFT, size=SIZE)).all()


def test_two_masks_of_one_answer_are_one_vote():
    twice = answer(LEFT, LEFT)
    result = vote([twice, answer(RIGHT, ODD), answer(RIGHT, ODD)])
    assert boxes(result) == sorted([RIGHT, ODD])


def test_where_no_object_has_enough_votes_all_are_candidates():
    places = [(x, y, x + 5, y + 5) for x in range(0, 35, 6) for y in (0, 8)]
    result = vote([answer(place, score=0.5 + number / 100) for number, place in enumerate(places)])
    assert boxes(result) == [places[-1]]  # the highest score decides between single votes


def test_masks_that_are_empty_stay_empty():
    nothing = Segmentation(IMAGE, "x", (InstanceMask(np.zeros(SIZE[::-1], bool), LEFT),))
    result = vote([nothing, nothing])
    assert len(result) == 1 and not result.union.any()


@pytest.mark.parametrize("wrong", [{"answers": 1}, {"temperature": 0.0}, {"nothing_there": 0.0}, {"pixel_share": 1.5}])
def test_settings_that_cannot_vote_are_refused(wrong):
    with pytest.raises(UserError, match="vote"):
        VoteSettings(**wrong)
