"""Content of a trajectory, and its size in memory: the image stays a path."""

import pickle
from dataclasses import replace

import pytest
import torch

from segzero.frames import stretch
from segzero.sample import Sample
from segzero.training.rollouts import as_batch, trajectory

ANSWER = 2000  # tokens


@pytest.fixture
def at_840(encoders):
    """An encoder that sees every image as Seg-Zero's checkpoints do."""
    encoder = encoders["qwen2_5_vl"]
    return replace(encoder, checkpoint=replace(encoder.checkpoint, frame=stretch(840)))


@pytest.fixture
def row(at_840):
    question = "the mug that one would drink from, left of the open book"
    encoded = at_840.encode(Sample("s", "", question, 1920, 1080))
    return trajectory(encoded, list(range(ANSWER)), [-0.5] * ANSWER, 6.5, at_840, {"image": "photos/mug.jpg"})


def test_the_parts_of_a_trajectory_fit_together(row, at_840):
    assert (row["prompts"] == at_840.processor.image_token_id).sum() == 900
    length = len(row["prompts"]) + ANSWER
    assert row["input_ids"].shape == (length,) and row["position_ids"].shape == (4, length)
    assert torch.equal(row["input_ids"][-ANSWER:], row["responses"])
    assert row["rm_scores"].nonzero().tolist() == [[ANSWER - 1]] and row["rm_scores"][-1] == 6.5
    assert row["rollout_log_probs"].shape == row["response_mask"].shape == (ANSWER,)
    assert row["multi_modal_inputs"] == {"image": "photos/mug.jpg"}


def test_a_trajectory_takes_less_than_a_megabyte(row):
    group = as_batch([row] * 8)
    assert len(pickle.dumps(row)) < 1_000_000
    assert len(pickle.dumps(group)) < 8 * 1_000_000
