"""Settings of a supervised run: a YAML file of configs/supervised, and the user's values on top.

>>> compose("sft", ["steps=10", "model=my_policy"]).steps                         # doctest: +SKIP
10
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzero import shipped
from segzero.errors import UserError, one_line

AT_LEAST_ONE = {"steps", "batch", "tokens_per_pass", "rows_per_pass", "max_prompt_length"}
AT_LEAST_ONE |= {"val_every", "val_samples", "save_every", "expressions", "per_image", "objects"}
FROM_ZERO = {"lr", "weight_decay", "lora_rank", "lora_dropout", "warm_up", "final_lr", "cache_gb"}
FROM_ZERO |= {f"{term}_weight" for term in ("mask", "focal", "dice", "presence", "score", "answer")}
PHASE = {"data": str, "steps": int, "lr": int | float, "replay": int | float}
PRECISIONS = ("auto", "float32", "bfloat16")


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Read a configuration and set the user's values; a wrong key or value is one clear line."""
    config = OmegaConf.load(shipped.config_dir() / "supervised" / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override}: write key=value, as in steps=500")
        if key not in config:
            near = get_close_matches(key, list(map(str, config)), n=1)
            raise UserError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        _set(config, key, text)
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {one_line(error)}") from None
    _check(config)
    return config


def _set(config: DictConfig, key: str, text: str) -> None:
    """Set a value, of the kind that the default has."""
    try:
        value = OmegaConf.create(f"value: {text}").value
    except Exception as error:  # YAML's and omegaconf's errors have no common base
        raise UserError(f"{key}={text}: {one_line(error, 200)}") from None
    default = OmegaConf.to_container(config)[key]  # type: ignore[call-overload, index]
    if isinstance(default, list) != isinstance(value, ListConfig):
        raise UserError(f"{key}={text}: it must be {'a list' if isinstance(default, list) else 'one value'}")
    if isinstance(default, bool) != isinstance(value, bool) or (
        isinstance(default, int | float) and not isinstance(value, int | float)
    ):
        wanted = "true or false" if isinstance(default, bool) else "a number"
        raise UserError(f"{key}={text}: it must be {wanted}")
    config[key] = str(value) if isinstance(default, str) else value


def _check_phase(phase: Any) -> None:
    """Refuse a phase without data and steps, or with anything that a phase has not."""
    example = "[{data: data/more, steps: 500, lr: 1e-5, replay: 0.3}]"
    if not isinstance(phase, DictConfig) or not {"data", "steps"} <= phase.keys() <= PHASE.keys():
        raise UserError(f"phases={phase}: each has data and steps, and may have lr and replay, as in {example}")
    for key, kind in PHASE.items():
        value = phase.get(key)
        if key in phase and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UserError(f"phases: {key}={value} is not what it should be, as in {example}")
    if phase.steps < 1 or not phase.get("lr", 1.0) >= 0 or not 0 <= phase.get("replay", 0.0) < 1:
        raise UserError(f"phases={phase}: steps from 1 on, lr from 0 on, replay from 0 to below 1")


def _check(config: DictConfig) -> None:
    for phase in config.get("phases") or ():
        _check_phase(phase)
    for key in filter(AT_LEAST_ONE.__contains__, config):
        if not (isinstance(config[key], int) and config[key] >= 1):
            raise UserError(f"{key}={config[key]}: it must be a whole number from 1 on")
    for key in filter(FROM_ZERO.__contains__, config):
        if not config[key] >= 0:
            raise UserError(f"{key}={config[key]}: it must be 0 or more")
    if config.precision not in PRECISIONS:
        raise UserError(f"precision={config.precision}: use one of {', '.join(PRECISIONS)}")
    if config.get("adapters_only") and not config.lora_rank:
        raise UserError("adapters_only=true, but lora_rank=0 trains all weights; leave one of them out")
    if config.resume not in ("auto", "none"):
        raise UserError(f"resume={config.resume}: use auto or none")


def model_path(name: str) -> str:
    """Path or hub name of a policy: a name of configs/model stands for the path in that file."""
    file = shipped.config_dir() / "model" / f"{name}.yaml"
    if "/" in name or Path(name).exists() or not file.is_file():
        return name
    if not OmegaConf.has_resolver("shipped"):
        OmegaConf.register_new_resolver("shipped", shipped.model_path)
    return str(OmegaConf.load(file).actor_rollout_ref.model.path)


def data_files(data: str, split: str) -> list[Path]:
    """The parquet files of a split: those of folders by name, or single files, which are for training alone.

    Several places are separated by commas.
    """
    files: list[Path] = []
    for name in data.split(","):
        place = Path(name.strip()).expanduser()
        if place.is_file():
            files += [place] if split == "train" else []
        else:
            files += sorted(place.glob(f"{split}*.parquet"))
    if split == "train" and not files:
        raise UserError(f"no data for training: no {data}/train*.parquet; `segzero data prepare` writes it")
    return files
