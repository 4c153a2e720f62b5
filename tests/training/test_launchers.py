"""The launchers: the published hyper-parameters, and each runs to its end as a dry run."""

import os
import subprocess

import pytest

from segzero import shipped
from segzero.policy.checkpoint import read_checkpoint
from segzero.training.batch import batch_sizes
from segzero.training.config import compose
from tests.helpers.launching import SCRIPTS, overrides_of, write_one_object_scenes
from tests.helpers.released_shapes import write_released

# Those of `segzero train`; others are in tests/supervised.
LAUNCHERS = sorted(path.stem for path in SCRIPTS.glob("*.sh") if "segzero train " in path.read_text())

# As published for all sizes (Seg-Zero and VisionReasoner alike).
PUBLISHED = {
    "data.train_batch_size": 16,
    "data.max_prompt_length": 1300,
    "data.seed": 42,
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": True,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1,
    "actor_rollout_ref.rollout.top_k": -1,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
    "actor_rollout_ref.actor.ppo_epochs": 1,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.optimizer": "AdamW",
    "actor_rollout_ref.actor.optim.weight_decay": 0.01,
    "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.0,
    "actor_rollout_ref.actor.optim.clip_grad": 1.0,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.entropy_coeff": 0.001,
    "actor_rollout_ref.actor.clip_ratio": 0.2,
    "actor_rollout_ref.actor.freeze_vision_tower": False,
    "actor_rollout_ref.model.lora_rank": 0,
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
    "trainer.total_epochs": 1,
}
SEG_ZERO = {
    "reward.name": "seg_zero_strict",
    "data.prompt": "seg_zero",
    "data.frame": "stretch(840)",
    "data.max_response_length": 1300,
    "actor_rollout_ref.actor.kl_loss_coef": 0.005,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
    "actor_rollout_ref.rollout.gpu_memory_utilization": 0.5,
}
VISION_REASONER = {
    "reward.name": "vision_reasoner",
    "data.prompt": "vision_reasoner",
    "data.frame": "stretch(840)",
    "data.max_response_length": 2000,
    "actor_rollout_ref.actor.kl_loss_coef": 0.01,
}


def engine(width: int, share: float) -> dict[str, float]:
    rollout = "actor_rollout_ref.rollout"
    return {f"{rollout}.tensor_model_parallel_size": width, f"{rollout}.gpu_memory_utilization": share}


RECIPES = {
    "run_qwen2_5_3b_refCOCOg": SEG_ZERO,
    "run_qwen2_5_7b_refCOCOg": SEG_ZERO,
    "run_visionreasoner_7b": VISION_REASONER | engine(2, 0.6),
    "run_visionreasoner_7b_multinode": VISION_REASONER | engine(2, 0.6),
    "run_visionreasoner_7b_8x80G": VISION_REASONER | engine(2, 0.5),
    "run_visionreasoner_7b_4x80G": VISION_REASONER | engine(2, 0.4),
    # Published with a share of 0.1, which vLLM cannot start with: docs/training.md.
    "run_visionreasoner_7b_8x46G": VISION_REASONER | engine(4, 0.3),
}
# Ours: a laptop, and LoRA on a card of 24 GB.
OWN = {"run_tiny_cpu", "run_qwen2_5_3b_1gpu"}


def test_every_launcher_is_known():
    assert set(LAUNCHERS) == set(RECIPES) | OWN


@pytest.mark.parametrize("launcher", RECIPES)
def test_hyper_parameters_are_the_published(launcher):
    from omegaconf import OmegaConf

    config = compose("train", overrides_of(launcher))
    wanted = PUBLISHED | RECIPES[launcher]
    assert {key: OmegaConf.select(config, key) for key in wanted} == wanted
    assert batch_sizes(config).updates == 1


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Environment of the launchers: policies, and train.parquet and val.parquet of one-object scenes."""
    folder = tmp_path_factory.mktemp("launchers")
    write_one_object_scenes(folder, 60)
    return {
        "tiny": shipped.policy_path(),
        "3b": write_released("qwen2_5_vl_3b", folder / "3b"),
        "7b": write_released("qwen2_5_vl_7b", folder / "7b"),
        "data": folder,
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_passes_a_dry_run(launcher, places, tmp_path):
    size = next(size for size in ("tiny", "3b", "7b") if size in launcher)
    environment = {**os.environ, "MODEL_PATH": str(places[size]), "DATA": str(places["data"])}
    environment |= {"SEGMENTER_PATH": str(shipped.segmenter_path()), "CUDA_VISIBLE_DEVICES": ""}
    for name in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES"):
        environment.pop(name, None)
    command = ["bash", SCRIPTS / f"{launcher}.sh", "dry_run=true", f"trainer.default_local_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "16 prompts x 8 answers = 128 a step, 1 update of 128" in done.stdout
    assert ("here it could not run" in done.stdout) == (size != "tiny" and "multinode" not in launcher)
    assert "this answer earns" in done.stdout and str(read_checkpoint(places[size]).path) in done.stdout
    assert not (tmp_path / "run").exists()
