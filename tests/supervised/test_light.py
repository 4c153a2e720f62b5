"""Light heads: patches lie where they were seen, answers are those of the library, and what should learn does."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.mask_model.light_head import DynamicUpsample, LightHead
from segzero.mask_model.light_model import REJ, SEG, LightModel, expected_iou
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.protocol import MaskQuestion
from segzero.mask_model.reader import Reader
from segzero.supervised.loop import batches
from segzero.supervised.lora import merged_weights
from segzero.supervised.mask_learner import MaskLearner, Weights
from segzero.supervised.settings import compose
from segzero.supervised.tune import load_model, tune
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.launching import SCRIPTS
from tests.helpers.random_checkpoints import FAMILIES, build_checkpoint

QUICK = ["steps=2", "batch=6", "val_every=1", "val_samples=4", "lr=1e-3", "warm_up=0", "cache_gb=1"]
QUESTIONS = ["the red shape", "The largest shape of all that are there.", "it, [SEG] or not"]
WEIGHTS = Weights(focal=1, dice=1, answer=1)
ALL_FAMILIES = [*FAMILIES, "internvl"]


@pytest.fixture(scope="module")
def every_family(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    build_checkpoint("internvl", folder)
    return {**checkpoints, "internvl": folder}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    to_parquet(scenes(3, 4), folder / "train.parquet")
    to_parquet(make_samples(4, HELD_OUT_SEED + 41), folder / "val.parquet")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "head"
    tune("light", [f"data={data}", f"out={out}", "lora_rank=4", *QUICK])
    return out


def scenes(images, questions):
    """Samples with several questions about each image."""
    first = make_samples(images, 41)
    texts = [sample.question for sample in make_samples(questions, 42)]
    return [replace(one, id=f"{one.id}-{n}", question=text) for one in first for n, text in enumerate(texts)]


def model_of(*overrides):
    return load_model(compose("light_head", overrides), torch.device("cpu"), "light")


def shipped_model():
    torch.manual_seed(0)
    return LightModel.start(shipped.policy_path(), "cpu").eval()


def tell_apart(model):
    """Give [SEG] and [REJ] rows of their own, which are alike at the start."""
    table = model.net.get_output_embeddings().weight
    table.data[model.own_tokens] = torch.randn(2, table.shape[1], generator=torch.Generator().manual_seed(0)) * 0.2


def questions_of(count=4):
    return [MaskQuestion(sample.open(), sample.question) for sample in make_samples(count, 51)]


def library_inputs(model, image, text):
    """What the family's own processor makes of an image and a text, as one tile where it would cut several."""
    options = {"crop_to_patches": False} if model.net.config.model_type == "internvl" else {}
    return model.reader.processor(text=[text], images=[model.reader.frame.fit(image)], return_tensors="pt", **options)


# Patches


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_patches_lie_where_their_pixels_are(family, every_family):
    reader = Reader.load(every_family[family], "cpu")
    tower, model = reader.tower, reader.net.model
    layers = model.vision_tower.encoder.layer if family == "internvl" else model.visual.blocks
    embed = model.vision_tower.embeddings if family == "internvl" else model.visual
    if family == "internvl":
        embed.position_embeddings.data.zero_()
    elif family == "qwen3_vl":
        embed.pos_embed.weight.data.zero_()
    image = reader.frame.fit(make_samples(1, 51)[0].open().crop((0, 0, 224, 150)))
    seen = []
    handle = layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    [(features, grid)] = tower.see([image])
    handle.remove()
    features.last_hidden_state = seen[0]  # the order of patches is the same before and after the layers
    found = tower.patches(features, grid)

    processor = reader.processor.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
    projection = embed.patch_embeddings.projection if family == "internvl" else embed.patch_embed.proj
    weight = projection.weight if family == "internvl" else projection.weight.sum(2)  # both frames are the image
    expected = conv2d(pixels[None], weight, projection.bias, stride=tower.patch)[0].permute(1, 2, 0)
    assert found.shape == expected.shape and found.shape[-1] == tower.width
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_images_are_seen_together_as_alone(family, every_family):
    reader = Reader.load(every_family[family], "cpu")
    reader.keep_patches = True
    first, second = (sample.open() for sample in make_samples(2, 51))
    images = [first, second.crop((0, 0, 224, 150)), first.crop((20, 0, 200, 224))]
    for one, image in zip(reader.see(images), images, strict=True):
        [alone] = reader.see([image])
        assert one.grid == alone.grid and one.nbytes == alone.nbytes
        torch.testing.assert_close(one.features.pooler_output[0], alone.features.pooler_output[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.patches, alone.patches, rtol=1e-4, atol=1e-5)
        deep = [getattr(each.features, "deepstack_features", None) or [] for each in (one, alone)]
        for level, expected in zip(*deep, strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)
        for tensor in (one.features.pooler_output[0], one.patches):
            assert tensor.untyped_storage().nbytes() < 1.1 * tensor.nbytes  # the others' are not kept with it


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_patches_are_those_that_the_tokens_are_made_of(family, every_family):
    reader = Reader.load(every_family[family], "cpu")
    tower, model = reader.tower, reader.net.model
    [(features, grid)] = tower.see([reader.frame.fit(make_samples(1, 51)[0].open().crop((0, 0, 224, 150)))])
    patches = tower.patches(features, grid)
    if family == "internvl":
        tokens = model.multi_modal_projector(model.pixel_shuffle(patches[None]).flatten(1, 2))
    else:
        cells = patches.unflatten(0, (grid[0], 2)).unflatten(2, (grid[1], 2)).transpose(1, 2)
        tokens = model.visual.merger(cells.reshape(-1, patches.shape[-1]))
    torch.testing.assert_close(tokens[0] if family == "internvl" else tokens, features.pooler_output[0])
    assert reader.see([make_samples(1, 51)[0].open()])[0].patches is None  # not kept unless asked for


# Answers


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_decision_is_the_librarys_next_token_after_the_fixed_wording(family, every_family):
    model = LightModel.start(every_family[family], "cpu").eval()
    tell_apart(model)
    images = [sample.open() for sample in make_samples(3, 51)]
    images[1] = images[1].crop((0, 0, 224, 120))
    with torch.inference_mode():
        decoded = model(model.see(images), QUESTIONS)
        model.net.get_decoder().set_attn_implementation("sdpa")
        for place, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
            text = model._text([question], [True])
            written = text.marked[: text.marked.index(SEG)]
            assert written.startswith("Sure, the mask of ") and written.endswith(" is ")
            inputs = library_inputs(model, image, text.before + written)
            seg, rej = model.net(**inputs).logits[0, -1, model.own_tokens]
            assert abs(float(seg - rej)) > 0.01
            assert float(decoded.presence[place]) == pytest.approx(float(seg - rej), abs=1e-4)
            width, height = model.reader.frame.model_size(image.size)
            assert decoded.logits[place].shape == (height, width)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_questions_that_share_an_answer_learn_its_words(family, every_family, monkeypatch):
    model = LightModel.start(every_family[family], "cpu").eval()
    tell_apart(model)
    model.expressions = 3
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(3))
    image = make_samples(1, 51)[0].open()
    [seen] = model.see([image])
    with torch.inference_mode():
        decoded = model.learn([seen] * 3, QUESTIONS, [True, False, True])
        model.net.get_decoder().set_attn_implementation("sdpa")
        text = model._text(QUESTIONS, [True, False, True])
        assert text.marked.count(SEG) == 2 and text.marked.count(REJ) == 1 and SEG not in text.before
        inputs = library_inputs(model, image, text.before + text.marked)
        logits, tokens = model.net(**inputs).logits[0, :-1], inputs["input_ids"][0, 1:]
        tokenizer = model.reader.processor.tokenizer
        begin = len(tokenizer(text.marked, add_special_tokens=False).input_ids)
        losses = cross_entropy(logits[-begin:], tokens[-begin:], reduction="none")
        ends = [i + 1 for i, token in enumerate(tokens[-begin:].tolist()) if token in model.own_tokens]
        parts = [losses[: ends[0]], losses[ends[0] : ends[1]], losses[ends[1] :]]
        torch.testing.assert_close(decoded.answer_loss, torch.stack([part.mean() for part in parts]), rtol=1e-4, atol=0)
        seg, rej = logits[-begin:][[end - 1 for end in ends]][:, model.own_tokens].T
        torch.testing.assert_close(decoded.presence, seg - rej, rtol=1e-3, atol=1e-3)


def test_an_answer_does_not_depend_on_its_company():
    model = shipped_model()
    images = [question.image for question in questions_of(3)]
    images[1] = images[1].crop((0, 0, 224, 120))
    pairs = zip([*images, images[0]], [*QUESTIONS, "it"], strict=True)
    questions = [MaskQuestion(image, text) for image, text in pairs]
    for one, together in zip(questions, model.answer(questions), strict=True):
        [alone] = model.answer([one])
        np.testing.assert_allclose(together.logits, alone.logits, rtol=1e-4, atol=1e-4)
        assert (together.score, together.presence) == pytest.approx((alone.score, alone.presence), abs=1e-5)
    assert model.answer([]) == []


def test_a_rejected_question_has_an_empty_mask_of_the_images_size():
    model = shipped_model()
    tell_apart(model)
    seen = model.answer(questions_of(2))
    model.own_tokens = model.own_tokens[::-1]  # the decision is turned round
    for one, other in zip(seen, model.answer(questions_of(2)), strict=True):
        assert one.presence == pytest.approx(1 - other.presence, abs=1e-5)
        masks = {answer.presence >= 0.5: answer.mask for answer in (one, other)}
        assert masks[True].shape == masks[False].shape == (224, 224) and not masks[False].any()


# The head


def test_an_enlargement_without_offsets_is_bilinear():
    layer = DynamicUpsample(8)
    torch.nn.init.zeros_(layer.offsets.weight)
    states = torch.randn(2, 8, 3, 5)
    expected = torch.nn.functional.interpolate(states, (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(states, (6, 10)), expected, rtol=1e-4, atol=1e-5)


def test_a_head_draws_each_state_about_its_own_image():
    torch.manual_seed(0)
    head = LightHead(16, 24, 4).eval()
    detail, image = torch.randn(2, 6, 4, 16), torch.randn(2, 3, 2, 24)
    words = [torch.randn(length, 24) for length in (3, 5, 1)]
    masks = head(detail, image, words, torch.tensor([0, 1, 1]))
    assert masks.shape == (3, 24, 16)
    alone = head(detail[1:], image[1:], words[2:], torch.tensor([0]))
    torch.testing.assert_close(masks[2:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(masks[1], masks[2], atol=1e-3)


def test_the_expected_iou_of_sure_and_unsure_masks():
    sure = torch.tensor([[[50.0, -50.0]], [[0.1, -50.0]], [[-50.0, -50.0]]])
    half = float(torch.tensor(0.1).sigmoid())
    assert expected_iou(sure).tolist() == pytest.approx([1, half, 0], abs=1e-6)


# Training


@pytest.mark.parametrize("rank", [0, 2])
def test_the_tower_stays_frozen_and_the_rest_learns(rank):
    model = model_of(f"lora_rank={rank}")
    learner = MaskLearner(model, 16, 1 << 28, WEIGHTS).train()
    samples = scenes(2, 4)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(12):
        [rows] = learner.passes(samples)
        losses.append(float((loss := learner(rows)).detach()))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert not any("visual" in name for name in moved) and any("head." in name for name in moved)
    assert any("lora_" in name for name in moved) == bool(rank)
    assert any("embed_tokens" in name for name in moved)
    table = model.net.get_input_embeddings().weight
    old = next(p for name, p in before.items() if "embed_tokens" in name and p.shape == table.shape)
    changed = (table != old).any(1).nonzero()[:, 0].tolist()
    assert set(model.own_tokens) <= set(changed) and (len(changed) > 2) == (rank == 0)


def test_where_nothing_is_there_only_the_words_are_learnt():
    learner = MaskLearner(model_of("lora_rank=0"), 16, 1 << 28, WEIGHTS).eval()
    absent = [sample for sample in make_samples(40, 61) if sample.empty]
    assert len(absent) > 1
    rows = learner.encode(absent)
    torch.manual_seed(0)
    decoded = learner.model.learn([row.image for row in rows], [row.question for row in rows], [False] * len(rows))
    torch.manual_seed(0)
    assert float(learner(rows).detach()) == pytest.approx(float(decoded.answer_loss.sum().detach()), rel=1e-5)


def test_new_tokens_start_as_the_mean_of_the_others(every_family):
    model = LightModel.start(every_family["qwen2_5_vl"], "cpu")
    for table in (model.net.get_input_embeddings().weight, model.net.get_output_embeddings().weight):
        assert len(table) == max(model.own_tokens) + 1  # enlarged, as the vocabulary had no room
        torch.testing.assert_close(table[model.own_tokens], table[:-2].mean(0).expand(2, -1))


def test_a_batch_keeps_an_images_questions_together():
    samples = scenes(6, 5)
    first = list(islice(batches(samples, 10, 0, together=5), 6))
    for batch in first:
        assert sorted(Counter(sample.image for sample in batch).values()) == [5, 5]
    assert Counter(s.id for batch in first[:3] for s in batch) == Counter(s.id for s in samples)
    again = list(islice(batches(samples, 10, 0, start=2, together=5), 4))
    assert [[s.id for s in batch] for batch in again] == [[s.id for s in batch] for batch in first[2:]]
    pairs = next(batches(samples, 10, 0, together=2))
    assert [a.image for a in pairs[::2]].count(pairs[0].image) < 5


@pytest.mark.slow
def test_two_processes_learn_as_one_where_one_of_them_has_nothing_to_draw(tmp_path):
    there, other = make_samples(2, 41)
    absent = [replace(other, id=f"absent-{n}", question=f"thing {n}", objects=()) for n in range(3)]
    present = [replace(there, id=f"there-{n}", question=f"thing {n}") for n in range(3)]
    to_parquet([*absent, *present], tmp_path / "train.parquet")
    options = [
        f"data={tmp_path}",
        "steps=2",
        "batch=6",
        "per_image=3",
        "expressions=1",
        "lora_rank=0",
        "weight_decay=0",
    ]
    tune("light", [*options, f"out={tmp_path / 'alone'}"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "segzero"]
    command += ["tune", "--head", "light", *options, f"out={tmp_path / 'two'}"]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    alone, two = ((tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("alone", "two"))
    assert len(two) == 2  # the second step shows that the first one had gradients of every weight in both
    for one, other in zip(alone, two, strict=True):
        assert json.loads(other)["data"] == pytest.approx(json.loads(one)["data"], rel=1e-3)


# Saved models


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_answers_as_it_did_with_its_adapters(tied, tmp_path):
    build_checkpoint("qwen2_5_vl", tmp_path / "policy", tied=tied)
    model = model_of("lora_rank=2", f"model={tmp_path / 'policy'}").eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "trainable_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved", merged_weights(model.net))
    loaded = load_mask_model(tmp_path / "saved", "cpu")
    for one, other in zip(model.answer(questions_of()), loaded.answer(questions_of()), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5, atol=1e-5)
        assert one.presence == pytest.approx(other.presence, abs=1e-5)


def test_adapters_alone_and_merged_answer_alike(data, tmp_path, run_segzero):
    from segzero.mask_model.network import ADAPTERS

    options = [f"data={data}", "lora_rank=2", "steps=2", "batch=6", "lr=1e-2", "warm_up=0", "val_every=2"]
    tune("light", [*options, f"out={tmp_path / 'run'}", "adapters_only=true"])
    alone = tmp_path / "run" / "best"
    assert (alone / ADAPTERS).is_dir()
    code, _, error = run_segzero("merge", alone, "--out", tmp_path / "merged", "--dtype", "float32")
    assert code == 0, error
    models = [load_mask_model(folder, "cpu") for folder in (alone, tmp_path / "merged")]
    for one, other in zip(*(model.answer(questions_of()) for model in models), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5, atol=1e-5)
        assert one.presence == pytest.approx(other.presence, abs=1e-5) and one.presence != 0.5


def test_a_run_leaves_a_model_that_infer_takes_and_a_run_goes_on_from(run, data, tmp_path, run_segzero):
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    sample = make_samples(1, 51)[0]
    (tmp_path / "scene.png").write_bytes(sample.image)
    command = ["infer", tmp_path / "scene.png", sample.question, "--mask-model", run / "best", "--format", "json,mask"]
    code, output, _ = run_segzero(*command, "--out", tmp_path / "out")
    assert code == 0 and "1 of 1 done" in output
    assert json.loads((tmp_path / "out" / "scene.json").read_text())["error"] is None
    further = model_of("lora_rank=4", f"model={run / 'best'}").eval()
    before = load_mask_model(run / "best", "cpu")
    for one, other in zip(further.answer(questions_of()), before.answer(questions_of()), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5, atol=1e-5)
    code, output, _ = run_segzero("tune", "--head", "light", f"data={data}", f"model={run / 'best'}", "dry_run=true")
    assert code == 0 and "12 samples of 3 images" in output


# Mistakes


def test_a_model_without_the_tokens_or_with_another_head_is_refused(run, tmp_path, run_segzero):
    from transformers import AutoProcessor

    folder = shutil.copytree(run / "last", tmp_path / "model")
    AutoProcessor.from_pretrained(shipped.policy_path()).save_pretrained(folder / "policy")
    with pytest.raises(UserError, match=r"has no token \[SEG\]"):
        load_mask_model(folder)
    code, _, error = run_segzero("tune", "--head", "prompt", f"model={run / 'last'}")
    assert code == 2 and "a model with the head 'light'; use --head light" in error and error.count("\n") == 1
    code, _, error = run_segzero("tune", "--head", "light", "expressions=0")
    assert code == 2 and "expressions=0: it must be a whole number from 1 on" in error
    code, _, error = run_segzero("tune", "--head", "light", "segmenter=x")
    assert code == 2 and "unknown key 'segmenter'" in error


def test_an_internvl_tile_of_no_size_is_refused(every_family, tmp_path):
    folder = shutil.copytree(every_family["internvl"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = ["wide", 448]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="image_size is wide"):
        LightModel.start(folder, "cpu")


# The scripts of MLLMSeg's users


@pytest.mark.slow
def test_scripts_train_and_test_on_the_refer_tree(tmp_path):
    """RES, then GRES from its model, then both protocols, each from datasets/refer_seg as it stands."""
    refer_tree(tmp_path / "datasets" / "refer_seg")
    few = ["steps=1", "batch=2", "val_samples=2", "lora_rank=2"]
    script(tmp_path, "train_mllmseg", shipped.policy_path(), *few, f"out={tmp_path / 'res'}")
    script(tmp_path, "train_mllmseg_gres", tmp_path / "res" / "best", *few, f"out={tmp_path / 'gres'}")
    script(tmp_path, "test_mllmseg", tmp_path / "res" / "best", "--limit", "1")
    script(tmp_path, "test_mllmseg_gres", tmp_path / "gres" / "best")
    for protocol, words in (("published", "as published"), ("generative", "as a generative model")):
        file = tmp_path / "evaluation" / f"mllmseg_gres_{protocol}" / "grefcoco_val" / "metrics.json"
        metrics = json.loads(file.read_text())
        assert metrics["samples"] == 2 and metrics["protocol"]["gres"].startswith(words)


def script(clone, name, model, *arguments):
    """Run a script from a folder that stands for the clone, so that what it writes lies there."""
    (clone / "training_scripts").mkdir(exist_ok=True)
    for file in (f"{name}.sh", "clone.bash"):
        shutil.copy(SCRIPTS / file, clone / "training_scripts" / file)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "MODEL_PATH": str(model), "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(clone / "training_scripts" / f"{name}.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def refer_tree(root):
    """A tree with a scene in every split of every data set."""
    sample = next(sample for sample in make_samples(20, 41) if len(sample.objects) == 1)
    width, height = sample.size
    for images in ("mscoco/images/train2014", "saiapr_tc-12"):
        (root / "images" / images).mkdir(parents=True)
        (root / "images" / images / "scene.png").write_bytes(sample.image)
    x0, y0, x1, y1 = sample.objects[0].box
    annotation = {"id": 9, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    instances = {
        "images": [{"id": 1, "file_name": "scene.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "shape"}],
        "annotations": [annotation | {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}],
    }
    authors = {"refclef": "unc", "refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}
    for name, by in authors.items():
        refs = []
        for split in ("train", "val", "test", "testA", "testB"):
            for ids, text in (([9], sample.question), ([-1], "the bird")):
                number = len(refs) + 1
                sentences = [{"tokens": [], "raw": text, "sent_id": number, "sent": text}]
                ref = {"ref_id": number, "image_id": 1, "split": split, "sentences": sentences}
                if name == "grefcoco":
                    refs.append(ref | {"ann_id": ids})
                elif ids != [-1]:
                    refs.append(ref | {"ann_id": ids[0]})
        (root / name).mkdir()
        (root / name / "instances.json").write_text(json.dumps(instances))
        kind = "grefs" if name == "grefcoco" else "refs"
        (root / name / f"{kind}({by}).json").write_text(json.dumps(refs))
