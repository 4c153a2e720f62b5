"""Our encoding, which never opens an image, equals the checkpoint's own processor and verl's positions."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from segzero.dialogue import Dialogue
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Reply
from segzero.prompts import render_messages
from segzero.sample import Sample
from segzero.training.tokenization import open_picture, picture_of
from tests.helpers.random_checkpoints import FAMILIES


def processed(encoder, sample):
    text = encoder.processor.apply_chat_template(
        render_messages(sample.question, encoder.checkpoint.prompt), add_generation_prompt=True, tokenize=False
    )
    image = open_picture(picture_of(sample), encoder.checkpoint)
    return encoder.processor(text=[text], images=[image], return_tensors="pt")


def check_ids_and_grid(encoder, sample):
    encoded, expected = encoder.encode(sample), processed(encoder, sample)
    assert encoded.ids == expected["input_ids"][0].tolist()
    assert list(encoded.grid) == expected["image_grid_thw"][0].tolist()


def test_ids_and_grid_are_those_of_the_processor(encoder, samples):
    for sample in samples:
        check_ids_and_grid(encoder, sample)


class Policy:
    """A policy with one answer, which keeps the messages of its last request."""

    def __init__(self, checkpoint) -> None:
        self.frame, self.prompt = checkpoint.frame, checkpoint.prompt

    def generate(self, requests, sampling):
        [request] = requests
        self.asked = request.messages
        text = '<think></think><answer>[{"bbox_2d": [20, 30, 40, 50], "point_2d": [30, 40]}]</answer>'
        return [Reply(text, 20, False)]


def test_the_prompt_of_a_later_round_is_that_of_a_dialogue(encoder, segmenter, samples):
    policy = Policy(encoder.checkpoint)
    dialogue = Dialogue(samples[0].image, SegZeroPipeline(policy, segmenter))
    dialogue.ask("the ring")
    dialogue.ask("what is above it")
    turns = dialogue.registry.turns
    dialogue.ask("what is left of [REF:1]")
    text = encoder.processor.apply_chat_template(policy.asked, add_generation_prompt=True, tokenize=False)
    assert text.count("[20, 30, 40, 50]") == 3  # in the notes twice, and in the question
    later = replace(samples[0], question="what is left of [REF:1]", turns=turns)
    assert encoder.encode(later).unexpanded == encoder.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_grid_of_every_family(family, encoders, tmp_path):
    for size in [(90, 70), (100, 300), (800, 600)]:
        path = tmp_path / f"{size[0]}.png"
        Image.new("RGB", size, "teal").save(path)
        check_ids_and_grid(encoders[family], Sample("s", str(path), "the red circle", *size))


@pytest.mark.parametrize("size", [(90, 70), (100, 300)])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_prompt_and_answer_are_the_models_own(family, size, encoders, checkpoints):
    encoder = encoders[family]
    with torch.device("meta"):  # positions need no weights
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(checkpoints[family])).model
    encoded = encoder.encode(Sample("s", "", "the red circle", *size))
    answer = [5, 6, 7, 8]
    ids = torch.tensor([encoded.ids + answer])
    vision, _ = model.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        image_grid_thw=torch.tensor([encoded.grid]),
        mm_token_type_ids=(ids == model.config.image_token_id).long(),
    )
    positions = encoder.positions(encoded, len(answer))
    assert torch.equal(positions[1:], vision[:, 0])
    assert torch.equal(positions[0], torch.arange(ids.shape[1]))
    assert positions[1:].max() < ids.shape[1] - 1  # an image takes fewer places than it has tokens
