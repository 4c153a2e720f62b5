"""The policy's recipe: training computes the same as the stock model on the images of the stock processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from segzero.prompts import render_messages
from segzero.tiny.dense_head import CELL, DenseHead, dense_targets
from segzero.tiny.packing import Packer, answer_logits, image_features, to_patches
from segzero.tiny.policy import CELLS, FRAME, MAX_PIXELS, MIN_PIXELS, SIDE, make_model, make_processor
from segzero.tiny.questions import questions_of
from segzero.tiny.scenes import make_scene
from segzero.tiny.train_policy import PolicyRecipe, hedge, later_rounds, normalised, question_answer, train_policy


@pytest.fixture(scope="module")
def untrained():
    processor = make_processor()
    return make_model(processor.tokenizer, seed=0).eval(), processor


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(8)
    return [make_scene(rng) for _ in range(2)]


def test_size(untrained):
    model, _ = untrained
    assert 0.7e6 < model.num_parameters() < 0.85e6


def test_the_resize_of_the_processor_leaves_fitted_images_alone(untrained):
    _, processor = untrained
    rng = np.random.default_rng(0)
    for width, height in [
        (224, 224),
        (112, 112),
        (1, 1),
        (640, 480),
        (5000, 3000),
        (97, 401),
        *rng.integers(8, 999, (500, 2)),
    ]:
        if max(width, height) > 40 * min(width, height):
            continue
        w, h = FRAME.model_size((int(width), int(height)))
        assert smart_resize(h, w, 16, MIN_PIXELS, MAX_PIXELS) == (h, w)
        assert smart_resize(int(height), int(width), 16, MIN_PIXELS, MAX_PIXELS) == (h, w)
    pixels = processor.image_processor([FRAME.fit(Image.new("RGB", (300, 200)))], return_tensors="pt")
    w, h = FRAME.model_size((300, 200))
    assert pixels["image_grid_thw"].tolist() == [[1, h // 8, w // 8]]


def test_training_sees_the_pixels_of_the_processor(untrained, scenes):
    _, processor = untrained
    images = [FRAME.fit(Image.fromarray(scene.image)) for scene in scenes]
    expected = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_patches(normalised(scenes, processor)).flatten(0, 1), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_packed_rows_give_the_logits_of_the_stock_forward(untrained, scenes):
    model, processor = untrained
    rng = np.random.default_rng(0)
    rows = [
        [question_answer(q, scene.size) for q in questions_of(scene, rng)[:count]]
        for scene, count in zip(scenes, (3, 2), strict=True)  # unequal rows: one is padded
    ]
    rows[1] += later_rounds(scenes[1], PolicyRecipe().converse, rng)
    assert sum(bool(pair.notes) for row in rows for pair in row) == 2
    packer = Packer(processor)
    features = image_features(model, normalised(scenes, processor))
    logits, targets = answer_logits(model, packer.pack(rows), features, packer.image_start)
    expected_logits, expected_targets = [], []
    for scene, row in zip(scenes, rows, strict=True):
        for pair in row:
            messages = render_messages(pair.question, notes=pair.notes)
            prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            image = FRAME.fit(Image.fromarray(scene.image))
            inputs = processor(text=[prompt + pair.answer + "<|im_end|>"], images=[image], return_tensors="pt")
            count = len(processor.tokenizer(pair.answer + "<|im_end|>").input_ids)
            expected_logits.append(model(**inputs).logits[0, -count - 1 : -1])
            expected_targets.append(inputs.input_ids[0, -count:])
    torch.testing.assert_close(targets, torch.cat(expected_targets))
    torch.testing.assert_close(logits, torch.cat(expected_logits), atol=1e-4, rtol=1e-4)


def test_dense_targets_describe_each_cell(scenes):
    for scene in scenes:
        truth = dense_targets(scene)
        for shape in scene.shapes:
            x, y = (int(v) * SIDE // scene.size // CELL for v in shape.point)
            cell = y * CELLS + x
            assert truth.kind[cell] > 0 and truth.colour[cell] > 0
            assert truth.place[cell].tolist() == FRAME.to_frame([*shape.box, *shape.point], (224, 224))
        share = truth.foreground.mean()
        assert share == pytest.approx(np.mean([s.mask for s in scene.shapes], axis=(1, 2)).sum(), abs=0.01)
        features = torch.zeros(1, CELLS**2, 96)
        assert torch.isfinite(DenseHead(96).loss(features, [truth]))


def test_a_hedged_answer_names_the_shape_and_then_the_one_most_like_it():
    rng = np.random.default_rng(3)
    found = [(q, scene) for scene in (make_scene(rng) for _ in range(40)) for q in questions_of(scene, rng)]
    changed = 0
    for question, scene in found:
        if question.kind not in PolicyRecipe().even_out.hedged:
            continue
        hedged = hedge(question, scene)
        shared = {
            id(s): sum(
                getattr(s, what) == getattr(question.targets[0], what) for what in ("colour", "kind", "size_name")
            )
            for s in scene.shapes
            if s is not question.targets[0]
        }
        most = max(shared.values(), default=0)
        assert hedged.text == question.text and hedged.targets[0] is question.targets[0]
        assert [shared[id(s)] for s in hedged.targets[1:]] == ([most] if most else [])
        assert hedged.think.startswith(question.think)
        changed += hedged is not question
    assert changed > 20


@pytest.mark.slow
def test_the_seed_decides_the_training():
    recipe = PolicyRecipe().shortened(0.001)
    assert (recipe.see.steps, recipe.answer.stop_at, recipe.even_out.stop_at) == (1, 3, 1)
    first, again = (train_policy(recipe)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = train_policy(replace(recipe, seed=1))[0].state_dict()
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
