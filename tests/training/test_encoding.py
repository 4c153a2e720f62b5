"""Our encoding, which never opens an image, equals the checkpoint's own processor and verl's positions."""

import pytest
import torch
from PIL import Image
from random_checkpoints import FAMILIES
from transformers import AutoConfig, AutoModelForImageTextToText

from segzero.data.sample import Sample
from segzero.prompts import render_messages
from segzero.training.encoding import open_fitted


def processed(encoder, sample):
    text = encoder.processor.apply_chat_template(
        render_messages(sample.question, encoder.checkpoint.prompt), add_generation_prompt=True, tokenize=False
    )
    image = open_fitted(sample.image, encoder.checkpoint)
    return encoder.processor(text=[text], images=[image], return_tensors="pt")


def check_ids_and_grid(encoder, sample):
    encoded, expected = encoder.encode(sample), processed(encoder, sample)
    assert encoded.ids == expected["input_ids"][0].tolist()
    assert list(encoded.grid) == expected["image_grid_thw"][0].tolist()


def test_ids_and_grid_are_those_of_the_processor(encoder, samples):
    for sample in samples:
        check_ids_and_grid(encoder, sample)


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
