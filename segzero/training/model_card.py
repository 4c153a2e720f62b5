"""Text files beside merged weights: for `read_checkpoint`, for transformers, and the model card for people.

The facts come from the run's folder: `config.yaml`, which `segzero train` writes when it starts, and
`metrics.jsonl`, one line per step. A checkpoint without them, such as a released one, gets a shorter card.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import segzero
from segzero.errors import UserError, one_line
from segzero.frames import parse_frame
from segzero.policy.checkpoint import CARD, card_text, read_checkpoint, read_config
from segzero.training import metrics_log

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
MOST_BYTES = 1 << 20  # of a run's configuration, which usually has 20 kB
_ADVICE = "put the run's own file there, or move it away and give frame and prompt where the merged policy is used"


class _Plain(yaml.SafeLoader):
    """YAML without aliases, with which a short file could expand to any number of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases")
        return super().compose_node(parent, index)


def make_cards(actor: Path, dtype: str, extra: Mapping[str, Any]) -> dict[str, str]:
    """Texts by file name, to be written beside the weights merged from the shards in `actor`."""
    config = read_config(actor / "huggingface")
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = dtype
    cards = {"config.json": json.dumps(config, indent=2) + "\n"}
    run = read_run(actor)
    if run:
        prompt, frame = run["data"].get("prompt"), run["data"].get("frame")
        if not isinstance(prompt, str) or not isinstance(frame, str):
            raise UserError(f"{_file(actor)} is not whole; {_ADVICE}")
        cards[CARD] = card_text(prompt, parse_frame(frame, read_checkpoint(actor / "huggingface").frame))
        cards[RUN_CONFIG] = _file(actor).read_text()
    return cards | {"README.md": _readme(actor, run, dtype, extra)}


def read_run(actor: Path) -> dict[str, Any] | None:
    """The configuration of the run that saved a checkpoint, if it is still where the run wrote it.

    A truncated file is refused, because it holds the coordinate frame that the policy was trained with.
    """
    file = _file(actor)
    if not file.is_file():
        return None
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} has more than {MOST_BYTES >> 20} MiB; {_ADVICE}")
    try:
        run = yaml.load(file.read_text(), _Plain)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file} can't be read: {one_line(error)}; {_ADVICE}") from error
    if not isinstance(run, dict) or "actor_rollout_ref" not in run:
        return None  # a config.yaml of another program
    model = _pick(run, "actor_rollout_ref.model.path")
    if not isinstance(model, str) or not all(isinstance(run.get(part), dict) for part in ("data", "reward")):
        raise UserError(f"{file} is not whole; {_ADVICE}")
    return run


def _file(actor: Path) -> Path:
    return actor.absolute().parents[1] / "config.yaml"


def base_model(run: Mapping[str, Any]) -> str:
    """The model that the training started from: a name on the hub, or a folder."""
    return one_line(run["actor_rollout_ref"]["model"]["path"])


def _readme(actor: Path, run: Mapping[str, Any] | None, dtype: str, extra: Mapping[str, Any]) -> str:
    lines: dict[str, Any] = {"Checkpoint": actor.parent.name, "Type": dtype, "Merged by": f"SegZero {_version()}"}
    head = ["library_name: transformers", "pipeline_tag: image-text-to-text"]
    if run:
        base = base_model(run)
        if not Path(base).is_absolute():
            head.append(f"base_model: {base}")
        lines = {"Base model": Path(base).name if Path(base).is_absolute() else base, **lines}
        lines |= {name: value for name, key in SHOWN.items() if (value := _pick(run, key)) not in (None, "", 0)}
        if not _pick(run, "actor_rollout_ref.actor.use_kl_loss"):
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
    """Validation and rewards of the checkpoint's step, from the run's log."""
    step = actor.absolute().parent.name.rpartition("_")[2]
    rows = metrics_log.read_rows(_file(actor).with_name(metrics_log.NAME)) if step.isdecimal() else []
    data = {name: value for row in rows if row["step"] == int(step) for name, value in row["data"].items()}
    shown = ("val/", "reward/")
    return {name: value for name, value in data.items() if name.startswith(shown) and name != "val/seconds"}


def _pick(run: Mapping[str, Any], key: str) -> Any:
    value: Any = run
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [value]
    if isinstance(value, Mapping) or not all(isinstance(each, str | int | float | None) for each in values):
        return None
    if not any(isinstance(each, str) for each in values):
        return value
    return one_line(", ".join(Path(each).name if Path(each).is_absolute() else each for each in map(str, values)))


def _version() -> str:
    """The package's version, and the commit if it runs from a clone."""
    clone = Path(segzero.__file__).parents[1]
    if not (clone / ".git").exists():
        return segzero.__version__
    try:
        command = ["git", "-C", str(clone), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or a clone of another user: the version alone
        return segzero.__version__
    return f"{segzero.__version__}, commit {commit}"
