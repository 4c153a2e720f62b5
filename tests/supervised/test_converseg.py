"""Files and commands of ConverSeg: published checkpoints answer as there; what is trained here has their form."""

import importlib.util
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from segzero.cli.converseg import demo, evaluate_flags
from segzero.errors import UserError
from segzero.mask_model.attention import looked_at, recorded_attention
from segzero.mask_model.converseg import ConverSegModel
from segzero.mask_model.converseg_files import RawFiles
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.protocol import MaskQuestion
from segzero.masks import decode
from segzero.segmenter.meta_weights import RELEASED, architecture, find_architecture, make_sam2, read_tensors, to_meta
from segzero.supervised.converseg import settings, start, train
from segzero.supervised.converseg_flags import TrainFlags
from segzero.supervised.converseg_learner import ConverSegLearner, Erosion
from segzero.tiny.questions import make_samples
from tests.helpers import converseg_checkpoint
from tests.helpers.random_checkpoints import CHAT_TEMPLATE, build_checkpoint

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("sam2"), reason="Meta's sam2 package is not installed")

SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
SAM, PLM, LORA = "ConverSeg-Net_sam2_90000.torch.torch", "ConverSeg-Net_plm_90000.torch", "lora_plm_adapter_90000"


def make_base(folder: Path, real_vocabulary: bool) -> Path:
    """A narrow Qwen2.5-VL with the released system prompt."""
    build_checkpoint("qwen2_5_vl", folder, real_vocabulary, tied=True)
    (folder / "chat_template.jinja").write_text(SYSTEM + CHAT_TEMPLATE)
    return folder


def publish(base: Path, folder: Path) -> Path:
    """A checkpoint in the published layout, with the answers that Meta's package and PEFT give."""
    command = [sys.executable, "-m", "tests.helpers.converseg_checkpoint", str(base), str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), real_vocabulary=False)


@pytest.fixture(scope="module")
def published(base, tmp_path_factory) -> Path:
    return publish(base, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def model(published):
    return load_mask_model(published, "cpu")


def questions_of(texts=converseg_checkpoint.QUESTIONS):
    pictures = map(Image.fromarray, converseg_checkpoint.images())
    return [MaskQuestion(picture, text) for picture, text in zip(pictures, texts, strict=True)]


# Published checkpoints


def test_a_published_checkpoint_answers_as_it_does_there(model, published):
    assert isinstance(model, ConverSegModel) and "of mask tokens 1 to 3" in model.protocol
    assert_same_answers(model, published)


@pytest.mark.slow
def test_a_checkpoint_with_the_released_vocabulary_answers_as_it_does_there(tmp_path):
    base = make_base(tmp_path / "base", real_vocabulary=True)
    (tmp_path / "model").mkdir()
    published = publish(base, tmp_path / "model")
    assert_same_answers(load_mask_model(published, "cpu"), published)


def assert_same_answers(model, published):
    expected = torch.load(published / "answers.pt", weights_only=True)
    for answer, there in zip(model.answer(questions_of()), expected, strict=True):
        assert there["words"].startswith("system\nYou are a helpful assistant.\nuser\n")
        np.testing.assert_allclose(answer.logits, there["best"].numpy(), atol=1e-5)
        assert answer.score == pytest.approx(float(there["score"]), abs=1e-5)
        assert (answer.mask != there["mask"].numpy()).mean() < 1e-3 < answer.mask.mean() < 0.999


def test_the_token_that_is_trained_can_answer_instead(model, published, monkeypatch):
    monkeypatch.setattr(model, "best_of_three", False)
    assert "mask token 0" in model.protocol
    expected = torch.load(published / "answers.pt", weights_only=True)
    for answer, there in zip(model.answer(questions_of()), expected, strict=True):
        np.testing.assert_allclose(answer.logits, there["single"].numpy(), atol=1e-5)
        assert answer.score == pytest.approx(float(there["single_score"]), abs=1e-5)
        assert not np.allclose(answer.logits, there["best"].numpy(), atol=1e-5)


def test_special_tokens_in_a_question_are_left_out_and_long_ones_are_cut(model):
    reader = model.reader
    assert reader.question("the<|image_pad|> cat") == reader.question("the cat")
    assert reader.question("") == reader.question("segment")
    assert reader.question("c" * 900) == reader.question("c" * 256)


def test_a_sam2_goes_to_our_names_and_back(published):
    weights = read_tensors(published / SAM, "model")
    model, _ = make_sam2(architecture(published / "tiny.yaml"), weights, SAM)
    back = to_meta(model, weights)
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("size", sorted(RELEASED))
def test_a_released_architecture_is_known_by_name_and_by_shapes(size):
    hiera = RELEASED[size]
    assert architecture(f"configs/sam2.1/sam2.1_hiera_{size}.yaml") == architecture(f"sam2_hiera_{size}.yaml") == hiera
    [package] = importlib.util.find_spec("sam2").submodule_search_locations  # importing it sets up hydra globally
    theirs = Path(package, f"configs/sam2/sam2_hiera_{size}.yaml")
    assert architecture(theirs) == hiera
    shapes = {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.empty(1) for i in range(sum(hiera.blocks))}
    shapes["image_encoder.trunk.patch_embed.proj.weight"] = torch.empty(hiera.width, 3, 7, 7)
    assert find_architecture(shapes, Path("x")) == hiera


def torn(folder):
    (folder / PLM).write_bytes((folder / PLM).read_bytes()[:1000])


def pickled(folder):
    torch.save({"plm": {"to_sparse.weight": Path("x")}}, folder / PLM)


def swapped(folder):
    shutil.copy(folder / SAM, folder / PLM)


def other_sam2(folder):
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text().replace("embed_dim: 8", "embed_dim: 16"))


def no_config(folder):
    (folder / "tiny.yaml").unlink()


def other_width(folder):
    content = torch.load(folder / PLM, weights_only=True)
    content["plm"]["txt_norm.weight"] = torch.ones(2048)
    torch.save(content, folder / PLM)


def other_layers(folder):
    file = folder / LORA / "adapter_model.safetensors"
    save_file({name.replace("layers.1", "layers.9"): tensor for name, tensor in load_file(file).items()}, file)


def other_base(folder):
    file = folder / LORA / "adapter_model.safetensors"
    wide = {name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in load_file(file).items()}
    save_file(wide, file)


def no_adapters(folder):
    shutil.rmtree(folder / LORA)


def two_steps(folder):
    shutil.copy(folder / PLM, folder / "ConverSeg-Net_plm_1.torch")


DAMAGES = [
    (torn, "is not a file of weights"),
    (pickled, "is not a file of weights"),
    (swapped, "holds no weights under 'plm'"),
    (other_sam2, "is not the SAM2 of that architecture"),
    (no_config, "holds no released SAM2"),
    (other_width, "is not a head for a language model of width 64"),
    (other_layers, "do not fit"),
    (other_base, "do not fit"),
    (no_adapters, "holds 0 of ConverSeg's lora_plm_adapter_STEP"),
    (two_steps, "holds 2 of ConverSeg's NAME_plm_STEP.torch"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_wrong_file_is_refused_in_one_line(damage, problem, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=problem) as caught:
        load_mask_model(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_for_another_language_model_is_refused(published, checkpoints):
    files = replace(RawFiles.of_folder(published), base=str(checkpoints["qwen2_vl"]))
    with pytest.raises(UserError, match="is not for the language model"):
        ConverSegModel.from_files(files, "cpu")


# Training


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight scenes in ConverSeg's two forms: lines to train on, and items to evaluate."""
    folder = tmp_path_factory.mktemp("data")
    lines, items = [], []
    for number, sample in enumerate(make_samples(8, 41)):
        (folder / f"{number}.png").write_bytes(sample.image)
        mask = decode(sample.mask(), sample.size)
        Image.fromarray(mask.astype(np.uint8) * (255 if number % 2 else 1)).save(folder / f"{number}_mask.png")
        files = f"{number}.png", f"{number}_mask.png"
        lines.append({"image": files[0], "mask_merged": files[1], "prompt": sample.question if number else ""})
        items.append({"id": f"scene{number}", "image": files[0], "mask": files[1], "prompt": sample.question})
    (folder / "dataset.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "items.json").write_text(json.dumps({"dataset": "scenes", "count": len(items), "items": items}))
    return folder


def flags_of(data, published, base, out, **changes) -> TrainFlags:
    usual = {"data_dir": str(data), "out": str(out), "plm_model_name": str(base), "device": "cpu", "name": "net"}
    usual |= {"model_cfg": str(published / "tiny.yaml"), "checkpoint": str(published / SAM), "max_dim": 128}
    usual |= {"steps": 4, "acc": 2, "batch_size": 2, "lr": 1e-3, "lora_r": 4, "lora_alpha": 8}
    usual |= {"log_every": 2, "save_every": 2, "val_every": 4}
    return TrainFlags(**(usual | changes))


@pytest.fixture(scope="module")
def run(data, published, base, tmp_path_factory) -> Path:
    """The files of a training of two updates."""
    return train(flags_of(data, published, base, tmp_path_factory.mktemp("run")))


def raw(folder, step, published, base) -> RawFiles:
    names = f"net_{step}.torch", f"net_plm_{step}.torch", f"lora_plm_adapter_{step}"
    return RawFiles(*(folder / name for name in names), str(published / "tiny.yaml"), str(base))


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_training_leaves_files_that_the_published_code_loads(run, published):
    names = {path.name for path in run.iterdir()}
    steps = {
        f"{name}_{step}{end}" for step in (2, 4, "final") for name, end in (("net", ".torch"), ("net_plm", ".torch"))
    }
    assert names == {*steps, *(f"lora_plm_adapter_{step}" for step in (2, 4, "final")), "net", "tb", "val", "train"}
    assert {path.name for path in (run / "val").iterdir()} == {"step_4.png", "step_final.png"}
    for ours, theirs, part in (("net_final.torch", SAM, "model"), ("net_plm_final.torch", PLM, "plm")):
        assert shapes(read_tensors(run / ours, part)) == shapes(read_tensors(published / theirs, part))
    folders = run / "lora_plm_adapter_final", published / LORA
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert shapes(ours) == shapes(theirs)
    ours, theirs = (json.loads((folder / "adapter_config.json").read_text()) for folder in folders)
    assert [ours[name] for name in ("r", "lora_alpha")] == [theirs[name] for name in ("r", "lora_alpha")]
    assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])


def test_training_moves_the_head_the_decoder_and_the_language_models_adapters(run, published):
    before, after = read_tensors(published / SAM, "model"), read_tensors(run / "net_final.torch", "model")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("sam_mask_decoder.") and "conv_s" not in name for name in moved)
    first, last = (read_tensors(run / f"net_plm_{step}.torch", "plm") for step in (2, "final"))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert {"to_sparse.weight", "to_dense.2.weight", "txt_norm.weight", "scale", "temp"} < moved
    assert any("lora_B" in name for name in moved) and not any("visual" in name for name in moved)


def test_what_is_trained_learns(data, published, base, tmp_path):
    flags = flags_of(data, published, base, tmp_path, er_k=5)
    learner = ConverSegLearner(start(flags, settings(flags), torch.device("cpu")), 8, 1 << 28, Erosion(5, 1, 128))
    [rows] = learner.train().passes(make_samples(4, 41))
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = learner(rows)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]
    terms = learner.take_terms()
    assert terms["bce"] + terms["dice"] == pytest.approx(np.mean(losses) / 4, rel=1e-4) and learner.terms == []


def test_scalars_have_the_published_tags(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb" / "net")).Reload()
    train_tags = {f"train/{name}" for name in ("loss", "bce", "dice", "iou", "lr")}
    assert set(events.Tags()["scalars"]) == train_tags | {"val/mean_iou", "train_subset/mean_iou", "val/final_mean_iou"}
    loss, bce, dice = ([e.value for e in events.Scalars(f"train/{name}")] for name in ("loss", "bce", "dice"))
    assert loss == pytest.approx([a + b for a, b in zip(bce, dice, strict=True)], rel=1e-5) and len(loss) == 2


def test_a_checkpoint_answers_as_it_did_in_training_and_goes_on(run, data, published, base, tmp_path):
    files = raw(run, "final", published, base)
    resumed = {"resume_sam_path": files.sam, "resume_plm_path": files.plm, "resume_lora_path": files.lora}
    flags = flags_of(data, published, base, tmp_path, **{name: str(path) for name, path in resumed.items()})
    loaded = ConverSegModel.from_files(files, "cpu", mask_token="trained")
    going_on = start(flags, settings(flags), torch.device("cpu")).eval()
    for one, other in zip(loaded.answer(questions_of()), going_on.answer(questions_of()), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    with pytest.raises(UserError, match="--lora-r 16: the adapters to go on from have the rank 4"):
        start(replace(flags, lora_r=16), settings(flags), torch.device("cpu"))


def test_published_adapters_go_on_with_those_of_the_vision_tower_merged(model, data, published, base, tmp_path):
    flags = flags_of(data, published, base, tmp_path, resume_plm_path=str(published / PLM))
    going_on = start(flags, settings(flags), torch.device("cpu")).eval()
    going_on.best_of_three = True
    for one, other in zip(model.answer(questions_of()), going_on.answer(questions_of()), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)


def test_an_interrupted_run_goes_on(run, data, published, base, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    train(flags_of(data, published, base, folder, steps=6))
    rows = (folder / "net" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3] and (folder / "net_plm_6.torch").is_file()


def test_erosion_is_that_of_opencv():
    import cv2

    mask = decode(make_samples(3, 5)[1].mask(), (224, 224)).astype(np.uint8)
    for width, times in ((5, 1), (3, 2), (4, 1), (0, 1)):
        large = cv2.resize(mask, (448, 448), interpolation=cv2.INTER_NEAREST)
        wanted = cv2.erode(large, np.ones((width, width), np.uint8), iterations=times) if width else mask
        np.testing.assert_array_equal(Erosion(width, times, 448)(torch.from_numpy(mask).float()).numpy(), wanted)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": None}, "line 2: it lacks 'image'"),
        ({"mask_merged": None}, "line 2: it lacks 'mask_merged'"),
        ({"mask_merged": "none.png"}, "line 2: there is no file 'none.png'"),
        ({"mask_merged": "small.png"}, "line 2: small.png is 8x8, the image it belongs to 224x224"),
        ({"mask_merged": "classes.png"}, "line 2: classes.png holds the value 7"),
        ({"prompt": 5}, "line 2: 'prompt' must be"),
    ],
)
def test_bad_data_is_refused_before_anything_is_loaded(change, problem, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    Image.new("L", (8, 8)).save(folder / "small.png")
    Image.new("L", (224, 224), 7).save(folder / "classes.png")
    lines = (folder / "dataset.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (folder / "dataset.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=problem) as caught:
        train(TrainFlags(str(folder), out=str(tmp_path / "out")))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--workers", "4"], "--workers: the training itself reads images"),
        (["--steps", "0"], "--steps 0: it must be 1 or more"),
        (["--lr", "1e-7"], "the rate falls from the second to the first"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments, problem):
    command = [sys.executable, "training_scripts/train_converseg.py", "--data-dir", "nowhere", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2 and problem in done.stderr and done.stderr.count("\n") == 1


def test_data_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such file: nowhere/dataset\.jsonl"):
        train(TrainFlags("nowhere", out=str(tmp_path / "out")))


def test_another_size_than_sam2s_is_refused(data, published, base, tmp_path):
    flags = flags_of(data, published, base, tmp_path, max_dim=512)
    with pytest.raises(UserError, match="--max-dim 512: SAM2 sees images at its own size"):
        start(flags, settings(flags), torch.device("cpu"))


# Demo and evaluation


def script(name, files, *arguments, **settings):
    """Run a script with a checkpoint's flags; returns its exit code, output and error output."""
    flags = {"final_ckpt": files.sam, "plm_ckpt": files.plm, "lora_ckpt": files.lora, "model_cfg": files.model_cfg}
    command = [sys.executable, f"inference_scripts/{name}_converseg.py", *arguments]
    for flag, value in (flags | settings).items():
        command += [f"--{flag}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout, done.stderr


def parsed(files, **more) -> Namespace:
    """Flags as the scripts parse them."""
    usual = {"model_cfg": files.model_cfg, "base_ckpt": None, "final_ckpt": files.sam, "plm_ckpt": files.plm}
    usual |= {"lora_ckpt": files.lora, "device": "cpu", "precision": "fp32", "plm_model_name": None}
    usual |= {"mask_token": "best", "image": None, "prompt": None, "input_json": None, "hf_config": "default"}
    usual |= {"hf_splits": "sam_seeded,human_annotated", "hf_cache_dir": None, "limit": None, "save_preds": None}
    return Namespace(**(usual | more))


def test_a_trained_checkpoint_is_evaluated_by_the_published_script(run, data, published, base, tmp_path):
    files = raw(run, "final", published, base)
    code, output, _ = script("eval", files, input_json=data / "items.json", save_preds=tmp_path, limit=3, device="cpu")
    assert code == 0 and "protocol: ConverSeg's eval.py" in output
    ends = ("pred.png", "gt.png", "orig.png", "panel.png", "prompt.txt")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.json", *(f"scene{number}_{end}" for number in range(3) for end in ends)}
    overlaps, inter, union = [], 0, 0
    for number in range(3):
        predicted, true = (np.array(Image.open(tmp_path / f"scene{number}_{kind}.png")) > 0 for kind in ("pred", "gt"))
        both, either = int((predicted & true).sum()), int((predicted | true).sum())
        overlaps.append(both / either if either else 1.0)
        inter, union = inter + both, union + either
    assert f"JSON: giou{np.mean(overlaps):.3f}_ciou{inter / union:.3f}" in output
    figures = json.loads((tmp_path / "metrics.json").read_text())["figures"]["JSON"]
    assert figures == {"giou": pytest.approx(np.mean(overlaps)), "ciou": pytest.approx(inter / union), "samples": 3}


def test_the_hubs_form_is_evaluated_split_by_split(published, data, tmp_path, capsys):
    import datasets

    def rows(numbers):
        names = {"image": "{}.png", "mask": "{}_mask.png"}
        columns = {
            kind: [{"bytes": (data / name.format(n)).read_bytes(), "path": None} for n in numbers]
            for kind, name in names.items()
        }
        made = datasets.Dataset.from_dict(columns | {"id": ["1", "2"], "prompt": ["it", "the red shape"]})
        return made.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())

    for split, numbers in (("sam_seeded", (1, 2)), ("human_annotated", (3, 4))):
        rows(numbers).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    files = RawFiles.of_folder(published)
    evaluate_flags(parsed(files, hf_dataset=str(tmp_path / "data"), save_preds=tmp_path / "preds"))
    output = capsys.readouterr().out
    assert "HF[sam_seeded]: giou" in output and "HF[human_annotated]: giou" in output
    names = {path.name.rpartition("_")[0] for path in (tmp_path / "preds").glob("*_pred.png")}
    assert names == {"1", "2", "human_annotated-1", "human_annotated-2"}


def test_the_demo_draws_a_mask_and_where_the_prompts_looked(run, data, published, base, tmp_path, capsys):
    answers = iter(["none.png", "it", str(data / "1.png"), "the red shape", "QUIT"])
    demo(parsed(raw(run, 4, published, base), out_dir=tmp_path), lambda _: next(answers))
    output = capsys.readouterr().out
    names = ("mask", "mask_color", "overlay", "attn_global_gray", "attn_global_overlay")
    assert "none.png" in output and {path.name for path in tmp_path.iterdir()} == {f"1_{name}.png" for name in names}
    pictures = {name: Image.open(tmp_path / f"1_{name}.png") for name in names}
    assert {picture.size for picture in pictures.values()} == {(224, 224)}
    assert np.array(pictures["attn_global_gray"]).min() == 0 and np.array(pictures["attn_global_gray"]).max() == 255


def test_attention_is_that_of_queries_and_keys(model):
    decoder, seen = model.sam.mask_decoder, []
    last = decoder.transformer.final_attn_token_to_image
    hook = last.register_forward_pre_hook(
        lambda _, inputs, named: seen.append((*inputs, *named.values())), with_kwargs=True
    )
    [question, *_] = questions_of()
    with recorded_attention(decoder) as maps:
        model.answer([question])
    hook.remove()
    queries, keys = (
        projection(tensor[0, 0]) for projection, tensor in zip((last.q_proj, last.k_proj), seen[0][:2], strict=True)
    )
    heads = [tensor.unflatten(-1, (last.num_attention_heads, -1)).transpose(0, 1) for tensor in (queries, keys)]
    wanted = (heads[0] @ heads[1].transpose(1, 2) * last.scaling).softmax(-1)
    torch.testing.assert_close(maps[-1][0], wanted, rtol=1e-4, atol=1e-6)
    assert len(maps) == 3
    texts = torch.stack(maps)[:, 0, :, 6:]
    torch.testing.assert_close(looked_at(maps, decoder), texts.mean(dim=(0, 1, 2)))
    before = model.answer([question])[0].logits
    assert decoder.config._attn_implementation == "sdpa" and before.shape == (32, 32)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"final_ckpt": Path("none.torch")}, "no such checkpoint: none.torch"),
        ({"base_ckpt": "none.pt"}, "no such checkpoint: none.pt"),
        ({"model_cfg": "sam2_hiera_l.yaml"}, "is not the SAM2 of that architecture"),
        ({"model_cfg": "large"}, "no architecture of SAM2 in large"),
        ({"limit": 0}, "--limit 0: it must be 1 or more"),
        ({"hf_config": "other"}, "--hf_config other"),
        ({"input_json": "none.json"}, "none.json"),
    ],
)
def test_a_wrong_flag_of_the_evaluation_is_refused(change, problem, published, data):
    usual = {"input_json": str(data / "items.json")}
    with pytest.raises(UserError, match=problem) as caught:
        evaluate_flags(parsed(RawFiles.of_folder(published), **(usual | change)))
    assert "\n" not in str(caught.value)


def test_the_demo_wants_an_image_with_its_question(published, tmp_path):
    with pytest.raises(UserError, match="give both --image and --prompt"):
        demo(parsed(RawFiles.of_folder(published), image="x.png", out_dir=tmp_path))
