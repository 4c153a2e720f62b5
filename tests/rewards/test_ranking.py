"""Ranks keep order, ends and ties."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rewards import PRESETS, QuantileRanks, Reward

SOFT = PRESETS["soft"]


def reward(iou):
    terms = {term.name: 1.0 for term in SOFT.terms} | {"box_iou": iou}
    return Reward(SOFT.total(terms), terms)


def ranks_of(ranks, values):
    return [r.terms["box_iou"] for r in ranks.rank([reward(v) for v in values])]


def filled(values, capacity=2048):
    ranks = QuantileRanks(SOFT, capacity)
    ranks.add([reward(v) for v in values])
    return ranks


def test_ranks_by_hand():
    ranks = filled([0.0, 0.0, 0.2, 0.2, 0.6])
    assert ranks_of(ranks, [0.0, 0.2, 0.6]) == [0, 2 / 3, 1]
    assert ranks_of(ranks, [0.1, 0.5, 0.7]) == [2 / 5, 4 / 5, 1]


def test_only_the_named_terms_change_and_the_total_follows():
    [ranked] = filled([0.0, 0.5]).rank([reward(0.3)])
    assert ranked.terms == {term.name: 1.0 for term in SOFT.terms} | {"box_iou": 0.5}
    assert ranked.total == 6.5


def test_nothing_to_compare_with():
    assert ranks_of(filled([]), [0.3]) == [0.3]
    assert ranks_of(filled([0.3, 0.3]), [0.3]) == [0.3]


def test_the_oldest_are_forgotten():
    ranks = filled([0.9] * 10 + [0.1, 0.2, 0.3, 0.4], capacity=4)
    assert ranks_of(ranks, [0.25, 0.5]) == [0.5, 1]


def test_state_goes_through_json():
    ranks, other = filled([0.1, 0.7]), filled([0.9])
    other.restore(json.loads(json.dumps(ranks.state())))
    assert ranks_of(other, [0.5]) == ranks_of(ranks, [0.5]) == [0.5]


unit = st.floats(0, 1)


@given(st.lists(unit), st.lists(unit, min_size=2))
def test_ranks_keep_the_order_and_stay_in_bounds(seen, values):
    values.sort()
    ranks = filled([*seen, *values])
    got = ranks_of(ranks, values)
    assert got == sorted(got)
    assert all(0 <= rank <= 1 for rank in got)
    assert len(set(values)) == 1 or (got[0] < got[-1] and got[-1] - got[0] > 0)
    if len(set(values)) > 1 and min(values) <= min(seen, default=1) and max(values) >= max(seen, default=0):
        assert (got[0], got[-1]) == (0, 1)
