"""The reward for judging masks, with masks that SAM2 draws."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from rewards import score as score_response
from rewards.refinement import good_enough
from segzero.answer import Answer, MaskAction, render_answer
from segzero.data.validation import imperfect_terms, true_answer
from segzero.masks import decode, encode
from segzero.refinement.judgement import right_answer
from segzero.training.scorer import Scorer
from segzero.training.segmenter_actor import SegmenterActor


@pytest.fixture
def frame(pipeline):
    return pipeline.frame


@pytest.fixture
def score(pipeline):
    """Score texts; each call has an actor of its own, as an actor stays in one event loop."""

    def score(sample, *texts):
        scorer = Scorer("refine", "multi", pipeline.frame, SegmenterActor(lambda: pipeline.segmenter).draw)
        return asyncio.run(scorer.score(sample, texts))

    return score


@pytest.fixture
def on_disk(judged, tmp_path):
    """The samples with paths as images, as training has them."""
    samples = {}
    for name, sample in judged.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(sample.image)
        samples[name] = replace(sample, image=str(path))
    return samples


def terms(score, sample, *answers):
    texts = [one if isinstance(one, str) else render_answer(one, "refine") for one in answers]
    return [scored.reward.terms for scored in score(sample, *texts)]


@pytest.mark.parametrize("kind", ["true", "half", "nothing", "absent"])
def test_the_right_answer_earns_nearly_all(score, frame, on_disk, kind):
    [earned] = terms(score, on_disk[kind], right_answer(on_disk[kind], frame, "the shape"))
    assert earned["thinking"] == earned["format"] == earned["decision"] == earned["non_repetition"] == 1
    assert earned["gain"] > 0.7


def test_wrong_decisions_earn_neither_decision_nor_gain(score, frame, on_disk):
    keep, nothing = Answer("t", action=MaskAction()), Answer("t")
    points = Answer("t", action=MaskAction((50, 50), (5, 5)))
    for kind, wrong in {"true": (points, nothing), "half": (keep, nothing), "absent": (keep, points)}.items():
        for earned in terms(score, on_disk[kind], *wrong, "no answer"):
            assert (earned["decision"], earned["gain"]) == (0, 0), kind


def test_an_ordinary_answer_keeps_the_mask_that_it_draws_again_and_corrects_another(score, frame, on_disk):
    """Without a segmenter nothing is drawn, and no ordinary answer is seen to keep a mask."""
    text = true_answer(on_disk["true"], frame, "refine")
    [kept], [corrected], [found] = (score(on_disk[kind], text) for kind in ("true", "half", "nothing"))
    assert kept.answer.keeps and kept.masks == (on_disk["true"].current_mask,)
    assert corrected.answer.corrects and found.answer.corrects
    assert kept.reward.terms["decision"] == corrected.reward.terms["decision"] == found.reward.terms["decision"] == 1
    assert kept.reward.terms["gain"] == 1 and corrected.reward.terms["gain"] > 0.7 < found.reward.terms["gain"]
    [undrawn] = asyncio.run(Scorer("refine", "multi", frame).score(on_disk["true"], [text]))
    assert undrawn.reward.terms["decision"] == 0 and undrawn.answer.corrects


def test_a_reward_sees_the_answer_as_it_is_written(score, frame, on_disk):
    """A redraw with a flawed object keeps the mask, and its format is that of the same text about another mask."""
    sample = on_disk["true"]
    text = true_answer(sample, frame, "refine")
    flawed = text.replace("]</answer>", ', {"bbox_2d": [5, 5, 1, 1], "point_2d": [2, 2]}]</answer>')
    [kept], [corrected] = (score(on_disk[kind], flawed) for kind in ("true", "half"))
    assert kept.answer.keeps and kept.reward.terms["decision"] == 1
    assert kept.reward.terms["format"] == corrected.reward.terms["format"] == 0.5
    mask = decode(sample.current_mask)
    scored = score_response("refine", text, sample, masks=[mask], frame=frame, format="refine")
    assert scored.terms["decision"] == scored.terms["gain"] == 1


def test_the_gain_is_graded(score, frame, on_disk):
    sample = on_disk["half"]
    right = right_answer(sample, frame, "the shape")
    off = Answer("t", action=MaskAction(positive=(1, 1)))
    best, worst = terms(score, sample, right, off)
    assert best["decision"] == worst["decision"] == 1 and best["gain"] > worst["gain"] == 0


def test_questions_without_a_mask_keep_the_reward_of_masks(score, frame, on_disk):
    sample = replace(on_disk["true"], current_mask=None)
    true = sample.objects[0]
    box = ",".join(str(v) for v in frame.to_frame(true.box, sample.size))
    point = ",".join(str(v) for v in frame.to_frame(true.points[0], sample.size))
    text = f'<think>t</think><answer>[{{"bbox_2d": [{box}], "point_2d": [{point}]}}]</answer>'
    [earned] = terms(score, sample, text)
    assert earned["decision"] == 1 and 0.8 < earned["gain"] <= 1
    assert imperfect_terms(sample)["refine"] == []


def test_good_enough_forgives_the_border_alone():
    true = np.zeros((100, 100), bool)
    true[30:70, 30:70] = True
    assert good_enough(true, true) and good_enough(np.roll(true, 1, axis=0), true)
    assert not good_enough(np.roll(true, 6, axis=0), true)
    holed = true.copy()
    holed[45:55, 45:55] = False
    assert not good_enough(holed, true)
    small = np.zeros_like(true)
    small[50:52, 50:52] = True  # the band is all of it
    assert not good_enough(np.zeros_like(true), small) and good_enough(small, small)
    assert good_enough(np.zeros_like(true), np.zeros_like(true)) and not good_enough(true, np.zeros_like(true))


def test_masks_are_drawn_from_the_clean_image(score, frame, on_disk):
    """The policy sees a marked picture, the segmenter the image itself: a kept mask is the current one, untouched."""
    sample = on_disk["half"]
    [scored] = score(sample, render_answer(Answer("t", action=MaskAction()), "refine"))
    assert scored.masks == (encode(decode(sample.current_mask)),)
