"""Settings, prompts and reward of our own run, for the peers that it is compared with."""

import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from rewards import Case, get_rubric
from segzero.data.parquet import from_parquet
from segzero.images import load_image
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.prompts import SYSTEM, render_text
from segzero.sample import Sample

PROMPTS, ANSWERS = 16, 8  # prompts per step and answers per prompt, in every run
MAX_PROMPT, MAX_ANSWER = 128, 128  # tokens
LEARNING_RATE = 1.5e-4
REWARD = "vision_reasoner"


@cache
def policy() -> Checkpoint:
    """The shipped policy, or the one of the environment variable MODEL_PATH."""
    from segzero import shipped

    return read_checkpoint(os.environ.get("MODEL_PATH", str(shipped.policy_path())))


def read_samples(parquet: Path) -> list[Sample]:
    return list(from_parquet(parquet))


def picture(sample: Sample, checkpoint: Checkpoint) -> Image.Image:
    """The image at the resolution of our own runs."""
    return checkpoint.frame.fit(load_image(sample.image))


def picture_bytes(sample: Sample, checkpoint: Checkpoint) -> bytes:
    file = io.BytesIO()
    picture(sample, checkpoint).save(file, "PNG")
    return file.getvalue()


def messages(sample: Sample, checkpoint: Checkpoint, placeholder: str = "") -> list[dict[str, str]]:
    """The prompt of our own runs, as text; both peers put the image before it."""
    text = placeholder + render_text(sample.question, checkpoint.prompt)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def rewards_of(texts: Sequence[str], samples: Sequence[Sample], checkpoint: Checkpoint) -> list[float]:
    """Score answer texts with the reward of our own runs."""
    rubric = get_rubric(REWARD)
    cases = (Case.of_sample(text, sample, frame=checkpoint.frame) for text, sample in zip(texts, samples, strict=True))
    return [rubric.score(case).total for case in cases]
