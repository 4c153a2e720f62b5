"""Every launcher's own configuration, run on a CPU: `rehearse=cpu` changes device, precision, processes and batch.

The checkpoints are random, with Qwen's real vocabulary, so prompts, logits and embedding tables have their real
sizes. Launchers that take the same paths through the code share a run.
"""

import contextlib
import time
from pathlib import Path

import psutil
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from segzero.data.parquet import to_parquet
from segzero.policy.checkpoint import read_checkpoint
from segzero.tiny.questions import make_samples
from segzero.training.config import compose
from segzero.training.tokenization import Encoder, load_processor
from tests.helpers.launching import SEGMENTER, complaint, kill, logged, overrides_of, spawn, wait
from tests.helpers.random_checkpoints import FAMILIES, build_checkpoint

# Settings that choose a path through the code, not a number.
PATHS = (
    "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.model.use_fused_kernels",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.use_dynamic_bsz",
    "actor_rollout_ref.actor.freeze_vision_tower",
    "actor_rollout_ref.actor.fsdp_config.param_offload",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload",
    "actor_rollout_ref.actor.fsdp_config.model_dtype",
    "actor_rollout_ref.ref.fsdp_config.model_dtype",
    "actor_rollout_ref.rollout.load_format",
    "algorithm.rollout_correction.bypass_mode",
)
# The launcher that is run -> those that take the same path. The first is resumed under the second's preset.
STAND_FOR = {
    "run_visionreasoner_7b_4x80G": {
        "run_qwen2_5_3b_refCOCOg",
        "run_qwen2_5_7b_refCOCOg",
        "run_visionreasoner_7b",
        "run_visionreasoner_7b_4x80G",
        "run_visionreasoner_7b_8x80G",
        "run_visionreasoner_7b_multinode",
    },
    "run_visionreasoner_7b_8x46G": {"run_visionreasoner_7b_8x46G"},
    "run_qwen2_5_3b_1gpu": {"run_qwen2_5_3b_1gpu"},
}
SHORT = ["data.max_response_length=24", "actor_rollout_ref.rollout.max_model_len=1400", "data.train_batch_size=1"]


def path_of(launcher: str) -> tuple:
    config = compose("train", [*overrides_of(launcher), "rehearse=cpu"])
    return tuple(OmegaConf.select(config, key) for key in PATHS)


def test_launchers_that_share_a_run_take_the_same_path():
    from tests.training.test_launchers import OWN, RECIPES

    assert set().union(*STAND_FOR.values()) == set(RECIPES) | OWN - {"run_tiny_cpu"}
    for stand_in, launchers in STAND_FOR.items():
        assert {path_of(launcher) for launcher in launchers} == {path_of(stand_in)}
    assert len({path_of(launcher) for launcher in STAND_FOR}) == len(STAND_FOR)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """A folder with train.parquet and val.parquet of one-object scenes."""
    folder = tmp_path_factory.mktemp("single")
    samples = [sample for sample in make_samples(40, 12) if len(sample.objects) == 1]
    to_parquet(samples[:4], folder / "train.parquet")
    to_parquet(samples[4:6], folder / "val.parquet")
    return folder


def rehearse(launcher: str, policy: Path, data: Path, run: Path, *overrides: str):
    places = {"MODEL_PATH": str(policy), "DATA": str(data), "SEGMENTER_PATH": SEGMENTER}
    fixed = [f"trainer.default_local_dir={run}", "trainer.val_before_train=false", "trainer.save_freq=1", *SHORT]
    return spawn(launcher, places, "rehearse=cpu", *fixed, *overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def merged(run: Path, step: int, out: Path) -> dict[str, torch.Tensor]:
    from segzero.training.merge import merge

    return weights(merge(run / f"global_step_{step}", out, dtype="float32"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_have_their_real_length(family, tmp_path):
    build_checkpoint(family, tmp_path, real_vocabulary=True)
    frame = None if family == "qwen3_vl" else "stretch(840)"
    encoder = Encoder(read_checkpoint(tmp_path, frame, "seg_zero"), load_processor(str(tmp_path)))
    [sample] = make_samples(1, 12)
    visual = encoder.checkpoint.image_tokens(encoder.checkpoint.frame.model_size(sample.size))
    text = len(encoder.encode(sample)) - visual
    assert 130 < text < 160
    assert visual == 900 or family == "qwen3_vl"  # whose patches are of 16 pixels, which 840 is no multiple of


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untied")
    build_checkpoint("qwen2_5_vl", folder, real_vocabulary=True)
    return folder


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    build_checkpoint("qwen2_5_vl", folder, real_vocabulary=True, tied=True)
    return folder


@pytest.fixture(scope="module")
def with_adapters(tied, single, tmp_path_factory):
    """A run with LoRA that goes on beside the other tests: most of its time is waiting."""
    run = tmp_path_factory.mktemp("adapters")
    quick = "actor_rollout_ref.actor.optim.lr=1e-2"  # one step must show in what the engine computes in the second
    process = rehearse("run_qwen2_5_3b_1gpu", tied, single, run, "trainer.total_training_steps=2", quick)
    yield process, run
    if process.poll() is None:
        kill(process)


@pytest.mark.slow
@pytest.mark.alone
def test_full_training_is_resumed_under_another_preset_and_merged(with_adapters, untied, single, tmp_path):
    """Without offloading, then with it; a reference model; a head of its own; nothing listens to other machines."""
    run = tmp_path / "run"
    output = wait(rehearse("run_visionreasoner_7b_4x80G", untied, single, run, "trainer.total_training_steps=1"))
    assert "attention SDPA over packed rows with shared prompts" in output and (run / "metrics.jsonl").exists(), output[
        -3000:
    ]
    [first] = logged(run)
    assert first["data"]["prompt_length/mean"] > 1040
    assert first["data"]["training/rollout_probs_diff_mean"] < 1e-4  # vLLM and the trainer compute alike
    process = rehearse("run_visionreasoner_7b_8x46G", untied, single, run, "trainer.total_training_steps=2")
    listening = set()
    while process.poll() is None and len(logged(run)) < 2:
        listening |= listeners(process.pid)
        time.sleep(1)
    output = wait(process)
    assert process.returncode == 0, output[-3000:]
    assert f"resuming from {run / 'global_step_1'}" in output, output[-3000:]
    assert len(listening) > 10  # Ray, TransferQueue, vLLM, torch
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    second = logged(run)[-1]
    assert second["step"] == 2 and 0 <= second["data"]["val/giou"] <= 1
    assert second["data"]["actor/kl_loss"] > 0  # the reference is the policy before the first step
    assert second["data"]["training/rollout_probs_diff_mean"] < 1e-4  # after a transfer of every weight
    before, after = weights(untied), merged(run, 2, tmp_path / "merged")
    assert before.keys() == after.keys()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert "lm_head.weight" in moved
    assert any("visual" in name for name in moved) and any("embed_tokens" in name for name in moved)


@pytest.mark.slow
@pytest.mark.alone
def test_adapters_are_trained_alone_and_reach_the_engine(with_adapters, tied, tmp_path):
    process, run = with_adapters
    output = wait(process)
    steps = logged(run)
    assert [row["step"] for row in steps] == [1, 2], output[-3000:]
    assert steps[1]["data"]["training/rollout_probs_diff_mean"] < 5e-3
    shards = torch.load(run / "global_step_2" / "actor" / "model_world_size_1_rank_0.pt", weights_only=True)
    kinds = {("lora_" in name, tensor.dtype) for name, tensor in shards.items()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    before, after = weights(tied), merged(run, 2, tmp_path / "merged")
    moved = {name for name, tensor in before.items() if not torch.allclose(tensor, after[name], atol=1e-2)}
    assert moved and not any("visual" in name or "embed_tokens" in name for name in moved)


@pytest.mark.slow
def test_a_bucket_too_small_is_refused_before_the_start(untied, single, tmp_path):
    bucket = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=8"
    process = rehearse("run_visionreasoner_7b", untied, single, tmp_path / "run", bucket, "dry_run=true")
    line = complaint(wait(process))
    assert process.returncode == 2 and "update_weights_bucket_megabytes" in line


def listeners(pid: int) -> set[tuple[str, str]]:
    """Name and address of each socket on which a process and its children wait for connections."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            sockets = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found |= {(f"{process.name()}:{c.laddr.port}", c.laddr.ip) for c in sockets}
    return found
