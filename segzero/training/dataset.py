"""Our Sample parquet as verl's dataset. Images travel as paths: embedded ones are written out once, by content.

Every sample is tried at the start: those whose image can't be read, whose image or masks are not of the size that
the file says, or whose prompt is too long are left out, counted and named once; so are later rounds of a dialogue
whose answer needs no policy.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import Dataset

from segzero.data.parquet import from_parquet
from segzero.dialogue.prompting import sample_prompt
from segzero.errors import UserError
from segzero.images import image_key
from segzero.io import write_atomically
from segzero.masks import check_rle
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.sample import Object, Sample
from segzero.training.tokenization import Encoder, open_fitted

AT_ONCE = 256  # samples in memory with their images, while they are tried


@dataclass
class Report:
    """What was left out, and why."""

    kept: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # sample id -> reason
    overlong: dict[str, int] = field(default_factory=dict)  # sample id -> tokens
    needless: list[str] = field(default_factory=list)  # ids of samples that refer to nothing but "nothing there"

    def __str__(self) -> str:
        lines = [f"{self.kept} samples"]
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            lines.append(f"{len(self.unreadable)} left out as unreadable (first: {name}: {reason})")
        if self.overlong:
            name, tokens = next(iter(self.overlong.items()))
            lines.append(f"{len(self.overlong)} left out as too long (first: {name}: {tokens} tokens)")
        if self.needless:
            lines.append(f"{len(self.needless)} left out as needing no policy (first: {self.needless[0]})")
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
        self.report = Report()
        found = chain.from_iterable(from_parquet(file) for file in files)
        wanted = islice(found, max_samples if max_samples > 0 else None)
        image_dir = Path(config.image_dir)
        self.samples = [
            _stored(sample, image_dir)
            for sample, _ in usable(wanted, self.encoder, config.max_prompt_length, self.report)
        ]
        print(f"{', '.join(files)}: {self.report}", flush=True)
        if not self.samples:
            raise UserError(f"no usable sample in {', '.join(files)}: {self.report}; see `segzero docs training`")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        return {
            "raw_prompt": messages_with_path(sample, self.checkpoint),
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


def messages_with_path(sample: Sample, checkpoint: Checkpoint) -> list[dict]:
    """The rendered messages, the image's path in the placeholder."""
    messages = sample_prompt(sample, checkpoint.frame).messages(checkpoint.prompt)
    for message in messages:
        message["content"] = [
            {**part, "image": sample.image} if part["type"] == "image" else part for part in message["content"]
        ]
    return messages


def usable(
    samples: Iterable[Sample], encoder: Encoder, max_prompt_length: int, report: Report
) -> Iterator[tuple[Sample, int]]:
    """Samples that can be trained on, in order, each with its prompt's tokens; what is wrong goes into `report`."""
    tried: dict[str, tuple[int, int] | str] = {}  # image -> its size, or what is wrong with it
    samples = iter(samples)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:  # Pillow decodes outside Python's lock
        while some := list(islice(samples, AT_ONCE)):
            new = {image_key(sample.image): sample for sample in some if image_key(sample.image) not in tried}
            sizes = threads.map(lambda sample: _attempt(lambda: sample.open().size), new.values())
            tried.update(zip(new, sizes, strict=True))
            for sample in some:
                tokens = _size_problem(sample, tried[image_key(sample.image)]) or _attempt(
                    partial(_count, encoder, sample)
                )
                if isinstance(tokens, str):
                    report.unreadable[sample.id] = tokens
                elif tokens == 0:
                    report.needless.append(sample.id)
                elif tokens > max_prompt_length:
                    report.overlong[sample.id] = tokens
                else:
                    report.kept += 1
                    yield sample, tokens


def _size_problem(sample: Sample, size: tuple[int, int] | str) -> str | None:
    """What is wrong with a sample's image, of that size, or with its masks."""
    if isinstance(size, str):
        return size
    if size != sample.size:
        return f"its image is {size[0]}x{size[1]}, not {sample.width}x{sample.height}"
    for rle in [*(found.rle for found in sample.objects), sample.ignore]:
        problem = rle and _attempt(partial(check_rle, rle))
        if isinstance(problem, str):
            return problem
        if rle and tuple(rle["size"]) != (sample.height, sample.width):
            return f"a mask of it is {rle['size'][1]}x{rle['size'][0]}, its image {sample.width}x{sample.height}"
    return None


def _count(encoder: Encoder, sample: Sample) -> int:
    """Count the tokens of a sample's prompt; 0 where the policy is not called."""
    prompt = sample_prompt(sample, encoder.checkpoint.frame)
    return 0 if prompt.answer_is_empty else len(encoder.encode(sample, prompt))


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
        return replace(sample, image=str(Path(sample.image).absolute()))
    path = image_dir.expanduser().absolute() / hashlib.sha256(sample.image).hexdigest()
    if not path.exists():
        write_atomically(path, sample.image)
    return replace(sample, image=str(path))
