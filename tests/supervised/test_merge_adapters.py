"""Adapters and their base, merged, answer as they did apart; adapters for another base are refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from segzero import shipped
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.protocol import MaskQuestion
from segzero.policy.checkpoint import read_checkpoint
from segzero.supervised.lora import add_adapters, merged_weights, save_adapters
from segzero.supervised.sft import save
from segzero.supervised.tune import tune
from segzero.tiny.questions import make_samples
from tests.helpers.launching import SCRIPTS
from tests.supervised.test_sft import learner_of, samples_of


def with_learnt_adapters(net):
    torch.manual_seed(1)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return net


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder of adapters as supervised training writes it, and the learner."""
    folder = tmp_path_factory.mktemp("adapters") / "best"
    learner = learner_of(shipped.policy_path(), "lora_rank=2", "prompt=vision_reasoner")
    with_learnt_adapters(learner.net)
    save(learner, folder, adapters_only=True)
    return folder, learner


@torch.inference_mode()
def test_a_merged_policy_is_the_policy_with_its_adapters(adapters, tmp_path, run_segzero):
    folder, learner = adapters
    assert not list(folder.glob("model*"))
    code, output, _ = run_segzero("merge", folder, "--out", tmp_path / "merged", "--dtype", "float32")
    assert code == 0 and "written to" in output
    [rows] = learner.passes(samples_of(2))
    merged = learner_of(tmp_path / "merged")
    assert float(merged(rows)) == pytest.approx(float(learner(rows)), rel=1e-5)
    base = learner_of(shipped.policy_path())
    assert abs(float(base(rows)) - float(learner(rows))) > 0.1
    assert read_checkpoint(tmp_path / "merged").frame == read_checkpoint(shipped.policy_path()).frame


@torch.inference_mode()
def test_peft_loads_the_adapters_beside_their_base(adapters):
    from peft import PeftModel

    folder, learner = adapters
    base = AutoModelForImageTextToText.from_pretrained(shipped.policy_path(), attn_implementation="sdpa")
    loaded = PeftModel.from_pretrained(base, folder)
    merged = AutoModelForImageTextToText.from_pretrained(shipped.policy_path(), attn_implementation="sdpa")
    merged.load_state_dict(merged_weights(learner.net))
    tokens = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(loaded(tokens).logits, merged(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_mask_model_of_adapters_loads_and_merges(tmp_path):
    from segzero.data.parquet import to_parquet

    to_parquet(make_samples(4, 41), tmp_path / "train.parquet")
    tune("prompt", [f"data={tmp_path / 'train.parquet'}", f"out={tmp_path / 'run'}", "steps=2", "batch=4", "warm_up=0",
                    "lr=1e-2", "lora_rank=2", "adapters_only=true"])  # fmt: skip
    folder = tmp_path / "run" / "last"
    assert not (folder / "policy").exists()
    command = [sys.executable, SCRIPTS / "merge_lora.py", folder, tmp_path / "whole", "--dtype", "float32"]
    subprocess.run(command, check=True)
    shutil.rmtree(tmp_path / "run" / "best", ignore_errors=True)
    questions = [MaskQuestion(sample.open(), sample.question) for sample in make_samples(2, 51)]
    apart, whole = (load_mask_model(place, "cpu").answer(questions) for place in (folder, tmp_path / "whole"))
    for one, other in zip(apart, whole, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5, atol=1e-5)
    done = subprocess.run([*command[:2], tmp_path / "whole", tmp_path / "again"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is whole already" in done.stderr
    assert not (tmp_path / "again").exists()


def test_what_does_not_fit_is_one_line(adapters, checkpoints, tmp_path, run_segzero):
    def refused(folder, *options):
        code, _, error = run_segzero("merge", folder, "--out", tmp_path / "out", *options)
        assert code == 2 and error.count("\n") == 1 and not (tmp_path / "out").exists()
        return error

    folder, _ = adapters
    other = next(path for path in checkpoints.values())
    assert "are for another base" in refused(folder, "--base", str(other))
    assert "holds adapters alone already" in refused(folder, "--adapter")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    card = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps(card | {"base_model_name_or_path": None}))
    assert "it names no base model; name the model by --base" in refused(damaged)
    (damaged / "adapter_config.json").write_text(json.dumps(card | {"base_model_name_or_path": "/nowhere"}))
    assert "/nowhere" in refused(damaged)
    (damaged / "adapter_config.json").write_text(json.dumps(card))
    (damaged / "adapter_model.safetensors").write_bytes(b"torn")
    assert "can't be read" in refused(damaged)
    assert "--base is for a folder of adapters" in refused(tmp_path, "--base", "x")


def test_adapters_alone_need_adapters(run_segzero):
    code, _, error = run_segzero("sft", "adapters_only=true")
    assert code == 2 and "lora_rank=0 trains all weights" in error


def test_saved_adapters_are_in_float32(tmp_path):
    from safetensors.torch import load_file

    net = AutoModelForImageTextToText.from_pretrained(shipped.policy_path(), dtype=torch.bfloat16)
    add_adapters(net, 2, 4, 0.0)
    save_adapters(net, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
