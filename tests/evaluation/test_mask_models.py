"""Evaluation of mask models: the same scorer, files and histories as for a policy, and no figures of what they lack."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.cache import Cache, DiskCachedMaskModel
from segzero.evaluation.metrics import giou, score_masks
from segzero.evaluation.predict import answer
from segzero.evaluation.predictions import PREDICTIONS, Prediction
from segzero.evaluation.provenance import fingerprint, settings_of
from segzero.evaluation.runner import rescore
from segzero.mask_model.protocol import MaskQuestion
from segzero.mask_pipeline import MaskPipeline
from segzero.masks import decode, union
from segzero.supervised.validation import scores
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.drawn_halves import DrawnHalves
from tests.helpers.evaluating import run_evaluation


@pytest.fixture(scope="module")
def masks(mask_model) -> MaskPipeline:
    return MaskPipeline.from_pretrained(mask_model, "cpu")


@pytest.fixture
def task(held_out, tmp_path) -> Task:
    return get_benchmark("own").find(to_parquet(held_out[:6], tmp_path / "data" / "test.parquet").parent)


def test_the_figures_are_those_of_the_masks(task, held_out, masks, mask_model, tmp_path):
    metrics = run_evaluation(task, tmp_path / "out", masks)
    results = masks([sample.image for sample in held_out[:6]], [sample.question for sample in held_out[:6]])
    each = [score_masks(result.union, sample.mask()) for result, sample in zip(results, held_out, strict=False)]
    assert metrics["figures"]["giou"]["value"] == pytest.approx(giou(each))
    assert scores(masks, held_out[:6])["val/giou"] == pytest.approx(giou(each))
    protocol = metrics["protocol"]
    assert protocol["mask_model"]["sha256"] == fingerprint(mask_model)
    assert (protocol["mask_model"]["backend"], protocol["head"], protocol["memory"]) == ("PromptModel", "prompt", False)
    assert "policy" not in protocol and protocol["answer"] == "one mask, without boxes or points"
    assert rescore(tmp_path / "out") == metrics


def test_one_mask_has_no_figures_of_boxes_single_objects_and_counts(tmp_path):
    samples = make_samples(40, HELD_OUT_SEED + 7)
    several = next(sample for sample in samples if len(sample.objects) > 1)
    single = next(sample for sample in samples if len(sample.objects) == 1)
    counted = replace(several, id="counted", meta={"count": len(several.objects)})
    broken = replace(single, id="broken", image=b"no image")
    absent = replace(single, id="absent", question="nothing", objects=())
    data = to_parquet([single, several, counted, broken, absent], tmp_path / "data/test.parquet").parent
    metrics = run_evaluation(get_benchmark("own").find(data), tmp_path / "out", MaskPipeline(DrawnHalves()))
    assert {"giou", "ciou", "n_acc", "t_acc", "rec_mask_box"} <= metrics["figures"].keys()
    without = ("rec_box", "rec_any_box", "objects_", "count_")
    assert not [name for name in metrics["figures"] if name.startswith(without)]
    lines = [json.loads(line) for line in (tmp_path / "out" / PREDICTIONS).read_text().splitlines()]
    assert all(line["undivided"] and not line["think"] and not line["raw_text"] for line in lines)
    assert [len(line["objects"]) for line in lines] == [1, 1, 1, 0, 0] and lines[3]["error"] == "image_error"
    assert lines[0]["objects"][0] | {"rle": None} == {"box": [0, 0, 112, 224], "points": [], "score": 0.75, "rle": None}
    assert all(Prediction.from_line(json.dumps(line)).undivided for line in lines)


def test_an_evaluation_goes_on_and_another_head_is_refused(task, tmp_path):
    out, model = tmp_path / "out", DrawnHalves(tmp_path / "model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/head.safetensors").write_text("one")
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(task, out, MaskPipeline(model), stop_after=2)
    moved = DrawnHalves(shutil.copytree(tmp_path / "model", tmp_path / "moved"))
    assert run_evaluation(task, out, MaskPipeline(moved))["samples"] == 6  # the same files in another place
    assert (len(model.asked), len(moved.asked)) == (4, 2)
    (tmp_path / "moved/head.safetensors").write_text("another")
    with pytest.raises(UserError, match="holds an evaluation with other settings: its mask_model is"):
        run_evaluation(task, out, MaskPipeline(moved))


def test_answers_are_computed_once(held_out, tmp_path):
    model, cache = DrawnHalves(), Cache(tmp_path / "cache")
    cached = MaskPipeline(DiskCachedMaskModel(model, cache, {"sha256": "1"}))
    first = answer(cached, held_out[:4])
    assert [row for _, row in answer(cached, held_out[:4])] == [row for _, row in first] and len(model.asked) == 4
    assert settings_of(cached)["mask_model"]["backend"] == "DrawnHalves"
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_bytes(b'{"rle": 1}')
    answer(cached, held_out[:4])
    answer(MaskPipeline(DiskCachedMaskModel(model, cache, {"sha256": "2"})), held_out[:4])
    assert len(model.asked) == 12


def talk(sample, *questions):
    """The rounds of a dialogue about a scene, whose true answers are all the sample's own objects."""
    boxes, rles = [list(true.box) for true in sample.objects], [true.rle for true in sample.objects]
    turns = [{"question": question, "boxes": boxes, "masks": rles} for question in questions]
    return [
        replace(sample, id=f"{n}", question=question, turns=tuple(turns[:n]), meta={"dialogue": "a", "round": n + 1})
        for n, question in enumerate(questions)
    ]


@pytest.mark.parametrize("history", ["true", "predicted"])
def test_rounds_get_the_masks_that_they_refer_to(held_out, history):
    sample = next(sample for sample in held_out if len(sample.objects) == 1)
    model = DrawnHalves()
    rounds = talk(sample, "the ring", "what is left of [REF:1]", "the largest shape")
    found = [prediction for prediction, _ in answer(MaskPipeline(model), rounds, history)]
    assert [question.question for question in model.asked] == [one.question for one in rounds]
    assert [len(question.earlier) for question in model.asked] == [0, 1, 0]
    [earlier] = model.asked[1].earlier
    true = decode(union([each.rle for each in sample.objects], sample.size), sample.size)
    own = decode(found[0].objects[0].mask)
    assert np.array_equal(earlier, true if history == "true" else own)
    assert found[2].objects == found[0].objects and all(one.undivided and one.error is None for one in found)


def test_what_refers_to_nothing_is_empty_and_what_is_lost_fails(held_out):
    model = DrawnHalves()
    rounds = talk(held_out[0], "nothing", "left of [REF:1]", "instance 1")
    found = [prediction for prediction, _ in answer(MaskPipeline(model), rounds, "predicted")]
    assert [one.error for one in found] == [None, None, "lost_reference"]
    assert [len(one.objects) for one in found] == [0, 0, 0] and len(model.asked) == 1


@pytest.mark.parametrize("drawn", [False, True])
def test_rejected_targets_are_scored_by_the_protocol_of_gres(tmp_path, drawn):
    sample = next(sample for sample in make_samples(40, HELD_OUT_SEED + 7) if len(sample.objects) == 1)
    found, rejected = replace(sample, id="found"), replace(sample, id="rejected", question="nothing red")
    absent, wrong = (replace(sample, id=name, question=name, objects=()) for name in ("nothing", "wrong"))
    data = to_parquet([found, rejected, absent, wrong], tmp_path / "data/test.parquet").parent
    task, pipeline = get_benchmark("own").find(data), MaskPipeline(DrawnHalves(), draw_rejected=drawn)
    metrics = run_evaluation(task, tmp_path / "out", pipeline)
    iou = score_masks(pipeline.model.answer([MaskQuestion(sample.open(), "it")])[0].mask, sample.mask()).iou
    figures = {name: metrics["figures"][name]["value"] for name in ("giou", "n_acc", "t_acc")}
    assert iou > 0 and figures == pytest.approx(
        {"giou": (iou * (2 if drawn else 1) + 1) / 4, "n_acc": 0.5, "t_acc": 0.5}
    )
    assert metrics["protocol"]["gres"].startswith("as published" if drawn else "as a generative model")
    assert rescore(tmp_path / "out") == metrics
    with pytest.raises(UserError, match="other settings: its gres is"):
        run_evaluation(task, tmp_path / "out", MaskPipeline(DrawnHalves(), draw_rejected=not drawn))
    cached = MaskPipeline(DiskCachedMaskModel(DrawnHalves(), Cache(tmp_path / "cache"), {}), draw_rejected=drawn)
    assert run_evaluation(task, tmp_path / "first", cached)["figures"] == metrics["figures"]
    assert run_evaluation(task, tmp_path / "again", cached)["figures"] == metrics["figures"]


@pytest.mark.slow
def test_the_command_evaluates_and_compares(held_out, mask_model, tmp_path, run_segzero, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_parquet(held_out[:3], Path("mine/test.parquet"))
    own = ["--benchmark", "own", "--data", "mine", "--cache", "cache"]
    code, out, _ = run_segzero("eval", *own, "--mask-model", mask_model, "--out", "a", "--save_preds", "preds")
    assert code == 0 and "3/3" in out and "comes with SegZero" not in out and len(list(Path("preds").iterdir())) == 15
    assert run_segzero("eval", *own, "--policy-backend", "transformers", "--out", "b")[0] == 0
    code, out, _ = run_segzero("eval", "compare", "a/own", "b/own")
    assert code == 0 and "3 samples" in out and "giou" in out and "rec_box" not in out
    assert run_segzero("eval", "--options", "a/own/options.json", "--out", "c")[0] == 0
    assert len(list(Path("cache/mask_answers").rglob("*.json"))) == 3


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--policy", "p"], "leave --policy out"),
        (["--prompt", "multi", "--max-tokens", "9"], "leave --prompt, --max-tokens out"),
        (["--output", "seg_zero"], "leave --output out"),
        (["--gres", "both"], "unknown GRES protocol 'both'"),
    ],
)
def test_options_without_effect_are_refused(more, problem, run_segzero):
    code, _, error = run_segzero("eval", "--benchmark", "own", "--mask-model", "m", *more)
    assert code == 2 and problem in error and error.count("\n") == 1


def test_a_policy_has_no_protocol_of_gres(run_segzero):
    code, _, error = run_segzero("eval", "--benchmark", "own", "--gres", "published")
    assert code == 2 and "--gres published is for a --mask-model" in error and error.count("\n") == 1


def test_rounds_of_dialogues_have_no_published_protocol(held_out, tmp_path, run_segzero):
    sample = next(sample for sample in held_out if len(sample.objects) == 1)
    to_parquet(talk(sample, "the ring", "what is left of [REF:1]"), tmp_path / "val.parquet")
    own = ["eval", "--benchmark", "own", "--data", str(tmp_path), "--mask-model", "m", "--gres", "published"]
    code, _, error = run_segzero(*own)
    assert code == 2 and "earlier rounds, for which nothing is published" in error and error.count("\n") == 1
