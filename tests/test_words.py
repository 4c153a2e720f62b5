"""Phrases to masks: by the shipped policy and SAM2 on scenes, by a random SAM3, and what cannot find phrases."""

import math

import numpy as np
import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.mask_pipeline import MaskPipeline
from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.policy.presence import presence_of
from segzero.segmenter import load_segmenter
from segzero.shipped import segmenter_path
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import COLOURS, KINDS, make_scene
from segzero.words import Thresholds, find_words
from tests.helpers.random_sam3 import build_sam3


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    build_sam3(folder)
    return load_segmenter(folder, device="cpu")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(HELD_OUT_SEED + 21)
    return [make_scene(rng) for _ in range(4)]


def absent(scene):
    """A shape that the scene does not show."""
    shown = {(shape.colour, shape.kind) for shape in scene.shapes}
    return next(f"{colour} {kind}" for kind in KINDS for colour in COLOURS if (colour, kind) not in shown)


def test_the_policy_finds_phrases_and_says_how_surely(pipeline, scenes):
    """Present shapes are found where they are, and their presence is above that of absent ones."""
    ious, present, missing = [], [], []
    for scene in scenes:
        phrases = [f"{shape.colour} {shape.kind}" for shape in scene.shapes[:2]] + [absent(scene)]
        results = find_words(pipeline, Image.fromarray(scene.image), phrases)
        assert [result.question for result in results] == phrases
        for shape, result in zip(scene.shapes[:2], results, strict=False):
            ious.append(mask_iou(result.union, shape.mask))
            present.append(result.presence)
        missing.append(results[-1].presence)
    assert np.mean(ious) > 0.6
    assert np.mean(present) > np.mean(missing) + 0.1
    assert all(0 <= one <= 1 for one in present + missing)


def test_thresholds_leave_out_instances_and_phrases(pipeline, scenes):
    image, shape = Image.fromarray(scenes[0].image), scenes[0].shapes[0]
    phrase = f"{shape.colour} {shape.kind}"
    [found] = find_words(pipeline, image, [phrase])
    assert len(found) == 1 and 0.3 < found.instances[0].score < 1
    [none] = find_words(pipeline, image, [phrase], box_threshold=1.0)
    assert len(none) == 0 and none.empty and none.presence == found.presence < 1
    [none] = find_words(pipeline, image, [phrase], text_threshold=1.0)
    assert len(none) == 0 and none.empty
    assert "presence" in found.to_dict() and "presence" not in pipeline([image], [phrase])[0].to_dict()


def test_without_probabilities_the_masks_own_score_stands_for_the_presence(pipeline, scenes, monkeypatch):
    generate = pipeline.policy.generate

    def silent(requests, sampling):
        return [type(reply)(reply.text, reply.tokens, reply.truncated) for reply in generate(requests, sampling)]

    monkeypatch.setattr(pipeline.policy, "generate", silent)
    shape = scenes[0].shapes[0]
    [found] = find_words(pipeline, Image.fromarray(scenes[0].image), [f"{shape.colour} {shape.kind}"])
    assert found.presence == found.instances[0].score > 0.3


def test_sam3_finds_phrases_without_the_policy(pipeline, sam3, scenes):
    """It is encoded once; the same thresholds apply to its scores; boxes show what is meant."""
    image = Image.fromarray(scenes[0].image)
    both = SegZeroPipeline(pipeline.policy, sam3)
    several = find_words(both, image, ["Red cup.", "dog"], box_threshold=0.0, text_threshold=0.0)
    assert [result.question for result in several] == ["Red cup.", "dog"]
    assert all(len(result) == 12 and result.raw_text == "" for result in several)
    cup = several[0]
    assert cup.instances[0].score == max(one.score for one in cup) < cup.presence
    middle = (cup.instances[0].score + cup.instances[11].score) / 2
    [fewer] = find_words(both, image, ["red cup"], box_threshold=middle, text_threshold=0.0)
    assert 0 < len(fewer) == sum(one.score >= middle for one in cup) < 12
    [none] = find_words(both, image, ["red cup"], box_threshold=0.0, text_threshold=1.0)
    assert none.empty and none.presence == pytest.approx(cup.presence)
    [shown] = find_words(both, image, ["red cup"], 0.0, 0.0, exemplars=[((10.0, 10.0, 60.0, 60.0), 1)])
    assert shown.presence != cup.presence
    files = cup.to_coco()
    assert len(files) == 12 and files[0]["score"] == cup.instances[0].score


def test_what_cannot_find_phrases_is_refused(pipeline, mask_model, scenes):
    image = Image.fromarray(scenes[0].image)
    with pytest.raises(UserError, match=r"^a mask model draws one mask .* take a policy with SAM2, or a whole SAM3"):
        find_words(MaskPipeline.from_pretrained(mask_model, "cpu"), image, ["cup"])
    with pytest.raises(UserError, match=r"^boxes beside phrases are for SAM3; \S+ reads no text$"):
        find_words(pipeline, image, ["cup"], exemplars=[((1.0, 1.0, 5.0, 5.0), 1)])
    assert not load_segmenter(segmenter_path(), device="cpu").reads_text


@pytest.mark.parametrize("value", [-0.1, 1.01, math.nan, math.inf])
def test_thresholds_out_of_range_are_refused(value):
    with pytest.raises(UserError, match=r"the box threshold is .*; give a number from 0 to 1"):
        Thresholds(box=value)
    with pytest.raises(UserError, match="the text threshold is"):
        Thresholds(text=value)


@pytest.mark.parametrize(
    ("pieces", "probabilities", "expected"),
    [
        (["<answer>", "[", "{", '"bbox'], [1, 0.5, 0.5, 0.1], 0.25),  # what comes after the decision doesn't matter
        (["<answ", "er>[]", "</answer>"], [1, 0.9, 1], 0.1),
        (["<think>", "[]", "</think>", "<answer>", "[{"], [1, 0.2, 1, 1, 0.8], 0.8),  # nor what the policy thinks
        (["<answer>", "nothing"], [1, 1], None),
        (["I see {"], [1], None),
        (["<answer>", "[{"], [1, math.nan], None),
        ([], [], None),
    ],
)
def test_presence_is_the_probability_of_beginning_with_an_object(pieces, probabilities, expected):
    assert presence_of(pieces, probabilities) == (None if expected is None else pytest.approx(expected))


def test_a_batch_gives_each_phrase_its_own_presence(pipeline, scenes):
    """Answers of unequal length end at different times; nobody gets the probabilities of another."""
    image = Image.fromarray(scenes[1].image)
    phrases = [absent(scenes[1]), "all the shapes"]
    together = find_words(pipeline, image, phrases)
    for phrase, result in zip(phrases, together, strict=True):
        [alone] = find_words(pipeline, image, [phrase])
        assert alone.raw_text == result.raw_text and alone.presence == pytest.approx(result.presence, abs=1e-4)
