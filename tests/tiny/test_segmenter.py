"""The tiny SAM2: its recipe, its training prompts, and the figures of the shipped weights."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskGeneration, AutoProcessor

from segzero.masks import box_of, mask_iou
from segzero.shipped import segmenter_path
from segzero.tiny.evaluate_segmenter import evaluate_segmenter
from segzero.tiny.scenes import make_scene
from segzero.tiny.segmenter import build
from segzero.tiny.segmenter_prompts import BOTTOM_RIGHT, INSIDE, KINDS, OUTSIDE, TOP_LEFT, draw_batch, masks_of
from segzero.tiny.train_segmenter import train_segmenter


def test_the_shipped_weights_have_the_shapes_of_the_recipe_and_are_small():
    model, processor = build(seed=0)
    shipped = AutoModelForMaskGeneration.from_pretrained(segmenter_path())
    assert type(shipped) is type(model)
    assert {n: w.shape for n, w in shipped.state_dict().items()} == {n: w.shape for n, w in model.state_dict().items()}
    assert AutoProcessor.from_pretrained(segmenter_path()).image_processor.size == processor.image_processor.size
    assert sum(file.stat().st_size for file in segmenter_path().iterdir()) < 8e6


@pytest.mark.slow
def test_the_same_seed_builds_and_trains_the_same_model(tmp_path):
    torch.manual_seed(1)
    train_segmenter(tmp_path / "a", seed=3, steps=2)
    torch.manual_seed(2)
    train_segmenter(tmp_path / "b", seed=3, steps=2)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_agree_with_the_mask_they_mean(kind):
    rng = np.random.default_rng(11)
    scenes = [make_scene(rng) for _ in range(6)]
    batch = draw_batch(rng, scenes, kind, 5)
    _, boxed, inside, outside = KINDS[kind]
    labels = [TOP_LEFT, BOTTOM_RIGHT] * boxed + [INSIDE] * inside + [OUTSIDE] * outside
    assert batch.labels.shape == (6, 5, len(labels)) and batch.roles.shape == (6, 5, 3, 112, 112)
    for i, scene in enumerate(scenes):
        known = [mask for shape in scene.shapes for mask in masks_of(shape).values()]
        for j in range(5):
            [meant] = [m for m in known if np.array_equal(m.reshape(112, 2, 112, 2).mean((1, 3)), batch.meant[i, j])]
            assert batch.labels[i, j].tolist() == labels
            for (x, y), label in zip(batch.points[i, j].tolist(), labels, strict=True):
                if label in (INSIDE, OUTSIDE):
                    assert meant[int(y), int(x)] == (label == INSIDE)
            if boxed:
                corners = batch.points[i, j, :2].flatten().numpy()
                assert np.abs(corners - box_of(meant)).max() < 40
            if boxed or outside:
                assert (batch.roles[i, j] == batch.meant[i, j]).all()
            assert any((role == batch.meant[i, j]).all() for role in batch.roles[i, j])


@pytest.mark.slow
def test_held_out_figures_of_the_shipped_weights():
    """A sample of what the manifest reports for 500 scenes."""
    figures = evaluate_segmenter(segmenter_path(), count=40)
    assert figures["box and point"] > 0.88 and figures["box and point, single output"] > 0.88
    assert figures["box and point, error of its predicted IoU"] < 0.06
    assert figures["best of three"] > 0.85 and figures["best of three, with an emblem"] > 0.85
    assert figures["point: first mask and the whole"] > 0.85
    assert figures["point: second mask and the emblem"] > 0.75 and figures["point: first and second mask"] < 0.5
    assert figures["a point and a correction"] > figures["a point, any piece meant"]


def test_the_parts_of_a_shape():
    rng = np.random.default_rng(0)
    shape = next(s for _ in range(50) for s in make_scene(rng).shapes if s.part is not None)
    masks = masks_of(shape)
    assert set(masks) == {"whole", "part", "body"}
    assert mask_iou(masks["part"] | masks["body"], masks["whole"]) == 1 and not (masks["part"] & masks["body"]).any()
