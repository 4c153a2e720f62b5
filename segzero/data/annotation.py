"""Annotation projects: a folder with a JSON file of annotations per image, which several annotators can use at once.

    PROJECT/project.json          the folder of the images, the stage, and each image's id, file, size and hash
    PROJECT/annotations/ID.json   an image's revision, whether it is done, and its instances
    PROJECT/lent.json             who works on which image, and until when

Images are read and never written. An image's id comes from its content, so that no request names a file. Each save
names the revision that it began with; if somebody else has saved the image meanwhile, it is refused.

>>> project, problems = open_project("fruit", images="photos")                           # doctest: +SKIP
>>> entry = project.next_image("anna")                                                     # doctest: +SKIP
>>> project.save(entry.id, 0, [Draft("apple", rle, "click")], done=True, who="anna")       # doctest: +SKIP
"""

import fcntl
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from segzero.errors import UserError, one_line, unknown_name
from segzero.images import find_images, load_image
from segzero.io import read_json, write_json
from segzero.masks import RLE, Box, box_of_rle, check_rle, pixel_count
from segzero.prompts import normalise

PROJECT, ANNOTATIONS, LENT = "project.json", "annotations", "lent.json"
STAGES = ("manual", "semi", "auto")
HOWS = ("click", "box", "brush", "everything", "automatic")
LENDING = 600.0  # seconds for which an image is lent to an annotator, from the last request about it
MAX_INSTANCES = 1000  # of an image
MAX_LABEL = 200  # letters


class SaveConflict(UserError):
    """Somebody else has saved the image since it was read; nothing was changed."""


class ImageLent(UserError):
    """Another annotator is working on the image."""


@dataclass(frozen=True)
class ImageEntry:
    """An image of a project."""

    id: str  # the first digits of its hash
    file: str  # its name in the folder of images
    width: int
    height: int
    sha256: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class Draft:
    """An instance as an annotator sends it; `id` is that of an instance that is kept or changed."""

    label: str
    rle: RLE
    how: str  # one of HOWS
    score: float | None = None  # IoU that the segmenter expected of the mask
    id: int | None = None


@dataclass(frozen=True)
class AnnotatedInstance:
    """A saved instance."""

    id: int
    label: str  # empty: nobody has named it yet
    rle: RLE
    box: Box  # around the mask
    how: str
    score: float | None
    who: str
    when: str  # UTC
    stage: str


@dataclass(frozen=True)
class ImageAnnotation:
    """Saved annotations of an image; revision 0 has never been saved."""

    revision: int = 0
    done: bool = False
    instances: tuple[AnnotatedInstance, ...] = ()
    who: str = ""  # who saved it last
    when: str = ""


@dataclass
class AnnotationProgress:
    """Counts of a project."""

    stage: str
    images: int = 0
    begun: int = 0  # images that were saved but are not done
    done: int = 0
    instances: int = 0
    unlabelled: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    hows: Counter[str] = field(default_factory=Counter)
    annotators: Counter[str] = field(default_factory=Counter)  # who -> instances

    def __str__(self) -> str:
        lines = [
            f"stage {self.stage}: {self.done} of {self.images} images done, {self.begun} begun",
            f"{self.instances} instances, {self.unlabelled} of them without a label",
        ]
        for title, counts in (("labels", self.labels), ("made by", self.hows), ("annotators", self.annotators)):
            if counts:
                lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
        return "\n".join(lines)


class AnnotationProject:
    """An open project; every change on disk is made under the project's lock, by threads and processes alike."""

    def __init__(self, folder: Path, images: Path, entries: Sequence[ImageEntry], stage: str) -> None:
        self.folder, self.images, self.stage = folder, images, stage
        self.entries = {entry.id: entry for entry in entries}
        self._seen: dict[str, tuple[int, ImageAnnotation]] = {}  # id -> time of the file, its content

    def entry(self, id: str) -> ImageEntry:
        """Look up an image by its id."""
        if id not in self.entries:
            raise UserError(f"no such image in this project: {id[:40]!r}")
        return self.entries[id]

    def image_file(self, id: str) -> bytes:
        """Read an image's file; one that has changed since it joined the project is refused."""
        entry = self.entry(id)
        try:
            content = (self.images / entry.file).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {entry.file} in {self.images}: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"{entry.file} in {self.images} is another image than when it joined {self.folder}")
        return content

    def read(self, id: str) -> ImageAnnotation:
        """Read the annotations of an image."""
        path = self.folder / ANNOTATIONS / f"{self.entry(id).id}.json"
        return _read_annotation(path, self.entry(id)) if path.exists() else ImageAnnotation()

    def save(self, id: str, revision: int, drafts: Sequence[Draft], done: bool, who: str) -> ImageAnnotation:
        """Replace the instances of an image, which the annotator has seen at that revision."""
        checked = [_check_draft(draft, self.entry(id)) for draft in drafts]
        if len(checked) > MAX_INSTANCES:
            raise UserError(f"{len(checked)} instances; an image may have {MAX_INSTANCES}")
        with self._turn():
            before = self.read(id)
            if before.revision != revision:
                raise SaveConflict(
                    f"this image was saved by {before.who or 'nobody'} at {before.when or 'no time'}, while you worked "
                    "on it; nothing of yours is saved yet: look at theirs, then save again"
                )
            self._refuse_lent(self._lent(), id, who)
            instances = self._instances(before.instances, checked, who)
            saved = ImageAnnotation(revision + 1, done, instances, who, _now())
            write_json(self.folder / ANNOTATIONS / f"{id}.json", asdict(saved))
            if done:
                self._return(id, who)
        return saved

    def lend(self, id: str, who: str) -> None:
        """Lend an image to an annotator for some minutes, or for some more."""
        with self._turn():
            self._lend(self.entry(id).id, who)

    def give_back(self, id: str, who: str) -> None:
        """End the lending of an image to an annotator."""
        with self._turn():
            self._return(self.entry(id).id, who)

    def next_image(self, who: str, after: str = "") -> ImageEntry | None:
        """Lend the next image that is not done and nobody else has; None if there is none.

        It is searched from behind the image `after` on, then from the beginning.
        """
        ids = list(self.entries)
        start = ids.index(after) + 1 if after in self.entries else 0
        with self._turn():
            lent = self._lent()
            for id in ids[start:] + ids[:start]:
                if lent.get(id, (who, 0.0))[0] == who and not self._glance(id).done:
                    self._lend(id, who)
                    return self.entries[id]
        return None

    def progress(self) -> AnnotationProgress:
        """Count images, instances and labels."""
        counted = AnnotationProgress(self.stage, images=len(self.entries))
        for annotation in map(self._glance, self.entries):
            counted.done += annotation.done
            counted.begun += bool(annotation.revision) and not annotation.done
            counted.instances += len(annotation.instances)
            counted.unlabelled += sum(not each.label for each in annotation.instances)
            counted.labels.update(each.label for each in annotation.instances if each.label)
            counted.hows.update(each.how for each in annotation.instances)
            counted.annotators.update(each.who for each in annotation.instances)
        return counted

    def _glance(self, id: str) -> ImageAnnotation:
        """The annotations of an image as `read` gives them, from memory while the file's time stays the same."""
        try:
            changed = (self.folder / ANNOTATIONS / f"{id}.json").stat().st_mtime_ns
        except OSError:
            return ImageAnnotation()
        if id not in self._seen or self._seen[id][0] != changed:
            self._seen[id] = changed, self.read(id)
        return self._seen[id][1]

    def _instances(
        self, before: Sequence[AnnotatedInstance], drafts: Sequence[Draft], who: str
    ) -> tuple[AnnotatedInstance, ...]:
        """Instances of the drafts; one that nobody has changed keeps who made it, when and how."""
        known = {each.id: each for each in before}
        used = [draft.id for draft in drafts if draft.id in known]
        if len(set(used)) < len(used):
            raise UserError("two instances have the same id; send each once")
        number, instances = max(known, default=0), []
        for draft in drafts:
            box = box_of_rle(draft.rle)
            assert box is not None, "empty masks are refused before"
            old = known.get(draft.id) if draft.id is not None else None
            fresh = (who, _now(), self.stage)
            if old is not None and old.rle["counts"] == draft.rle["counts"]:
                made = old
                if old.label != draft.label:
                    made = AnnotatedInstance(old.id, draft.label, old.rle, old.box, old.how, old.score, *fresh)
            else:
                number += old is None
                place = number if old is None else old.id
                made = AnnotatedInstance(place, draft.label, draft.rle, box, draft.how, draft.score, *fresh)
            instances.append(made)
        return tuple(instances)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the project's lock, which the kernel releases when a process ends, and hold it."""
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror or error}") from None
        try:
            with suppress(OSError):  # a file system without locks: one server alone needs none
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _lent(self) -> dict[str, tuple[str, float]]:
        """Images that are lent now: id -> to whom, and until when."""
        try:
            listed = read_json(self.folder / LENT)
            lent = {str(id): (str(who), float(until)) for id, (who, until) in listed.items()}
        except (OSError, ValueError, TypeError):  # none yet, or damaged: lendings are forgotten, and nothing else
            return {}
        return {id: (who, until) for id, (who, until) in lent.items() if until > time.time()}

    def _lend(self, id: str, who: str) -> None:
        lent = self._lent()
        self._refuse_lent(lent, id, who)
        if lent.get(id, (who, 0.0))[1] < time.time() + 0.9 * LENDING:  # not for every click
            write_json(self.folder / LENT, {**lent, id: (who, time.time() + LENDING)})

    def _refuse_lent(self, lent: Mapping[str, tuple[str, float]], id: str, who: str) -> None:
        other, until = lent.get(id, (who, 0.0))
        if other != who:
            clock = time.strftime("%H:%M", time.gmtime(until))
            raise ImageLent(f"this image is with {other}, until {clock} UTC at least; take another one")

    def _return(self, id: str, who: str) -> None:
        lent = self._lent()
        if id in lent and lent[id][0] == who:
            del lent[id]
            write_json(self.folder / LENT, lent)


def open_project(
    folder: str | Path, images: str | Path | None = None, stage: str | None = None
) -> tuple[AnnotationProject, list[str]]:
    """Open a project, or make one for a folder of images; also returns why images were left out.

    With `images`, new images of that folder join the project. With `stage`, it goes on in that stage.
    """
    folder = Path(folder)
    if stage is not None and stage not in STAGES:
        raise unknown_name("stage", stage, list(STAGES))
    made = (folder / PROJECT).is_file()
    if not made and images is None:
        raise UserError(f"{folder} is no annotation project; name the folder of its images, and one is made there")
    if not made and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; name a new or empty folder for the project")
    kept, place, known = _read_project(folder) if made else ("manual", _images_folder(images or ""), [])
    if images is not None and _images_folder(images) != place:
        raise UserError(f"{folder} is about the images in {place}, not those in {images}; name another project")
    if not place.is_dir():
        raise UserError(f"the images of {folder} are gone: there is no folder {place}")
    entries, problems = _look_for_images(place, known) if images is not None else (known, [])
    if not entries:
        raise UserError(f"no image in {place} can be read; first: {problems[0]}")
    project = AnnotationProject(folder, place, entries, stage or kept)
    if (project.stage, entries) != (kept, known) or not made:
        listed = [asdict(entry) for entry in entries]
        write_json(folder / PROJECT, {"images": str(place), "stage": project.stage, "entries": listed}, indent=1)
    return project, problems


def _images_folder(images: str | Path) -> Path:
    path = Path(images).expanduser()
    if not path.is_dir():
        raise UserError(f"no such folder of images: {images}; check the path")
    return path.resolve()


def _look_for_images(place: Path, known: Sequence[ImageEntry]) -> tuple[list[ImageEntry], list[str]]:
    """The known images and the new ones of a folder, and problems of those that can't be used."""
    entries, problems = list(known), []
    files, hashes = {entry.file for entry in known}, {entry.sha256: entry.file for entry in known}
    for path in find_images(place):
        if path.name in files:
            continue
        try:
            content = path.read_bytes()
            width, height = load_image(content, name=path.name).size
        except OSError as error:
            problems.append(f"{path.name}: {error.strerror or error}")
            continue
        except UserError as error:
            problems.append(str(error))
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digest in hashes:
            problems.append(f"{path.name} is the same file as {hashes[digest]}")
            continue
        hashes[digest] = path.name
        entries.append(ImageEntry(digest[:16], path.name, width, height, digest))
    return entries, problems


def _read_project(folder: Path) -> tuple[str, Path, list[ImageEntry]]:
    """Read project.json: stage, folder of the images, images."""
    path = folder / PROJECT
    try:
        content = read_json(path, "images", "stage", "entries")
        entries = [ImageEntry(**entry) for entry in content["entries"]]
        for entry in entries:
            if not _is_entry(entry):
                raise ValueError(f"it has a malformed image {entry.file!r:.80}")
        if content["stage"] not in STAGES or not isinstance(content["images"], str):
            raise ValueError("its stage or its folder of images is malformed")
        return content["stage"], Path(content["images"]), entries
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {one_line(error, 200)}; make the project anew") from None


def _is_entry(entry: ImageEntry) -> bool:
    """Whether an image's fields are what they should be, and its file lies in the folder of images."""
    texts = (entry.id, entry.file, entry.sha256)
    named = all(isinstance(text, str) for text in texts) and entry.id == entry.sha256[:16] and entry.id.isalnum()
    sized = all(type(side) is int and side > 0 for side in entry.size)
    return bool(named and sized and entry.file == Path(entry.file).name and entry.file not in ("", ".", ".."))


def _read_annotation(path: Path, entry: ImageEntry) -> ImageAnnotation:
    try:
        content = read_json(path, *(each.name for each in fields(ImageAnnotation)))
        instances = tuple(_read_instance(each, entry) for each in content["instances"])
        if type(content["revision"]) is not int or type(content["done"]) is not bool:
            raise ValueError("its revision or whether it is done is malformed")
        return ImageAnnotation(
            content["revision"], content["done"], instances, str(content["who"]), str(content["when"])
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {one_line(error, 200)}; remove it to annotate {entry.file} anew") from None


def _read_instance(value: Mapping[str, Any], entry: ImageEntry) -> AnnotatedInstance:
    instance = AnnotatedInstance(**value)
    draft = _check_draft(Draft(instance.label, instance.rle, instance.how, instance.score), entry)
    box = box_of_rle(draft.rle)
    if type(instance.id) is not int or instance.stage not in STAGES or box is None:
        raise ValueError(f"its instance {instance.id!r:.40} is malformed")
    return replace(instance, rle=draft.rle, box=box, who=str(instance.who), when=str(instance.when))


def _check_draft(draft: Draft, entry: ImageEntry) -> Draft:
    """Check what a client or a file says of an instance, and tidy its label."""
    if not isinstance(draft.label, str) or len(draft.label) > MAX_LABEL:
        raise UserError(f"a label is text of at most {MAX_LABEL} letters")
    label = " ".join(draft.label.split())
    if label:
        label = normalise(label)
    if draft.how not in HOWS:
        raise unknown_name("way to make a mask", str(draft.how)[:40], list(HOWS))
    if draft.score is not None and not (isinstance(draft.score, int | float) and 0 <= draft.score <= 2):
        raise UserError("a score is a predicted IoU, a number from 0 on")
    rle = check_rle(draft.rle, entry.size)
    if not pixel_count(rle):
        raise UserError(f"the mask of {label or 'an instance'} has no pixel; leave it out")
    return replace(draft, label=label, rle=rle)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
