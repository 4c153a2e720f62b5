"""verl 0.9.1 as shipped, on the policy, samples, reward and configuration of our own run.

Trainer, dataset, agent loop, router, reward manager and replay buffer are verl's own. Ours are only the platform and
the patches of `segzero.training.verl_glue.plugin`, without which verl doesn't run on a CPU. There are one agent and one
reward worker instead of eight of each, as two cores have no use for more.

    python -m benchmarks.peers.verl_stock DATA.parquet LOG.jsonl STEPS [key=value ...]
"""

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.peers.shared import REWARD, messages, picture_bytes, policy, read_samples, rewards_of
from segzero.sample import Object, Sample

OURS = ("segzero", "dry_run", "data.image_dir", "data.checkpoint", "data.frame", "data.prompt", "reward.name")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **options) -> float:
    """Score one answer; verl's reward manager calls this."""
    [reward] = rewards_of([solution_str], [from_json(ground_truth)], policy())
    return reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    os.environ["VERL_FILE_LOGGER_PATH"] = str(args.log)
    rows = args.log.with_name("verl.parquet")
    write_rows(args.data, rows)
    config = stock_config(rows, args.steps, args.overrides)
    set_environment(config)

    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.utils.config import validate_config

    validate_config(config, use_reference_policy=False, use_critic=False)
    run_ppo(config, task_runner_class=TaskRunnerV1)


def write_rows(source: Path, target: Path) -> None:
    """Write the samples in verl's columns: chat messages, the image's bytes, the truth as JSON."""
    import datasets

    checkpoint = policy()
    rows = [
        {
            "data_source": "scenes",
            "prompt": messages(sample, checkpoint, "<image>"),
            "images": [{"bytes": picture_bytes(sample, checkpoint)}],
            "reward_model": {"style": "rule", "ground_truth": to_json(sample)},
            "extra_info": {"index": index},
        }
        for index, sample in enumerate(read_samples(source))
    ]
    datasets.Dataset.from_list(rows).to_parquet(target)


def to_json(sample: Sample) -> str:
    """A sample's truth as text, without its image."""
    return json.dumps(asdict(replace(sample, image="")))


def from_json(text: str) -> Sample:
    """The sample that `to_json` wrote."""
    values = json.loads(text)
    values["objects"] = tuple(
        Object(tuple(o["box"]), tuple(tuple(point) for point in o["points"]), o["rle"]) for o in values["objects"]
    )
    values["turns"] = tuple(values["turns"])
    return Sample(**values)


def stock_config(rows: Path, steps: int, overrides: list[str]):
    """Compose our configuration with the overrides, and take our own parts out of it."""
    from omegaconf import OmegaConf, open_dict

    from segzero.training.config import compose

    config = compose("train", [f"reward={REWARD}", *overrides])
    with open_dict(config):
        for key in OURS:
            parent, _, name = key.rpartition(".")
            del (OmegaConf.select(config, parent) if parent else config)[name]
        del config.actor_rollout_ref["image"], config.actor_rollout_ref["shared_prompt"]
        model = config.actor_rollout_ref.model  # verl's defaults need flash-attn
        model.override_config.attn_implementation, model.use_remove_padding = "sdpa", False
        model.use_fused_kernels = False
        config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes = 64
        config.data.train_files = config.data.val_files = str(rows)
        config.data.custom_cls = {"path": None, "name": None}
        config.reward.num_workers = 1
        config.reward.custom_reward_function = {"path": str(Path(__file__).absolute()), "name": "compute_score"}
        config.actor_rollout_ref.rollout.agent.num_workers = 1
        config.ray_kwargs.ray_init.log_to_driver = True
        config.trainer.logger = ["file"]
        config.trainer.resume_mode = "disable"
        config.trainer.default_local_dir = str(rows.with_name("verl"))
        config.trainer.total_training_steps = steps
        config.trainer.total_epochs = 100
        config.trainer.val_before_train = False
        config.trainer.test_freq = config.trainer.save_freq = -1
    return config


def set_environment(config) -> None:
    """Set the environment as `segzero train` does, but for verl's own engine."""
    from segzero.training.launch import prepare_environment

    prepare_environment(config)
    del os.environ["VERL_ENGINE_VENDOR"]
    del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]  # verl's agent loops unpickle the prompts that they are given
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"  # the only name for which verl's FSDP engine is registered


if __name__ == "__main__":
    main()
