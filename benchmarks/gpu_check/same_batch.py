"""One batch of answers through the trainer's own worker, in one process and without Ray or vLLM.

The answers are given, so that two ways of computing can be compared number by number: their log-probs, and the loss
and gradient norm of an update. The learning rate is 0, so that every update starts from the same weights.

    python -m benchmarks.gpu_check.same_batch OUT.json PRECISION key=value ...

PRECISION is float32 or bfloat16; the keys are those of `segzero train`.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

SAMPLES, ANSWERS = 4, 4
TOKENS = 700  # a pass of the dynamic batches: a few answers, not always as many
STATIC = 2  # answers a pass of the static ones


def main() -> None:
    from segzero.errors import UserError

    out, precision, *overrides = sys.argv[1:]
    try:
        config = configure(precision, overrides)
    except UserError as error:
        print(f"segzero: {error}", file=sys.stderr)
        sys.exit(2)
    Path(out).write_text(json.dumps(measure(config, Path(out).parent)))


def configure(precision: str, overrides: list[str]) -> DictConfig:
    """Compose the run's configuration with the settings that make updates comparable."""
    from segzero.training.config import compose
    from segzero.training.launch import prepare_environment, resolve_config

    fixed = ["actor_rollout_ref.actor.optim.lr=0", "actor_rollout_ref.actor.entropy_coeff=0.001"]
    config = resolve_config(compose("train", [*overrides, *fixed]))
    short = {"float32": "fp32", "bfloat16": "bf16"}[precision]
    trainer = "actor_rollout_ref.actor.fsdp_config"
    OmegaConf.update(config, f"{trainer}.dtype", precision, force_add=True)
    OmegaConf.update(config, f"{trainer}.mixed_precision.param_dtype", short, force_add=True)
    prepare_environment(config)
    # The launcher of a Ray actor would set these.
    alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    os.environ.update(alone)
    return config


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def measure(config: DictConfig, folder: Path) -> dict:
    """Measure the log-probs of all answer tokens, and the figures of updates with static and dynamic micro-batches."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    from segzero.training.engine import PolicyWorker

    worker = PolicyWorker(config.actor_rollout_ref, "actor")
    worker.init_model()
    batch = make_batch(config, folder)
    static = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": STATIC}
    settings = {"temperature": 1.0, "calculate_entropy": True, "compute_loss": False}
    asked = batch.clone()
    tu.assign_non_tensor(asked, **settings, **static)
    computed = worker.compute_log_prob(asked)
    batch["old_log_probs"] = response_from_nested(computed["log_probs"], batch["response_mask"])

    updates = {}
    size = {"global_batch_size": len(batch), "mini_batch_size": len(batch), "epochs": 1, "seed": 1}
    for name, passes in {
        "static": static,
        "dynamic": {"use_dynamic_bsz": True, "max_token_len_per_gpu": TOKENS},
    }.items():
        given = batch.clone()
        tu.assign_non_tensor(given, temperature=1.0, calculate_entropy=True, **size, **passes)
        tu.assign_non_tensor(given, dataloader_kwargs={"shuffle": False})
        metrics = worker.update_actor(given)["metrics"]
        updates[name] = {key: float(last(metrics[key])) for key in ("loss", "grad_norm")}
    model = worker.actor.engine.module
    return {
        "log_probs": [row.tolist() for row in batch["old_log_probs"].unbind()],
        "updates": updates,
        "attention": model.config._attn_implementation,
        "fused": hasattr(model, "_verl_fused_kernels_backend"),  # verl's mark on a model that it has changed so
    }


def last(value: Any) -> Any:
    """The single value of a metric, which verl gathers in nested lists."""
    while isinstance(value, list):
        value = value[-1]
    return value


def make_batch(config: DictConfig, folder: Path):
    """Make held-out scenes with true and wrong answers of several lengths, and their advantages as in GRPO."""
    import torch

    from segzero.policy.checkpoint import read_checkpoint
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples
    from segzero.training.rollouts import as_batch, trajectory
    from segzero.training.tokenization import Encoder, load_processor

    path = config.actor_rollout_ref.model.path
    encoder = Encoder(read_checkpoint(path), load_processor(path))
    rows = []
    for number, made in enumerate(make_samples(SAMPLES, HELD_OUT_SEED + 41)):
        image = folder / f"same_batch_{number}.png"
        assert isinstance(made.image, bytes), "scenes are made in memory"
        image.write_bytes(made.image)
        sample = replace(made, image=str(image))
        encoded = encoder.encode(sample)
        for answer in range(ANSWERS):
            text = written(sample, encoder, answer)
            ids = encoder.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids.append(encoder.processor.tokenizer.eos_token_id)
            row = trajectory(encoded, ids, [0.0] * len(ids), 0.0, encoder, str(image))
            row["advantages"] = torch.full((len(ids),), [1.2, 0.4, -0.4, -1.2][answer % 4])
            rows.append(row)
    return as_batch(rows)


def written(sample, encoder, number: int) -> str:
    """Write the true answer as the shipped policy learnt it, or one with moved boxes or a longer chain of thought."""
    from segzero.answer import Answer, Instance, render_answer

    frame, instances = encoder.checkpoint.frame, []
    for thing in sample.objects:
        box = [value + 6 * (number % 2) for value in frame.to_frame(thing.box, sample.size)]
        points = tuple(frame.to_frame(point, sample.size) for point in thing.points)
        instances.append(Instance(tuple(box), points))
    think = " ".join([str(sample.meta["think"])] * (1 + number // 2))
    return render_answer(Answer(think=think, instances=tuple(instances)), encoder.format)


if __name__ == "__main__":
    main()
