"""Metrics of a step and of a validation, and the recorded answers as lines, as panels, and in the loggers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rewards import Reward
from segzero.answer import parse_answer
from segzero.dialogue.prompting import sample_prompt
from segzero.evaluation.metrics import giou
from segzero.frames import native
from segzero.masks import decode, encode
from segzero.training.monitor import Recorder, group_metrics, score_group, validation_metrics
from segzero.training.rollouts import History, Rollout, RolloutGroup
from segzero.training.scorer import ScoredAnswer
from segzero.training.tokenization import EncodedPrompt, GeneratedAnswer

NOTHING = "<think>There is none.</think><answer>[]</answer>"
CORNER = '<think>In the corner.</think><answer>[{"bbox_2d": [0, 0, 40, 40], "point_2d": [20, 20]}]</answer>'


def answer(total, text=NOTHING, masks=None, truncated=False, **terms):
    generated = GeneratedAnswer([0] * 5, [0.0] * 5, truncated, 0)
    scored = ScoredAnswer(parse_answer(text), Reward(total, terms or {"box_iou": total / 2}), masks)
    return Rollout(generated, text, scored)


def group(sample, *answers, history=History.TRUE):
    encoded = EncodedPrompt([0], [0], (1, 1, 1))
    seconds = {"generate": 1.0, "reward": 0.5}
    return RolloutGroup(sample, sample_prompt(sample, native()), encoded, answers, seconds, history)


@pytest.fixture
def shown(samples):
    """A sample with one object."""
    return next(sample for sample in samples if len(sample.objects) == 1)


@pytest.fixture
def groups(samples, shown):
    """Three groups whose answers differ not at all, much, and a little."""
    return [
        group(samples[1], answer(1.0), answer(1.0)),
        group(shown, answer(3.0), answer(0.0, "no idea"), answer(5.0, CORNER)),
        group(samples[2], answer(2.0), answer(1.0)),
    ]


def lines(folder):
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_lines_of_the_groups_that_differ_most(groups, samples, shown, tmp_path):
    recorder = Recorder(tmp_path, native(), 2)
    recorder.record(1, groups)
    recorder.record(2, groups[:1])
    first, second, third = lines(tmp_path)
    assert [row["sample"] for row in (first, second, third)] == [shown.id, samples[2].id, samples[1].id]
    assert [row["step"] for row in (first, second, third)] == [1, 1, 2]
    assert first["best"] == {
        "text": CORNER, "total": 5.0, "terms": {"box_iou": 2.5}, "error": None, "truncated": False
    }  # fmt: skip
    assert (first["worst"]["text"], first["worst"]["error"]) == ("no idea", "no_answer")
    assert (first["question"], first["image"]) == (shown.question, shown.image)
    assert not list(tmp_path.glob("*.png"))


def test_nothing_is_written_if_recording_is_off(groups, tmp_path):
    Recorder(tmp_path / "rollouts", native(), 0, panels_every=1).record(1, groups)
    Recorder(tmp_path / "rollouts", native(), 2, panels_every=1).record(1, [])
    assert not (tmp_path / "rollouts").exists()


def test_panels_every_few_steps(groups, tmp_path):
    recorder = Recorder(tmp_path, native(), 2, panels_every=2)
    for step in (1, 2, 3):
        recorder.record(step, groups)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["step_000002_0.png", "step_000002_1.png"]


def test_a_panel_shows_the_masks_or_else_the_boxes(shown, tmp_path):
    recorder = Recorder(tmp_path, native(), 1)
    corner, elsewhere = np.zeros((2, shown.height, shown.width), bool)
    corner[:40, :40] = True  # what the answer's box holds
    elsewhere[-40:, -40:] = True
    worst = answer(0.0, "no idea")
    boxes = recorder.panel(group(shown), answer(5.0, CORNER), worst)
    assert same(boxes, recorder.panel(group(shown), answer(5.0, CORNER, (encode(corner),)), worst))
    assert not same(boxes, recorder.panel(group(shown), answer(5.0, CORNER, (encode(elsewhere),)), worst))
    assert not same(boxes, recorder.panel(group(shown), worst, answer(5.0, CORNER)))


def test_without_true_masks_a_panel_shows_the_true_boxes(shown, tmp_path):
    recorder = Recorder(tmp_path, native(), 1)
    [true] = shown.objects
    unmasked = replace(shown, objects=(replace(true, rle=None),))
    absent = replace(shown, objects=())
    panels = [recorder.panel(group(sample), answer(1.0), answer(0.0)) for sample in (shown, unmasked, absent)]
    assert not any(same(a, b) for a, b in (panels[:2], panels[1:], panels[::2]))


def test_the_question_of_a_later_round_is_recorded_as_the_policy_read_it(shown, tmp_path):
    later = replace(
        shown, question="what is left of it", turns=({"question": "the ring", "boxes": [[28, 56, 84, 112]]},)
    )
    Recorder(tmp_path, native(), 1, panels_every=1).record(1, [group(later, answer(1.0), history=History.OWN)])
    [row] = lines(tmp_path)
    assert row["question"] == "what is left of <box>[28, 56, 84, 112]</box>"
    assert row["notes"] == 'Earlier in this dialogue:\nround 1, "the ring": <box>[28, 56, 84, 112]</box>'
    assert row["history"] == "own"
    assert (tmp_path / "step_000001_0.png").exists()


def same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.slow
def test_tensorboard_gets_the_panels(groups, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = tensorboard.SummaryWriter(tmp_path / "events")
    tracking = SimpleNamespace(logger={"tensorboard": SimpleNamespace(writer=writer), "console": None})
    Recorder(tmp_path, native(), 2, panels_every=1).record(7, groups, tracking)
    writer.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert events.Tags()["images"] == ["rollouts/0", "rollouts/1"]
    [image] = events.Images("rollouts/0")
    assert (image.step, (image.width, image.height)) == (7, Image.open(tmp_path / "step_000007_0.png").size)


@pytest.mark.slow
def test_wandb_gets_a_table_with_the_panels(groups, shown, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for place in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{place}_DIR", str(tmp_path / "wandb"))
    run = wandb.init(mode="offline", dir=tmp_path, project="segzero", settings=wandb.Settings(x_disable_stats=True))
    try:
        Recorder(tmp_path, native(), 2, panels_every=1).record(7, groups, SimpleNamespace(logger={"wandb": wandb}))
    finally:
        run.finish()
    [file] = Path(run.dir).glob("media/table/rollouts_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["sample", "question", "best", "worst", "panel"]
    assert table["data"][0][:4] == [shown.id, shown.question, 5.0, 0.0]
    kept = {file.read_bytes() for file in Path(run.dir).glob("media/images/panels/*.png")}
    assert kept == {file.read_bytes() for file in tmp_path.glob("step_000007_*.png")} and len(kept) == 2


def test_terms_errors_and_flat_groups(samples):
    flat = group(samples[0], answer(0.7, format=1.0), answer(0.7, format=0.0))
    uneven = group(samples[0], answer(1.0, format=1.0), answer(0.0, "no", truncated=True, format=0.0))
    metrics = group_metrics([flat, uneven])
    assert metrics["reward/mean"] == pytest.approx(0.6)
    assert metrics["reward/format/mean"] == 0.5
    assert metrics["reward/flat_groups"] == 0.5
    assert metrics["answer/readable"] == 0.75
    assert metrics["answer/error/no_answer"] == 0.25
    assert metrics["answer/truncated"] == 0.25
    assert group_metrics([]) == {}


def test_shares_of_prompts_with_own_history_and_of_fallbacks(samples):
    turns = ({"question": "the ring", "boxes": [[28, 56, 84, 112]]},)
    later = replace(samples[0], question="what is left of it", turns=turns)
    answers = answer(1.0), answer(0.0)
    first = group(samples[0], *answers)
    later_groups = [group(later, *answers, history=history) for history in ["own", "own", "fallback", "true"]]
    metrics = group_metrics([first, *later_groups])
    assert metrics["dialogue/own_history"] == 1 / 2
    assert metrics["dialogue/fallbacks"] == 1 / 4
    assert not any(name.startswith("dialogue/") for name in group_metrics([first]))


def test_what_looks_at_own_masks_do_and_gain(shown, samples):
    """Of a mask that is a half of the true one: kept, made whole, taken away, and left by what can't be read."""
    true = decode(shown.mask())
    half = true & (np.arange(true.shape[1]) < np.median(np.nonzero(true)[1]))
    looked_at = replace(shown, current_mask=encode(half))
    answers = [
        answer(1.0, '<think>right</think><answer>{"keep": true}</answer>', (encode(half),)),
        answer(4.0, '<think>more</think><answer>[{"point_2d": [9, 9], "label": 1}]</answer>', (encode(true),)),
        answer(0.0, NOTHING, ()),
        answer(0.0, "no idea", ()),
    ]
    answers = [replace(one, scored=replace(one.scored, answer=parse_answer(one.text, "refine"))) for one in answers]
    looks = [group(looked_at, *answers, history=History.OWN), group(shown, *answers, history=History.FALLBACK)]
    from_data = group(looked_at, *answers)
    metrics = group_metrics([*looks, from_data])
    iou = half.sum() / true.sum()
    assert (metrics["own_masks/groups"], metrics["own_masks/fallbacks"], metrics["own_masks/kept"]) == (1, 1, 1 / 4)
    assert metrics["own_masks/iou_before"] == pytest.approx(iou)
    assert metrics["own_masks/iou_after"] == pytest.approx((iou + 1 + 0 + iou) / 4)
    undrawn = [replace(one, scored=replace(one.scored, masks=None)) for one in answers]
    metrics = group_metrics([group(looked_at, *undrawn, history=History.OWN)])
    assert metrics["own_masks/kept"] == 1 / 4 and "own_masks/iou_after" not in metrics
    assert not any(name.startswith("own_masks/") for name in group_metrics([from_data, group(samples[0], *answers)]))


def test_rewards_that_are_equal_up_to_rounding_are_flat(samples):
    assert group_metrics([group(samples[0], answer(0.7), answer(0.1 + 0.6))])["reward/flat_groups"] == 1.0


def test_validation_counts_failures_and_nothing_there(samples):
    there = next(sample for sample in samples if len(sample.objects) == 1)
    nothing = next(sample for sample in samples if sample.empty)
    text = '<think></think><answer>[{"bbox_2d": [1,2,3,4], "point_2d": [2,3]}]</answer>'
    groups = [
        group(there, answer(7.0, text, (there.objects[0].rle,))),
        group(there, answer(0.0, "no answer", ())),
        group(nothing, answer(7.0, masks=())),
    ]
    metrics = validation_metrics(groups)
    assert metrics["val/giou"] == pytest.approx(2 / 3)
    assert metrics["val/giou"] == giou([score_group(g) for g in groups])
    assert metrics["val/n_acc"] == 1.0
    assert metrics["val/t_acc"] == 0.5
    assert metrics[f"val/giou/{there.category}"] == pytest.approx(1 / 2)
    assert metrics[f"val/giou/{nothing.category}"] == 1.0
    assert "val/giou" not in validation_metrics([group(samples[0], answer(1.0))])


def test_metrics_without_a_fitting_sample_are_left_out(samples):
    """n_acc needs a sample without a target, and t_acc one with a target; otherwise there is none, and no NaN."""
    there = next(sample for sample in samples if len(sample.objects) == 1)
    nothing = next(sample for sample in samples if sample.empty)
    with_target = validation_metrics([group(there, answer(1.0, masks=()))])
    without = validation_metrics([group(nothing, answer(1.0, masks=()))])
    assert with_target["val/t_acc"] == 0.0 and "val/n_acc" not in with_target
    assert without["val/n_acc"] == 1.0 and "val/t_acc" not in without
    assert not any(name.startswith("val/giou/") for name in with_target)  # one category is all there is
    assert not any(math.isnan(value) for value in [*with_target.values(), *without.values()])


def test_a_line_of_ious_for_every_group_with_masks(samples, shown, tmp_path):
    true = tuple(one.rle for one in shown.objects)
    drawn = group(shown, answer(1.0, CORNER, true), answer(0.0, CORNER, ()), answer(0.0, "no idea", true))
    Recorder(tmp_path, native(), 1).record(3, [drawn, group(samples[1], answer(1.0))])
    [line] = (tmp_path / "ious.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "sample": shown.id, "ious": [1.0, 0.0, 0.0]}
