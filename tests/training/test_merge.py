"""Merging: every tensor as it was, in less memory, with what is wrong said in a line."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from segzero.errors import UserError
from segzero.training.merge import Shards, merge

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parent))
from shards import save_shards


@pytest.fixture(scope="module")
def model(policy):
    return AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32)


@pytest.fixture(scope="module")
def checkpoint(policy, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "global_step_7"
    save_shards(model, AutoProcessor.from_pretrained(policy), folder)
    return folder


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def same(a, b) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_every_tensor_comes_back(checkpoint, model, tmp_path):
    out = merge(checkpoint, tmp_path / "merged", dtype="float32")
    assert same(load(out), model)
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    AutoProcessor.from_pretrained(out)
    assert not list(tmp_path.glob(".*"))


def test_names_on_disk_are_those_of_save_pretrained(checkpoint, model, tmp_path):
    from safetensors import safe_open

    merge(checkpoint, tmp_path / "merged", dtype="float32")
    model.save_pretrained(tmp_path / "saved")
    names = []
    for folder in ("merged", "saved"):
        with safe_open(tmp_path / folder / "model.safetensors", "pt") as file:
            names.append(sorted(file.keys()))
    assert names[0] == names[1]


def test_several_files_have_an_index(checkpoint, model, tmp_path, monkeypatch):
    monkeypatch.setattr("segzero.training.merge.FILE_BYTES", 1 << 20)
    out = merge(checkpoint, tmp_path / "merged", dtype="float32")
    assert len(list(out.glob("*.safetensors"))) > 1
    assert same(load(out), model)


def test_bfloat16_rounds_once(checkpoint, model, tmp_path):
    out = merge(checkpoint, tmp_path / "merged")
    expected = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(out).state_dict().items())


def test_adapters_are_merged(policy, model, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load(policy), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    base = adapted.get_base_model()
    actor = save_shards(base, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2, adapted.state_dict())
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    out = load(merge(actor, tmp_path / "merged", dtype="float32")).state_dict()
    for name, tensor in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(out[name], tensor, msg=name)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda a: (a / "model_world_size_3_rank_1.pt").unlink(), r"lacks the shards of ranks \[1\] of 3"),
        (lambda a: (a / "model_world_size_3_rank_1.pt").write_bytes(b"nonsense"), "can't be read as a shard"),
        (lambda a: shutil.copy(a / "model_world_size_3_rank_0.pt", a / "model_world_size_2_rank_0.pt"), "world sizes"),
        (lambda a: (a / "huggingface" / "config.json").unlink(), "config.json beside the shards"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(checkpoint, tmp_path, harm, said):
    copy = tmp_path / "global_step_7"
    shutil.copytree(checkpoint, copy)
    harm(copy / "actor")
    with pytest.raises(UserError, match=said):
        merge(copy, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_7"]


def test_a_missing_weight_is_named(policy, model, tmp_path):
    state = dict(model.state_dict())
    del state["model.language_model.norm.weight"]
    save_shards(model, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2, state)
    with pytest.raises(UserError, match=r"lack 'model\.language_model\.norm\.weight'"):
        merge(tmp_path / "run", tmp_path / "merged")


def test_shards_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("this must not be printed",)

    torch.save({"weight": Evil()}, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(UserError, match="can't be read as a shard"):
        Shards(tmp_path)


def test_the_script_reports_a_users_mistake(tmp_path):
    script = ["training_scripts/model_merger.py", "--local_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("model_merger: no shards in")
