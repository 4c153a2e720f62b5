"""`dry_run=true`: everything of a run that can be tried without starting it, in the run's own code.

The whole configuration, every sample read and encoded, every truth scored by the run's reward, the checkpoint it
would resume from, verl's own checks, and estimates of memory and time. Nothing is written.
"""

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from rewards import PromptBoxes
from segzero.data.parquet import from_parquet
from segzero.data.validation import true_answer
from segzero.errors import UserError, one_line
from segzero.machine import free_disk
from segzero.refinement.judgement import right_answer
from segzero.sample import Sample
from segzero.training import checkpoints, checks, hardware
from segzero.training.attention import try_attention
from segzero.training.batch import BatchSizes
from segzero.training.config import data_files, needs_reference
from segzero.training.memory import GIB, Memory, check_memory, estimate_memory, trained_parameters
from segzero.training.model_shape import ModelShape, shape_of
from segzero.training.step_time import (
    DISK_BYTES,
    HOST_BYTES,
    TOKEN_SECONDS,
    StepTime,
    estimate_step_time,
    expected_answer,
)
from segzero.training.verl_glue import patches

if TYPE_CHECKING:
    from segzero.training.dataset import Usable
    from segzero.training.tokenization import Encoder

SHOWN = 2  # samples


def dry_run(config: DictConfig, batch: BatchSizes) -> str:
    """Try what can be tried; returns the configuration and the run in words, or raises what would fail later."""
    _check_by_verl(config)
    _check_resume(config, batch)
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    try_attention(model.path, model.override_config.attn_implementation, actor.fsdp_config.dtype)
    shape = shape_of(model.path)
    memory = estimate_memory(config, batch, shape)
    check_memory(config, memory)
    remarks = hardware.check_room(config, memory)
    train, val = try_samples(config, "train"), try_samples(config, "val")
    time = estimate_step_time(config, batch, shape, train.tokens / train.count)
    return "\n".join(
        [
            OmegaConf.to_yaml(config),
            *checks.describe(config, batch),
            f"         training: {train}",
            f"         validation: {val}",
            *describe_estimates(config, shape, memory, time, _steps(config, batch, train)),
            *remarks,
            *train.shown,
        ]
    )


@dataclass
class TriedSamples:
    """Counts over the samples of a split."""

    count: int = 0
    tokens: int = 0  # of all prompts
    earned: float = 0.0  # reward of all true answers
    highest: float | None = None  # reward there is; None: the user's function has no known range
    report: str = ""
    shown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        of = "" if self.highest is None else f" of {self.highest:g}"
        return (
            f"{self.report}; {self.tokens / self.count:.0f} tokens a prompt; "
            f"the truth itself earns {self.earned / self.count:.2f}{of}"
        )


def try_samples(config: DictConfig, split: str) -> TriedSamples:
    """Read, encode and score every sample as the run would; the answer is the truth, as the policy would write it."""
    from segzero.training.dataset import FilterReport, checkpoint_of, filter_usable
    from segzero.training.scorer import Scorer
    from segzero.training.tokenization import Encoder, load_processor

    encoder = Encoder(checkpoint_of(config.data), load_processor(config.data.checkpoint))
    frame, report = encoder.checkpoint.frame, FilterReport()
    scorer = Scorer(config.reward.name, encoder.format, frame)
    files = data_files(config, split)
    tried = TriedSamples(highest=scorer.rubric.highest if scorer.rubric else None)

    async def score(usable: "Usable") -> None:
        sample, prompt, encoded = usable
        _check_masks(config, sample)
        if sample.current_mask is None:
            text = _citing(true_answer(sample, frame, encoder.format), prompt.boxes)
        else:
            text = right_answer(sample, frame, "The truth")
        [scored] = await scorer.score(sample, [text], prompt_boxes=prompt.boxes)
        tried.count += 1
        tried.tokens += len(encoded)
        tried.earned += scored.reward.total
        if len(tried.shown) < SHOWN:
            tried.shown.append(_show(usable, encoder, text, scored.reward.total))

    async def score_all() -> None:
        samples = _read(config, files, split)
        for usable in filter_usable(samples, encoder, config.data.max_prompt_length, report):
            await score(usable)

    asyncio.run(score_all())
    tried.report = str(report)
    if not tried.count:
        raise UserError(f"no usable sample in {', '.join(map(str, files))}: {report}; see `segzero docs training`")
    return tried


def _read(config: DictConfig, files: list[Path], split: str) -> Iterator[Sample]:
    most = config.data.get(f"{split}_max_samples", -1)
    samples = chain.from_iterable(from_parquet(file) for file in files)
    for number, sample in enumerate(samples):
        if 0 < most <= number:
            return
        yield sample


def _check_masks(config: DictConfig, sample: Sample) -> None:
    """Refuse an object without a mask: validation and the mask reward compare the segmenter's masks with it."""
    if config.segzero.segmenter.path and sample.mask() is None:
        raise UserError(
            f"sample {sample.id!r} has an object without a mask, which the segmenter's masks are compared with; "
            f"give every object an RLE, or go without: segzero.segmenter.path=null"
        )


def _citing(text: str, prompt_boxes: PromptBoxes) -> str:
    """The answer with a think-chain that names the boxes its question refers to."""
    boxes = ", ".join(json.dumps(box) for box in sorted(prompt_boxes.referred))
    return text.replace("</think>", f" It is about {boxes}.</think>", 1) if boxes else text


def _show(usable: "Usable", encoder: "Encoder", text: str, total: float) -> str:
    """A sample's prompt, its true answer, and the reward of that."""
    sample, encoded = usable.sample, usable.encoded
    width, height = encoder.checkpoint.frame.model_size(sample.size)
    prompt = encoder.processor.tokenizer.decode(encoded.unexpanded)
    return (
        f"sample   {sample.id}: {sample.width}x{sample.height}, seen at {width}x{height}, {len(encoded)} tokens, "
        f"{encoder.checkpoint.image_tokens((width, height))} of them visual\n{prompt}{text}\n"
        f"         this answer earns {total:.2f}"
    )


def _steps(config: DictConfig, batch: BatchSizes, train: TriedSamples) -> int:
    if train.count < batch.prompts:
        raise UserError(
            f"{train.count} training samples are less than one step's data.train_batch_size={batch.prompts}; "
            f"make it smaller"
        )
    return config.trainer.total_training_steps or train.count // batch.prompts * config.trainer.total_epochs


def _check_resume(config: DictConfig, batch: BatchSizes) -> None:
    run, resume = Path(config.trainer.default_local_dir), str(config.segzero.resume)
    checkpoint, _ = checkpoints.find(run, resume, hashes=False)
    if checkpoint:
        checkpoints.check_world_size(checkpoint, batch.gpus)


def _check_by_verl(config: DictConfig) -> None:
    """Run verl's own checks of the configuration."""
    patches.answer_vllm_version()  # a dry run for GPUs may be made where vLLM is the CPU's
    from hydra.errors import HydraException
    from verl.utils.config import validate_config

    try:
        with redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=needs_reference(config), use_critic=False)
    except (AssertionError, ValueError, HydraException) as error:
        raise UserError(f"configuration: {one_line(error, 1000)}") from error


def describe_estimates(config: DictConfig, shape: ModelShape, memory: Memory, time: StepTime, steps: int) -> list[str]:
    """Memory, disk and time in words, each with its assumptions."""
    card = config.segzero.accelerator
    trained = trained_parameters(config, shape)
    lines = [f"model    {shape.parameters / 1e6:.4g} M parameters, {trained / 1e6:.4g} M of them trained"]
    if config.trainer.device == "cuda":
        lines += [
            f"GPU      of {card.memory_gb} GB: while writing, vLLM {_gib(memory.engine)} beside "
            f"{_gib(memory.resting)} of training state; while updating, {_gib(memory.updating)}"
            + (f"; the segmenter {_gib(memory.segmenter)}" if memory.segmenter else ""),
        ]
        if card.memory_gb and memory.updating + memory.segmenter > card.memory_gb * 1e9:
            lines.append(
                "         an update may not fit: lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or "
                "data.max_response_length, use more GPUs, or LoRA"
            )
            if not config.actor_rollout_ref.rollout.free_cache_engine:
                lines[-1] += ", or lower actor_rollout_ref.rollout.gpu_memory_utilization, as vLLM stays awake"
    parts = sorted(((size, name) for name, size in memory.parts.items() if size > GIB / 4), reverse=True)
    answer, free = expected_answer(config), free_disk(Path(config.trainer.default_local_dir))
    length = f"of {answer:g} tokens" + (" (its limit)" if answer == config.data.max_response_length else "")
    lines += [
        f"host     {_gib(memory.host)} a node: {', '.join(f'{name} {_gib(size)}' for size, name in parts)}",
        f"disk     {_gib(memory.checkpoint)} a checkpoint, {_kept(config)}; {_gib(free)} are free here",
        f"time     {_clock(time.total)} a step: writing {time.generate:.1f} s, log-probs {time.score:.1f} s, "
        f"update {time.update:.1f} s, moving weights {time.move:.1f} s, saving {time.save:.1f} s; "
        f"{steps} steps in {_clock(steps * time.total)}",
        *_beside(time),
        f"         assuming every answer {length}, {card.tflops:g} TFLOP/s, {card.gb_per_s:g} GB/s and "
        f"{card.link_gb_per_s:g} GB/s to the next accelerator (segzero.accelerator),",
        f"         {TOKEN_SECONDS * 1e3:g} ms a token beside the arithmetic, {HOST_BYTES / 1e9:g} GB/s to the host, "
        f"{DISK_BYTES / 1e9:g} GB/s to the disk; without "
        f"{'the earlier rounds of data.own_history, ' if config.data.own_history else ''}"
        f"{'the episodes of segzero.own_masks, ' if config.segzero.own_masks else ''}validation and the start",
    ]
    return lines


def _beside(time: StepTime) -> list[str]:
    """Describe what segzero.one_step_off gains."""
    if not time.one_step_off:
        return []
    return [f"         at best, as writing runs beside log-probs, update and saving; in turns {time.in_turns:.1f} s"]


def _kept(config: DictConfig) -> str:
    """The checkpoints that are kept, in words."""
    if config.trainer.save_freq <= 0:
        return "none is saved (trainer.save_freq)"
    kept = config.segzero.keep_last
    return f"{kept} and the best kept, one more while saving" if kept else "all kept (segzero.keep_last=0)"


def _gib(count: float) -> str:
    """
    >>> _gib(3 << 20), _gib(3 << 29)
    ('3 MiB', '1.5 GiB')
    """
    return f"{count / GIB:.1f} GiB" if count > GIB / 2 else f"{count / 2**20:.0f} MiB"


def _clock(seconds: float) -> str:
    """
    >>> _clock(90), _clock(7260)
    ('90 s', '2 h 1 min')
    """
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
