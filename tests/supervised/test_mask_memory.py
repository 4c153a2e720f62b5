"""Memory of earlier masks: what they are to the language model, who is not changed by them, and a run on dialogues."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.prompt_model import PromptModel
from segzero.mask_model.protocol import MaskQuestion
from segzero.masks import decode
from segzero.supervised.lora import merged_weights
from segzero.supervised.mask_learner import MaskLearner, Weights, earlier_masks
from segzero.supervised.tune import tune
from segzero.tiny.dialogues import make_dialogues
from segzero.tiny.questions import HELD_OUT_SEED, make_samples


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = PromptModel.start(shipped.policy_path(), shipped.segmenter_path(), "cpu").eval()
    model.add_memory()
    return model.eval()


@pytest.fixture(scope="module")
def rounds():
    return make_dialogues(3, HELD_OUT_SEED + 5)


def masks_of(rounds):
    return [next(masks for one in rounds if (masks := earlier_masks(one))), ()]


def test_the_true_masks_of_a_reference_are_handed_over(rounds):
    for one in rounds:
        masks, references = earlier_masks(one), one.meta["references"]
        assert len(masks) == one.question.count("[REF:") == len(references)
        for mask, number in zip(masks, references, strict=True):
            before = next(r for r in rounds if r.meta["dialogue"] == one.meta["dialogue"] and r.meta["round"] == number)
            assert mask.sum() == sum(decode(true.rle).sum() for true in before.objects)


def test_tokens_are_of_the_region_and_its_box(model):
    sample = make_samples(1, 51)[0]
    [image] = model.see([sample.open()])
    memory, mask = model.head.memory, np.zeros((224, 224), bool)
    features = torch.cat(list(image.seen.features.pooler_output))
    cell = 224 // image.seen.grid[0]
    mask[cell : 2 * cell, 2 * cell : 4 * cell] = True
    with torch.no_grad():
        region, box, *nothing = memory(image.seen, [mask, np.zeros_like(mask)])
        place = image.seen.grid[1] + 2
        torch.testing.assert_close(region, memory.region(features[place : place + 2].mean(0)))
        corners = torch.tensor([2 * cell, cell, 4 * cell, 2 * cell]) / 224
        torch.testing.assert_close(box, memory.box(corners))
        assert torch.equal(torch.stack(nothing), memory.nothing) and memory(image.seen, []).shape == (
            0,
            region.shape[0],
        )
        memory.train()
        torch.manual_seed(0)
        dropped = (memory(image.seen, [mask] * 200) == 0).all(dim=1).float().mean()
        memory.eval()
    assert 0.4 < dropped < 0.6


def test_an_answer_depends_on_its_own_masks_alone(model, rounds):
    image, (some, none) = rounds[0].open(), masks_of(rounds)
    other = tuple(np.flipud(mask) for mask in some)
    questions = [MaskQuestion(image, "the shape left of [REF:1]", masks) for masks in (some, none, other, some * 2)]
    together = model.answer(questions)
    for question, one in zip(questions, together, strict=True):
        [alone] = model.answer([question])
        np.testing.assert_allclose(one.logits, alone.logits, rtol=1e-4, atol=1e-4)
    different = [abs(together[0].logits - one.logits).max() for one in together[1:]]
    assert min(different) > 1e-3
    plain = PromptModel(model.reader, model.segmenter, model.head)
    plain.head.memory, kept = None, model.head.memory
    try:
        np.testing.assert_allclose(plain.answer(questions[1:2])[0].logits, together[1].logits, rtol=1e-4, atol=1e-4)
        first, second = (one.logits for one in plain.answer(questions[:2]))
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)  # without a memory: the words alone
    finally:
        model.head.memory = kept


def test_it_is_saved_and_learns(model, rounds, tmp_path):
    model.save(tmp_path, merged_weights(model.net))
    assert json.loads((tmp_path / "mask_model.json").read_text()) == {"head": "prompt", "memory": True}
    loaded, question = load_mask_model(tmp_path, "cpu"), MaskQuestion(rounds[0].open(), "it", masks_of(rounds)[0])
    assert loaded.memory
    np.testing.assert_allclose(loaded.answer([question])[0].logits, model.answer([question])[0].logits, atol=1e-4)
    learner = MaskLearner(loaded, 16, 1 << 28, Weights(1, 1, 0.3, 0.1)).train()
    [rows] = learner.passes(rounds)
    learner(rows).backward()
    weights = dict(loaded.head.memory.named_parameters())
    assert all(weights[name].grad.abs().max() > 0 for name in ("region.weight", "box.0.weight"))
    loaded.zero_grad()
    learner([replace(row, earlier=()) for row in rows]).backward()  # a step without references reaches all weights, too
    assert all(weight.grad is not None for weight in weights.values())


@pytest.mark.slow
def test_a_run_on_dialogues(tmp_path, run_segzero, mask_model):
    data = tmp_path / "data"
    to_parquet(make_dialogues(6, 61), data / "train.parquet")
    to_parquet(make_dialogues(2, HELD_OUT_SEED + 6), data / "val.parquet")
    quick = [f"data={data}", "memory=true", "steps=2", "batch=6", "val_every=2", "val_samples=6", "cache_gb=1"]
    run = tune("prompt", [*quick, f"out={tmp_path / 'run'}", "lora_rank=2", f"model={mask_model}"])
    assert load_mask_model(run / "best", "cpu").memory
    own = ["eval", "--benchmark", "own", "--data", data / "val.parquet", "--mask-model", run / "best"]
    assert run_segzero(*own, "--out", tmp_path / "out", "--cache", tmp_path / "cache")[0] == 0
    protocol = json.loads((tmp_path / "out/own/metrics.json").read_text())["protocol"]
    assert protocol["memory"] is True


def test_a_memory_without_dialogues_is_refused(tmp_path, run_segzero):
    to_parquet(make_samples(4, 41), tmp_path / "train.parquet")
    code, _, error = run_segzero("tune", f"data={tmp_path}", "memory=true", "dry_run=true")
    assert code == 2 and "no sample of" in error and "has earlier rounds" in error and error.count("\n") == 1
