"""Samples with masks that a head learns from."""

from dataclasses import dataclass

from segzero.sample import Sample


@dataclass(frozen=True)
class MaskSamples:
    """Samples of a run, and why others were left out."""

    train: list[Sample]
    val: list[Sample]
    left_out: dict[str, str]  # sample id -> reason

    def __str__(self) -> str:
        text = f"{len(self.train)} samples of {len({sample.image for sample in self.train})} images"
        if self.left_out:
            name, reason = next(iter(self.left_out.items()))
            text += f"; {len(self.left_out)} left out (first: {name}: {reason})"
        return f"{text}; {len(self.val)} for validation"
