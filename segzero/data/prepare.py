"""`segzero data prepare`: a data set of any format -> shards of training samples.

The source is read once, in order, and cut into blocks by split; each block becomes one shard. A shard depends on its
block and its own seeds alone, so that neither the number of workers nor an interruption changes a byte of it. When a
shard is finished, a note is written to .shards/; a second call continues after the shards that have a note. The card
is written last.
"""

import hashlib
import json
import shutil
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from segzero.data.dataset_card import CARD, Card, is_shard_note, read_card
from segzero.data.parquet import to_parquet
from segzero.data.readers import read
from segzero.data.readers.fields import plain, read_json
from segzero.data.recipe import SampleRecipe, build_samples
from segzero.errors import UserError
from segzero.io import lock, write_atomically
from segzero.sample import Sample

NOTES = ".shards"
SETTINGS = "settings.json"  # in the folder of notes
NO_SPLIT = "train"  # the split of samples that name none


@dataclass(frozen=True)
class ShardJob:
    """One shard to make: its samples as read, and everything that decides what becomes of them."""

    out: Path
    split: str
    number: int
    samples: list[Sample]
    seed: int
    recipe: SampleRecipe
    segmenter: str

    @property
    def name(self) -> str:
        """Name of the shard's files, without a suffix."""
        return f"{self.split}-{self.number:05}"


def prepare(
    source: str,
    format: str,
    out: str | Path,
    recipe: SampleRecipe | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    segmenter: str = "",
    workers: int = 1,
    shard_size: int = 1000,
    limit: int = 0,
    strict: bool = False,
    progress: Callable[[int], None] = lambda read: None,
) -> Card:
    """Make training samples of a data set, in a folder that another call can finish after an interruption.

    Args:
        source: What `read` takes: a path or a hub name.
        format: One of the formats of segzero.data.readers.
        out: The folder of the shards.
        recipe: What the samples that were read become.
        options: Options of the format's reader.
        seed: Seed of all random choices.
        segmenter: Path of the segmenter for the recipe's `filter_iou`.
        workers: Number of processes; the files are the same for any number.
        shard_size: Samples read for one shard.
        limit: Samples to read at most; 0 reads all.
        strict: Raise the first problem instead of listing it.
        progress: Called with the number of samples that are done.
    """
    out, recipe, options = Path(out), recipe or SampleRecipe(), dict(options or {})
    if min(workers, shard_size) < 1:
        raise UserError("--workers and --shard-size must be 1 or more")
    settings = {"source": source, "format": format, "options": options, **asdict(recipe)}
    settings |= {"seed": seed, "segmenter": segmenter, "limit": limit, "shard_size": shard_size}
    _refuse_foreign_folder(out)
    if (finished := _finished_card(out, settings)) is not None:
        return finished
    # The lock's file is removed with the notes. By then the card is there, so a process that waited looks for it again.
    with lock(out / NOTES, f"{out} is being made by another process; wait for it, or choose another --out"):
        card = _finished_card(out, settings)
        if card is None:
            _begin(out, settings)
            unread: list[str] = []
            samples = read(source, format, None if strict else unread, **options)
            blocks = _blocks(islice(samples, limit or None), shard_size)
            jobs = (ShardJob(out, split, number, block, seed, recipe, segmenter) for split, number, block in blocks)
            card = Card(settings)
            unusable = _count(card, _shard_notes(jobs, workers), strict, progress)
            lines = [*unread, *unusable]  # in this order, as workers finish in any
            if not card.samples:
                first = f"; first: {lines[0]}" if lines else ""
                reasons = first or "".join(f"; {count}: {reason}" for reason, count in card.left_out.items())
                raise UserError(f"nothing of {source} can be trained on{reasons}")
            card.write(out, lines)
        shutil.rmtree(out / NOTES, ignore_errors=True)
    return card


def _count(card: Card, notes: Iterable[dict[str, Any]], strict: bool, progress: Callable[[int], None]) -> list[str]:
    """Add the shards to the card, by their notes; returns the problems of their samples."""
    problems: list[str] = []
    for note in notes:
        if strict and note["problems"]:
            raise UserError(f"{note['problems'][0]} (without --strict it is left out and listed)")
        card.add(note)
        problems += note["problems"]
        progress(card.read)
    return problems


def _finished_card(out: Path, settings: dict[str, Any]) -> Card | None:
    card = read_card(out)
    if card is not None:
        _check_settings(out, card.settings, settings)
    return card


def _has_shards(out: Path) -> bool:
    return out.is_dir() and any(out.glob("*.parquet"))


def _refuse_foreign_folder(out: Path) -> None:
    """Refuse a folder whose shards were not written by `prepare`."""
    begun = (out / CARD).is_file() or (out / NOTES / SETTINGS).is_file()
    if out.is_file() or (_has_shards(out) and not begun):
        raise UserError(f"{out} holds something else already; choose another --out, or remove it")


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings. Those of an interrupted call must be the same, unless it made nothing."""
    notes = out / NOTES
    if (notes / SETTINGS).is_file():
        earlier = _read_settings(notes / SETTINGS, out)
        _check_settings(out, earlier, settings if _has_shards(out) else {})
        for unfinished in out.glob(".*.parquet.*"):
            unfinished.unlink(missing_ok=True)
    if not _has_shards(out):
        for note in notes.glob("*.json"):
            note.unlink(missing_ok=True)
    write_atomically(notes / SETTINGS, json.dumps(settings).encode())


def _read_settings(file: Path, out: Path) -> Any:
    try:
        return read_json(file)
    except UserError as error:
        raise UserError(f"{error}; remove {out} and begin again") from error


def _check_settings(out: Path, earlier: Any, settings: dict[str, Any]) -> None:
    if not isinstance(earlier, dict):
        raise UserError(f"{out} holds no settings of an earlier call; choose another --out, or remove it")
    for name, value in json.loads(json.dumps(settings)).items():
        if earlier.get(name) != value:
            raise UserError(
                f"{out} was made with {name} {earlier.get(name)!r}, not {value!r}; choose another --out, or remove it"
            )


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[tuple[str, int, list[Sample]]]:
    """Split, number and samples of each block; the blocks of several splits are filled at the same time."""
    open_blocks: dict[str, list[Sample]] = {}
    numbers: Counter[str] = Counter()
    for sample in samples:
        split = plain(sample.split) or NO_SPLIT
        image = str(Path(sample.image).absolute()) if isinstance(sample.image, str) else sample.image
        open_blocks.setdefault(split, []).append(replace(sample, image=image))
        if len(open_blocks[split]) == size:
            yield split, numbers[split], open_blocks.pop(split)
            numbers[split] += 1
    for split, block in open_blocks.items():
        yield split, numbers[split], block


def _shard_notes(jobs: Iterable[ShardJob], workers: int) -> Iterator[dict[str, Any]]:
    """Make the shards; their notes come in the order of the jobs, of which only a few are in memory."""
    if workers == 1:
        yield from map(_make_shard, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending: deque[Future] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_make_shard, job))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, most often for memory; call again to go on, with fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _make_shard(job: ShardJob) -> dict[str, Any]:
    """Make one shard, unless it is finished already, and return its note."""
    file = job.out / NOTES / f"{job.name}.json"
    digest = _digest(job.samples)
    if (finished := _read_note(file)) is not None:
        if finished["digest"] != digest:
            raise UserError(f"the source is not what it was when {job.out} was begun; remove {job.out} and begin again")
        return finished
    keep = None
    if job.recipe.filter_iou is not None:
        from segzero.data.segmenter_filter import reproduces_masks

        keep = partial(reproduces_masks, segmenter=job.segmenter, min_iou=job.recipe.filter_iou)
    built = build_samples(job.samples, job.recipe, (job.seed, zlib.crc32(job.split.encode()), job.number), keep)
    shard = job.out / f"{job.name}.parquet"
    if built.samples:
        to_parquet(built.samples, shard)
    note = {
        "digest": digest,
        "file": shard.name,
        "split": job.split,
        "read": len(job.samples),
        "samples": len(built.samples),
        "kinds": built.kinds,
        "objects": Counter(str(len(sample.objects)) for sample in built.samples),
        "left_out": built.left_out,
        "problems": built.problems,
    }
    write_atomically(file, json.dumps(note).encode())
    return note


def _read_note(file: Path) -> dict[str, Any] | None:
    """The note of a finished shard; None if it is absent or damaged, so that the shard is made again."""
    if not file.is_file():
        return None
    try:
        note = read_json(file)
    except UserError:
        return None
    return note if is_shard_note(note) else None


def _digest(samples: Iterable[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr(replace(sample, image="")).encode("utf-8", "backslashreplace"))
        digest.update(sample.image if isinstance(sample.image, bytes) else sample.image.encode())
    return digest.hexdigest()
