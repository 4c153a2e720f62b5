"""Lines in the terminal: one for each part of the start, for each step, and for each validation.

`launch` imports this before it sets up the environment, so it must not import torch or verl.
"""

import time
from typing import Any

SHOWN_TERMS = 6  # in the line of a step
_STARTED = _moved = time.monotonic()


def note_movement() -> None:
    """Note that the run has moved: a part has started, answers or a step are there."""
    global _moved
    _moved = time.monotonic()


def seconds_still() -> float:
    """Seconds since the run last moved."""
    return time.monotonic() - _moved


def print_stage(text: str) -> None:
    """Print one line for a part of the start, which takes from half a minute to two: it shows that the run moves."""
    note_movement()
    print(f"[{time.monotonic() - _STARTED:4.0f} s] {text}", flush=True)


class Progress:
    """Prints the lines of steps and validations, and keeps the numbers that they need."""

    def __init__(self) -> None:
        self.giou: float | None = None
        self.first = self.total = 0
        self.started = time.monotonic()

    def start(self, done: int, total: int) -> None:
        """Begin a run of `total` steps, of which `done` were done by an earlier run."""
        self.first, self.total, self.started = done, total, time.monotonic()

    def validated(self, metrics: dict[str, float]) -> None:
        """Print the line of a validation."""
        note_movement()
        self.giou = metrics.get("val/giou")
        overall = {name.removeprefix("val/"): value for name, value in metrics.items() if name.count("/") == 1}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in overall.items())
        print(f"validation  {shown}", flush=True)

    def stepped(self, step: int, metrics: dict[str, Any]) -> None:
        """Print the line of a step."""
        note_movement()
        print(self.line(step, metrics), flush=True)

    def line(self, step: int, metrics: dict[str, Any]) -> str:
        """
        >>> progress = Progress()
        >>> progress.start(0, 10)
        >>> progress.line(5, {"reward/mean": 4.2, "reward/format/mean": 1.9, "perf/throughput": 310.0})[:54]
        'step 5/10  reward 4.200 (format 1.90)  310 tokens/s  l'
        """
        terms = [
            f"{name.split('/')[1]} {value:.2f}"
            for name, value in metrics.items()
            if name.startswith("reward/") and name.count("/") == 2 and name.endswith("/mean")
        ]
        parts = [f"step {step}/{self.total}", f"reward {metrics.get('reward/mean', float('nan')):.3f}"]
        if terms:
            parts[-1] += f" ({', '.join(terms[:SHOWN_TERMS])})"
        if metrics.get("rollout/refilled_groups"):
            parts.append(f"{metrics['rollout/refilled_groups']:.0f} flat groups replaced")
        if self.giou is not None:
            parts.append(f"gIoU {self.giou:.3f}")
        if "perf/throughput" in metrics:
            parts.append(f"{metrics['perf/throughput']:.0f} tokens/s")
        left = (time.monotonic() - self.started) / max(1, step - self.first) * (self.total - step)
        return "  ".join([*parts, f"left {_clock(left)}"])


def _clock(seconds: float) -> str:
    """
    >>> _clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
