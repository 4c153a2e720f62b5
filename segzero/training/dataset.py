"""Our Sample parquet as verl's dataset. Images travel as paths: embedded ones are written out once, by content.

Every sample is tried at the start: those whose image can't be read, whose size is not what the file says, or
whose prompt is too long are left out, counted and named once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import Dataset

from segzero.data.sample import Object, Sample, from_parquet
from segzero.errors import UserError
from segzero.images import load_image
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.prompts import render_messages
from segzero.training.encoding import Encoder, open_fitted


@dataclass
class Report:
    """What was left out, and why."""

    kept: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # sample id -> reason
    overlong: dict[str, int] = field(default_factory=dict)  # sample id -> tokens

    def __str__(self) -> str:
        lines = [f"{self.kept} samples"]
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            lines.append(f"{len(self.unreadable)} left out as unreadable (first: {name}: {reason})")
        if self.overlong:
            name, tokens = next(iter(self.overlong.items()))
            lines.append(f"{len(self.overlong)} left out as too long (first: {name}: {tokens} tokens)")
        return "; ".join(lines)


class SampleDataset(Dataset):
    """What verl names in data.custom_cls; `samples` are those that can be trained on, each with a path as image."""

    def __init__(
        self,
        data_files: str | Sequence[str],
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        files: list[str] = [data_files] if isinstance(data_files, str) else list(data_files)
        self.checkpoint = checkpoint_of(config)
        self.encoder = Encoder(self.checkpoint, processor)
        samples = [sample for file in files for sample in from_parquet(file)]
        if not samples:
            raise UserError(f"no samples in {', '.join(files)}; prepare them with: segzero data")
        if max_samples > 0:
            samples = samples[:max_samples]
        self.samples, self.report = usable(samples, self.encoder, config.max_prompt_length, Path(config.image_dir))
        print(f"{', '.join(files)}: {self.report}", flush=True)
        if not self.samples:
            raise UserError(f"no usable sample in {', '.join(files)}: {self.report}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        return {
            "raw_prompt": messages_with_path(sample, self.checkpoint.prompt),
            "data_source": sample.source or "samples",
            "reward_model": {"style": "rule", "ground_truth": to_json(sample)},
            "extra_info": {"index": index, "id": sample.id},
            "index": index,
            "dummy_tensor": torch.tensor([0], dtype=torch.uint8),  # verl wants one tensor in a batch
        }

    @classmethod
    async def process_multi_modal_info(
        cls, messages: list[dict], image_patch_size: int, config: DictConfig
    ) -> tuple[list[Image.Image], None, None]:
        """What verl's own agent loop asks for: the images of a prompt, fitted."""
        checkpoint = checkpoint_of(config)
        parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
        return [open_fitted(part["image"], checkpoint) for part in parts], None, None


def checkpoint_of(config: DictConfig) -> Checkpoint:
    """The policy that verl's `data` section is rendered for."""
    return read_checkpoint(config.checkpoint, config.get("frame"), config.get("prompt"))


def messages_with_path(sample: Sample, prompt: str) -> list[dict]:
    """The rendered messages, the image's path in the placeholder."""
    messages = render_messages(sample.question, prompt)
    for message in messages:
        message["content"] = [
            {**part, "image": sample.image} if part["type"] == "image" else part for part in message["content"]
        ]
    return messages


def usable(
    samples: Sequence[Sample], encoder: Encoder, max_prompt_length: int, image_dir: Path
) -> tuple[list[Sample], Report]:
    """Samples that can be trained on, in order, and what was wrong with the others."""
    report = Report()
    tried: dict[str, tuple[int, int] | str] = {}  # image path -> size, or what is wrong with it

    def try_image(path: str) -> None:
        tried[path] = _attempt(lambda: load_image(path).size)

    def count_tokens(sample: Sample) -> int:
        return len(encoder.encode(sample))

    stored = [_stored(sample, image_dir) for sample in samples]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:  # Pillow decodes outside Python's lock
        list(threads.map(try_image, dict.fromkeys(str(sample.image) for sample in stored)))
    kept = []
    for sample in stored:
        size = tried[str(sample.image)]
        if isinstance(size, str):
            report.unreadable[sample.id] = size
        elif size != sample.size:
            report.unreadable[sample.id] = f"its image is {size[0]}x{size[1]}, not {sample.width}x{sample.height}"
        else:
            tokens = _attempt(partial(count_tokens, sample))
            if isinstance(tokens, str):
                report.unreadable[sample.id] = tokens
            elif tokens > max_prompt_length:
                report.overlong[sample.id] = tokens
            else:
                kept.append(sample)
    report.kept = len(kept)
    return kept, report


def to_json(sample: Sample) -> str:
    """A sample's truth as text, without its image."""
    return json.dumps(asdict(replace(sample, image="")))


def from_json(text: str) -> Sample:
    """The sample that `to_json` wrote.

    >>> sample = Sample("a", "", "the cat", 4, 4, objects=(Object(box=(0.0, 0.0, 2.0, 2.0), points=((1.0, 1.0),)),))
    >>> from_json(to_json(sample)) == sample
    True
    """
    values = json.loads(text)
    values["objects"] = tuple(
        Object(tuple(o["box"]), tuple(tuple(point) for point in o["points"]), o["rle"]) for o in values["objects"]
    )
    values["turns"] = tuple(values["turns"])
    return Sample(**values)


def _attempt(action: Callable[[], Any]) -> Any:
    """The result, or the user's mistake in words."""
    try:
        return action()
    except UserError as error:
        return str(error)


def _stored(sample: Sample, image_dir: Path) -> Sample:
    """The sample with a path: bytes are written to a file named by their content, so that none is written twice."""
    if isinstance(sample.image, str):
        return replace(sample, image=str(Path(sample.image).expanduser().absolute()))
    path = image_dir.expanduser().absolute() / hashlib.sha256(sample.image).hexdigest()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.{os.getpid()}")
            unfinished.write_bytes(sample.image)
            unfinished.replace(path)
        except OSError as error:
            raise UserError(f"cannot write images to {image_dir}: {error.strerror}; set data.image_dir") from error
    return replace(sample, image=str(path))
