"""Configuration of a run: verl's defaults, our few YAML files on top, the user's overrides on top of those.

A key without effect is refused, and the error names the key to use instead: verl 0.9.1 itself ignores it silently.
"""

import ast
import importlib.util
import re
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzero.errors import UserError, one_line
from segzero.shipped import config_dir, model_path

# Keys of verl without effect here, or sections (with a dot at the end) -> the key to use instead.
WITHOUT_EFFECT = {
    "actor_rollout_ref.model.lora.rank": "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.model.lora.alpha": "actor_rollout_ref.model.lora_alpha",
    "actor_rollout_ref.model.lora.target_modules": "actor_rollout_ref.model.target_modules",
    "actor_rollout_ref.model.lora.exclude_modules": "actor_rollout_ref.model.exclude_modules",
    "actor_rollout_ref.rollout.multi_turn.": "data=dialogues; rounds of a dialogue are samples of their own",
    "actor_rollout_ref.rollout.trace.": "segzero.record",
    "actor_rollout_ref.rollout.ignore_eos": "nothing; an answer ends where the policy ends it",
    "actor_rollout_ref.rollout.do_sample": "actor_rollout_ref.rollout.temperature",
    "algorithm.lam": "nothing; it belongs to gae, which needs a critic",
    "algorithm.rollout_correction.loss_type": "actor_rollout_ref.actor.policy_loss.loss_mode",
    "algorithm.pf_ppo.": "actor_rollout_ref.actor.policy_loss.loss_mode",
    "algorithm.use_pf_ppo": "actor_rollout_ref.actor.policy_loss.loss_mode",
    "critic.": "nothing; this trainer has no critic",
    "distillation.": "nothing; this trainer has no teacher",
    "algorithm.filter_groups.max_inflight_gen_batches": "nothing; each dropped group is replaced at once, by one",
    "data.apply_chat_template_kwargs": "data.prompt",
    "data.function_tool_path": "nothing; the policy calls no tools",
    "data.audio_key": "nothing; a sample is an image and a question",
    "data.filter_overlong_prompts_workers": "nothing; prompts are encoded where they are read",
    "data.image_patch_size": "nothing; the checkpoint's processor has its own",
    "data.mm_processor_kwargs": "data.frame",
    "data.return_full_prompt": "segzero.record",
    "data.return_multi_modal_inputs": "nothing; images travel as paths",
    "data.return_raw_chat": "segzero.record",
    "data.return_raw_input_ids": "segzero.record",
    "data.reward_fn_key": "reward.name",
    "data.tokenizer": "data.checkpoint",
    "data.tool_config_path": "nothing; the policy calls no tools",
    "data.truncation": "data.max_prompt_length; longer prompts are left out and counted, never cut",
    "trainer.balance_batch": "nothing; whole groups are spread over the GPUs by length",
    "data.val_batch_size": "nothing; validation keeps every replica busy by itself",
    "data.validation_shuffle": "nothing; validation takes the samples in their order",
    "data.video_key": "nothing; a sample is an image and a question",
    "data.gen_batch_size": "nothing; prompts are taken from the data one by one",
    "skip.": "nothing; every step generates its own answers",
    "trainer.default_hdfs_dir": "trainer.default_local_dir",
    "trainer.esi_redundant_time": "trainer.save_freq",
    "trainer.max_critic_ckpt_to_keep": "nothing; this trainer has no critic",
    "trainer.ray_wait_register_center_timeout": "nothing; nothing waits for that",
    "trainer.use_v1": "nothing; there is one trainer",
    "trainer.v1.sampler.sync_refill_failed_groups": "nothing; groups that fail end the run",
    "trainer.v1.colocate_async.": "segzero.one_step_off",
    "trainer.v1.separate_async.": "segzero.one_step_off",
    "trainer.v1.sampler.custom_sampler.": "nothing; the trainer brings its own sampler",
    "trainer.v1.sampler.max_off_policy_strategy": "segzero.one_step_off",
    "trainer.v1.sampler.max_off_policy_threshold": "segzero.one_step_off",
    "trainer.v1.sampler.sampler_kwargs": "nothing; the trainer brings its own sampler",
    "actor_rollout_ref.actor.clip_ratio": "actor_rollout_ref.actor.clip_ratio_low and clip_ratio_high",
    "actor_rollout_ref.actor.use_prefix_grouper": "nothing; the prefix is shared in vLLM's cache already",
    "actor_rollout_ref.model.tiled_mlp.enabled": "actor_rollout_ref.model.enable_gradient_checkpointing",
    "actor_rollout_ref.rollout.over_sample_rate": "nothing; verl's sync trainer waits for every answer",
    "actor_rollout_ref.rollout.agent.": "nothing; segzero.training.rollouts calls the policy",
    "actor_rollout_ref.rollout.router_config_path": "nothing; replicas take whole groups in turns",
    "actor_rollout_ref.rollout.val_kwargs.do_sample": "nothing; validation is greedy",
    "actor_rollout_ref.rollout.val_kwargs.temperature": "nothing; validation is greedy",
    "actor_rollout_ref.rollout.val_kwargs.n": "nothing; validation generates one answer",
    "data.filter_overlong_prompts": "data.max_prompt_length; longer prompts are always left out and counted",
    "data.prompt_key": "data.prompt",
    "data.image_key": "nothing; the columns are those of segzero.sample",
    "reward.custom_reward_function.": "reward.name=your_module.your_function",
    "reward.reward_manager.": "reward.name",
    "reward.reward_model.": "reward.name",
    "reward.sandbox_fusion.": "reward.name",
    "trainer.resume_mode": "segzero.resume",
    "trainer.resume_from_path": "segzero.resume",
    "trainer.max_actor_ckpt_to_keep": "segzero.keep_last",
    "trainer.rollout_data_dir": "segzero.record",
    "trainer.validation_data_dir": "segzero.record",
    "trainer.log_val_generations": "segzero.record",
}

# hydra would take this for a function call; it is a value: data.frame=stretch(840).
_FRAME = re.compile(r"^(data\.frame=)(\w+\(.*\))$")

GROUPS = ("recipe", "algo", "model", "data", "reward", "hardware", "rollout_correction", "rehearse")

# Sections in which verl takes any key: their content is passed on to another library.
OPEN = re.compile(r"(ray_kwargs\.ray_init|.*\.engine_kwargs|.*\.override_config|.*\.override_optimizer_config)\.")


def compose(name: str = "train", overrides: Sequence[str] = ()) -> DictConfig:
    """The whole configuration, resolved as far as verl resolves it; a wrong key or value is one clear line.

    hydra puts the files together. The user's values are set here, where each can be compared with its default.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    overrides = [_FRAME.sub(r"\1'\2'", override) for override in overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        groups = tuple(o.input_line for o in parsed if o.key_or_group in GROUPS and not o.is_delete())
        config = deepcopy(_files(name, groups))
        for override in parsed:
            if override.input_line not in groups:
                _set(config, override)
        if config.trainer.v1.trainer_mode != "sync":
            raise UserError(
                f"trainer.v1.trainer_mode={config.trainer.v1.trainer_mode}: only sync is supported; rollouts beside "
                f"the update are segzero.one_step_off=true"
            )
        OmegaConf.resolve(config)
    except HydraException as error:
        raise UserError(_explain(error, name, overrides)) from None
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {one_line(error, 1000)}") from None
    return config


def positive_int(config: DictConfig, key: str) -> int:
    """The value of a key that must be a whole number from 1 on."""
    value = OmegaConf.select(config, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: it must be a whole number from 1 on")
    return value


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


def needs_reference(config: DictConfig) -> bool:
    """Whether the run compares the policy with a reference model."""
    return bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward)


@lru_cache(maxsize=16)
def _files(name: str, groups: tuple[str, ...]) -> DictConfig:
    """The YAML files of a choice of groups, put together; not resolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    if not OmegaConf.has_resolver("shipped"):
        OmegaConf.register_new_resolver("shipped", model_path)
    search = f"hydra.searchpath=[file://{_engine_configs()}]"
    with initialize_config_dir(str(config_dir()), version_base=None):
        return hydra_compose(name, overrides=[search, *groups], return_hydra_config=False)


def _set(config: DictConfig, override: Any) -> None:
    """Apply one `key=value` of the user; refuse a key without effect, and a value of the wrong kind."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete():
        raise UserError(f"{line}: a key can't be taken away; set it to null")
    if override.is_sweep_override():
        raise UserError(f"{line}: one run has one value for a key; start one run for each")
    adds = override.is_add() or override.is_force_add()
    if adds and not OPEN.match(key) and not _has_field(config, key):
        raise UserError(f"{line}: nothing reads the key {key!r}; leave it out")
    if adds or (not _exists(config, key) and _has_field(config, key)):
        OmegaConf.update(config, key, override.value(), force_add=True)
        return
    if not _exists(config, key):
        near = _nearest(key, leaves(config))
        raise UserError(f"unknown key {key!r}; did you mean {near!r}?" if near else f"unknown key {key!r}")
    if instead := _instead_of(key):
        raise UserError(f"{line}: this key has no effect; use {instead}")
    value, default = override.value(), OmegaConf.select(config, key, throw_on_missing=False)
    wanted, unset = _kind(default), value is None and not isinstance(default, DictConfig)
    if wanted and not unset and _kind(value) != wanted and "${" not in str(value):
        raise UserError(f"{line}: it must be {wanted}")
    OmegaConf.update(config, key, value, force_add=OPEN.match(f"{key}.") is not None)


def _instead_of(key: str) -> str | None:
    """The key to use instead of one without effect; None for any other."""
    sections = (".".join(key.split(".")[:depth]) + "." for depth in range(1, key.count(".") + 2))
    return next((WITHOUT_EFFECT[name] for name in (key, *sections) if name in WITHOUT_EFFECT), None)


def _has_field(config: DictConfig, key: str) -> bool:
    """Whether the section's class in verl reads the key, although verl's YAML leaves it out."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        section = OmegaConf.select(config, ".".join(parts[:depth]), throw_on_missing=False)
        if isinstance(section, DictConfig) and "_target_" in section:
            kind = dataclass_fields(section._target_.rsplit(".", 1)[-1]).get(parts[depth])
            return kind is not None and (depth == len(parts) - 1 or "dict" in kind.lower())
    return False


@lru_cache(maxsize=64)
def dataclass_fields(name: str) -> dict[str, str]:
    """Fields of one of verl's configuration classes and their types as written, read without importing verl."""
    definition = _dataclasses().get(name)
    if definition is None:
        return {}
    inherited = {
        field: kind for base in definition.bases for field, kind in dataclass_fields(ast.unparse(base)).items()
    }
    own = {
        node.target.id: ast.unparse(node.annotation)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return inherited | own


@lru_cache(maxsize=1)
def _dataclasses() -> dict[str, ast.ClassDef]:
    folders = (engine_package() / "trainer" / "config", engine_package() / "workers" / "config")
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _exists(config: DictConfig, key: str) -> bool:
    *sections, last = key.split(".")
    parent = OmegaConf.select(config, ".".join(sections), throw_on_missing=False) if sections else config
    return isinstance(parent, DictConfig) and last in parent.keys()  # noqa: SIM118  # `in` is False where no value is set


def _kind(value: Any) -> str | None:
    """The kind of value that belongs in place of this one; None: text or anything else."""
    if isinstance(value, DictConfig | dict):
        return "a section; name a key below it"
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else None


def leaves(config: Any, prefix: str = "") -> list[str]:
    """Every key that has a value, dotted."""
    if not isinstance(config, DictConfig):
        return [prefix]
    keys = [
        leaf for key in config for leaf in leaves(config._get_node(key), f"{prefix}.{key!s}" if prefix else str(key))
    ]
    return keys or [prefix]


def engine_package() -> Path:
    """Folder of verl's package, located without importing verl, which takes seconds."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("verl is not installed; install segzero[train], or segzero[train-cpu] without a GPU")
    return Path(spec.submodule_search_locations[0])


def _engine_configs() -> Path:
    return engine_package() / "trainer" / "config"


def _explain(error: Exception, name: str, overrides: Sequence[str]) -> str:
    """hydra's complaint in one line, with the names that exist."""
    text = one_line(error, 1000).split(" See https://")[0]
    group = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if group:
        known = sorted(path.stem for path in (config_dir() / group[1]).glob("*.yaml"))
        return f"there is no {group[1]} {group[2]!r}; there are: {', '.join(known)}"
    if "Cannot find primary config" in text:
        known = sorted(path.stem for path in config_dir().glob("*.yaml"))
        return f"there is no configuration {name!r}; there are: {', '.join(known)}"
    if "missing EQUAL" in text:
        wrong = next(override for override in overrides if "=" not in override)
        return f"{wrong}: write key=value, as in data.train_batch_size=8"
    return f"configuration: {text}"


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The key with the same last name that shares most of the path: a wrong section is commoner than a wrong name."""
    parts = key.split(".")
    same = [k for k in known if k.split(".")[-1] == parts[-1]]
    if same:
        return max(same, key=lambda k: (len(set(parts) & set(k.split("."))), -len(k)))
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    return near[0] if near else None
