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
from segzero.dialogue.references import write_references
from segzero.errors import TimedOut, UserError
from segzero.evaluation.benchmarks import Unreadable
from segzero.evaluation.cache import Cache, RememberedPolicy, RememberedSegmenter
from segzero.evaluation.prediction import Prediction
from segzero.evaluation.protocol import fingerprint
from segzero.frames import Frame
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Sampling, load_policy
from segzero.prompts import get_prompt
from segzero.result import Segmentation
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


def answer(pipeline: SegZeroPipeline, items: Sequence[Item]) -> list[Prediction]:
    """One prediction for each item, in order. What concerns one of them becomes its failure; the rest is raised."""
    done: dict[int, Prediction] = {}
    ready: dict[int, tuple[Sample, Image.Image, str]] = {}
    for number, item in enumerate(items):
        if isinstance(item, Unreadable):
            done[number] = Prediction.failed(item, "unreadable", item.problem)
            continue
        try:
            image = _open(item, pipeline.policy.frame)
        except UserError as error:
            done[number] = Prediction.failed(item, "image_error", str(error))
            continue
        try:
            ready[number] = item, image, write_references(item.question, item.turns, pipeline.policy.frame, item.size)
        except UserError as error:
            done[number] = Prediction.failed(item, "policy_error", str(error))
    results = _ask(pipeline, list(ready.values()))
    for (number, (sample, *_)), result in zip(ready.items(), results, strict=True):
        if isinstance(result, Segmentation):
            done[number] = Prediction.of(sample, result)
        else:
            code = "time_out" if isinstance(result, TimedOut) else "policy_error"
            done[number] = Prediction.failed(sample, code, str(result))
    return [done[number] for number in range(len(items))]


def _open(sample: Sample, frame: Frame) -> Image.Image:
    image = sample.open()
    if image.size != sample.size:
        raise UserError(f"its image is {image.width}x{image.height}, its record says {sample.width}x{sample.height}")
    frame.model_size(image.size)  # refuses shapes the policy can't see
    return image


def _ask(
    pipeline: SegZeroPipeline, ready: Sequence[tuple[Sample, Image.Image, str]]
) -> Sequence[Segmentation | UserError]:
    """All at once; if that is refused, one after the other. Refused one and all, it is no sample's fault."""
    if not ready:
        return []
    try:
        return pipeline([image for _, image, _ in ready], [question for *_, question in ready])
    except UserError as error:
        if len(ready) == 1:
            if isinstance(error, TimedOut):
                return [error]
            raise UserError(f"sample {ready[0][0].id!r}: {error}") from error
    found: list[Segmentation | UserError] = []
    for _, image, question in ready:
        try:
            found += pipeline([image], [question])
        except UserError as error:
            found.append(error)
    refused = [each for each in found if isinstance(each, UserError) and not isinstance(each, TimedOut)]
    if len(refused) == len(found):
        raise refused[0]
    return found


def _has_hash(value: Any) -> bool:
    return isinstance(value, dict) and value.get("sha256") is not None


def _identity(model: Any) -> dict[str, Any]:
    """What tells a model from any other: its files; a server's by its name."""
    model = getattr(model, "policy", None) or getattr(model, "segmenter", None) or model
    found = {"name": model.name, "backend": type(model).__name__, "sha256": fingerprint(model.name)}
    device = getattr(model, "device", None)
    return found | ({"device": getattr(device, "type", str(device))} if device is not None else {})
