"""The vision tower's larger operations against the library's own, for every family."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from segzero.frames import FAMILY_FRAMES
from segzero.policy import load_policy

EQUAL, MIXED = [(300, 220)] * 3, [(300, 220), (300, 220), (90, 70), (640, 480), (60, 300)]


@pytest.mark.parametrize("family", list(FAMILY_FRAMES))
@pytest.mark.parametrize("sizes", [EQUAL, MIXED])
def test_features_are_the_librarys(checkpoints, family, sizes):
    """Images of one size, which share a call, and of several; Qwen2.5-VL's towers have windows as well."""
    policy = load_policy(checkpoints[family], "transformers", device="cpu")
    library = AutoModelForImageTextToText.from_pretrained(checkpoints[family], dtype=torch.float32).eval()
    images = [policy.frame.fit(Image.effect_noise(size, 90).convert("RGB")) for size in sizes]
    inputs = policy.processor.image_processor(images=images, return_tensors="pt")
    with torch.inference_mode():
        ours, theirs = (
            torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output)
            for model in (policy.model, library)
        )
    assert (ours - theirs).abs().max() < 3e-5 * theirs.std()
