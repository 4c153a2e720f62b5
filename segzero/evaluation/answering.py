"""A batch of samples -> a Prediction for each, failures too. The work that evaluation shares out.

>>> models = Models(policy="Ricky06662/VisionReasoner-7B", segmenter="facebook/sam2-hiera-large")     # doctest: +SKIP
>>> pipeline, settings = models.load()                                                                # doctest: +SKIP
>>> answer(pipeline, samples)[0].score                                                                # doctest: +SKIP
Score(intersection=18230, union=20100, pred_empty=False, true_empty=False, failed=False)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.data.sample import Sample
from segzero.dialogue.history import registry_of
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Unreadable
from segzero.evaluation.cache import Cache, RememberedPolicy, RememberedSegmenter
from segzero.evaluation.histories import PREDICTED, Failure, Round, with_predicted_history, with_true_history
from segzero.evaluation.prediction import Prediction
from segzero.evaluation.protocol import fingerprint
from segzero.frames import Frame
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Sampling, load_policy
from segzero.prompts import get_prompt
from segzero.segmenter import load_segmenter

Item = Sample | Unreadable


@dataclass(frozen=True)
class Models:
    """Which policy and segmenter are asked, and how. Answers are greedy."""

    policy: str
    segmenter: str
    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    max_tokens: int = 2048
    batch: int = 16
    cache: Path | None = None  # where answers and masks are kept

    def load(self) -> tuple[SegZeroPipeline, dict[str, Any]]:
        """The pipeline, and what must be the same for two evaluations to be one."""
        segmenter = load_segmenter(self.segmenter, self.segmenter_backend, device=self.device)
        policy = load_policy(self.policy, self.policy_backend, frame=self.frame, prompt=self.prompt, device=self.device)
        pipeline = SegZeroPipeline(policy, segmenter, sampling=Sampling(max_tokens=self.max_tokens), batch=self.batch)
        return remember(pipeline, self.cache) if self.cache else pipeline, settings_of(pipeline)


def settings_of(pipeline: SegZeroPipeline) -> dict[str, Any]:
    """Models, frame, prompt and decoding, as the protocol tells them."""
    prompt = pipeline.prompt or pipeline.policy.prompt
    return {
        "policy": _identity(pipeline.policy),
        "segmenter": _identity(pipeline.segmenter),
        "frame": str(pipeline.policy.frame),
        "prompt": prompt,
        "format": get_prompt(prompt).format,
        "decoding": "greedy" if pipeline.sampling.temperature == 0 else f"temperature {pipeline.sampling.temperature}",
        "max_tokens": pipeline.sampling.max_tokens,
        "seed": pipeline.sampling.seed,
    }


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the names of models whose files are known: a moved checkpoint is the same one."""
    return {
        key: {name: v for name, v in value.items() if name != "name"} if _has_hash(value) else value
        for key, value in settings.items()
    }


def remember(pipeline: SegZeroPipeline, cache: Path) -> SegZeroPipeline:
    """The same pipeline, whose greedy answers and masks are kept in that folder."""
    kept, told = Cache(cache), comparable(settings_of(pipeline))
    return SegZeroPipeline(
        RememberedPolicy(pipeline.policy, kept, told["policy"]),
        RememberedSegmenter(pipeline.segmenter, kept, told["segmenter"]),
        pipeline.prompt,
        pipeline.sampling,
        pipeline.batch,
    )


def answer(pipeline: SegZeroPipeline, items: Sequence[Item], history: str | None = None) -> list[Prediction]:
    """One prediction for each item, in order. What concerns one of them becomes its failure; the rest is raised.

    `history`: which earlier rounds samples of dialogues are told of, the true ones or those "predicted" by the policy.
    """
    done: dict[int, Prediction] = {}
    ready: dict[int, Round] = {}
    images: dict[str | bytes, Image.Image] = {}
    for number, item in enumerate(items):
        if isinstance(item, Unreadable):
            done[number] = Prediction.failed(item, "unreadable", item.problem)
            continue
        try:
            image = _open(item, pipeline.policy.frame, images)
        except UserError as error:
            done[number] = Prediction.failed(item, "image_error", str(error))
            continue
        try:
            ready[number] = Round(item, image, registry_of(item.turns, item.size))
        except UserError as error:
            done[number] = Prediction.failed(item, "unreadable", str(error))
    ask = with_predicted_history if history == PREDICTED else with_true_history
    for (number, round), outcome in zip(ready.items(), ask(pipeline, list(ready.values())), strict=True):
        if isinstance(outcome, Failure):
            done[number] = Prediction.failed(round.sample, outcome.code, outcome.problem)
        else:
            done[number] = Prediction.of(round.sample, outcome)
    return [done[number] for number in range(len(items))]


def _open(sample: Sample, frame: Frame, images: dict[str | bytes, Image.Image]) -> Image.Image:
    """The sample's image; rounds of one dialogue get one object."""
    if sample.image not in images:
        images[sample.image] = sample.open()
    image = images[sample.image]
    if image.size != sample.size:
        raise UserError(f"its image is {image.width}x{image.height}, its record says {sample.width}x{sample.height}")
    frame.model_size(image.size)  # refuses shapes the policy can't see
    return image


def _has_hash(value: Any) -> bool:
    return isinstance(value, dict) and value.get("sha256") is not None


def _identity(model: Any) -> dict[str, Any]:
    """What tells a model from any other: its files; a server's by its name."""
    model = getattr(model, "policy", None) or getattr(model, "segmenter", None) or model
    found = {"name": model.name, "backend": type(model).__name__, "sha256": fingerprint(model.name)}
    device = getattr(model, "device", None)
    return found | ({"device": getattr(device, "type", str(device))} if device is not None else {})
