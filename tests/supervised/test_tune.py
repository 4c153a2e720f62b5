"""Prompt heads: states and masks do not depend on a batch's company, what should learn does, and models load again."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.prompt_model import PromptModel
from segzero.mask_model.protocol import MaskQuestion
from segzero.mask_model.reader import Reader, Text
from segzero.mask_pipeline import MaskPipeline
from segzero.supervised import losses
from segzero.supervised.mask_learner import MaskLearner, Weights
from segzero.supervised.settings import compose
from segzero.supervised.tune import load_model, tune
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.random_checkpoints import FAMILIES

QUICK = ["steps=2", "batch=6", "val_every=1", "val_samples=4", "lr=1e-3", "warm_up=0", "cache_gb=1"]
QUESTIONS = ("the red shape", "the largest shape of all that are there", "it")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    to_parquet(make_samples(12, 41), folder / "train.parquet")
    to_parquet(make_samples(4, HELD_OUT_SEED + 41), folder / "val.parquet")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "head"
    tune("prompt", [f"data={data}", f"out={out}", "lora_rank=4", *QUICK])
    return out


def model_of(*overrides):
    return load_model(compose("prompt_head", overrides), torch.device("cpu"))


def questions_of(count=4):
    return [MaskQuestion(sample.open(), sample.question) for sample in make_samples(count, 51)]


# Reading


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_library_for_each_text_alone(family, checkpoints):
    reader = Reader.load(checkpoints[family], "cpu")
    images = [sample.open() for sample in make_samples(3, 51)]
    images[1] = images[1].crop((0, 0, 224, 120))
    texts = [reader.question(question) for question in QUESTIONS]
    texts[2] = Text(texts[2].before, texts[2].marked)  # ends without the end of the turn
    alone = AutoModelForImageTextToText.from_pretrained(checkpoints[family], attn_implementation="sdpa").eval().model
    with torch.inference_mode():
        seen = reader.see(images)
        together = reader.read([*seen, seen[0]], [*texts, texts[1]])  # the first image has two texts
        for image, text, reading in zip([*images, images[0]], [*texts, texts[1]], together, strict=True):
            rendered = text.before + text.marked + text.after
            inputs = reader.processor(text=[rendered], images=[reader.frame.fit(image)], return_tensors="pt")
            assert inputs["input_ids"][0].tolist() == reading.tokens.tolist()
            states = alone(**inputs).last_hidden_state[0]
            torch.testing.assert_close(reading.packed[reading.places], states, rtol=1e-4, atol=1e-4)


def test_the_marked_tokens_are_the_questions_own_words():
    reader = Reader.load(shipped.policy_path(), "cpu")
    [seen] = reader.see([make_samples(1, 51)[0].open()])
    for question in (*QUESTIONS, "user", "The Red Shape."):
        [reading] = reader.read([seen], [reader.question(question)])
        words = reader.processor.tokenizer.decode(reading.tokens[reading.marked])
        assert words.strip() == question.lower().rstrip(".")


# Masks


def test_an_answer_does_not_depend_on_its_company():
    model = PromptModel.start(shipped.policy_path(), shipped.segmenter_path(), "cpu").eval()
    images = [question.image for question in questions_of(3)]
    questions = [MaskQuestion(image, text) for image, text in zip(images, QUESTIONS, strict=True)]
    for one, together in zip(questions, model.answer(questions), strict=True):
        [alone] = model.answer([one])
        np.testing.assert_allclose(together.logits, alone.logits, rtol=1e-4, atol=1e-4)
        assert (together.score, together.presence) == pytest.approx((alone.score, alone.presence), abs=1e-5)
    assert model.answer([]) == []


@pytest.mark.parametrize("rank", [0, 2])
def test_encoders_stay_frozen_and_the_rest_learns(rank):
    model = model_of(f"lora_rank={rank}")
    learner = MaskLearner(model, 16, 1 << 28, Weights(1, 1, 0.3, 0.1)).train()
    samples = make_samples(6, 61)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    first = None
    for _ in range(12):
        [rows] = learner.passes(samples)
        loss = learner(rows)
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained if p is not trained[-1])
        optimizer.step()
    assert float(loss.detach()) < 0.8 * first
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any("visual" in name or "vision_encoder" in name or "conv_s" in name for name in moved)
    assert any("head." in name for name in moved) and any("mask_decoder" in name for name in moved)
    assert any("lora_" in name if rank else "language_model" in name for name in moved)


def test_images_are_encoded_once(monkeypatch):
    learner = MaskLearner(model_of("lora_rank=0"), 4, 1 << 28, Weights(1, 1, 0.3, 0.1))
    see, counted = learner.model.reader.see, []
    monkeypatch.setattr(learner.model.reader, "see", lambda images: counted.extend(images) or see(images))
    samples = make_samples(6, 61)
    assert [len(rows) for rows in learner.passes([*samples, *samples])] == [4, 4, 4]
    assert [len(rows) for rows in learner.passes(samples, 3)] == [2, 2, 2]
    assert len(counted) == 6


def test_where_nothing_is_there_only_its_presence_is_learnt():
    learner = MaskLearner(model_of("lora_rank=0"), 16, 1 << 28, Weights(1, 1, 1, 1))
    absent = [sample for sample in make_samples(18, 61) if sample.empty]
    rows = learner.encode(absent)
    decoded = learner.model([row.image for row in rows], [row.question for row in rows])
    expected = torch.nn.functional.softplus(decoded.presence).sum()
    assert absent and float(learner(rows).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_losses_by_hand():
    truth = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    sure = (2 * truth - 1) * 50
    assert float(losses.dice(sure, truth)) == pytest.approx(0, abs=1e-6)
    assert float(losses.dice(-sure, truth)) == pytest.approx(1 - 1 / 5, abs=1e-6)
    assert float(losses.cross_entropy(torch.zeros_like(truth), truth)) == pytest.approx(np.log(2))
    found = losses.mask_iou(torch.cat([sure, -sure, -torch.ones(1, 2, 2)]), torch.cat([truth, truth, 0 * truth]))
    assert found.tolist() == [1, 0, 1]


# A run


def test_a_saved_model_answers_as_it_did_with_its_adapters(tmp_path):
    model = model_of("lora_rank=2").eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    from segzero.supervised.lora import merged_weights

    model.save(tmp_path, merged_weights(model.net))
    loaded = load_mask_model(tmp_path, "cpu")
    for one, other in zip(model.answer(questions_of()), loaded.answer(questions_of()), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-3, atol=1e-4)


def test_a_run_leaves_a_model_that_infer_takes(run, tmp_path, run_segzero):
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    sample = make_samples(1, 51)[0]
    (tmp_path / "scene.png").write_bytes(sample.image)
    command = ["infer", tmp_path / "scene.png", sample.question, "--mask-model", run / "best", "--format", "json,mask"]
    code, output, _ = run_segzero(*command, "--out", tmp_path / "out")
    assert code == 0 and "1 of 1 done" in output
    saved = json.loads((tmp_path / "out" / "scene.json").read_text())
    [result] = MaskPipeline.from_pretrained(run / "best", "cpu")([sample.open()], [sample.question])
    assert len(saved["instances"]) == len(result) and saved["error"] is None
    assert result.union.shape == (224, 224)


def test_a_dry_run_writes_nothing(data, tmp_path, run_segzero):
    code, output, _ = run_segzero("tune", f"data={data}", f"out={tmp_path / 'run'}", "dry_run=true", *QUICK)
    assert code == 0 and "12 samples of 12 images; 4 for validation" in output and output.count("sample   ") == 2
    assert re.search(r"tried    \d+\.\d\d s an update, .* h in all; \d+\.\d GiB", output)
    assert not (tmp_path / "run").exists()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tune", "--head", "heavy"], "unknown head 'heavy'"),
        (["tune", "rows_per_pass=0"], "rows_per_pass=0: it must be a whole number from 1 on"),
        (["tune", "data=/nowhere"], "no data for training"),
        (["infer", "x.png", "it", "--mask-model", "/nowhere"], "no mask model in /nowhere"),
        (["infer", "x.png", "it", "--mask-model", "m", "--policy", "p"], "--mask-model stands in place of"),
    ],
)
def test_a_mistake_is_one_line(arguments, problem, run_segzero, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(make_samples(1, 51)[0].image)
    code, _, error = run_segzero(*arguments)
    assert code == 2 and problem in error and error.count("\n") == 1


def test_samples_without_masks_are_left_out_and_named(data, tmp_path, run_segzero):
    from dataclasses import replace

    good, bad = make_samples(2, 41)
    bad = replace(bad, objects=tuple(replace(true, rle=None) for true in bad.objects))
    to_parquet([good, bad], tmp_path / "train.parquet")
    code, output, _ = run_segzero("tune", f"data={tmp_path}", "dry_run=true", "model=tiny")
    assert code == 0 and f"1 left out (first: {bad.id}: an object has no mask)" in output
    to_parquet([bad], tmp_path / "train.parquet")
    code, _, error = run_segzero("tune", f"data={tmp_path}")
    assert code == 2 and "no usable sample" in error and "an object has no mask" in error


def test_a_saved_model_keeps_its_segmenter(run, data, run_segzero, monkeypatch):
    again = ("tune", f"data={data}", f"model={run / 'last'}", "dry_run=true")
    code, _, error = run_segzero(*again, "segmenter=other/sam2")
    assert code == 2 and "brings its segmenter along; leave out segmenter=other/sam2" in error
    monkeypatch.setenv("SEGMENTER_PATH", "other/sam2")  # meant for trainings from the start
    assert run_segzero(*again)[0] == 0


def test_a_damaged_model_is_refused(run, tmp_path):
    import shutil

    folder = shutil.copytree(run / "last", tmp_path / "model")
    (folder / "mask_model.json").write_text('{"head": "heavy"}')
    with pytest.raises(UserError, match="names the head 'heavy'; there is: prompt, light"):
        load_mask_model(folder)
    (folder / "mask_model.json").write_text('{"head": "prompt"}')
    from safetensors.torch import save_file

    save_file({"norm.weight": torch.zeros(3)}, folder / "head.safetensors")
    with pytest.raises(UserError, match="is not for"):
        load_mask_model(folder)
    (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="can't be read"):
        load_mask_model(folder)
