"""Requests that a policy can read."""

import pytest
from PIL import Image

from segzero.images import load_image
from segzero.policy import Request
from segzero.prompts import render_messages


@pytest.fixture
def ask():
    """ask(policy, question, (width, height)) -> a Request with a picture of that size, fitted."""

    def make(policy, question: str = "the red circle", size: tuple[int, int] = (90, 70)) -> Request:
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        return Request(policy.frame.fit(picture), render_messages(question, policy.prompt))

    return make


@pytest.fixture
def held_out_requests(pipeline, held_out):
    """What the shipped policy is asked about the held-out scenes."""
    policy = pipeline.policy
    pictures = [policy.frame.fit(load_image(sample.image)) for sample in held_out]
    messages = [render_messages(sample.question, policy.prompt) for sample in held_out]
    return [Request(picture, message) for picture, message in zip(pictures, messages, strict=True)]
