"""Which samples become looks at own masks, at which look of an episode, and how an episode goes."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from segzero.answer import Answer, MaskAction
from segzero.masks import decode, encode
from segzero.sample import Object, Sample
from segzero.training.own_masks import OwnMasks, sample_at_look

SIDE = 20


def columns(*places):
    """A mask of whole columns."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, list(places)] = True
    return encode(mask)


PLAIN = Sample("s", "", "the cup", SIDE, SIDE, (Object((0, 0, 2, SIDE), rle=columns(0, 1)),))
LEFT, RIGHT, BOTH = columns(0), columns(1), columns(0, 1)
FOUND, MORE, KEEP, NOTHING = Answer(), Answer(action=MaskAction((1, 1))), Answer(action=MaskAction()), Answer()


def named(number):
    return replace(PLAIN, id=f"sample-{number}")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_samples_and_steps_looks_at_each_look_as_often(share):
    own = OwnMasks(share, 3)
    looks = np.array([[own.look_of(named(number), step) for step in range(60)] for number in range(60)])
    assert (looks > 0).sum() == pytest.approx(3600 * share, abs=100)
    assert [(looks == look).sum() for look in (1, 2, 3)] == pytest.approx([1200 * share] * 3, abs=100)
    if 0 < share < 1:
        assert ((looks > 0).any(axis=0) & (looks == 0).any(axis=0)).all()  # some of each step
        assert ((looks > 0).any(axis=1) & (looks == 0).any(axis=1)).all()  # each sample at some steps


def test_the_choice_is_the_same_in_every_process():
    assert [OwnMasks(0.5, 3).look_of(named(2), step) for step in range(8)] == [0, 1, 0, 0, 3, 3, 1, 0]


def test_a_larger_share_takes_what_a_smaller_one_does_and_at_the_same_look():
    few, many = ([OwnMasks(share, 3).look_of(named(number), 3) for number in range(300)] for share in (0.2, 0.6))
    assert all(look in (0, other) for look, other in zip(few, many, strict=True)) and few != many


@pytest.mark.parametrize(
    "change",
    [
        {"turns": ({"question": "the spoon", "boxes": []},)},
        {"current_mask": LEFT},
        {"objects": (*PLAIN.objects, Object((0, 0, 2, 2)))},
    ],
)
def test_other_samples_stay_what_they_are(change):
    own = OwnMasks(1.0, 3)
    assert own.look_of(PLAIN, 0) and own.look_of(replace(PLAIN, objects=()), 0)
    assert own.look_of(replace(PLAIN, **change), 0) == 0


def episode(number, *outcomes):
    """The sample at a look, and the masks that the policy was shown before."""
    shown, left = [], iter(outcomes)

    async def answer(sample):
        shown.append(sample.current_mask)
        return next(left)

    return asyncio.run(sample_at_look(PLAIN, number, answer)), shown


def test_the_first_look_is_at_the_union_of_all_that_was_drawn():
    sample, shown = episode(1, (FOUND, [LEFT, RIGHT]))
    assert (decode(sample.current_mask) == decode(BOTH)).all() and shown == [None]
    assert sample == replace(PLAIN, id="s-look1", current_mask=sample.current_mask)


def test_later_looks_are_at_what_the_looks_before_made():
    sample, shown = episode(3, (FOUND, [LEFT]), (MORE, [BOTH]), (MORE, [RIGHT]))
    assert shown == [None, LEFT, BOTH]
    assert (sample.id, sample.current_mask) == ("s-look3", RIGHT)


@pytest.mark.parametrize("last", [(KEEP, [LEFT]), (NOTHING, []), (Answer(error="not_json"), []), None])
def test_an_episode_ends_at_the_look_that_corrects_nothing(last):
    sample, shown = episode(3, (FOUND, [LEFT]), last)
    assert shown == [None, LEFT]
    assert (sample.id, sample.current_mask) == ("s-look1", LEFT)


def test_a_correction_may_leave_nothing_of_the_mask():
    sample, _ = episode(2, (FOUND, [LEFT]), (MORE, [columns()]))
    assert sample.id == "s-look2" and not decode(sample.current_mask).any()


@pytest.mark.parametrize("first", [(NOTHING, []), (Answer(error="no_answer"), []), None])
def test_without_a_first_mask_there_is_nothing_to_look_at(first):
    assert episode(2, first) == (None, [None])
