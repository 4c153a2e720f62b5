"""Retraining of SAM2's mask decoder: what learns, from which prompts, resumed runs, the checkpoint that comes out."""

import numpy as np
import pytest
import torch

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.supervised.segmenter import one_prompt_scores, tune_segmenter
from segzero.supervised.segmenter_learner import PromptSettings, SegmenterLearner, correcting_click, draw_prompt
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene

QUICK = ["steps=4", "batch=2", "objects=2", "val_samples=2", "val_every=2", "save_every=2", "corrections=1", "lr=1e-3"]


def samples_of(seeds):
    scenes = [make_scene(np.random.default_rng(seed)) for seed in seeds]
    return [
        Sample(
            f"s{number}",
            scene.png(),
            "the shapes",
            scene.size,
            scene.size,
            tuple(Object(shape.box, rle=encode(shape.mask)) for shape in scene.shapes),
        )
        for number, scene in enumerate(scenes)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    to_parquet(samples_of(range(4)), folder / "train.parquet")
    to_parquet(samples_of(range(HELD_OUT_SEED, HELD_OUT_SEED + 2)), folder / "val.parquet")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "segmenter"
    tune_segmenter([f"data={data}", f"out={out}", *QUICK])
    return out


def learner_of(**settings):
    segmenter = TransformersSegmenter(shipped.segmenter_path(), "cpu", "float32")
    return SegmenterLearner(segmenter, PromptSettings(**settings))


def test_the_mask_decoder_alone_is_trained(run):
    before = load_segmenter(shipped.segmenter_path()).model.state_dict()
    after = load_segmenter(run / "last").model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"mask_decoder"}


def test_the_result_is_an_ordinary_checkpoint_that_draws(run):
    segmenter, [sample] = load_segmenter(run / "best"), samples_of([9])
    [[found]] = segmenter.decode(segmenter.embed([sample.open()]), [[MaskPrompt(box=sample.objects[0].box)]])
    assert found.masks.shape == (1, 224, 224)


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(run, data, tmp_path):
    config = [f"data={data}", f"out={tmp_path}", *QUICK[1:]]
    tune_segmenter([*config, "steps=4", "val_every=4", "save_every=1"])
    whole = load_segmenter(tmp_path / "last").model.state_dict()
    half = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        tune_interrupted([f"data={data}", f"out={half}", *QUICK[1:], "steps=4", "val_every=4", "save_every=1"])
    tune_segmenter([f"data={data}", f"out={half}", *QUICK[1:], "steps=4", "val_every=4", "save_every=1"])
    again = load_segmenter(half / "last").model.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def tune_interrupted(overrides):
    """A run that ends after its second update."""
    forward, calls = SegmenterLearner.forward, []

    def end(self, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, rows)

    SegmenterLearner.forward = end
    try:
        tune_segmenter(overrides)
    finally:
        SegmenterLearner.forward = forward


def test_a_click_on_an_emblem_learns_to_mean_the_emblem():
    learner, train = learner_of(objects=2, corrections=0, box_share=0.0), emblems_of(range(30, 60))[:6]
    before = one_prompt_scores(learner.segmenter, train)
    optimizer = torch.optim.AdamW([each for each in learner.parameters() if each.requires_grad], lr=1e-3)
    for learner.step in range(12):
        [rows] = learner.passes(train, 1)
        (learner(rows) / learner.weight(rows)).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = one_prompt_scores(learner.segmenter, train)
    assert before["val/click"] < 0.6 and after["val/click"] > 0.8, (before, after)


def emblems_of(seeds):
    samples = []
    for seed in seeds:
        scene = make_scene(np.random.default_rng(seed))
        objects = tuple(Object((0, 0, 1, 1), rle=encode(each.part)) for each in scene.shapes if each.part is not None)
        if objects:
            samples.append(Sample(f"e{seed}", scene.png(), "it", scene.size, scene.size, objects))
    return samples


def test_prompts_depend_on_seed_step_and_sample_alone():
    learner, samples = learner_of(), samples_of([1, 2])
    [rows], [same] = learner.passes(samples, 1), learner.passes(samples, 1)
    assert all(torch.equal(a.points, b.points) for a, b in zip(rows, same, strict=True))
    learner.step = 1
    [later] = learner.passes(samples, 1)
    assert not all(
        a.points.shape == b.points.shape and torch.equal(a.points, b.points) for a, b in zip(rows, later, strict=True)
    )


def test_prompts_are_boxes_near_the_mask_or_clicks_inside():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    chance = np.random.default_rng(0)
    for _ in range(50):
        [[x, y]], labels = draw_prompt(mask, chance, 0.0)
        assert labels == [1] and mask[int(y), int(x)]
        corners, labels = draw_prompt(mask, chance, 1.0)
        assert labels == [2, 3] and np.abs(corners - [[30, 10], [50, 20]]).max() < 10


def test_corrections_fall_where_the_mask_is_wrong():
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[:, 2:4, 2:4] = True
    predicted = truth.clone()
    predicted[0, 2, 2] = False  # missing
    predicted[1, 7, 1] = True  # too much
    points, labels = correcting_click(predicted, truth, torch.Generator().manual_seed(0))
    assert (points[0] * 8).tolist() == [2.5, 2.5] and (points[1] * 8).tolist() == [1.5, 7.5]
    assert labels.tolist() == [1, 0, 1] and 2 < float(points[2, 0] * 8) < 4


def test_a_dry_run_explains_and_writes_nothing(data, tmp_path, capsys):
    assert tune_segmenter([f"data={data}", f"out={tmp_path / 'run'}", "dry_run=true", *QUICK]) is None
    said = capsys.readouterr().out
    assert "trains   the mask decoder:" in said and "4 samples of 4 images; 2 for validation" in said
    assert "tried    " in said and not (tmp_path / "run").exists()


def test_bad_settings_and_data_without_masks_are_one_line(data, tmp_path):
    with pytest.raises(UserError, match="box_share=2"):
        tune_segmenter([f"data={data}", "box_share=2"])
    with pytest.raises(UserError, match="corrections=-1"):
        tune_segmenter([f"data={data}", "corrections=-1"])
    with pytest.raises(UserError, match="unknown key 'lora_rank'"):
        tune_segmenter([f"data={data}", "lora_rank=4"])
    with pytest.raises(UserError, match="no such segmenter"):
        tune_segmenter([f"data={data}", "segmenter=/absent"])
    [sample] = samples_of([1])
    bare = Sample("bare", sample.image, "it", *sample.size, (Object((1, 1, 9, 9)),))
    to_parquet([bare], tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"no usable sample in .*: bare no object of it has a mask"):
        tune_segmenter([f"data={tmp_path}"])
