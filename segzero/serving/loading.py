"""The models of a server, loaded before it takes anything on.

>>> pipeline, extras = load([], [], Wanted())                                     # doctest: +SKIP
>>> pipeline.policy.name, len(extras.policies)                                    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segzero import tiny
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Sampling, load_policy, pick_backend
from segzero.segmenter import load_segmenter
from segzero.serving.extras import Extras

RETRIES = 1  # of a policy behind another server: whoever waits here has no time for more


@dataclass(frozen=True)
class Wanted:
    """How models are to be loaded, all alike."""

    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seconds: float = 60.0  # that a request may take


def load(policies: Sequence[str], segmenters: Sequence[str], wanted: Wanted) -> tuple[SegZeroPipeline, Extras]:
    """The first of each as a pipeline, the others as extras; the small models that come with the package for none."""
    drawers = [
        load_segmenter(path, wanted.segmenter_backend, device=wanted.device)
        for path in segmenters or [str(tiny.segmenter_path())]
    ]
    speakers = []
    for path in policies or [str(tiny.policy_path())]:
        backend = wanted.policy_backend
        if backend == "auto":
            backend = pick_backend(path, wanted.device)
        options: dict[str, Any] = {"timeout": wanted.seconds, "retries": RETRIES} if backend == "openai" else {}
        speakers.append(
            load_policy(path, backend, frame=wanted.frame, prompt=wanted.prompt, device=wanted.device, **options)
        )
    pipeline = SegZeroPipeline(speakers[0], drawers[0], sampling=wanted.sampling)
    return pipeline, Extras(policies=tuple(speakers[1:]), segmenters=tuple(drawers[1:]))
