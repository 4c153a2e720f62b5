"""`segzero data prepare`: a data set of any format -> shards of training samples.

The source is read once, in order, and cut into blocks by split; each block becomes one shard, in any process and
in any order, from seeds of its own: neither workers nor interruptions change a byte. A shard counts as finished when
its note stands beside it in .shards/; a second call goes on behind those. The card is written last.
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

from segzero.data.dataset_card import CARD, Card, is_shard, read_card
from segzero.data.parquet import to_parquet
from segzero.data.readers import read
from segzero.data.readers.fields import plain, read_json
from segzero.data.recipe import Recipe, cook
from segzero.errors import UserError
from segzero.io import lock, write_atomically
from segzero.sample import Sample

NOTES = ".shards"
SETTINGS = "settings.json"  # among the notes
NO_SPLIT = "train"  # what samples of no split are filed under


@dataclass(frozen=True)
class Job:
    """One shard to make."""

    out: Path
    split: str
    number: int
    samples: list[Sample]
    seed: int
    recipe: Recipe
    segmenter: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.split}-{self.number:05}"


def prepare(
    source: str,
    format: str,
    out: str | Path,
    recipe: Recipe | None = None,
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
    """Make training samples of a source that `read` reads with these `options`; `progress` hears how many are done.

    `limit`: read no more than so many; 0 reads all. `strict`: the first problem ends it.
    """
    out, recipe, options = Path(out), recipe or Recipe(), dict(options or {})
    if min(workers, shard_size) < 1:
        raise UserError("--workers and --shard-size must be 1 or more")
    settings = {"source": source, "format": format, "options": options, **asdict(recipe)}
    settings |= {"seed": seed, "segmenter": segmenter, "limit": limit, "shard_size": shard_size}
    _refuse_others(out)
    if (finished := _finished(out, settings)) is not None:
        return finished
    # The lock goes with the notes at the end. By then the card is there, and whoever gets the lock looks for it again.
    with lock(out / NOTES, f"{out} is being made by another process; wait for it, or choose another --out"):
        card = _finished(out, settings)
        if card is None:
            _begin(out, settings)
            unread: list[str] = []
            samples = read(source, format, None if strict else unread, **options)
            blocks = _blocks(islice(samples, limit or None), shard_size)
            jobs = (Job(out, split, number, block, seed, recipe, segmenter) for split, number, block in blocks)
            card = Card(settings)
            bad = _count(card, _each(jobs, workers), strict, progress)
            lines = [*unread, *bad]  # in this order, as workers run ahead of each other
            if not card.samples:
                first = f"; first: {lines[0]}" if lines else ""
                said = first or "".join(f"; {count}: {why}" for why, count in card.left_out.items())
                raise UserError(f"nothing of {source} can be trained on{said}")
            card.write(out, lines)
        shutil.rmtree(out / NOTES, ignore_errors=True)
    return card


def _count(card: Card, shards: Iterable[dict[str, Any]], strict: bool, progress: Callable[[int], None]) -> list[str]:
    """Add the shards to the card; returns the problems in them."""
    bad: list[str] = []
    for shard in shards:
        if strict and shard["problems"]:
            raise UserError(f"{shard['problems'][0]} (without --strict it is left out and listed)")
        card.add(shard)
        bad += shard["problems"]
        progress(card.read)
    return bad


def _finished(out: Path, settings: dict[str, Any]) -> Card | None:
    card = read_card(out)
    if card is not None:
        _same_settings(out, card.settings, settings)
    return card


def _made(out: Path) -> bool:
    return out.is_dir() and any(out.glob("*.parquet"))


def _refuse_others(out: Path) -> None:
    """A folder with shards that no call began is somebody's own."""
    begun = (out / CARD).is_file() or (out / NOTES / SETTINGS).is_file()
    if out.is_file() or (_made(out) and not begun):
        raise UserError(f"{out} holds something else already; choose another --out, or remove it")


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings. Those of an interrupted call must be the same, unless it made nothing."""
    notes = out / NOTES
    if (notes / SETTINGS).is_file():
        found = _read_note(notes / SETTINGS, out)
        _same_settings(out, found, settings if _made(out) else {})
        for unfinished in out.glob(".*.parquet.*"):
            unfinished.unlink(missing_ok=True)
    if not _made(out):
        for note in notes.glob("*.json"):
            note.unlink(missing_ok=True)
    write_atomically(notes / SETTINGS, json.dumps(settings).encode())


def _read_note(note: Path, out: Path) -> Any:
    try:
        return read_json(note)
    except UserError as error:
        raise UserError(f"{error}; remove {out} and begin again") from error


def _same_settings(out: Path, found: Any, settings: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{out} holds no settings of an earlier call; choose another --out, or remove it")
    for name, value in json.loads(json.dumps(settings)).items():
        if found.get(name) != value:
            raise UserError(
                f"{out} was made with {name} {found.get(name)!r}, not {value!r}; choose another --out, or remove it"
            )


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[tuple[str, int, list[Sample]]]:
    """Split, number and samples of each block; blocks of several splits fill up side by side."""
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


def _each(jobs: Iterable[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Shards in the order of their jobs; only a few jobs are in memory."""
    if workers == 1:
        yield from map(_make, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending: deque[Future] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_make, job))
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


def _make(job: Job) -> dict[str, Any]:
    """Make one shard, or find it finished."""
    note = job.out / NOTES / f"{job.name}.json"
    digest = _digest(job.samples)
    if (found := _noted(note)) is not None:
        if found["digest"] != digest:
            raise UserError(f"the source is not what it was when {job.out} was begun; remove {job.out} and begin again")
        return found
    agree = None
    if job.recipe.filter_iou is not None:
        from segzero.data.segmenter_filter import agreement

        agree = partial(agreement, segmenter=job.segmenter, least=job.recipe.filter_iou)
    made = cook(job.samples, job.recipe, (job.seed, zlib.crc32(job.split.encode()), job.number), agree)
    file = job.out / f"{job.name}.parquet"
    if made.samples:
        to_parquet(made.samples, file)
    shard = {
        "digest": digest,
        "file": file.name,
        "split": job.split,
        "read": len(job.samples),
        "samples": len(made.samples),
        "kinds": made.kinds,
        "objects": Counter(str(len(sample.objects)) for sample in made.samples),
        "left_out": made.left_out,
        "problems": made.problems,
    }
    write_atomically(note, json.dumps(shard).encode())
    return shard


def _noted(note: Path) -> dict[str, Any] | None:
    """What a finished shard's note says; None where there is no note, or one that is torn: the shard is made anew."""
    if not note.is_file():
        return None
    try:
        found = read_json(note)
    except UserError:
        return None
    return found if is_shard(found) else None


def _digest(samples: Iterable[Sample]) -> str:
    found = hashlib.sha256()
    for sample in samples:
        found.update(repr(replace(sample, image="")).encode("utf-8", "backslashreplace"))
        found.update(sample.image if isinstance(sample.image, bytes) else sample.image.encode())
    return found.hexdigest()
