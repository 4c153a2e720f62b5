"""Mistakes of users: one clear line that says what to change, exit code 2, earlier checkpoints untouched."""

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.exceptions import RayTaskError
from safetensors.torch import load_file, save_file

from segzero import shipped
from segzero.cli.main import main
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.io import lock
from segzero.tiny.questions import make_samples
from segzero.training import checkpoints, launch, metrics_log


@pytest.fixture(scope="module")
def one_object():
    return [sample for sample in make_samples(30, 13) if len(sample.objects) == 1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, one_object):
    """Good data, and files that are bad as a whole."""
    folder = tmp_path_factory.mktemp("bad_input")
    to_parquet(one_object, folder / "train.parquet")
    to_parquet(one_object[:4], folder / "val.parquet")
    to_parquet(one_object[:9], folder / "few.parquet")
    to_parquet([], folder / "empty.parquet")
    pq.write_table(pa.table({"image": ["a.png"], "problem": ["the cat"]}), folder / "columns.parquet")
    (folder / "text.parquet").write_text("id,image\n")
    (folder / "imports.py").write_text("import os\n")
    (folder / "divides.py").write_text("def reward(answer, truth):\n    return {'a': 1 / 0}\n")
    to_parquet([replace(s, image=f"/gone/{s.id}.png") for s in one_object], folder / "gone.parquet")
    wrong = {"size": [10, 20], "counts": [200]}
    to_parquet([with_rle(s, wrong) for s in one_object], folder / "masks.parquet")
    to_parquet([with_rle(s, None) for s in one_object], folder / "no_masks.parquet")
    to_parquet([replace(s, objects=s.objects * 2) for s in one_object], folder / "two.parquet")
    write_policies(folder)
    return folder


def write_policies(folder: Path) -> None:
    """Folders of the shipped policy, each with something wrong."""
    whole = load_file(shipped.policy_path() / "model.safetensors")
    for name in ("no_tokenizer", "text_alone", "blind", "cut", "no_weights"):
        shutil.copytree(shipped.policy_path(), folder / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "no_tokenizer" / file).unlink()
    (folder / "text_alone" / "config.json").write_text('{"model_type": "qwen2"}')
    seeing = {name for name in whole if "visual" in name}
    save_file({k: v for k, v in whole.items() if k not in seeing}, folder / "blind" / "model.safetensors")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    (folder / "no_weights" / "model.safetensors").unlink()


def with_rle(sample, rle):
    return replace(sample, objects=tuple(replace(found, rle=rle) for found in sample.objects))


@pytest.fixture
def segzero_train(shared, tmp_path, monkeypatch, capsys):
    """Run `segzero train ...` on the good data; returns its exit code and error output."""
    monkeypatch.setenv("DATA", str(shared))
    monkeypatch.setenv("MODEL_PATH", str(shipped.policy_path()))
    monkeypatch.setenv("SEGMENTER_PATH", str(shipped.segmenter_path()))
    monkeypatch.chdir(shared)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a_file").write_text("")

    def call(*overrides: str) -> tuple[int, str]:
        command = ["segzero", "train", f"trainer.default_local_dir={tmp_path / 'run'}", *overrides]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # data
        ("data.train_files=gone", "no such data: gone; set the folder"),
        ("data.train_files=empty.parquet", "empty.parquet holds no samples"),
        ("data.val_files=empty.parquet", "empty.parquet holds no samples"),
        ("data.train_files=columns.parquet", "lacks the column 'id'"),
        ("data.train_files=text.parquet", "is not a whole parquet file"),
        # batches
        ("actor_rollout_ref.actor.ppo_mini_batch_size=7", "is not a multiple of"),
        ("actor_rollout_ref.rollout.n=1", "use 2 or more"),
        ("data.train_batch_size=null", "must be a whole number"),
        ("data.train_batch_size=2.5", "must be a whole number"),
        ("algorithm.filter_groups.metric=acc", "unknown metric 'acc'; known: reward, thinking, format"),
        ("algorithm.filter_groups.max_num_gen_batches=0", "groups that are not flat; set 2 or more"),
        ("data.own_history=1.5", "data.own_history=1.5: it must be a number from 0 to 1"),
        ("data.own_history=-0.1", "it must be a number from 0 to 1"),
        ("data.own_history=nan", "it must be a number from 0 to 1"),
        ("data.own_history=null", "it must be a number from 0 to 1"),
        ("data.own_history=half", "it must be a number"),
        ("segzero.own_masks=1.5", "segzero.own_masks=1.5: it must be a number from 0 to 1"),
        ("segzero.own_masks=null", "it must be a number from 0 to 1"),
        ("segzero.looks=0", "segzero.looks=0: it must be a whole number from 1 on"),
        ("segzero.looks=9", "segzero.looks=9: an episode has at most 8 looks"),
        ("actor_rollout_ref.rollout.max_model_len=100", "make it 512"),
        ("data.max_response_length=100000", "make it 100384"),
        # hardware
        ("trainer.n_gpus_per_node=3", "does not divide among 3 GPUs"),
        ("trainer.n_gpus_per_node=2", "set it to 2"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "do not divide into replicas"),
        ("trainer.device=tpu", "choose cuda or cpu"),
        ("actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=0", "or to null"),
        ("ray_kwargs.ray_init.num_cpus=2", "set ray_kwargs.ray_init.num_cpus=5"),
        ("segzero.segmenter.num_gpus=1", "a trainer leaves 0.67 of its GPU"),
        # the policy's folder
        ("actor_rollout_ref.model.path=no_tokenizer", "holds no tokenizer; save the policy's processor there"),
        ("actor_rollout_ref.model.path=text_alone", "holds a 'qwen2' model; a policy is one of"),
        ("actor_rollout_ref.model.path=blind", "holds no vision tower"),
        ("actor_rollout_ref.model.path=cut", "is its download complete?"),
        ("actor_rollout_ref.model.path=no_weights", "holds no weights (model.safetensors)"),
        # algorithms
        ("algorithm.adv_estimator=grop", "unknown adv_estimator 'grop'; did you mean 'grpo'?"),
        ("algorithm.adv_estimator=gae", "needs a critic, which this trainer does not have"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspoo", "did you mean 'gspo'?"),
        ("actor_rollout_ref.actor.strategy=megatron", "known: fsdp, fsdp2"),
        ("actor_rollout_ref.actor.optim.lr_scheduler_type=cosin", "did you mean 'cosine'?"),
        ("actor_rollout_ref.actor.kl_loss_type=low_kl", "did you mean 'low_var_kl'?"),
        ("actor_rollout_ref.actor.loss_agg_mode=token_mean", "did you mean 'token-mean'?"),
        ("algorithm.kl_penalty=full", "unknown kl_penalty 'full'"),
        ("actor_rollout_ref.rollout.name=sglang", "known: vllm"),
        ("+actor_rollout_ref.model.override_config.attn_implementation=flash", "choose flash_attention_2, sdpa"),
        ("+actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2", "needs a GPU, and trainer"),
        # names
        ("reward.name=mask2", "did you mean 'mask'"),
        ("reward=custom", "name your function"),
        ("reward=candidate", "reward.path is not set; name a candidate's file"),
        ("reward.name=no/such/winner.py", "no/such/winner.py: No such file or directory; check the path"),
        ("reward.name=imports.py", "imports.py, line 1: no import"),
        ("reward.name=nobodys_module.reward", "is its folder on PYTHONPATH?"),
        ("reward=seg_zero", "set data.prompt=seg_zero"),
        ("data.prompt=mutli", "did you mean 'multi'"),
        ("data.frame=stretch(840)", "its processor keeps"),
        ("segzero.segmenter.path=no/such/folder", "no such segmenter: no/such/folder"),
        ("segzero.segmenter.backend=sam", "unknown segmenter backend 'sam'"),
        ("actor_rollout_ref.model.path=no/such/folder", "no/such/folder"),
    ],
)
def test_before_anything_starts(segzero_train, override, message):
    code, err = segzero_train(override)
    assert code == 2
    assert err.startswith("segzero: ") and err.count("\n") == 1 and message in err


def test_more_gpus_than_there_are(segzero_train):
    there = torch.cuda.device_count()
    code, err = segzero_train("hardware=gpu8", f"trainer.n_gpus_per_node={2 * there + 2}")
    assert code == 2 and f"but this machine has {there} GPUs; choose hardware=cpu" in err


def test_a_folder_that_cannot_be_written(segzero_train, tmp_path):
    code, err = segzero_train(f"trainer.default_local_dir={tmp_path / 'a_file' / 'run'}")
    assert code == 2 and "set trainer.default_local_dir" in err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train_files=gone.parquet"], "no such image: /gone/tiny-13-0.png"),
        (["data.train_files=masks.parquet"], "a mask of it is 20x10, its image 224x224"),
        (["data.train_files=no_masks.parquet"], "give every object an RLE"),
        (["data.train_files=few.parquet"], "9 training samples are less than one step's data.train_batch_size=16"),
        (["data.max_prompt_length=20", "data.train_batch_size=4"], "left out as too long"),
        (
            ["data.train_files=two.parquet", "reward=seg_zero", "data.prompt=seg_zero"],
            "reward=seg_zero cannot score sample 'tiny-13-0'",
        ),
        (["reward.name=raises.reward"], "raised ZeroDivisionError"),
        (["reward.name=returns_nan.reward"], "every value must be finite"),
        (["reward.name=returns_text.reward"], "return a number or named numbers"),
        (
            ["reward=candidate", "reward.path=divides.py"],
            "divides.py', line 2: ZeroDivisionError: division by zero; 3 fai",
        ),
        (["segzero.resume=runs/other"], "give auto, none or a folder global_step_N"),
        (["segzero.resume=global_step_7"], "the checkpoint is damaged (manifest.json is missing"),
        (["actor_rollout_ref.actor.loss_agg_mode=median"], "loss_agg_mode"),
    ],
)
def test_a_dry_run_finds_what_would_fail_later(segzero_train, tmp_path, overrides, message):
    (tmp_path / "raises.py").write_text("def reward(answer, truth):\n    return 1 / 0\n")
    (tmp_path / "returns_nan.py").write_text("def reward(answer, truth):\n    return float('nan')\n")
    (tmp_path / "returns_text.py").write_text("def reward(answer, truth):\n    return 'good'\n")
    code, err = segzero_train("dry_run=true", *overrides)
    assert code == 2
    assert [line for line in err.splitlines() if line.startswith("segzero: ")] == [err.splitlines()[-1]]
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_second_training_in_a_folder_is_refused_before_it_touches_anything(segzero_train, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(launch, "_run", lambda config: pytest.fail("the second training began"))
    with lock(run, "busy"):
        checkpoints.new_unfinished(run, 5)  # as the first has it while it saves
        code, err = segzero_train()
        assert code == 2 and err.count("\n") == 1
        assert f"another training is at work in {run}; wait for it, or set trainer.default_local_dir" in err
        assert sorted(path.name for path in run.iterdir()) == [".global_step_5.unfinished", ".lock"]
        assert checkpoints.steps(run) == [] and checkpoints.latest_whole(run) == (None, [])


HOLD = """
import subprocess, sys
from pathlib import Path
from segzero.io import lock
with lock(Path(sys.argv[1]), "busy"):
    child = subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)
    print("held", flush=True)
    child.wait()
"""


def test_processes_that_outlive_a_run_do_not_keep_its_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another"), lock(tmp_path, "another"):
            pass
        holder.kill()
        holder.wait()
        with lock(tmp_path, "another"):  # though the child still waits for its input
            pass
    finally:
        holder.kill()
        holder.communicate()


def saved(run: Path, step: int, world_size: int = 1) -> Path:
    """A whole checkpoint with a real tensor in it."""
    place = checkpoints.new_unfinished(run, step)
    (place / "actor").mkdir()
    for rank in range(world_size):
        torch.save({"weight": torch.arange(1000.0)}, place / "actor" / f"model_world_size_{world_size}_rank_{rank}.pt")
    (place / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": world_size}))
    return checkpoints.finish(run, step, {})


def test_a_checkpoint_of_another_world_size(segzero_train, tmp_path):
    place = saved(tmp_path / "run", 5, world_size=4)
    code, err = segzero_train("dry_run=true")
    assert code == 2
    assert f"{place} was saved by 4 processes, this run has 1; use 4 GPUs, or merge it" in err
    assert checkpoints.damage(place) is None


def test_a_disk_that_is_full_while_a_tensor_is_saved(tmp_path):
    place = saved(tmp_path, 5)
    unfinished = checkpoints.new_unfinished(tmp_path, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # no file may grow beyond
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.save({"weight": torch.zeros(100_000)}, unfinished / "model.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = RayTaskError("save_checkpoint", "Traceback ...", caught.value).as_instanceof_cause()  # as a trainer's comes
    line = str(launch.explain(error, tmp_path))
    assert line.startswith(f"no room left to write to {tmp_path}: ") and "make room" in line and "\n" not in line
    assert checkpoints.latest_whole(tmp_path) == (place, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [place.name, checkpoints.TRACKER]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_disk_that_is_full_while_a_line_is_logged(tmp_path):
    place = saved(tmp_path, 5)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        metrics_log.append(tmp_path / "metrics.jsonl", 6, {"reward/mean": 1.0})
    assert "No space left on device. Its earlier checkpoints are whole" in str(launch.explain(caught.value, tmp_path))
    assert checkpoints.latest_whole(tmp_path) == (place, [])


def test_a_mistake_noticed_in_another_process_is_still_one_line(tmp_path):
    error = RayTaskError("draw", "Traceback ...", UserError("no such image: a.png")).as_instanceof_cause()
    assert str(launch.explain(error, tmp_path)) == "no such image: a.png"


def test_an_unexpected_error_keeps_its_traceback(tmp_path):
    assert launch.explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), tmp_path) is None
