"""What a merged checkpoint says about itself: for `read_checkpoint`, for transformers, and for people.

The run's folder is where the facts are: `config.yaml`, which `segzero train` writes when it starts, and
`metrics.jsonl`, a line a step. A checkpoint without them, such as a released one, gets a shorter card.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segzero
from segzero.frames import parse_frame
from segzero.policy.checkpoint import read_checkpoint, write_card

RUN_CONFIG = "training_config.yaml"  # the run's whole configuration, beside the weights
SHOWN = {  # line of the card -> key of the configuration
    "Data": "data.train_files",
    "Reward": "reward.name",
    "Prompts a step": "data.train_batch_size",
    "Answers a prompt": "actor_rollout_ref.rollout.n",
    "Learning rate": "actor_rollout_ref.actor.optim.lr",
    "KL loss": "actor_rollout_ref.actor.kl_loss_coef",
    "LoRA rank": "actor_rollout_ref.model.lora_rank",
}


def write_cards(actor: Path, target: Path, dtype: str, extra: Mapping[str, Any]) -> None:
    """Complete `target`, which holds the config and processor of the checkpoint whose shards are in `actor`."""
    config = json.loads((target / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    run = read_run(actor)
    if run:
        data = run["data"]
        write_card(target, data["prompt"], parse_frame(data["frame"], read_checkpoint(target).frame))
        shutil.copy2(actor.parents[1] / "config.yaml", target / RUN_CONFIG)
    (target / "README.md").write_text(_readme(actor, run, dtype, extra))


def read_run(actor: Path) -> dict[str, Any] | None:
    """The configuration of the run whose checkpoint this is, if it is still where the run left it."""
    import yaml

    file = actor.parents[1] / "config.yaml" if len(actor.parents) > 1 else None
    run = yaml.safe_load(file.read_text()) if file is not None and file.is_file() else None
    return run if isinstance(run, dict) and {"actor_rollout_ref", "data", "reward"} <= run.keys() else None


def base_model(run: Mapping[str, Any]) -> str:
    """Where the training started: a name on the hub, or a folder."""
    return str(run["actor_rollout_ref"]["model"]["path"])


def _readme(actor: Path, run: Mapping[str, Any] | None, dtype: str, extra: Mapping[str, Any]) -> str:
    lines: dict[str, Any] = {"Checkpoint": actor.parent.name, "Type": dtype, "Merged by": f"SegZero {_version()}"}
    head = ["library_name: transformers", "pipeline_tag: image-text-to-text"]
    if run:
        base = base_model(run)
        if not Path(base).is_absolute():
            head.append(f"base_model: {base}")
        lines = {"Base model": Path(base).name if Path(base).is_absolute() else base, **lines}
        lines |= {name: value for name, key in SHOWN.items() if (value := _pick(run, key)) not in (None, "", 0)}
        if not run["actor_rollout_ref"]["actor"].get("use_kl_loss"):
            lines.pop("KL loss", None)
    text = [f"- {name}: {value}" for name, value in {**lines, **extra}.items()]
    metrics = _metrics(actor)
    if metrics:
        text += ["", "| metric | value |", "|---|---|"]
        text += [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    if run:
        text += ["", f"The whole configuration is in `{RUN_CONFIG}`."]
    return "\n".join(["---", *head, "---", "Trained with SegZero.", "", *text]) + "\n"


def _metrics(actor: Path) -> dict[str, float]:
    """The step's own validation and rewards, as the run logged them."""
    file, step = actor.parents[1] / "metrics.jsonl", actor.parent.name.rpartition("_")[2]
    if not file.is_file() or not step.isdigit():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    data = {name: value for row in rows if row["step"] == int(step) for name, value in row["data"].items()}
    shown = ("val/", "reward/")
    return {name: value for name, value in data.items() if name.startswith(shown) and name != "val/seconds"}


def _pick(run: Mapping[str, Any], key: str) -> Any:
    value: Any = run
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    clone = Path(segzero.__file__).parents[1]
    if not (clone / ".git").exists():
        return segzero.__version__
    try:
        command = ["git", "-C", str(clone), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or not its owner's clone: the version must do
        return segzero.__version__
    return f"{segzero.__version__}, commit {commit}"
