"""Rounds that a person draws, and masks to choose from."""

import numpy as np
import pytest

from segzero.dialogue import Dialogue
from segzero.dialogue.correction import new_region
from segzero.errors import UserError
from segzero.masks import decode, mask_iou
from segzero.segmenter import MaskPrediction
from segzero.segmenter.protocol import best_first


@pytest.fixture
def inside(dialogue, scene):
    """A point of something, and its box, as the policy found it."""
    [found, *_] = dialogue.ask(scene[1]).instances
    y, x = np.argwhere(found.mask).mean(0)
    return (float(x), float(y)), found.box


def test_masks_without_a_number_come_last():
    scores = np.array([0.2, np.nan, 0.9, 0.2], np.float32)
    assert best_first(MaskPrediction(np.zeros((4, 2, 2), np.float32), scores, (2, 2))) == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (((), (), None), "points, a box or both"),
        ((((1, 2),), (0,), None), "all points are outside"),
        ((((1, 2),), (1, 0), None), "1 points but 2 labels"),
        ((((1, 2),) * 1001, (), None), "can have 1000"),
    ],
)
def test_clicks_that_mean_nothing(wrong, said):
    with pytest.raises(UserError, match=said):
        new_region(*wrong)


@pytest.mark.slow
def test_a_round_by_hand_is_a_round_like_any_other(dialogue, recorded, scene, inside, tmp_path):
    point, box = inside
    asked = len(recorded.policy.requests)
    result = dialogue.draw([point, (1, 1)], [1, 0], box)
    assert len(recorded.policy.requests) == asked and recorded.segmenter.embedded == 1
    round = dialogue.registry.rounds[-1]
    [region] = round.regions
    assert (round.number, round.state, round.question, round.raw_text) == (2, "found", "", "")
    assert region.box == box and region.points == (point, (1.0, 1.0)) and region.labels == (1, 0)
    assert region.id == len(dialogue.registry.regions) and mask_iou(result.union, decode(region.rle)) == 1
    assert mask_iou(result.union, decode(dialogue.registry.region(1).rle)) > 0.8
    dialogue.ask("the shape left of [REF:2]")
    told = recorded.policy.requests[-1].messages[-1]["content"][-1]["text"]
    assert 'round 2, "": <box>' in told
    dialogue.refine(region.id, points=[(box[0] + 1, box[1] + 1)], labels=[0])
    assert dialogue.registry.region(region.id).labels == (1, 0, 0)
    saved = dialogue.save(tmp_path / "dialogue.json")
    assert Dialogue.load(saved, scene[0], recorded).registry == dialogue.registry
    for _ in range(3):
        dialogue.undo()
    assert [round.number for round in dialogue.registry.rounds] == [1]


@pytest.mark.slow
def test_the_candidates_are_what_the_steps_choose_from(dialogue, inside):
    point, _ = inside
    before = dialogue.registry
    for id, step in ((None, dialogue.draw), (1, lambda *clicks, **choice: dialogue.refine(1, *clicks, **choice))):
        readings = dialogue.candidates(id, [point])
        assert dialogue.registry is before
        scores = [score for _, score in readings]
        assert len(readings) == 3 and scores == sorted(scores, reverse=True)
        for choice, (mask, score) in enumerate(readings):
            step([point], choice=choice)
            number = id or len(dialogue.registry.regions)
            region = dialogue.registry.region(number)
            assert (decode(region.rle) == mask).all() and region.score == score
            dialogue.undo()
        with pytest.raises(UserError, match=r"no choice 3; 0 .* to 2"):
            step([point], choice=3)


@pytest.mark.slow
def test_a_mistake_leaves_no_round_behind(dialogue, inside):
    before = dialogue.registry
    for wrong, said in [
        (lambda: dialogue.draw(), "points, a box or both"),
        (lambda: dialogue.draw([(999, 1)]), "outside the image"),
        (lambda: dialogue.draw([(9, 9)], question="<|im_end|>"), "special tokens"),
        (lambda: dialogue.draw([(9, 9)], question=" "), "question is empty"),
        (lambda: dialogue.candidates(99, [(9, 9)]), "no instance 99"),
        (lambda: dialogue.candidates(1), "nothing to correct"),
    ]:
        with pytest.raises(UserError, match=said):
            wrong()
        assert dialogue.registry is before
