"""Names and JSON of an image's folder, those of ConverSeg's engine where it has them; all paths are relative to it.

out_region_refine_<image>/
  original_image.png, all_regions_colored.png, summary.json
  stages/<stage>.json                   what each stage made, and the keys of its calls
  accepted_regions/accepted.json, 000_region.png, masks/000_mask.png, masks/000_mask.npz, bboxes/000_bbox.txt
  <family>/summary.json, conversational_segmentation_prompts.json, generated_prompts_viz/ACCEPTED|REJECTED/00.png
  negatives/summary.json                prompts that nothing fits, in the same form

What a model says is in these files as text; no name of a file comes from it.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from segzero.data.engine.calls import CallFile, Usage
from segzero.data.engine.pictures import lit, numbered
from segzero.data.engine.prompts import meant
from segzero.data.engine.records import (
    ACCEPT,
    NEITHER,
    AcceptedRegion,
    JudgedPrompt,
    JudgedRegion,
    NamedRegion,
    read_record,
)
from segzero.images import orientation, read_header
from segzero.io import png_bytes, write_atomically, write_json
from segzero.masks import decode, mask_png

Made = TypeVar("Made")

RUN_PREFIX = "out_region_refine_"
NEGATIVES = "negatives"
SUMMARY = "summary.json"
ORIGINALS = ("original_image.png", "original_image.jpg")
ACCEPTED = Path("accepted_regions") / "accepted.json"


@dataclass(frozen=True)
class Stage:
    """Result of a stage: its records as JSON, the calls that it made, and why it has none, if it failed."""

    records: tuple[dict[str, Any], ...]
    calls: tuple[str, ...]
    seconds: float
    problem: str = ""

    def made(self, kind: type[Made]) -> list[Made]:
        """The records themselves; a ValueError if they are not of that kind."""
        return [read_record(kind, one) for one in self.records]


def stage_file(folder: Path, name: str) -> Path:
    """File of a stage in an image's folder."""
    return folder / "stages" / f"{name}.json"


def read_stage(folder: Path, name: str) -> Stage | None:
    """Read what a stage left; None if there is nothing, or it is damaged: it is then made again from cached calls."""
    try:
        content = json.loads(stage_file(folder, name).read_bytes())
        records, calls = content["records"], content["calls"]
        assert isinstance(records, list) and isinstance(calls, list) and all(isinstance(key, str) for key in calls)
        return Stage(tuple(records), tuple(calls), float(content["seconds"]), str(content["problem"]))
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
        return None


def write_stage(folder: Path, name: str, stage: Stage) -> None:
    """Write what a stage made."""
    content = {"stage": name, "problem": stage.problem, "seconds": stage.seconds, "calls": list(stage.calls)}
    write_json(stage_file(folder, name), content | {"records": list(stage.records)})


def copy_image(source: Path, folder: Path, image: Image.Image) -> str:
    """Put the image into its folder and return its name: unchanged if it is an upright JPEG or PNG, else as PNG."""
    with source.open("rb") as file:
        form, turned = read_header(file, str(source), lambda one: (one.format, orientation(one) != 1))
    if form in ("JPEG", "PNG") and not turned:
        name = "original_image" + {"JPEG": ".jpg", "PNG": ".png"}[form]
        write_atomically(folder / name, source.read_bytes())
    else:
        name = "original_image.png"
        write_atomically(folder / name, png_bytes(image))
    return name


def write_accepted(folder: Path, image: Image.Image, accepted: Sequence[AcceptedRegion]) -> list[dict[str, Any]]:
    """Write the accepted regions with their masks, boxes and pictures, and the list of them."""
    entries = []
    for one in accepted:
        stem, mask, root = f"{one.index:03d}", decode(one.rle, image.size), folder / "accepted_regions"
        write_atomically(root / f"{stem}_region.png", png_bytes(lit(image, mask, one.box)))
        write_atomically(root / "masks" / f"{stem}_mask.png", mask_png(mask))
        write_atomically(root / "masks" / f"{stem}_mask.npz", _npz(mask))
        write_atomically(root / "bboxes" / f"{stem}_bbox.txt", " ".join(f"{v:g}" for v in one.box).encode() + b"\n")
        entries.append(
            {
                "index": one.index,
                "label": one.label,
                "description": one.description,
                "path": f"accepted_regions/{stem}_region.png",
                "bbox": list(one.box),
                "mask_path": f"accepted_regions/masks/{stem}_mask.png",
                "mask_npz_path": f"accepted_regions/masks/{stem}_mask.npz",
            }
        )
    if accepted:
        write_atomically(folder / "all_regions_colored.png", png_bytes(numbered(image, accepted)))
    write_json(folder / ACCEPTED, entries, indent=2)
    return entries


def _npz(mask: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, mask=mask.astype(np.uint8))
    return file.getvalue()


def caption_of(labels: Sequence[str]) -> str:
    """A list of labels as ConverSeg writes captions."""
    return "\n".join(f"[{number}: {label}]" for number, label in enumerate(labels))


def region_results(regions: Sequence[NamedRegion], judged: Sequence[JudgedRegion]) -> list[dict[str, Any]]:
    """ConverSeg's `results`: what became of each region; the last three keys are ours."""
    verdicts = {one.index: one for one in judged}
    results = []
    for region in regions:
        one = verdicts.get(region.index)
        refined = one.refined if one else None
        results.append(
            {
                "index": region.index,
                "label": region.label,
                "verify_initial": one is not None and one.initial.verdict == ACCEPT,
                "desc_init": one.initial.description if one else "",
                "desc_ref": refined.description if refined else "",
                "output": (one.output if one else NEITHER) or None,
                "verify_refined": None if refined is None else refined.verdict == ACCEPT,
                "reason_initial": one.initial.reason if one else "no mask",
                "reason_refined": refined.reason if refined else None,
            }
        )
    return results


def timing_of(stages: dict[str, Stage]) -> list[dict[str, Any]]:
    """ConverSeg's `timing` of stages."""
    return [
        {"step": name, "total_seconds": round(stage.seconds, 3), "count": 1, "avg_seconds": round(stage.seconds, 3)}
        for name, stage in stages.items()
    ]


def usage_json(usage: Usage) -> dict[str, Any]:
    """ConverSeg's `gemini_usage`, whichever model it was; `usd` is null where the price is not known."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "usd": usage.usd,
        "calls": usage.calls,
    }


@dataclass(frozen=True)
class Finished:
    """Everything that an image's summaries say."""

    image_name: str
    regions: Sequence[NamedRegion]
    judged_regions: Sequence[JudgedRegion]
    accepted: Sequence[AcceptedRegion]
    stages: dict[str, Stage]


def write_family(
    folder: Path,
    name: str,
    done: Finished,
    image: Image.Image,
    prompts: Sequence[JudgedPrompt],
    problem: str,
    calls: CallFile,
) -> None:
    """Write a family's prompts, a picture of each, and its summary; `problem` says why there are none."""
    root = folder / name
    written = [_prompt_json(one) for one in prompts]
    write_json(root / "conversational_segmentation_prompts.json", written, indent=2)
    checked = [_verification(root, one, done, image) for one in prompts]
    labels = [one.label for one in done.regions]
    summary = {
        "image_path": done.image_name,
        "dense_caption": caption_of(labels),
        "results": region_results(done.regions, done.judged_regions),
        "accepted_count": len(done.accepted),
        "accepted_dir": "accepted_regions",
        "final_overlay_path": "all_regions_colored.png" if done.accepted else None,
        "accepted_dense_caption": caption_of([one.label for one in done.accepted]),
        "conversational_prompts_path": f"{name}/conversational_segmentation_prompts.json",
        "conversational_prompts": None if problem else written,
        "generated_prompts_viz_dir": f"{name}/generated_prompts_viz",
        "timing": timing_of(done.stages),
        "gemini_usage": usage_json(calls.usage(key for stage in done.stages.values() for key in stage.calls)),
        "prompt_verifications": None if problem else checked,
        "problem": problem or None,
    }
    write_json(root / SUMMARY, summary, indent=2)


def _prompt_json(one: JudgedPrompt) -> dict[str, Any]:
    """A prompt under ConverSeg's keys, with what a negative has besides."""
    prompt = one.prompt
    content = {
        "prompt": prompt.prompt,
        "candidates": list(prompt.candidates),
        "satisfying": list(prompt.satisfying),
        "concept_family": prompt.concept,
        "sub_concept": prompt.sub_concept,
    }
    return content | ({"strategy": prompt.strategy} if prompt.strategy else {})


def _verification(root: Path, one: JudgedPrompt, done: Finished, image: Image.Image) -> dict[str, Any]:
    """An entry of `prompt_verifications`, whose picture is written."""
    kind = "ACCEPTED" if one.verdict.verdict == ACCEPT else "REJECTED"
    path = root / "generated_prompts_viz" / kind / f"{one.prompt.index:02d}.png"
    write_atomically(path, png_bytes(lit(image, meant(one.prompt, done.accepted, image.size))))
    place = path.relative_to(root.parent).as_posix()
    entry = {
        "index": one.prompt.index,
        "prompt": one.prompt.prompt,
        "satisfying": list(one.prompt.satisfying),
        "verdict": one.verdict.verdict,
        "reason": one.verdict.reason,
        "src_path": place,
        "classified_path": place,
        "votes": one.verdict.votes,
        "agreeing": one.verdict.agreeing,
        "concept_family": one.prompt.concept,
    }
    return entry | ({"strategy": one.prompt.strategy} if one.prompt.strategy else {})
