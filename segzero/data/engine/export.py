"""Training and evaluation files of run folders, ours or those of ConverSeg's own engine.

dataset.jsonl         {"image", "mask_merged", "prompt"} per line, for ConverSeg's train.py
items.json            {"dataset", "count", "items": [{"id", "image", "mask", "prompt", "concept"}]}, for its eval.py
train.parquet         the same as Samples, an object for each region; val.parquet for evaluation
export_manifest.json  what was written, and how many prompts were left out for which reason

A prompt that was accepted for no region at all is kept, with a black mask: verified, nothing there. Files are looked
for in the run's own folder alone, whatever its JSON names.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segzero.data.engine.layout import ACCEPTED, NEGATIVES, ORIGINALS, SUMMARY
from segzero.data.engine.records import ACCEPT
from segzero.data.engine.regions import LABEL_LETTERS
from segzero.data.engine.settings import CONCEPTS
from segzero.data.engine.vlm import clean
from segzero.data.parquet import to_parquet
from segzero.data.readers.fields import question
from segzero.data.readers.fields import read_json as read_any_json
from segzero.data.readers.pictures import image_size, inside, read_mask
from segzero.errors import UserError
from segzero.io import new_folder, write_atomically, write_json
from segzero.masks import Mask, box_of, encode, mask_png, points_of
from segzero.sample import Object, Sample

MODES, PATH_MODES = ("train", "eval", "both"), ("relative", "absolute")
FOLDERS = ("entities", "spatial", "affordances", "relations", "physics", NEGATIVES)  # in ConverSeg's order
MANIFEST = "export_manifest.json"
NOTHING = "nothing fits"  # think-chain of a prompt that nothing fits


@dataclass(frozen=True)
class RunsExport:
    """Numbers of an export."""

    runs: int
    samples: int
    nothing_there: int
    images: int
    skipped: dict[str, int]  # reason -> prompts, or files

    def __str__(self) -> str:
        lines = [f"{self.samples} samples ({self.nothing_there} with nothing there) of {self.images} images"]
        lines += [f"  left out: {count} {reason}" for reason, count in sorted(self.skipped.items())]
        return "\n".join(lines)


class Skip(Exception):
    """A prompt, or a file, is left out; the message is the reason's name."""


@dataclass(frozen=True)
class RegionFile:
    """An accepted region's mask, and its label as a think-chain may hold it."""

    mask: Path
    label: str


@dataclass(frozen=True, eq=False)
class RunPrompt:
    """An accepted prompt of a run folder."""

    concept: str
    index: int
    prompt: str
    image: Path
    size: tuple[int, int]  # width, height
    masks: tuple[Mask, ...]  # [H, W] each
    think: str  # labels of the regions that it means


@dataclass
class _Files:
    """Rows and images of an export under way."""

    out: Path  # where the files are now
    final: Path  # where they will be
    path_mode: str
    images: dict[Path, str] = field(default_factory=dict)  # image of a run -> name in images/
    val: frozenset[str] = frozenset()  # names of the runs for evaluation alone
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"train": [], "val": []})
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"train": [], "val": []})
    nothing_there: int = 0

    @property
    def count(self) -> int:
        """Number of samples so far."""
        return sum(map(len, self.rows.values()))

    def path(self, name: str) -> str:
        """A file's path as it is written."""
        return name if self.path_mode == "relative" else str(self.final.absolute() / name)


def export_runs(
    runs: str | Path, out: str | Path, mode: str = "both", path_mode: str = "relative", val: float = 0.0
) -> RunsExport:
    """Write the accepted prompts of all run folders into a new or empty folder, which appears when it is whole.

    `val` is the share of images that go to evaluation alone: then dataset.jsonl and train.parquet have the others. With
    `path_mode` "relative" the parquet files contain the images, so that the folder can be moved.
    """
    runs, out = Path(runs), Path(out)
    if mode not in MODES or path_mode not in PATH_MODES:
        raise UserError(f"mode {mode!r} or path_mode {path_mode!r}: use {', '.join(MODES)}; {', '.join(PATH_MODES)}")
    if not 0 <= val < 1 or (val and mode != "both"):
        raise UserError(f"--val {val:g}: a share of images below 1, with mode both")
    folders = run_folders(runs)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    skipped: Counter[str] = Counter()
    per_run: list[dict[str, Any]] = []
    with new_folder(out) as unfinished:
        files = _Files(unfinished, out, path_mode, val=_chosen(folders, val))
        for folder in folders:
            before, lost = files.count, skipped.total()
            for prompt in accepted_prompts(folder, skipped):
                _add(files, folder, prompt)
            counts = {"exported_samples": files.count - before, "skipped_in_run": skipped.total() - lost}
            per_run.append({"run_dir": folder.name} | counts)
        if not files.count:
            raise UserError(f"no accepted prompt in {runs}: {dict(skipped)}")
        written = _write_lists(files, mode, bool(val))
        _write_manifest(files, mode, skipped, per_run, written)
    return RunsExport(len(folders), files.count, files.nothing_there, len(files.images), dict(skipped))


def run_folders(runs: Path) -> list[Path]:
    """Find the run folders in a folder, or the folder itself: those with a family's summary."""
    if not runs.is_dir():
        raise UserError(f"no such folder: {runs}; give the folder that `segzero data engine` wrote")
    children = sorted(child for child in runs.iterdir() if child.is_dir())
    found = [folder for folder in (runs, *children) if any((folder / name / SUMMARY).is_file() for name in FOLDERS)]
    if not found:
        raise UserError(f"no run folder in {runs}: none has {FOLDERS[0]}/{SUMMARY} or another family's")
    return found


def accepted_prompts(folder: Path, skipped: Counter[str]) -> Iterator[RunPrompt]:
    """Read the accepted prompts of a run folder; the others are counted by reason."""
    try:
        masks = _mask_files(folder)
    except Skip as reason:
        skipped[str(reason)] += 1
        return
    for name in FOLDERS:
        if not (folder / name / SUMMARY).is_file():
            continue
        try:
            summary, entries = _read_summary(folder, name)
            image = _image_file(folder, summary)
            size = image_size(image)
        except Skip as reason:
            skipped[str(reason)] += 1
            continue
        except UserError:
            skipped["invalid_image"] += 1
            continue
        for index, entry in enumerate(entries):
            try:
                yield _read_prompt(name, index, entry, masks, image, size)
            except Skip as reason:
                skipped[str(reason)] += 1


def _mask_files(folder: Path) -> dict[int, RegionFile]:
    """Mask files and labels of the accepted regions, by index."""
    if not (folder / ACCEPTED).is_file():
        raise Skip("missing_accepted_json")
    try:
        accepted = read_any_json(folder / ACCEPTED)
    except UserError:
        raise Skip("invalid_accepted_json") from None
    if not isinstance(accepted, list):
        raise Skip("invalid_accepted_json_type")
    files: dict[int, RegionFile] = {}
    for entry in accepted:
        index = entry.get("index") if isinstance(entry, dict) else None
        if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
            usual = f"{ACCEPTED.parent}/masks/{index:03d}_mask.png"
            if file := _inside_run(folder, entry.get("mask_path")) or _inside_run(folder, usual):
                files[index] = RegionFile(file, _words(entry.get("label")))
    return files


def _words(label: Any) -> str:
    """A label in one line, without the marks of think-chains and special tokens."""
    return clean(label.replace("<", " ").replace(">", " "), LABEL_LETTERS) if isinstance(label, str) else ""


def _inside_run(folder: Path, written: Any) -> Path | None:
    """The file that a run's JSON names, if it is in the run's folder.

    ConverSeg writes paths from the place where its engine ran: what stands behind the folder's name counts.
    """
    if not isinstance(written, str):
        return None
    parts = Path(written).parts
    behind = parts[len(parts) - parts[::-1].index(folder.name) :] if folder.name in parts else parts
    try:
        return inside(folder, "/".join(behind))
    except UserError:
        return None


def _read_summary(folder: Path, name: str) -> tuple[dict[str, Any], list[Any]]:
    """A family's summary, and its verified prompts."""
    try:
        summary = read_any_json(folder / name / SUMMARY)
    except UserError:
        raise Skip("invalid_summary_json") from None
    entries = summary.get("prompt_verifications") if isinstance(summary, dict) else None
    if not isinstance(entries, list):
        raise Skip("missing_prompt_verifications")
    return summary, entries


def _image_file(folder: Path, summary: dict[str, Any]) -> Path:
    """The run's copy of its image, at which the masks were made; ConverSeg's `image_path` is a larger one elsewhere."""
    named = (summary.get("image_path"), *ORIGINALS)
    image = next((file for written in named if (file := _inside_run(folder, written))), None)
    if image is None:
        raise Skip("missing_image_path")
    return image


def _read_prompt(
    folder: str, index: int, entry: Any, masks: dict[int, RegionFile], image: Path, size: tuple[int, int]
) -> RunPrompt:
    """An entry of `prompt_verifications`, if it is accepted and whole."""
    if not isinstance(entry, dict):
        raise Skip("invalid_prompt_verification_item")
    if str(entry.get("verdict", "")).strip().upper() != ACCEPT:
        raise Skip("verdict_not_accept")
    prompt = entry.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise Skip("empty_prompt")
    try:
        prompt = question(prompt)
    except UserError:
        raise Skip("unusable_prompt") from None
    satisfying = entry.get("satisfying")
    if not isinstance(satisfying, list) or not all(type(number) is int and number >= 0 for number in satisfying):
        raise Skip("invalid_satisfying")
    if any(number not in masks for number in satisfying):
        raise Skip("missing_satisfying_mask")
    try:
        chosen = [masks[number] for number in sorted(set(satisfying))]
        drawn = tuple(read_mask(region.mask, size) for region in chosen)
    except UserError:  # damaged, or of another size than the image
        raise Skip("failed_mask_merge") from None
    if not all(mask.any() for mask in drawn):
        raise Skip("empty_merged_mask")
    family = entry.get("concept_family")
    concept = family if folder == NEGATIVES and family in CONCEPTS else folder
    think = ", ".join(region.label for region in chosen if region.label) if chosen else NOTHING
    return RunPrompt(concept, index, prompt, image, size, drawn, think)


def _add(files: _Files, folder: Path, prompt: RunPrompt) -> None:
    """Write a prompt's mask, and its image if it is new, and keep its rows."""
    image = _copy_image(files, folder, prompt.image)
    number = files.count + 1
    id = f"{_safe(folder.name)}_{prompt.concept}_{prompt.index:03d}_{number:06d}"
    union = np.any(prompt.masks, axis=0) if prompt.masks else np.zeros(prompt.size[::-1], bool)
    mask = f"masks/{id}.png"
    write_atomically(files.out / mask, mask_png(union))
    row = {"id": id, "image": files.path(f"images/{image}"), "mask": files.path(mask), "prompt": prompt.prompt}
    split = "val" if folder.name in files.val else "train"
    files.rows[split].append(row | {"concept": prompt.concept})
    files.nothing_there += not prompt.masks
    objects = []
    for one in prompt.masks:
        box = box_of(one)
        assert box is not None, "it has pixels"
        objects.append(Object(box, points_of(one), encode(one)))
    content: str | bytes = files.path(f"images/{image}")
    if files.path_mode == "relative":
        content = (files.out / "images" / image).read_bytes()
    width, height = prompt.size
    shared = {"concept": prompt.concept, "split": split, "source": "engine", "meta": {"think": prompt.think}}
    files.samples[split].append(Sample(id, content, prompt.prompt, width, height, tuple(objects), **shared))  # type: ignore[arg-type]


def _chosen(folders: Sequence[Path], val: float) -> frozenset[str]:
    """Names of the runs for evaluation: that share, one at least, as the hashes of the names decide."""
    if not val:
        return frozenset()
    if len(folders) < 2:
        raise UserError(f"--val {val:g}: one image can't be divided; leave it out")
    names = sorted((folder.name for folder in folders), key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    return frozenset(names[: min(max(1, round(val * len(names))), len(names) - 1)])


def _copy_image(files: _Files, folder: Path, image: Path) -> str:
    if image not in files.images:
        name = f"{_safe(folder.name)}__{_safe(image.stem)}{image.suffix.lower()}"
        write_atomically(files.out / "images" / name, image.read_bytes())
        files.images[image] = name
    return files.images[image]


def _safe(name: str) -> str:
    """A part of a file name, as ConverSeg makes it: other characters than letters, digits, dots become underscores."""
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
    return safe[:120] or "item"


def _write_lists(files: _Files, mode: str, divided: bool) -> dict[str, str]:
    """Write the lists for training and for evaluation; undivided, both have all samples."""
    training = files.rows["train"]
    evaluation = files.rows["val"] if divided else files.rows["train"]
    written: dict[str, str] = {}
    if mode in ("train", "both"):
        lines = [{"image": row["image"], "mask_merged": row["mask"], "prompt": row["prompt"]} for row in training]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(files.out / "dataset.jsonl", text.encode())
        written["dataset_jsonl"] = files.path("dataset.jsonl")
    if mode in ("eval", "both"):
        content = {"dataset": files.final.name, "count": len(evaluation), "items": evaluation}
        write_json(files.out / "items.json", content, indent=2)
        written["items_json"] = files.path("items.json")
    for split, samples in files.samples.items():
        name = "val" if mode == "eval" else split
        if samples:
            to_parquet(samples, files.out / f"{name}.parquet")
            written[f"{name}_parquet"] = files.path(f"{name}.parquet")
    return written


def _write_manifest(
    files: _Files, mode: str, skipped: Counter[str], per_run: list[dict[str, Any]], written: dict[str, str]
) -> None:
    """Write ConverSeg's manifest, with the number of samples that fit nothing."""
    counts = {
        "train_rows": len(files.rows["train"]) if mode != "eval" else 0,
        "eval_items": len(files.rows["val"] or files.rows["train"]) if mode != "train" else 0,
        "copied_images": len(files.images),
        "written_masks": files.count,
        "nothing_there": files.nothing_there,
    }
    manifest = {
        "out_dir": files.path("."),
        "mode": mode,
        "path_mode": files.path_mode,
        "concepts": list(FOLDERS),
        "discovered_run_dirs": [one["run_dir"] for one in per_run],
        "counts": counts,
        "skipped_reason_counts": dict(sorted(skipped.items())),
        "per_run": per_run,
        "written_files": written,
    }
    write_json(files.out / MANIFEST, manifest, indent=2)
