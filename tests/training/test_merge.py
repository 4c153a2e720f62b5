"""Merging keeps every tensor as it was, in little memory, and reports damage in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from segzero.errors import UserError
from segzero.training.merge import export_adapter, merge
from segzero.training.shards import Shards
from tests.helpers.recording import record_syncs
from tests.helpers.shards import light_copy, save_shards


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


def test_untied_heads_are_kept_and_tied_ones_left_out(checkpoint, policy, tmp_path):
    from safetensors import safe_open
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(policy)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    untied = AutoModelForImageTextToText.from_config(config)
    save_shards(untied, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2)
    assert same(load(merge(tmp_path / "run", tmp_path / "untied", dtype="float32")), untied)
    merge(checkpoint, tmp_path / "tied")
    heads = []
    for folder in ("untied", "tied"):
        with safe_open(tmp_path / folder / "model.safetensors", "pt") as file:
            heads.append("lm_head.weight" in file.keys())  # noqa: SIM118
    assert heads == [True, False]


def test_released_checkpoints_have_older_names_and_a_flat_config(policy, model, tmp_path):
    from transformers.core_model_loading import revert_weight_conversion

    older = revert_weight_conversion(model, dict(model.state_dict()))
    assert "model.layers.0.mlp.up_proj.weight" in older and "visual.patch_embed.proj.weight" in older
    halves = {name: tensor.bfloat16() for name, tensor in older.items()}
    actor = save_shards(model, AutoProcessor.from_pretrained(policy), tmp_path / "global_step_9", 2, halves, replicas=2)
    file = actor / "huggingface" / "config.json"
    config = json.loads(file.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    del text["model_type"], text["layer_types"], config["dtype"], config["transformers_version"]
    file.write_text(json.dumps({**text, "rope_theta": rope["rope_theta"], "torch_dtype": "bfloat16", **config}))
    out = load(merge(tmp_path / "global_step_9", tmp_path / "merged")).state_dict()
    assert all(torch.equal(out[name], tensor.bfloat16().float()) for name, tensor in model.state_dict().items())


@pytest.fixture
def adapted(policy, tmp_path):
    """A run's checkpoint with adapters on the language model, and the model that it holds."""
    from peft import LoraConfig, get_peft_model

    where = r".*language_model.*\.(q_proj|down_proj)"
    adapted = get_peft_model(load(policy), LoraConfig(r=4, lora_alpha=8, target_modules=where))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    base = adapted.get_base_model()
    actor = save_shards(base, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2, adapted.state_dict())
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    return actor, adapted


def test_adapters_are_merged(adapted, tmp_path):
    actor, trained = adapted
    out = load(merge(actor, tmp_path / "merged", dtype="float32")).state_dict()
    for name, tensor in trained.merge_and_unload().state_dict().items():
        torch.testing.assert_close(out[name], tensor, msg=name)


def test_adapters_are_exported(adapted, policy, tmp_path):
    from peft import PeftModel

    actor, trained = adapted
    loaded = PeftModel.from_pretrained(load(policy), export_adapter(actor, tmp_path / "adapter", dtype="float32"))
    assert same(loaded, trained)
    with pytest.raises(UserError, match="is there already"):
        export_adapter(actor, tmp_path / "adapter")


def test_a_checkpoint_without_adapter_exports_none(checkpoint, tmp_path):
    with pytest.raises(UserError, match="holds no adapter"):
        export_adapter(checkpoint, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_the_card_describes_the_run(checkpoint, tmp_path):
    import yaml

    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "global_step_7")
    config = {
        "actor_rollout_ref": {
            "model": {"path": "Qwen/Qwen2.5-VL-3B-Instruct", "lora_rank": 0},
            "actor": {"optim": {"lr": 1e-6}, "use_kl_loss": True, "kl_loss_coef": 0.005},
            "rollout": {"n": 8},
        },
        "data": {"prompt": "vision_reasoner", "frame": "stretch(840)", "train_batch_size": 16},
        "reward": {"name": "mask"},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"step": step, "data": {"val/giou": step / 10, "reward/mean": 4.5, "actor/lr": 1.0}} for step in (6, 7, 8)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = merge(run / "global_step_7", tmp_path / "merged", card={"Note": "a try"})
    card = (out / "README.md").read_text()
    for line in (
        "base_model: Qwen/Qwen2.5-VL-3B-Instruct",
        "- Checkpoint: global_step_7",
        "- Reward: mask",
        "- KL loss: 0.005",
        "- Note: a try",
        "| val/giou | 0.7 |",
    ):
        assert line in card.splitlines(), card
    assert "actor/lr" not in card and "LoRA" not in card
    assert yaml.safe_load((out / "training_config.yaml").read_text()) == config
    assert json.loads((out / "segzero.json").read_text())["prompt"] == "vision_reasoner"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_pages_are_released(tmp_path):
    def mapped() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) * 1024

    tensor = torch.ones(4 << 20)  # 16 MB
    for rank in range(2):
        shard = {f"weight{i}": tensor.clone() for i in range(6)}
        torch.save(shard, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    shards, before = Shards(tmp_path), mapped()
    for name in shards.shapes:
        assert shards.whole(name, torch.bfloat16).sum() == tensor.numel()
    assert mapped() - before < 2 * tensor.nbytes  # of 96 MB
    assert torch.equal(shards.whole("weight3", torch.float32), tensor)  # and come back from the file


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda a: (a / "model_world_size_3_rank_1.pt").unlink(), r"lacks the shards of ranks \[1\] of 3"),
        (lambda a: (a / "model_world_size_3_rank_1.pt").write_bytes(b"nonsense"), "can't be read as a shard"),
        (lambda a: shutil.copy(a / "model_world_size_3_rank_0.pt", a / "model_world_size_2_rank_0.pt"), "world sizes"),
        (lambda a: (a / "huggingface" / "config.json").unlink(), "config.json beside the shards"),
        (lambda a: (a / "huggingface" / "config.json").write_text("{"), r"config\.json can't be read"),
    ],
)
def test_damage_is_reported_and_nothing_is_written(checkpoint, tmp_path, harm, message):
    copy = tmp_path / "global_step_7"
    shutil.copytree(checkpoint, copy)
    harm(copy / "actor")
    with pytest.raises(UserError, match=message):
        merge(copy, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_7"]


def test_the_merged_folder_is_on_the_disk_before_it_gets_its_name(checkpoint, tmp_path, monkeypatch):
    steps = record_syncs(monkeypatch, "rename")
    out = merge(checkpoint, tmp_path / "merged")
    at = steps.index("name")
    before, after = ([status.st_ino for status in some] for some in (steps[:at], steps[at + 1 :]))
    assert {file.stat().st_ino for file in (*out.iterdir(), out)} <= set(before)
    assert after == [tmp_path.stat().st_ino]


def test_a_torn_log_is_skipped(checkpoint, tmp_path):
    actor = light_copy(checkpoint, tmp_path)
    rows = [json.dumps({"step": 7, "data": {"val/giou": 0.7}}), '{"step": 7, "da', "\xff", "7", "[" * 100_000]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows), encoding="latin-1")
    assert "| val/giou | 0.7 |" in (merge(actor.parent, tmp_path / "merged") / "README.md").read_text()


RUN = "actor_rollout_ref:\n  model:\n    path: base\ndata:\n  prompt: multi\n  frame: native\nreward:\n  name: mask\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN[:-24], "is not whole; put the run's own file there, or move it away"),
        (RUN[: RUN.index("data")], "is not whole"),
        (RUN.replace("base", '"ba'), "can't be read: while scanning a quoted scalar"),
        (RUN.replace("base", "&a [x]") + "more: *a\n", "it holds aliases"),
        (RUN.replace("base", "[" * 10_000), "can't be read"),
        (RUN.replace("base", "7"), "is not whole"),
        (RUN.replace("multi", "mutli"), "did you mean 'multi'"),
        ("\0", "can't be read"),
        ("#" * (2 << 20), "has more than 1 MiB"),
    ],
)
def test_a_truncated_configuration_is_refused_before_anything_is_written(
    checkpoint, tmp_path, monkeypatch, text, message
):
    actor = light_copy(checkpoint, tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr("segzero.training.merge.write_safetensors", pytest.fail)
    with pytest.raises(UserError, match=message) as caught:
        merge(actor.parent, tmp_path / "merged")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "global_step_7"]


def test_the_configuration_of_another_program_is_ignored(checkpoint, tmp_path):
    actor = light_copy(checkpoint, tmp_path)
    (tmp_path / "config.yaml").write_text("name: something else\n")
    assert not (merge(actor.parent, tmp_path / "merged") / "segzero.json").exists()


def test_a_missing_weight_is_named(policy, model, tmp_path):
    state = dict(model.state_dict())
    del state["model.language_model.norm.weight"]
    save_shards(model, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2, state)
    with pytest.raises(UserError, match=r"lack 'model\.language_model\.norm\.weight'"):
        merge(tmp_path / "run", tmp_path / "merged")


def test_integers_are_not_weights(policy, model, tmp_path):
    state = {**model.state_dict(), "model.language_model.norm.weight": torch.ones(96, dtype=torch.int64)}
    save_shards(model, AutoProcessor.from_pretrained(policy), tmp_path / "run", 2, state)
    with pytest.raises(UserError, match=r"'model\.language_model\.norm\.weight' is int64 in the shards"):
        merge(tmp_path / "run", tmp_path / "merged")


@pytest.mark.slow  # imports verl
def test_verls_merger_makes_the_same_tensors(checkpoint, tmp_path):
    from safetensors.torch import load_file

    ours = load_file(merge(checkpoint, tmp_path / "ours") / "model.safetensors")
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(checkpoint / "actor"), "--target_dir", str(tmp_path / "verl")]
    subprocess.run(command, check=True, capture_output=True)
    theirs = load_file(tmp_path / "verl" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(
        theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor) for name, tensor in ours.items()
    )


def test_shards_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("this must not be printed",)

    torch.save({"weight": Evil()}, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(UserError, match="can't be read as a shard"):
        Shards(tmp_path)


@pytest.mark.slow
def test_the_script_reports_a_users_mistake(tmp_path):
    script = ["training_scripts/model_merger.py", "--local_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("model_merger: no shards in")


@pytest.mark.slow
def test_the_script_says_why_nothing_was_uploaded(checkpoint, tmp_path):
    out = tmp_path / "merged"
    script = ["training_scripts/model_merger.py", "--local_dir", str(checkpoint), "--target_dir", str(out)]
    script += ["--hf_upload_path", "no such name!"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"model_merger: {out} is merged, but not uploaded to")
    assert (out / "model.safetensors").exists()
