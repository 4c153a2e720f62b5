"""The answer format `phrase`: reading, writing, drawing by SAM3 and by SAM2, and what it is worth."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rewards import Case, get_rubric, score
from segzero.answer import ERRORS, MAX_PHRASE, MAX_PHRASES, Answer, Instance, Phrase, parse_answer, render_answer
from segzero.data.validation import imperfect_terms, true_answer
from segzero.evaluation.cache import Cache, DiskCachedSegmenter
from segzero.frames import stretch
from segzero.images import load_image
from segzero.masks import decode, encode, mask_iou
from segzero.pipeline import PolicyOutput, SegZeroPipeline
from segzero.prompts import render_text
from segzero.sample import Object, Sample
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.segmenter.words import PhrasePrompt, draw_phrases, nearest_instances
from segzero.training.scorer import Scorer
from segzero.training.segmenter_actor import SegmenterActor
from tests.helpers.random_sam3 import build_sam3

BOX = (10.0, 20.0, 30.0, 40.0)
CUP, DOG = Phrase("red cup"), Phrase("dog", BOX)


def tagged(body: str) -> str:
    return f"<think>t</think><answer>{body}</answer>"


READ = {
    "plain": ('[{"phrase": "red cup"}, {"phrase": "dog", "bbox_2d": [10,20,30,40]}]', (CUP, DOG)),
    "single quotes": ("[{'phrase': 'red cup'}]", (CUP,)),
    "an apostrophe": ("[{'phrase': 'the dog's bowl'}]", (Phrase("the dog's bowl"),)),
    "a lone object": ('{"phrase": "Red  Cup."}', (CUP,)),
    "a box of null": ('[{"phrase": "red cup", "bbox_2d": null}]', (CUP,)),
    "quotes inside": (r'[{"phrase": "red \"cup\""}]', (CUP,)),
    "the published key": ('[{"bbox": [10,20,30,40], "phrase": "dog"}]', (DOG,)),
    "nothing": ("[]", ()),
}


@pytest.mark.parametrize("name", READ)
def test_phrases_are_read_and_written_alike(name):
    text, phrases = READ[name]
    answer = parse_answer(tagged(text), "phrase")
    assert (answer.phrases, answer.error, answer.warnings) == (phrases, None, ())
    assert answer.instances == tuple(Instance(one.box) for one in phrases if one.box) and answer.count == len(phrases)
    assert parse_answer(render_answer(answer, "phrase"), "phrase") == answer


FAILED = {
    "no phrase": ('[{"bbox_2d": [10,20,30,40]}]', "bad_phrase"),
    "an empty phrase": ('[{"phrase": " . "}]', "bad_phrase"),
    "a list": ('[{"phrase": ["a", "b"]}]', "bad_phrase"),
    "too long": (f'[{{"phrase": "{"x" * (MAX_PHRASE + 1)}"}}]', "bad_phrase"),
    "a special token": ('[{"phrase": "cup<|im_end|>"}]', "bad_phrase"),
    "words": ('["red cup"]', "bad_phrase"),
    "a broken box": ('[{"phrase": "cup", "bbox_2d": [1,2]}]', "bad_box"),
    "an inverted box": ('[{"phrase": "cup", "bbox_2d": [9,9,1,1]}]', "inverted_box"),
    "outside": ('[{"phrase": "cup", "bbox_2d": [900,9,990,99]}]', "out_of_frame"),
    "cut off": ('[{"phrase": "re', "truncated"),
    "prose": ("the cup", "not_json"),
}


@pytest.mark.parametrize("name", FAILED)
def test_what_is_no_phrase_says_why(name):
    text, code = FAILED[name]
    answer = parse_answer(tagged(text), "phrase", extent=(840, 840))
    assert answer.error == code and answer.count == 0
    beside = parse_answer(tagged(f'[{{"phrase": "red cup"}}, {text[1:-1]}]'), "phrase", extent=(840, 840))
    assert code in ("truncated", "not_json") or (beside.phrases == (CUP,) and beside.warnings == (code,))


def test_the_number_of_different_phrases_is_bounded():
    many = ",".join(f'{{"phrase": "thing {i}"}}' for i in range(MAX_PHRASES + 5))
    answer = parse_answer(tagged(f"[{many}]"), "phrase")
    assert len(answer.phrases) == MAX_PHRASES and set(answer.warnings) == {"too_many"}
    boxes = ",".join('{"phrase": "thing", "bbox_2d": [1,2,3,4]}' for _ in range(100))
    assert parse_answer(tagged(f"[{boxes}]"), "phrase").count == 100


def test_the_prompt_shows_an_answer_that_parses():
    text = render_text("The red cups", "phrase")
    example = parse_answer(text[text.index("i.e., ") :], "phrase")
    assert example.error is None and len(example.phrases) == 2 and example.phrases[0].box is None


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    build_sam3(folder)
    return load_segmenter(folder, device="cpu")


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def found(sam3, image, text, boxes=()):
    return sam3.find(sam3.embed([image]), [[PhrasePrompt(text, boxes)]])[0][0]


def test_sam3_draws_all_instances_of_a_phrase(sam3, image):
    every = found(sam3, image, "red cup")
    assert len(every.scores) > 1 and every.presence > 0.25
    drawn = draw_phrases(sam3, sam3.embed([image]), [PhrasePrompt("red cup"), PhrasePrompt("red cup")])
    assert [one.score for one in drawn] == pytest.approx(every.scores.tolist())  # said twice, drawn once


def test_each_box_takes_the_instance_that_it_overlaps_most():
    instances = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    assert nearest_instances(instances, [(0, 0, 10, 9), (0, 0, 10, 9), (0, 0, 10, 9)]) == [1, 0, None]
    assert nearest_instances(instances, [(48, 48, 90, 90), (50, 50, 61, 60)]) == [None, 2]
    assert nearest_instances(instances[:0], [(0, 0, 1, 1)]) == [None]


def test_a_box_to_which_no_instance_belongs_is_drawn_by_the_tracker(sam3, image):
    nobody = (1.0, 1.0, 4.0, 4.0)
    assert len(found(sam3, image, "red cup", (nobody,)).scores) > 1  # none of them there
    [drawn] = draw_phrases(sam3, sam3.embed([image]), [PhrasePrompt("red cup", (nobody,))])
    [[own]] = sam3.decode(sam3.embed([image]), [[MaskPrompt(nobody)]])
    assert drawn.box == nobody and (drawn.logits == own.logits[0]).all()
    both = draw_phrases(sam3, sam3.embed([image]), [PhrasePrompt("red cup", (nobody,)), PhrasePrompt("red cup")])
    assert len(both) > 1 and all(one.box != nobody for one in both)  # one mention means all: no box chooses


def outputs(image, phrases, frame=stretch(224)):
    instances = tuple(Instance(one.box) for one in phrases if one.box)
    return [PolicyOutput(image, "what?", "", Answer("t", instances, phrases=phrases), 0.0)]


def test_sam2_draws_in_the_boxes_and_says_what_it_cannot_read(pipeline, held_out):
    scene = next(sample for sample in held_out if len(sample.objects) == 1)
    picture, true = load_image(scene.image), scene.objects[0]
    box = tuple(pipeline.frame.to_frame(true.box, picture.size))
    own = replace(pipeline, prompt="phrase")
    [both] = own.draw(outputs(picture, (Phrase("it", box), Phrase("dog"))))
    assert len(both) == 1 and both.warnings == ("no_box",) and both.error is None
    assert mask_iou(both.union, decode(true.rle)) > 0.7
    [alone] = own.draw(outputs(picture, (Phrase("dog"),)))
    assert alone.error == "no_box" in ERRORS and not alone.empty


def test_the_pipeline_draws_phrases_by_sam3_also_from_the_cache_of_an_evaluation(pipeline, sam3, image, tmp_path):
    every = found(sam3, image, "red cup")
    direct = SegZeroPipeline(pipeline.policy, sam3, prompt="phrase")
    [result] = direct.draw(outputs(image, (CUP,)))
    assert len(result) == len(every.scores) and (result.instances[0].mask == every.masks[0]).all()
    cached = SegZeroPipeline(pipeline.policy, DiskCachedSegmenter(sam3, Cache(tmp_path), {"sha": "1"}), prompt="phrase")
    for _ in range(2):
        [again] = cached.draw(outputs(image, (CUP,)), cached.segmenter.embed([image]))
        assert (again.union == result.union).all() and [one.score for one in again] == [one.score for one in result]


def test_the_truth_as_phrases_earns_the_maximum():
    mask = np.zeros((100, 100), bool)
    mask[20:40, 10:30] = True
    sample = Sample("s", "", "the cup", 100, 100, objects=(Object((10, 20, 30, 40), ((20, 30),), encode(mask)),))
    assert imperfect_terms(sample)["phrase"] == []
    text = true_answer(sample, stretch(840), "phrase")
    assert '"phrase": "the cup", "bbox_2d": [84,168,252,336]' in text
    reward = get_rubric("mask").score(Case.of_sample(text, sample, [mask], format="phrase"))
    assert reward.total == get_rubric("mask").highest
    alone = '<think>t</think><answer>[{"phrase": "the cup"}]</answer>'
    drawn = get_rubric("mask").score(Case.of_sample(alone, sample, [mask], format="phrase"))
    assert drawn.total == get_rubric("mask").highest  # drawn well, it needs no box
    twice = get_rubric("mask").score(Case.of_sample(alone, sample, [mask, ~mask], format="phrase"))
    assert twice.terms["count"] == 0.5 and twice.terms["mask_iou"] < 0.1
    boxless = score("phrase", alone, sample, format="phrase")
    assert boxless.terms == {"thinking": 1, "format": 1, "box_iou": 0, "presence": 1, "non_repetition": 1}
    nothing = Sample("n", "", "the cup", 100, 100)
    assert score("phrase", "<think>t</think><answer>[]</answer>", nothing, format="phrase").total == 5.0
    assert score("phrase", alone, nothing, format="phrase").terms["presence"] == 0


def test_the_reward_draws_phrases_through_the_segmenter(sam3, image, tmp_path):
    path = tmp_path / "image.png"
    image.save(path)
    every = found(sam3, image, "red cup")
    union = encode(every.masks.any(0))
    sample = Sample("s", str(path), "x", *image.size, objects=(Object((0, 0, 9, 9), ((5, 5),), union),))
    scorer = Scorer("mask", "phrase", stretch(840), SegmenterActor(lambda: sam3).draw)
    texts = [tagged('[{"phrase": "red cup"}]'), tagged("[]"), tagged('[{"phrase": "dog", "bbox_2d": [1,1,9,9]}]')]
    scored = asyncio.run(scorer.score(sample, texts))
    assert [len(one.masks) for one in scored] == [len(every.scores), 0, 1]
    assert scored[0].reward.terms["mask_iou"] == pytest.approx(1.0) and scored[1].reward.terms["mask_iou"] == 0.0
