"""What a run will do, worked out from its configuration in a second or two: the batch arithmetic, and whatever is
wrong that can be seen without reading the data. `rehearsal` looks at the rest.
"""

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rewards import get_rubric, load_reward
from segzero.data.parquet import from_parquet
from segzero.errors import UserError, unknown_name
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import get_prompt
from segzero.training.algorithms import check_names
from segzero.training.attention import describe_attention
from segzero.training.hardware import check_hardware, missing_gpus

# The published presets score one format each; in the other nothing can be earned.
FORMATS = {"seg_zero": "seg_zero", "seg_zero_strict": "seg_zero", "vision_reasoner": "multi"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Batch:
    """One step in numbers."""

    prompts: int
    answers: int  # a prompt
    mini: int  # answers an update
    micro: int | None  # answers a forward pass and GPU; None: as many as fit into max_tokens
    max_tokens: int | None
    gpus: int

    @property
    def total(self) -> int:
        return self.prompts * self.answers

    @property
    def updates(self) -> int:
        return self.total // self.mini

    def __str__(self) -> str:
        passes = f"micro-batches of {self.micro}" if self.micro else f"up to {self.max_tokens} tokens a pass"
        return (
            f"{self.prompts} prompts x {self.answers} answers = {self.total} a step, "
            f"{self.updates} update{'s' * (self.updates != 1)} of {self.mini}, {self.mini // self.gpus} a GPU, {passes}"
        )


def batch_of(config: DictConfig) -> Batch:
    """The arithmetic of a step."""
    actor, answers = "actor_rollout_ref.actor", _whole(config, "actor_rollout_ref.rollout.n")
    dynamic = config.actor_rollout_ref.actor.use_dynamic_bsz
    return Batch(
        prompts=_whole(config, "data.train_batch_size"),
        answers=answers,
        mini=_whole(config, f"{actor}.ppo_mini_batch_size") * answers,
        micro=None if dynamic else _whole(config, f"{actor}.ppo_micro_batch_size_per_gpu"),
        max_tokens=_whole(config, f"{actor}.ppo_max_token_len_per_gpu") if dynamic else None,
        gpus=_whole(config, "trainer.n_gpus_per_node") * _whole(config, "trainer.nnodes"),
    )


def _whole(config: DictConfig, key: str) -> int:
    """A number of things, at least one."""
    value = OmegaConf.select(config, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: it must be a whole number from 1 on")
    return value


def needs_reference(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward)


def check(config: DictConfig) -> Batch:
    """Refuse what would fail later, as far as the configuration tells."""
    batch = batch_of(config)
    _check_batch(batch)
    _check_lengths(config)
    check_names(config)
    _check_checkpoint(Path(str(config.actor_rollout_ref.model.path)).expanduser(), config.dry_run)
    check_hardware(config, batch.gpus)
    _check_reward(config)
    _check_own_history(config)
    _check_segmenter(config)
    _check_folder(Path(config.trainer.default_local_dir))
    for path in [*data_files(config, "train"), *data_files(config, "val")]:
        if not any(islice(from_parquet(path), 1)):
            raise UserError(f"{path} holds no samples; see `segzero docs training` for how to make them")
    return batch


def describe(config: DictConfig, batch: Batch) -> list[str]:
    """The plan in words."""
    data, trainer = config.data, config.trainer
    return [
        f"policy   {config.actor_rollout_ref.model.path}; frame {data.frame}, prompt {data.prompt}",
        f"data     {', '.join(map(str, data_files(config, 'train')))}",
        f"reward   {config.reward.name}; segmenter {config.segzero.segmenter.path or 'none'}",
        f"batch    {batch}",
        f"attention {describe_attention(config)}",
        f"run      {trainer.default_local_dir}; resume {config.segzero.resume}; {_hardware(config, batch)}",
    ]


def data_files(config: DictConfig, split: str) -> list[Path]:
    """The parquet files, folders or patterns of `train` or `val`."""
    value = config.data[f"{split}_files"]
    names = [Path(name).expanduser() for name in ([value] if isinstance(value, str) else value or [])]
    if not names:
        raise UserError(f"data.{split}_files is empty; name a parquet file")
    for name in names:
        if not (name.exists() or ("*" in name.name and any(name.parent.glob(name.name)))):
            where = f"set the folder of train*.parquet and val*.parquet by DATA, or data.{split}_files"
            raise UserError(f"no such data: {name}; {where}")
    return names


def _check_batch(batch: Batch) -> None:
    if batch.answers < 2:
        raise UserError(
            "actor_rollout_ref.rollout.n=1: GRPO compares answers to one prompt; use 2 or more, 8 as published"
        )
    if batch.mini > batch.total or batch.total % batch.mini:
        raise UserError(
            f"data.train_batch_size={batch.prompts} is no multiple of "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={batch.mini // batch.answers}; make it one"
        )
    if batch.mini % batch.gpus:
        raise UserError(
            f"an update of {batch.mini} answers does not divide among {batch.gpus} GPUs; change data.train_batch_size, "
            f"actor_rollout_ref.rollout.n or the number of GPUs"
        )
    if batch.micro and (batch.mini // batch.gpus) % batch.micro:
        raise UserError(
            f"{batch.mini // batch.gpus} answers a GPU do not divide into micro-batches of {batch.micro}; "
            f"change actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
        )


def _check_checkpoint(folder: Path, dry_run: bool) -> None:
    """Look for what a training reads of a checkpoint's folder; a hub's names are looked up when they are fetched."""
    if not folder.is_dir():
        return
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json")):
        raise UserError(f"{folder} holds no tokenizer; save the policy's processor there: processor.save_pretrained")
    names = _tensors(folder)
    if not names and not dry_run and not any(folder.glob("*.bin")):
        raise UserError(f"{folder} holds no weights (model.safetensors); is its download complete?")
    if names and not any("visual" in name.split(".") for name in names):
        raise UserError(
            f"{folder} holds no vision tower: none of its {len(names)} tensors is called visual; take a whole Qwen-VL "
            f"checkpoint"
        )


def _tensors(folder: Path) -> list[str]:
    """Names of a checkpoint's tensors, from the headers of its files."""
    from safetensors import SafetensorError, safe_open

    names: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as content:
                names += content.keys()
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file} can't be read: {reason}; is its download complete?") from None
    return names


def _check_lengths(config: DictConfig) -> None:
    rollout, data = config.actor_rollout_ref.rollout, config.data
    prompt, answer = _whole(config, "data.max_prompt_length"), _whole(config, "data.max_response_length")
    needed = prompt + answer
    if rollout.max_model_len and rollout.max_model_len < needed:
        raise UserError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} holds no prompt of "
            f"{prompt} and answer of {answer} tokens; make it {needed}"
        )
    longest = read_checkpoint(data.checkpoint, data.frame, data.prompt).max_length
    if needed > longest:
        raise UserError(
            f"data.max_prompt_length={prompt} and data.max_response_length={answer} are more than the {longest} "
            f"tokens the model was made for; lower them"
        )


def _hardware(config: DictConfig, batch: Batch) -> str:
    if config.trainer.device == "cpu":
        return f"on the CPU, {batch.gpus} process{'es' * (batch.gpus != 1)}"
    missing = missing_gpus(config)
    return f"{batch.gpus} GPU{'s' * (batch.gpus != 1)}" + (f" (here it could not run: {missing})" if missing else "")


def _check_reward(config: DictConfig) -> None:
    if OmegaConf.is_missing(config.reward, "name") or not isinstance(config.reward.name, str):
        raise UserError("reward.name is not set; name your function, as in reward.name=my_module.my_reward")
    name = config.reward.name
    rubric = None if "." in name else get_rubric(name)
    if rubric is None:
        load_reward(name)
    if rubric and rubric.needs_masks and not config.segzero.segmenter.path:
        raise UserError(f"reward={name} needs a segmenter; set segzero.segmenter.path")
    wanted, written = FORMATS.get(name), get_prompt(config.data.prompt).format
    if wanted and wanted != written:
        raise UserError(
            f"reward={name} scores answers of the format {wanted!r}, but the prompt {config.data.prompt!r} asks for "
            f"{written!r}; set data.prompt={'seg_zero' if wanted == 'seg_zero' else 'vision_reasoner'}"
        )


def _check_own_history(config: DictConfig) -> None:
    share = config.data.own_history
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
        raise UserError(
            f"data.own_history={share}: it must be a number from 0 to 1, the share of later rounds that are asked "
            f"after the policy's own answers"
        )


def _check_segmenter(config: DictConfig) -> None:
    from segzero.segmenter import BACKENDS

    settings = config.segzero.segmenter
    if settings.backend not in BACKENDS:
        raise unknown_name("segmenter backend", settings.backend, list(BACKENDS))
    path = str(settings.path or "")
    if path and not Path(path).exists() and not _HUB_NAME.fullmatch(path):
        raise UserError(
            f"no such segmenter: {path}; set segzero.segmenter.path or SEGMENTER_PATH to a folder or a hub name"
        )


def _check_folder(run: Path) -> None:
    place = next(folder for folder in (run, *run.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"cannot write to {run}: {place} does not let you; set trainer.default_local_dir")
