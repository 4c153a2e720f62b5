"""Checks of a configuration that take a second or two; `dry_run` also reads the data.

verl looks most of these values up only after the first answers are generated, minutes into a run. Names of algorithms
are read from its source, as importing it takes seconds.
"""

import ast
import math
import os
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rewards import PRESETS, CandidateReward, CustomReward, Rubric, find_reward
from segzero.data.parquet import from_parquet
from segzero.errors import UserError, one_line, unknown_name
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import get_prompt
from segzero.result import MOST_LOOKS
from segzero.training.attention import describe_attention
from segzero.training.batch import BatchSizes, batch_sizes
from segzero.training.config import data_files, engine_package, positive_int
from segzero.training.hardware import check_hardware, missing_gpus

# Published rewards score one answer format each: an answer in the other format earns nothing.
FORMATS = {
    "seg_zero": "seg_zero",
    "seg_zero_strict": "seg_zero",
    "vision_reasoner": "multi",
    "dr_seg": "multi",
    "star": "multi",
    "lens": "multi",
    "phrase": "phrase",
}
JUDGING = ("refine",)  # presets that score answers about masks
TRIED = 20  # first samples of a file
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

# Estimators that need what this trainer does not have -> what that is.
UNSUPPORTED = {
    "gae": "a critic",
    "remax": "a greedy answer to each prompt as baseline",
    "gdpo": "each reward term as a batch of its own",
    "optimal_token_baseline": "the sum of squared probabilities of every token",
    "tir_optimal_token_baseline": "the sum of squared probabilities of every token",
}
KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
STRATEGIES = ("fsdp", "fsdp2")
SCHEDULES = ("constant", "cosine")
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def check(config: DictConfig) -> BatchSizes:
    """Refuse a configuration that would fail later; returns the sizes of its steps."""
    batch = batch_sizes(config)
    _check_batch(batch)
    _check_lengths(config)
    _check_names(config)
    _check_checkpoint(Path(str(config.actor_rollout_ref.model.path)).expanduser(), config.dry_run)
    check_hardware(config, batch.gpus)
    _check_reward(config)
    _check_stall_minutes(config)
    _check_own_history(config)
    _check_own_masks(config)
    _check_filter_groups(config)
    _check_overlong(config)
    _check_rollout_correction(config)
    _check_one_step_off(config)
    _check_self_distillation(config)
    _check_segmenter(config)
    _check_folder(Path(config.trainer.default_local_dir))
    for path in [*data_files(config, "train"), *data_files(config, "val")]:
        first = list(islice(from_parquet(path), TRIED))
        if not first:
            raise UserError(f"{path} holds no samples; see `segzero docs training` for how to make them")
        if not _scores_looks(config) and any(sample.current_mask is not None for sample in first):
            raise UserError(
                f"{path} has masks to judge, for which reward={config.reward.name} has no term; set reward=refine"
            )
    return batch


def describe(config: DictConfig, batch: BatchSizes) -> list[str]:
    """The run in words, for its first lines."""
    data, trainer = config.data, config.trainer
    ahead = f"rollouts one step ahead of the update; {describe_correction(config)}"
    return [
        f"policy   {config.actor_rollout_ref.model.path}; frame {data.frame}, prompt {data.prompt}",
        f"data     {', '.join(map(str, data_files(config, 'train')))}",
        f"reward   {config.reward.name}; segmenter {config.segzero.segmenter.path or 'none'}",
        f"batch    {batch}",
        f"attention {describe_attention(config)}",
        *([describe_own_masks(config)] if config.segzero.own_masks else []),
        *([ahead] if config.segzero.one_step_off else []),
        *([describe_self_distillation(config, batch)] if config.segzero.self_distillation.weight else []),
        f"run      {trainer.default_local_dir}; resume {config.segzero.resume}; {_hardware(config, batch)}",
    ]


def _check_batch(batch: BatchSizes) -> None:
    if batch.answers < 2:
        raise UserError(
            "actor_rollout_ref.rollout.n=1: GRPO compares answers to one prompt; use 2 or more, 8 as published"
        )
    if batch.mini > batch.total or batch.total % batch.mini:
        raise UserError(
            f"data.train_batch_size={batch.prompts} is not a multiple of "
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


def _check_names(config: DictConfig) -> None:
    """Refuse the name of an algorithm that verl does not have."""
    estimator = str(config.algorithm.adv_estimator)
    if estimator in UNSUPPORTED:
        raise UserError(
            f"algorithm.adv_estimator={estimator} needs {UNSUPPORTED[estimator]}, which this trainer does not have; "
            f"choose grpo, rloo, opo, reinforce_plus_plus, ..."
        )
    known = _registered("register_adv_est")
    choices = {
        "algorithm.adv_estimator": [name for name in known if name not in UNSUPPORTED],
        "actor_rollout_ref.actor.policy_loss.loss_mode": _registered("register_policy_loss"),
        "algorithm.kl_penalty": [name + plus for name in KL for plus in ("", "+")],
        "actor_rollout_ref.actor.kl_loss_type": [name + plus for name in KL for plus in ("", "+")],
        "actor_rollout_ref.actor.loss_agg_mode": AGGREGATIONS,
        "actor_rollout_ref.actor.strategy": STRATEGIES,
        "actor_rollout_ref.actor.optim.lr_scheduler_type": SCHEDULES,
        "actor_rollout_ref.rollout.name": ["vllm"],
        "algorithm.rollout_correction.rollout_is": ["None", "token", "sequence"],
    }
    for key, names in choices.items():
        value = str(OmegaConf.select(config, key))
        if value not in names:
            raise UserError(f"{key}: {unknown_name(key.split('.')[-1], value, list(names))}")
    actor = config.actor_rollout_ref.actor
    if actor.loss_agg_mode == "seq-mean-token-sum-norm" and actor.loss_scale_factor is None:
        raise UserError(
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm would divide by the longest answer of each "
            "pass; set actor_rollout_ref.actor.loss_scale_factor, to data.max_response_length for example"
        )


@lru_cache(maxsize=4)
def _registered(decorator: str) -> list[str]:
    """Names under which functions of verl's core_algos are registered with that decorator."""
    tree = ast.parse((engine_package() / "trainer" / "ppo" / "core_algos.py").read_text(encoding="utf-8"))
    members = {
        f"{enum.name}.{node.targets[0].id}": node.value.value
        for enum in tree.body
        if isinstance(enum, ast.ClassDef)
        for node in enum.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    names = []
    for function in tree.body:
        for call in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                name = call.args[0]
                names.append(name.value if isinstance(name, ast.Constant) else members[ast.unparse(name)])
    return sorted(map(str, names))


def _check_checkpoint(folder: Path, dry_run: bool) -> None:
    """Refuse a folder without tokenizer, weights or vision tower; a name on the hub is not checked here."""
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
            raise UserError(f"{file} can't be read: {one_line(error)}; is its download complete?") from None
    return names


def _check_lengths(config: DictConfig) -> None:
    rollout, data = config.actor_rollout_ref.rollout, config.data
    prompt, answer = positive_int(config, "data.max_prompt_length"), positive_int(config, "data.max_response_length")
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


def _hardware(config: DictConfig, batch: BatchSizes) -> str:
    if config.trainer.device == "cpu":
        return f"on the CPU, {batch.gpus} process{'es' * (batch.gpus != 1)}"
    missing = missing_gpus(config)
    return f"{batch.gpus} GPU{'s' * (batch.gpus != 1)}" + (f" (here it could not run: {missing})" if missing else "")


def _check_reward(config: DictConfig) -> None:
    if OmegaConf.is_missing(config.reward, "name") or not isinstance(config.reward.name, str):
        if "path" in config.reward.keys():  # noqa: SIM118  # `in` is False where no value is set
            raise UserError("reward.path is not set; name a candidate's file, as in reward.path=winner.py")
        raise UserError("reward.name is not set; name your function, as in reward.name=my_module.my_reward")
    name = config.reward.name
    reward = find_reward(name)
    if reward.needs_masks and not config.segzero.segmenter.path:
        raise UserError(f"reward={name} needs a segmenter; set segzero.segmenter.path")
    wanted, written = FORMATS.get(name), get_prompt(config.data.prompt).format
    if wanted and wanted != written:
        raise UserError(
            f"reward={name} scores answers of the format {wanted!r}, but the prompt {config.data.prompt!r} asks for "
            f"{written!r}; set data.prompt={'vision_reasoner' if wanted == 'multi' else wanted}"
        )
    if written == "phrase" and "points" in _terms(reward):
        raise UserError(f"reward={name} scores points, which phrases don't have; set reward=phrase or reward=mask")


def _terms(reward: Rubric | CustomReward | CandidateReward) -> list[str]:
    """Names of the terms that are known before a reward is computed."""
    return [term.name for term in reward.terms] if isinstance(reward, Rubric) else []


def _check_stall_minutes(config: DictConfig) -> None:
    minutes = config.segzero.stall_minutes
    if not _is_number(minutes) or not 0 <= minutes < math.inf:
        raise UserError(
            f"segzero.stall_minutes={minutes}: it must be a number of minutes without any movement after which the run "
            f"ends, or 0 for never"
        )


def _check_own_history(config: DictConfig) -> None:
    share = config.data.own_history
    if not _is_number(share) or not 0 <= share <= 1:
        raise UserError(
            f"data.own_history={share}: it must be a number from 0 to 1, the share of later rounds that are asked "
            f"after the policy's own answers"
        )


def _check_own_masks(config: DictConfig) -> None:
    share, looks = config.segzero.own_masks, positive_int(config, "segzero.looks")
    if not _is_number(share) or not 0 <= share <= 1:
        raise UserError(
            f"segzero.own_masks={share}: it must be a number from 0 to 1, the share of questions in place of which the "
            f"policy looks at a mask of its own"
        )
    if looks > MOST_LOOKS:
        raise UserError(f"segzero.looks={looks}: an episode has at most {MOST_LOOKS} looks")
    if not share:
        return
    if not _scores_looks(config):
        raise UserError(
            f"segzero.own_masks={share:g} asks about masks, for which reward={config.reward.name} has no term; set "
            f"reward=refine"
        )
    if not config.segzero.segmenter.path:
        raise UserError(
            f"segzero.own_masks={share:g} looks at masks that a segmenter draws; set segzero.segmenter.path"
        )


def _scores_looks(config: DictConfig) -> bool:
    """Whether the reward may score answers about masks; a user's own can."""
    return config.reward.name not in PRESETS or config.reward.name in JUDGING


def _check_filter_groups(config: DictConfig) -> None:
    chosen = config.algorithm.filter_groups
    known = ["reward", *_terms(find_reward(config.reward.name))]
    if chosen.metric not in known:
        raise UserError(f"algorithm.filter_groups: {unknown_name('metric', str(chosen.metric), known)}")
    batches = chosen.max_num_gen_batches
    if not isinstance(batches, int) or batches < 2:
        raise UserError(
            f"algorithm.filter_groups.max_num_gen_batches={batches}: a step tries so many batches of prompts at most "
            f"in search of groups that are not flat; set 2 or more"
        )


def _check_overlong(config: DictConfig) -> None:
    share, penalty = config.segzero.overlong.share, config.segzero.overlong.penalty
    if not _is_number(share) or not 0 <= share <= 1:
        raise UserError(
            f"segzero.overlong.share={share}: it must be a number from 0 to 1, the last share of "
            f"data.max_response_length over which the reward falls"
        )
    if not _is_number(penalty) or not 0 <= penalty < math.inf:
        raise UserError(f"segzero.overlong.penalty={penalty}: it must be a number from 0 on, what the reward loses")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_rollout_correction(config: DictConfig) -> None:
    correction = config.algorithm.rollout_correction
    for key in ("rollout_is", "rollout_rs"):
        if correction.bypass_mode and correction[key] is not None:
            raise UserError(
                f"algorithm.rollout_correction.{key}={correction[key]} has no effect with bypass_mode=true, which "
                f"compares with vLLM's log-probs directly; set bypass_mode=false there, or {key}=null"
            )
    if correction.rollout_rs is not None and correction.rollout_rs_threshold is None:
        raise UserError(
            f"algorithm.rollout_correction.rollout_rs={correction.rollout_rs} needs rollout_rs_threshold beside it, "
            f"such as 0.5_2.0"
        )


def _check_one_step_off(config: DictConfig) -> None:
    sleeps = config.trainer.device == "cuda" and config.actor_rollout_ref.rollout.free_cache_engine
    if config.segzero.one_step_off and sleeps:
        raise UserError(
            "segzero.one_step_off=true needs vLLM awake during the update; set "
            "actor_rollout_ref.rollout.free_cache_engine=false, and gpu_memory_utilization such that both fit"
        )


def _check_self_distillation(config: DictConfig) -> None:
    section, settings = "segzero.self_distillation", config.segzero.self_distillation
    weight = settings.weight
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < math.inf:
        raise UserError(f"{section}.weight={weight}: it must be 0 (off) or more, such as 0.1")
    if not weight:
        return
    attempt_tokens = [positive_int(config, f"{section}.{key}") for key in ("attempts", "top_k", "attempt_tokens")][-1]
    if not config.segzero.shared_prompt:
        raise UserError(
            f"{section}.weight={weight:g} needs segzero.shared_prompt=true, whose engine asks the teacher; set that, "
            f"or the weight to 0"
        )
    data = config.data
    longest = read_checkpoint(data.checkpoint, data.frame, data.prompt).max_length
    needed = data.max_prompt_length + attempt_tokens + data.max_response_length
    if needed > longest:
        raise UserError(
            f"{section}.attempt_tokens={attempt_tokens} beside data.max_prompt_length and data.max_response_length "
            f"make {needed} tokens, and the model was made for {longest}; lower it"
        )


def describe_correction(config: DictConfig) -> str:
    """Describe how the loss takes into account that answers come from older weights."""
    correction, loss = config.algorithm.rollout_correction, config.actor_rollout_ref.actor.policy_loss.loss_mode
    if correction.bypass_mode and loss != "gpg":
        return "corrected by the loss's ratio to vLLM's log-probs (bypass_mode)"
    if correction.rollout_is is not None:
        bound = correction.rollout_is_threshold
        return f"corrected by importance weights per {correction.rollout_is}, at most {bound} (rollout_is)"
    if correction.rollout_rs is not None:
        return f"answers are left out by {correction.rollout_rs}, {correction.rollout_rs_threshold} (rollout_rs)"
    return "NOT corrected for it: set algorithm.rollout_correction.rollout_is=token"


def describe_own_masks(config: DictConfig) -> str:
    """Describe in words which groups look at masks of the policy itself."""
    settings = config.segzero
    looks = f"look 1 to {settings.looks}" if settings.looks > 1 else "the only look"
    return f"looks    {settings.own_masks:.0%} of the plain questions become {looks} at the mask that the policy draws"


def describe_self_distillation(config: DictConfig, batch: BatchSizes) -> str:
    """Describe the teacher in words."""
    settings = config.segzero.self_distillation
    shown = min(settings.attempts, batch.answers)
    return (
        f"distill  {settings.weight:g} x divergence from the policy that also reads the best {shown} of "
        f"{batch.answers} attempts, by its {settings.top_k} likeliest tokens"
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
