"""Clicks and boxes, with the earlier mask, as one prompt."""

import numpy as np
import pytest

from segzero.dialogue.correction import correction
from segzero.segmenter.protocol import CERTAIN

GRID = (40, 50)  # half the image's 100 x 80


@pytest.fixture
def cup(make_registry):
    return make_registry([(10, 20, 60, 70)]).regions[0]  # its point is 35,45


def test_clicks_add_up_and_the_box_stays(cup):
    prompt = correction(cup, [(20, 30), (5, 5)], [1, 0], None, GRID)
    assert (prompt.box, prompt.points, prompt.labels) == (cup.box, ((35, 45), (20, 30), (5, 5)), (1, 1, 0))
    assert prompt.mask.shape == GRID and prompt.mask.dtype == np.float32
    inside = np.zeros(GRID, bool)
    inside[10:35, 5:30] = True
    assert np.array_equal(prompt.mask, np.where(inside, CERTAIN, -CERTAIN))


def test_a_point_beyond_the_box_lets_go_of_it(cup):
    assert correction(cup, [(80, 30)], [], None, GRID).box is None
    assert correction(cup, [(80, 30)], [0], None, GRID).box == cup.box


def test_a_new_box_cuts_what_was_there(cup):
    prompt = correction(cup, [(15, 25)], [0], (10, 20, 30, 40), GRID)
    assert (prompt.points, prompt.labels) == (((15, 25),), (0,))  # the cup's own point lies outside
    assert (prompt.mask > 0).sum() == 100
    assert correction(cup, [], [], (80, 0, 90, 10), GRID).mask is None


def test_a_mask_finer_than_the_grid_is_unsure_at_its_edges(make_registry):
    [region] = make_registry([(11, 20, 60, 70)]).regions
    mask = correction(region, [(30, 30)], [], None, GRID).mask
    assert mask[20, 5] == 0 and mask[20, 6] == CERTAIN and mask[20, 4] == -CERTAIN
