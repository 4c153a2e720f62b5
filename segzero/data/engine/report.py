"""A page about a folder of runs: accepted and rejected regions and prompts with reasons, agreement, cost.

>>> write_report(Path("runs/engine"))                                             # doctest: +SKIP
PosixPath('runs/engine/report.html')
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from segzero.data.engine.calls import CallFile
from segzero.data.engine.layout import NEGATIVES, ORIGINALS, RUN_PREFIX, SUMMARY, read_stage
from segzero.data.engine.pictures import lit
from segzero.data.engine.records import (
    ACCEPT,
    FAILED,
    NEITHER,
    REFINED,
    BoxedRegion,
    JudgedPrompt,
    JudgedRegion,
    NamedRegion,
    Refinement,
    RegionMask,
    Verdict,
)
from segzero.data.engine.settings import CONCEPTS
from segzero.errors import UserError
from segzero.images import load_image
from segzero.io import write_atomically
from segzero.masks import decode
from segzero.viz.html import page, picture, side_by_side, table, text

Made = TypeVar("Made")

REPORT = "report.html"
MOST_IMAGES = 40  # that are shown; figures are of all
WIDTH = 360  # pixels of a picture


@dataclass
class Figures:
    """Counts over the images of a folder."""

    images: int = 0
    regions: int = 0
    without_box: int = 0
    accepted_regions: int = 0
    failed_regions: int = 0
    refined: int = 0  # accepted regions with the mask of everything
    both_judged: int = 0  # regions whose two masks were both judged
    both_alike: int = 0  # of these, with one verdict
    overlap: float = 0.0  # sum of the IoU of a region's two masks
    overlaps: int = 0
    votes: int = 0
    agreeing: int = 0
    prompts: dict[str, Counter[str]] = field(default_factory=dict)  # family -> verdicts

    def add_verdict(self, verdict: Verdict) -> None:
        """Count the votes of a verdict."""
        self.votes += verdict.votes
        self.agreeing += verdict.agreeing

    @property
    def accepted_prompts(self) -> int:
        """Number of accepted prompts and negatives."""
        return sum(counts[ACCEPT] for counts in self.prompts.values())

    @property
    def all_prompts(self) -> int:
        """Number of prompts and negatives."""
        return sum(counts.total() for counts in self.prompts.values())


def figures_of(out: Path) -> Figures:
    """Count what became of regions and prompts in all finished images."""
    total = Figures()
    for folder in finished(out):
        total.images += 1
        boxed = _made(folder, "boxes", BoxedRegion)
        judged = _made(folder, "verdicts", JudgedRegion)
        total.regions += len(boxed)
        total.without_box += sum(not one.boxes for one in boxed)
        total.failed_regions += sum(bool(one.problem) for one in boxed)
        for one in judged:
            total.accepted_regions += one.output != NEITHER
            total.refined += one.output == REFINED
            total.failed_regions += one.output == NEITHER and one.initial.verdict == FAILED
            for verdict in filter(None, (one.initial, one.refined)):
                total.add_verdict(verdict)
            if one.refined is not None:
                total.both_judged += 1
                total.both_alike += one.initial.verdict == one.refined.verdict
        for refinement in _made(folder, "refinement", Refinement):
            total.overlap += refinement.iou
            total.overlaps += 1
        for name in (*CONCEPTS, NEGATIVES):
            for prompt in _made(folder, f"{name}_verdicts", JudgedPrompt):
                total.prompts.setdefault(name, Counter())[prompt.verdict.verdict] += 1
                total.add_verdict(prompt.verdict)
    return total


def finished(out: Path) -> Iterator[Path]:
    """Folders of the images that went through all stages."""
    for folder in sorted(out.glob(f"{RUN_PREFIX}*")):
        if (folder / SUMMARY).is_file():
            yield folder


def write_report(out: Path, failed: dict[str, str] | None = None) -> Path:
    """Write the page; `failed` are images that did not get through, and why."""
    figures, calls = figures_of(out), CallFile(out)
    body = f"<h1>Data engine <small>{text(str(out))}</small></h1>"
    body += table(("what", "accepted", "rejected", "no verdict", "accepted share"), _outcome_rows(figures))
    body += table(("agreement between passes", ""), _agreement_rows(figures))
    stages = dict.fromkeys(call.stage for call in calls.calls.values())
    rows = []
    for stage in (*stages, ""):
        usage = calls.usage(key for key, call in calls.calls.items() if not stage or call.stage == stage)
        cost = "not known" if usage.usd is None else f"${usage.usd:.4f}"
        tokens = (f"{usage.input_tokens:,}", f"{usage.output_tokens:,}")
        rows.append((stage or "all", str(usage.calls), *tokens, cost, f"{usage.seconds:.1f}"))
    body += table(("calls", "count", "tokens in", "tokens out", "cost", "seconds"), rows)
    if failed:
        body += "<h2>Images that failed</h2>" + table(("image", "why"), failed.items())
    folders = list(finished(out))
    body += f"<h2>Images <small>{min(len(folders), MOST_IMAGES)} of {len(folders)}</small></h2>"
    body += "".join(map(_image_html, folders[:MOST_IMAGES]))
    return write_atomically(out / REPORT, page(f"Data engine: {out.name}", body).encode("utf-8", "backslashreplace"))


def _outcome_rows(figures: Figures) -> Iterable[Sequence[str]]:
    rejected = figures.regions - figures.accepted_regions - figures.failed_regions
    yield _row("regions", figures.accepted_regions, rejected, figures.failed_regions)
    for name, counts in figures.prompts.items():
        others = counts.total() - counts[ACCEPT] - counts[FAILED]
        yield _row(name, counts[ACCEPT], others, counts[FAILED])


def _row(name: str, accepted: int, rejected: int, failed: int) -> Sequence[str]:
    total = accepted + rejected + failed
    return name, str(accepted), str(rejected), str(failed), f"{accepted / total:.3f}" if total else "-"


def _agreement_rows(figures: Figures) -> Iterable[Sequence[str]]:
    if figures.both_judged:
        yield "box's and everything's mask get one verdict", f"{figures.both_alike} of {figures.both_judged}"
    if figures.overlaps:
        yield "mean IoU of the two masks", f"{figures.overlap / figures.overlaps:.3f} ({figures.overlaps})"
    yield "regions that keep everything's mask", f"{figures.refined} of {figures.accepted_regions}"
    yield "votes that agree with the decision", f"{figures.agreeing} of {figures.votes}"


def _image_html(folder: Path) -> str:
    """An image's regions and prompts, each with its verdict."""
    summary = _summary(folder)
    parts = [f"<h3>{text(str(summary.get('image', folder.name)))}</h3>"]
    try:
        pictures = [picture(load_image(folder / "all_regions_colored.png"), WIDTH)]
    except UserError:  # no region was accepted
        pictures = []
    labels = {one.index: one.label for one in _made(folder, "caption", NamedRegion)}
    judged = {one.index: one for one in _made(folder, "verdicts", JudgedRegion)}
    rows = []
    for index, label in labels.items():
        one = judged.get(index)
        verdict = "no mask" if one is None else "rejected" if one.output == NEITHER else f"accepted, {one.output}"
        reasons = "" if one is None else " / ".join(v.reason for v in (one.initial, one.refined) if v is not None)
        rows.append((label, verdict, reasons))
    regions = table(("region", "verdict", "reason"), rows)
    prompts = []
    for name in (*CONCEPTS, NEGATIVES):
        for judged_prompt in _made(folder, f"{name}_verdicts", JudgedPrompt):
            meant = ", ".join(str(number + 1) for number in judged_prompt.prompt.satisfying) or "nothing"
            decision = judged_prompt.verdict
            prompts.append((name, judged_prompt.prompt.prompt, meant, decision.verdict.lower(), decision.reason))
    parts.append(side_by_side([*pictures, regions]))
    parts.append(_rejected_html(folder, labels, judged))
    parts.append(table(("family", "prompt", "means", "verdict", "reason"), prompts))
    return "".join(parts)


def _rejected_html(folder: Path, labels: dict[int, str], judged: dict[int, JudgedRegion]) -> str:
    """Pictures of the masks that were rejected, with their labels and reasons."""
    rejected = [one for one in judged.values() if one.output == NEITHER]
    masks = {one.index: one.rle for one in _made(folder, "masks", RegionMask) if judged.get(one.index) in rejected}
    name = _summary(folder).get("image_path")
    if not masks or name not in ORIGINALS:
        return ""
    image = load_image(folder / name)
    shown = []
    for index, rle in masks.items():
        caption = f"rejected: {labels.get(index, '')}: {judged[index].initial.reason}"
        shown.append(f"{picture(lit(image, decode(rle)), WIDTH)}<figcaption>{text(caption)}</figcaption>")
    return side_by_side(shown)


def _summary(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _made(folder: Path, name: str, kind: type[Made]) -> list[Made]:
    """Records of a stage; none if it is not there."""
    stage = read_stage(folder, name)
    try:
        return stage.made(kind) if stage else []
    except ValueError:
        return []
