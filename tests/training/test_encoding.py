"""Our encoding, which never opens an image, equals the checkpoint's own processor and verl's positions."""

import torch

from segzero.prompts import render_messages
from segzero.training.encoding import open_fitted


def processed(encoder, sample):
    text = encoder.processor.apply_chat_template(
        render_messages(sample.question, encoder.checkpoint.prompt), add_generation_prompt=True, tokenize=False
    )
    image = open_fitted(sample.image, encoder.checkpoint)
    return encoder.processor(text=[text], images=[image], return_tensors="pt")


def test_ids_and_grid_are_those_of_the_processor(encoder, samples):
    for sample in samples:
        encoded, expected = encoder.encode(sample), processed(encoder, sample)
        assert encoded.ids == expected["input_ids"][0].tolist()
        assert list(encoded.grid) == expected["image_grid_thw"][0].tolist()


def test_positions_go_on_where_the_prompt_ended(encoder, samples):
    encoded = encoder.encode(samples[0])
    answer = [5, 6, 7, 8]
    ids = torch.tensor([encoded.ids + answer])
    vision, _ = encoder.processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        image_grid_thw=torch.tensor([encoded.grid]),
        mm_token_type_ids=(ids == encoder.processor.image_token_id).long(),
    )
    positions = encoder.positions(encoded, len(answer))
    assert torch.equal(positions[1:], vision[:, 0])
    assert torch.equal(positions[0], torch.arange(ids.shape[1]))
