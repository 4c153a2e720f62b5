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

from omegaconf import DictConfig, OmegaConf

from rewards import PromptBoxes
from segzero.data.parquet import from_parquet
from segzero.data.validation import true_answer
from segzero.errors import UserError
from segzero.sample import Sample
from segzero.training import checkpoints, checks, estimate, hardware
from segzero.training.attention import try_attention
from segzero.training.memory import check_memory, memory_of, shape_of
from segzero.training.verl_glue import patches

SHOWN = 2  # samples


def rehearse(config: DictConfig, batch: checks.Batch) -> str:
    """The configuration and the plan in words; raises what would fail later."""
    _check_by_engine(config)
    _check_resume(config, batch)
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    try_attention(model.path, model.override_config.attn_implementation, actor.fsdp_config.dtype)
    shape = shape_of(model.path)
    memory = memory_of(config, batch, shape)
    check_memory(config, memory)
    remarks = hardware.check_room(config, memory)
    train, val = walk(config, "train"), walk(config, "val")
    steps = _steps(config, batch, train)
    seconds = estimate.seconds_of(config, batch, shape, train.tokens / train.count)
    return "\n".join(
        [
            OmegaConf.to_yaml(config),
            *checks.describe(config, batch),
            f"         training: {train}",
            f"         validation: {val}",
            *estimate.describe(config, batch, shape, memory, seconds, steps),
            *remarks,
            *train.shown,
        ]
    )


@dataclass
class Walk:
    """What was seen on the way through the samples of a split."""

    count: int = 0
    tokens: int = 0  # of all prompts
    earned: float = 0.0  # by all truths
    highest: float | None = None  # reward there is; None: only its author knows
    report: str = ""
    shown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        of = "" if self.highest is None else f" of {self.highest:g}"
        return (
            f"{self.report}; {self.tokens / self.count:.0f} tokens a prompt; "
            f"the truth itself earns {self.earned / self.count:.2f}{of}"
        )


def walk(config: DictConfig, split: str) -> Walk:
    """Read, encode and score every sample as the run would; the truth, as the policy would write it, is the answer."""
    from segzero.dialogue.prompting import sample_prompt
    from segzero.training.dataset import Report, checkpoint_of, usable
    from segzero.training.scorer import Scorer
    from segzero.training.tokenization import Encoder, processor_of

    encoder = Encoder(checkpoint_of(config.data), processor_of(config.data.checkpoint))
    frame, report = encoder.checkpoint.frame, Report()
    scorer = Scorer(config.reward.name, encoder.format, frame)
    files = checks.data_files(config, split)
    found = Walk(highest=scorer.rubric.highest if scorer.rubric else None)

    async def score() -> None:
        for sample, tokens in usable(_read(config, files, split), encoder, config.data.max_prompt_length, report):
            _check_masks(config, sample)
            prompt_boxes = sample_prompt(sample, frame).boxes
            text = _citing(true_answer(sample, frame, encoder.format), prompt_boxes)
            [scored] = await scorer.score(sample, [text], prompt_boxes=prompt_boxes)
            found.count += 1
            found.tokens += tokens
            found.earned += scored.total
            if len(found.shown) < SHOWN:
                found.shown.append(_show(sample, encoder, text, scored.total))

    asyncio.run(score())
    found.report = str(report)
    if not found.count:
        raise UserError(f"no usable sample in {', '.join(map(str, files))}: {report}; see `segzero docs training`")
    return found


def _read(config: DictConfig, files: list[Path], split: str) -> Iterator[Sample]:
    most = config.data.get(f"{split}_max_samples", -1)
    samples = chain.from_iterable(from_parquet(file) for file in files)
    for number, sample in enumerate(samples):
        if 0 < most <= number:
            return
        yield sample


def _check_masks(config: DictConfig, sample: Sample) -> None:
    """Validation and the mask reward draw, and compare with the truth."""
    if config.segzero.segmenter.path and sample.mask() is None:
        raise UserError(
            f"sample {sample.id!r} has an object without a mask, which the segmenter's masks are compared with; "
            f"give every object an RLE, or go without: segzero.segmenter.path=null"
        )


def _citing(text: str, prompt_boxes: PromptBoxes) -> str:
    """The answer, whose think-chain names what its question refers to."""
    boxes = ", ".join(json.dumps(box) for box in sorted(prompt_boxes.referred))
    return text.replace("</think>", f" It is about {boxes}.</think>", 1) if boxes else text


def _show(sample: Sample, encoder, text: str, total: float) -> str:
    encoded = encoder.encode(sample)
    width, height = encoder.checkpoint.frame.model_size(sample.size)
    prompt = encoder.processor.tokenizer.decode(encoded.short)
    return (
        f"sample   {sample.id}: {sample.width}x{sample.height}, seen at {width}x{height}, {len(encoded)} tokens, "
        f"{encoder.checkpoint.image_tokens((width, height))} of them visual\n{prompt}{text}\n"
        f"         this answer earns {total:.2f}"
    )


def _steps(config: DictConfig, batch: checks.Batch, train: Walk) -> int:
    if train.count < batch.prompts:
        raise UserError(
            f"{train.count} training samples are less than one step's data.train_batch_size={batch.prompts}; "
            f"make it smaller"
        )
    return config.trainer.total_training_steps or train.count // batch.prompts * config.trainer.total_epochs


def _check_resume(config: DictConfig, batch: checks.Batch) -> None:
    found, _ = checkpoints.find(Path(config.trainer.default_local_dir), str(config.segzero.resume), hashes=False)
    if found:
        checkpoints.check_world_size(found, batch.gpus)


def _check_by_engine(config: DictConfig) -> None:
    """verl's own opinion of the configuration."""
    patches.answer_vllm_version()  # a plan for GPUs may be made where vLLM is the CPU's
    from hydra.errors import HydraException
    from verl.utils.config import validate_config

    try:
        with redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=checks.needs_reference(config), use_critic=False)
    except (AssertionError, ValueError, HydraException) as error:
        raise UserError(f"configuration: {' '.join(str(error).split())}") from error
