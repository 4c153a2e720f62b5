"""A dialogue with the shipped models, which also tells what they were asked; registries made by hand."""

import numpy as np
import pytest

from segzero.dialogue import Dialogue, Registry, Round
from segzero.images import load_image
from segzero.pipeline import SegZeroPipeline
from segzero.result import Found

SIZE = (100, 80)


class Watched:
    """The policy or the segmenter itself; what it is asked is kept."""

    def __init__(self, model) -> None:
        self.model, self.requests, self.embedded, self.prompts = model, [], 0, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests, sampling):
        self.requests += requests
        return self.model.generate(requests, sampling)

    def embed(self, images):
        self.embedded += len(images)
        return self.model.embed(images)

    def decode(self, embeddings, prompts, all_masks=False):
        self.prompts += [prompt for each in prompts for prompt in each]
        return self.model.decode(embeddings, prompts, all_masks)


@pytest.fixture
def watched(pipeline):
    return SegZeroPipeline(Watched(pipeline.policy), Watched(pipeline.segmenter))


@pytest.fixture
def scene(held_out):
    """A scene whose question the shipped policy answers with one region at least."""
    return load_image(held_out[0].image), held_out[0].question


@pytest.fixture
def dialogue(watched, scene):
    return Dialogue(scene[0], watched)


@pytest.fixture
def make_registry():
    """make_registry([box, box], [], None): a round for each; None is one whose answer could not be read."""

    def make(*rounds, size=SIZE) -> Registry:
        registry = Registry(size)
        for number, boxes in enumerate(rounds, 1):
            question = f"question {number}"
            found = tuple(_found(box, size) for box in boxes or ())
            error = "truncated" if boxes is None else None
            registry = registry.add(Round(number, question, registry.number(question, found), error=error))
        return registry

    return make


def _found(box, size) -> Found:
    x0, y0, x1, y1 = box
    mask = np.zeros(size[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return Found(mask, tuple(map(float, box)), (((x0 + x1) / 2, (y0 + y1) / 2),), 0.9)
