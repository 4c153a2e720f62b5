"""Sample parquet as verl's dataset. Images travel as paths: embedded ones are written to files once, by content.

Every sample is tried at the start. Those whose image can't be read, whose image or masks don't have the size that
the file says, or whose prompt is too long are left out, counted and named once; so are later rounds of a dialogue
whose answer needs no policy.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch.utils.data import Dataset

from segzero.data.parquet import from_parquet
from segzero.dialogue.prompting import PolicyPrompt, sample_prompt
from segzero.errors import UserError
from segzero.images import image_key
from segzero.io import write_atomically
from segzero.masks import check_rle
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.sample import Sample
from segzero.training.tokenization import EncodedPrompt, Encoder

CHUNK = 256  # samples in memory with their images, while they are tried


@dataclass
class FilterReport:
    """Samples that were left out, and why."""

    kept: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # sample id -> reason
    overlong: dict[str, int] = field(default_factory=dict)  # sample id -> tokens
    needless: list[str] = field(default_factory=list)  # ids of samples that refer only to objects found to be absent

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


class Usable(NamedTuple):
    """A sample that can be trained on, with its prompt."""

    sample: Sample
    prompt: PolicyPrompt
    encoded: EncodedPrompt


class SampleDataset(Dataset):
    """The dataset class of data.custom_cls; `samples` are those that can be trained on, each with a path as image."""

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
        self.report = FilterReport()
        every = chain.from_iterable(from_parquet(file) for file in files)
        wanted = islice(every, max_samples if max_samples > 0 else None)
        image_dir = Path(config.image_dir)
        # The prompts made for filtering are not kept: a rollout makes its own once per step, in a millisecond.
        self.samples = [
            _with_image_file(usable.sample, image_dir)
            for usable in filter_usable(wanted, self.encoder, config.max_prompt_length, self.report)
        ]
        print(f"{', '.join(files)}: {self.report}", flush=True)
        if not self.samples:
            raise UserError(f"no usable sample in {', '.join(files)}: {self.report}; see `segzero docs training`")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row for verl's data loader; the rollouts look the sample up by its index."""
        return {
            "index": index,
            "raw_prompt": "",  # verl counts the rows of a batch by this column, and reads nothing else of it
            "dummy_tensor": torch.tensor([0], dtype=torch.uint8),  # verl wants at least one tensor in a batch
        }


def checkpoint_of(config: DictConfig) -> Checkpoint:
    """The policy's checkpoint that verl's `data` section names, with its frame and prompt."""
    return read_checkpoint(config.checkpoint, config.get("frame"), config.get("prompt"))


def filter_usable(
    samples: Iterable[Sample], encoder: Encoder, max_prompt_length: int, report: FilterReport
) -> Iterator[Usable]:
    """Yield the samples that can be trained on, in order; the reasons for the others go into `report`."""
    tried: dict[str, tuple[int, int] | str] = {}  # image -> its size, or why it can't be read
    samples = iter(samples)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:  # Pillow decodes outside Python's lock
        while some := list(islice(samples, CHUNK)):
            new = {image_key(sample.image): sample for sample in some if image_key(sample.image) not in tried}
            sizes = threads.map(lambda sample: _attempt(lambda: sample.open().size), new.values())
            tried.update(zip(new, sizes, strict=True))
            for sample in some:
                problem = _size_problem(sample, tried[image_key(sample.image)])
                usable = problem or _attempt(partial(_encode, encoder, sample))
                if isinstance(usable, str):
                    report.unreadable[sample.id] = usable
                elif usable is None:
                    report.needless.append(sample.id)
                elif len(usable.encoded) > max_prompt_length:
                    report.overlong[sample.id] = len(usable.encoded)
                else:
                    report.kept += 1
                    yield usable


def _size_problem(sample: Sample, size: tuple[int, int] | str) -> str | None:
    """The problem with a sample's image, whose size is given, or with its masks; None if there is none."""
    if isinstance(size, str):
        return size
    if size != sample.size:
        return f"its image is {size[0]}x{size[1]}, not {sample.width}x{sample.height}"
    for rle in [*(each.rle for each in sample.objects), sample.ignore, sample.current_mask]:
        problem = rle and _attempt(partial(check_rle, rle))
        if isinstance(problem, str):
            return problem
        if rle and tuple(rle["size"]) != (sample.height, sample.width):
            return f"a mask of it is {rle['size'][1]}x{rle['size'][0]}, its image {sample.width}x{sample.height}"
    return None


def _encode(encoder: Encoder, sample: Sample) -> Usable | None:
    """Make and tokenize a sample's prompt; None if the policy is not called."""
    prompt = sample_prompt(sample, encoder.checkpoint.frame)
    return None if prompt.answer_is_empty else Usable(sample, prompt, encoder.encode(sample, prompt))


def _attempt(action: Callable[[], Any]) -> Any:
    """The result, or the text of the UserError."""
    try:
        return action()
    except UserError as error:
        return str(error)


def _with_image_file(sample: Sample, image_dir: Path) -> Sample:
    """The sample with a path as image: bytes are written to a file named by their content, so never twice."""
    if isinstance(sample.image, str):
        return replace(sample, image=str(Path(sample.image).absolute()))
    path = image_dir.expanduser().absolute() / hashlib.sha256(sample.image).hexdigest()
    if not path.exists():
        write_atomically(path, sample.image)
    return replace(sample, image=str(path))
