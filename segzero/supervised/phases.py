"""Phases of a run: data that follow each other, each with a learning rate, and with samples of before among its own.

What a step sees follows from the seed and the step alone, so that a run can be resumed anywhere.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from segzero.images import image_key
from segzero.sample import Sample


@dataclass(frozen=True, eq=False)
class Phase:
    """Part of a run: its samples, its updates and the highest learning rate."""

    samples: Sequence[Sample]
    steps: int
    lr: float
    replay: float = 0.0  # share of each batch that comes from the data of earlier phases
    earlier: Sequence[Sample] = ()


def phase_at(phases: Sequence[Phase], step: int) -> tuple[Phase, int]:
    """The phase of a step, and the step's number in it.

    >>> two = [Phase([], 10, 1e-4), Phase([], 5, 1e-5)]
    >>> [(phase_at(two, step)[0].lr, phase_at(two, step)[1]) for step in (9, 10)]
    [(0.0001, 9), (1e-05, 0)]
    """
    for phase in phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError("the run has ended")


def batches_of(
    phases: Sequence[Phase], size: int, seed: int, start: int = 0, together: int = 1
) -> Iterator[list[Sample]]:
    """Batches of a run from the `start`-th on, phase by phase."""
    for number, phase in enumerate(phases):
        if start < phase.steps:
            yield from _batches_of(phase, size, seed + 7919 * number, start, together)
        start = max(0, start - phase.steps)


def _batches_of(phase: Phase, size: int, seed: int, start: int, together: int) -> Iterator[list[Sample]]:
    """Batches of a phase; replayed samples are spread evenly over them."""
    replayed = [int(step * size * phase.replay + 1e-9) for step in range(phase.steps + 1)]
    own = in_order(phase.samples, seed, start * size - replayed[start], together)
    earlier = in_order(phase.earlier, seed + 1, replayed[start], together) if phase.replay else iter(())
    for step in range(start, phase.steps):
        count = replayed[step + 1] - replayed[step]
        yield [*(next(own) for _ in range(size - count)), *(next(earlier) for _ in range(count))]


def in_order(samples: Sequence[Sample], seed: int, start: int = 0, together: int = 1) -> Iterator[Sample]:
    """Endless samples from the `start`-th on; each epoch has an order of its own.

    Up to `together` samples of an image are drawn at a time.
    """
    images = range(len(samples)) if together == 1 else [image_key(sample.image) for sample in samples]
    order = lru_cache(maxsize=2)(partial(_order, images, seed, together))
    place = start
    while True:
        epoch, index = divmod(place, len(samples))
        yield samples[order(epoch)[index]]
        place += 1


def _order(images: Sequence[Hashable], seed: int, together: int, epoch: int) -> list[int]:
    """Places of samples in an epoch's order, given the image of each."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator).tolist()
    groups: dict[tuple[Hashable, int], list[int]] = {}  # each stands where its first sample does
    counts: Counter[Hashable] = Counter()
    for place in order:
        image = images[place]
        groups.setdefault((image, counts[image] // together), []).append(place)
        counts[image] += 1
    return [place for group in groups.values() for place in group]
