"""Runs of the data engine: many images at once, and a stopped run goes on.

Each stage of an image leaves its JSON, each call its line, before anything is made of it. A run that is started again
reads the stages that are there, and repeats the others from the calls that were paid for.
"""

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from segzero.data.engine.calls import CallFile, Unrecorded
from segzero.data.engine.layout import (
    NEGATIVES,
    RUN_PREFIX,
    SUMMARY,
    Finished,
    Stage,
    copy_image,
    read_stage,
    usage_json,
    write_accepted,
    write_family,
    write_stage,
)
from segzero.data.engine.pictures import numbered
from segzero.data.engine.prompts import judge_prompts, propose_negatives, propose_prompts
from segzero.data.engine.records import (
    ACCEPT,
    FAILED,
    NEITHER,
    AcceptedRegion,
    BoxedRegion,
    ConceptPrompt,
    JudgedPrompt,
    JudgedRegion,
    NamedRegion,
    PoolMask,
    Refinement,
    RegionMask,
    to_json,
)
from segzero.data.engine.regions import (
    ImageWork,
    accept_regions,
    draw_masks,
    find_boxes,
    find_pool,
    find_regions,
    judge_regions,
    refine,
)
from segzero.data.engine.settings import EngineLimits, EngineSettings
from segzero.data.engine.vlm import NoAnswer, ShownPicture, Stopped, VisionModel
from segzero.errors import TimedOut, Unavailable, UserError, one_line
from segzero.images import find_images, load_image, pixels_key, read_header
from segzero.io import lock, write_json
from segzero.policy.chat_server import REFUSED_KEY, ChatServer, Refused, split_address
from segzero.segmenter.protocol import Segmenter

Made = TypeVar("Made")

ENGINE = "engine.json"
IN_A_ROW = 3  # images whose server could not be reached, after which a run ends
GRACE = 10.0  # seconds that calls under way get when the user stops a run


@dataclass(frozen=True)
class ImageJob:
    """An image, its folder, and a name that no other image of the run has."""

    image: Path
    folder: Path
    name: str


@dataclass
class EngineRun:
    """Outcome of a run, image by image."""

    total: int
    finished: list[str] = field(default_factory=list)  # names of folders, those of earlier runs included
    failed: dict[str, str] = field(default_factory=dict)  # name of an image -> why
    problems: dict[str, int] = field(default_factory=dict)  # answers that could not be read, by stage and reason
    new_calls: int = 0
    over_budget: bool = False

    @property
    def left(self) -> int:
        """Number of images that the run did not come to."""
        return self.total - len(self.finished) - len(self.failed)


def plan(source: str | Path, out: Path) -> list[ImageJob]:
    """List the images and their folders, whose names differ even where case does not count."""
    taken: set[str] = set()
    jobs = []
    for image in find_images(source):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", image.stem)[:100] or "image"
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        jobs.append(ImageJob(image, out / f"{RUN_PREFIX}{name}", name + image.suffix))
    return jobs


def check_images(jobs: Sequence[ImageJob]) -> dict[str, str]:
    """Look at every image before anything is paid: the unreadable ones and why; not one may be all there are."""
    unreadable: dict[str, str] = {}
    for job in jobs:
        try:
            with job.image.open("rb") as file:
                read_header(file, str(job.image), lambda one: one.size)
        except (UserError, OSError) as error:
            unreadable[job.name] = one_line(error)
    if len(unreadable) == len(jobs):
        raise UserError(f"none of {len(jobs)} images can be read: {next(iter(unreadable.values()))}")
    return unreadable


def find_model(address: str, wanted: str) -> tuple[str, str]:
    """URL of a server, and the name of its model: the one wanted, or the only one.

    A server may list a model as `models/NAME`, or not list models at all: then the name is taken as it is.
    """
    named, url = split_address(address)
    if named and wanted and named != wanted:
        raise UserError(f"--vlm names the model {named!r}, --vlm-model {wanted!r}; leave one out")
    server, name = ChatServer(url, timeout=30, retries=1), named or wanted
    try:
        if not (name and f"models/{name}" in server.models()):
            name = str(server.pick_model(name or None)["id"])
    except Refused as error:
        if not name or error.status != 404:
            raise
    return url, name


def prepare(url: str, out: Path, settings: EngineSettings, limits: EngineLimits) -> VisionModel:
    """Check folder, server, key and model before anything is written or loaded."""
    check_folder(out, settings)
    server = ChatServer(url, limits.timeout, limits.retries, limits.pause)
    model = VisionModel(server, settings, limits, CallFile(out))
    try:
        model.check_sight()
    except Stopped:
        raise UserError(f"--budget {limits.budget:g} is spent: {out} has cost ${model.calls.spent:.4f}") from None
    return model


def check_folder(out: Path, settings: EngineSettings) -> None:
    """Refuse a folder that holds something else, or results of other settings."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / ENGINE).is_file()):
        raise UserError(f"{out} holds something else than a data engine's results; choose another --out")
    if not (out / ENGINE).is_file():
        return
    try:
        before = json.loads((out / ENGINE).read_bytes())["settings"]
        differing = [name for name, value in settings.fingerprint.items() if before.get(name) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{out / ENGINE} can't be read; choose another --out") from None
    if differing:
        name = differing[0]
        was, now = before.get(name), settings.fingerprint[name]
        raise UserError(f"{out} was made with {name} {was!r}, and now it is {now!r}; choose another --out")


def run_engine(
    jobs: Sequence[ImageJob],
    out: Path,
    model: VisionModel,
    segmenter: Segmenter,
    on_image: Callable[[str, str], None] = lambda name, outcome: None,
) -> EngineRun:
    """Take all images through all stages, several at once; `on_image` hears of each as it ends."""
    run = EngineRun(len(jobs))
    with lock(out, f"another engine is at work in {out}; wait for it, or choose another --out"):
        check_folder_again(out, model.settings)
        model.calls.begin()
        _Workers(jobs, model, segmenter, run, on_image).work()
    run.problems = dict(model.problems)
    run.new_calls, run.over_budget = model.calls.new, model.over_budget
    return run


def check_folder_again(out: Path, settings: EngineSettings) -> None:
    """Claim a folder for these settings, or find that another process did so for others."""
    if (out / ENGINE).is_file():
        check_folder(out, settings)
    else:
        write_json(out / ENGINE, {"settings": settings.fingerprint}, indent=2)


class _Workers:
    """Threads that take images from a queue until it is empty or the run ends."""

    def __init__(
        self,
        jobs: Sequence[ImageJob],
        model: VisionModel,
        segmenter: Segmenter,
        run: EngineRun,
        on_image: Callable[[str, str], None],
    ) -> None:
        self.model, self.segmenter, self.run, self.on_image = model, segmenter, run, on_image
        self.waiting: queue.SimpleQueue[ImageJob] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put(job)
        self.lock = threading.Lock()
        self.unreachable = 0  # images in a row
        self.fatal: BaseException | None = None

    def work(self) -> None:
        """Start the threads and wait for them; an interruption lets calls under way end, so that they are kept."""
        ended = [threading.Event() for _ in range(min(self.model.limits.workers, self.run.total))]
        for one in ended:
            threading.Thread(target=self._loop, args=(one,), daemon=True).start()
        try:
            for one in ended:  # not by join(): once interrupted, it takes a thread at work for one that has ended
                one.wait()
        except KeyboardInterrupt:
            self.model.stop.set()
            last = time.monotonic() + GRACE
            for one in ended:
                one.wait(max(0.0, last - time.monotonic()))
            raise
        if self.fatal is not None:
            raise self.fatal

    def _loop(self, ended: threading.Event) -> None:
        try:
            while not self.model.stop.is_set():
                self._one(self.waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:  # raised again in the thread that started the run
            self.fatal = self.fatal or error
            self.model.stop.set()
        finally:
            ended.set()

    def _one(self, job: ImageJob) -> None:
        try:
            make_image(job, self.model, self.segmenter)
        except Stopped:
            return
        except (UserError, NoAnswer) as error:
            fatal = isinstance(error, Unrecorded) or (isinstance(error, Refused) and error.status in REFUSED_KEY)
            with self.lock:
                self.unreachable = self.unreachable + 1 if isinstance(error, Unavailable | TimedOut) else 0
                self.run.failed[job.name] = str(error)
                fatal = fatal or self.unreachable >= IN_A_ROW
            if fatal:
                raise UserError(
                    f"{error}; {len(self.run.finished)} of {self.run.total} images are done, the same command goes on"
                ) from None
            self.on_image(job.name, f"failed: {error}")
        else:
            with self.lock:
                self.unreachable = 0
                self.run.finished.append(job.folder.name)
            self.on_image(job.name, "done")


@dataclass(eq=False)
class _Stages:
    """The stages of one image: read if they are there, else made and written."""

    folder: Path
    work: ImageWork
    done: dict[str, Stage] = field(default_factory=dict)
    remade: bool = False  # from the first stage on that is made again, so are those that follow

    def __call__(
        self, name: str, kind: type[Made], make: Callable[[], list[Made]], may_fail: bool = False
    ) -> list[Made]:
        """The records of a stage. One that `may_fail` has none then, and says why."""
        found = None if self.remade else read_stage(self.folder, name)
        if found is not None and not found.problem:
            try:
                made = found.made(kind)
                self.done[name] = found
                return made
            except ValueError:  # damaged, or of another version: made again
                pass
        self.remade = True
        before, begun, problem = len(self.work.used), time.monotonic(), ""
        try:
            made = make()
        except NoAnswer as error:
            if not may_fail:
                raise
            made, problem = [], str(error)
        keys = tuple(self.work.used[before:])
        stage = Stage(tuple(map(to_json, made)), keys, round(time.monotonic() - begun, 3), problem)
        write_stage(self.folder, name, stage)
        self.done[name] = stage
        return made


def make_image(job: ImageJob, model: VisionModel, segmenter: Segmenter) -> None:
    """Take one image through all stages, and write its summaries last."""
    image = load_image(job.image)
    if _is_finished(job.folder, image):
        return
    work = ImageWork(image, model, segmenter)
    stages = _Stages(job.folder, work)
    regions = stages("caption", NamedRegion, lambda: find_regions(work))
    boxed = stages("boxes", BoxedRegion, lambda: find_boxes(work, regions))
    masks = stages("masks", RegionMask, lambda: draw_masks(work, boxed))
    pool = stages("everything", PoolMask, lambda: find_pool(work))
    refinements = stages("refinement", Refinement, lambda: refine(work, masks, pool))
    judged = stages("verdicts", JudgedRegion, lambda: judge_regions(work, regions, masks, refinements))
    accepted = stages("accepted", AcceptedRegion, lambda: accept_regions(regions, masks, refinements, judged))
    overlay = cache(lambda: work.show(numbered(image, accepted)))
    prompts: dict[str, list[JudgedPrompt]] = {}
    for name in (*model.settings.concepts, *([NEGATIVES] if model.settings.negatives else [])):
        proposed = stages(
            f"{name}_prompts",
            ConceptPrompt,
            lambda name=name: _propose(work, name, accepted, overlay),  # type: ignore[misc]
            True,
        )
        prompts[name] = stages(
            f"{name}_verdicts",
            JudgedPrompt,
            lambda proposed=proposed: judge_prompts(work, proposed, accepted),  # type: ignore[misc]
        )
    done = Finished(copy_image(job.image, job.folder, image), regions, judged, accepted, stages.done)
    _write_summaries(job, done, image, prompts, model.calls)


def _propose(
    work: ImageWork, name: str, accepted: Sequence[AcceptedRegion], overlay: Callable[[], ShownPicture]
) -> list[ConceptPrompt]:
    """Prompts of a family, or negatives. A prompt means some of its candidates, so a single region allows none."""
    if name == NEGATIVES:
        return propose_negatives(work, accepted, overlay()) if accepted else []
    return propose_prompts(work, name, accepted, overlay()) if len(accepted) > 1 else []


def _is_finished(folder: Path, image: Image.Image) -> bool:
    """Whether an image's summary is there; one of another image is refused."""
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(summary, dict) or summary.get("pixels") != pixels_key(image):
        raise UserError(f"{folder} was made of another image of this name; choose another --out")
    return not summary.get("problems")


def _write_summaries(
    job: ImageJob,
    done: Finished,
    image: Image.Image,
    prompts: dict[str, list[JudgedPrompt]],
    calls: CallFile,
) -> None:
    """Write accepted regions, each family and last the image's own summary."""
    write_accepted(job.folder, image, done.accepted)
    problems = {name: stage.problem for name, stage in done.stages.items() if stage.problem}
    for name, judged in prompts.items():
        write_family(job.folder, name, done, image, judged, problems.get(f"{name}_prompts", ""), calls)
    verdicts = [one.initial.verdict for one in done.judged_regions if one.output == NEITHER]
    summary: dict[str, Any] = {
        "image": job.image.name,
        "image_path": done.image_name,
        "width": image.width,
        "height": image.height,
        "pixels": pixels_key(image),
        "regions": len(done.regions),
        "accepted_regions": len(done.accepted),
        "failed_regions": verdicts.count(FAILED),
        "prompts": {name: _count(judged) for name, judged in prompts.items()},
        "gemini_usage": usage_json(calls.usage(key for stage in done.stages.values() for key in stage.calls)),
        "problems": problems,
    }
    write_json(job.folder / SUMMARY, summary, indent=2)


def _count(judged: Sequence[JudgedPrompt]) -> dict[str, int]:
    """Number of prompts by verdict."""
    verdicts = [one.verdict.verdict for one in judged]
    return {name: verdicts.count(name) for name in dict.fromkeys((ACCEPT, *verdicts))}
