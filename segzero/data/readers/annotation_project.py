"""Reader of annotation projects, which `segzero data annotate` makes: each label of an image becomes a question.

Images that are not done are not read. An instance without a label is a problem of its image, unless `label` is given.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from segzero.data.annotation import AnnotatedInstance, AnnotationProject, ImageEntry, open_project
from segzero.data.readers.fields import Record, question
from segzero.errors import UserError
from segzero.masks import decode, points_of
from segzero.sample import Object, Sample


def read_annotation(source: str | Path, label: str = "", val: float | str = 0.1) -> Iterator[Record]:
    """Read a Sample of each label in each image that is done; several instances of one label are its objects.

    `label` names the instances that have none. A share `val` of the images, the same in each call, is the split val.
    """
    project, _ = open_project(source)
    try:
        share = float(val)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UserError(f"val={val}: it is the share of images for validation, from 0 to below 1")
    done = [entry for entry in project.entries.values() if project.read(entry.id).done]
    if not done:
        raise UserError(f"no image of {source} is done; annotate some first: segzero data annotate {source}")
    for entry in done:
        yield Record(f"{source}, {entry.file}", partial(_samples, project, entry, label, share))


def _samples(project: AnnotationProject, entry: ImageEntry, name: str, val: float) -> list[Sample]:
    project.image_file(entry.id)  # one that has changed meanwhile is refused
    by_label: dict[str, list[AnnotatedInstance]] = defaultdict(list)
    for instance in project.read(entry.id).instances:
        by_label[instance.label or name].append(instance)
    if "" in by_label:
        raise UserError(
            f"{len(by_label[''])} of its instances have no label; give them some, or --option label=object for all"
        )
    return [
        Sample(
            f"{entry.id}-{number}",
            str(project.images / entry.file),
            question(label),
            entry.width,
            entry.height,
            tuple(Object(each.box, points_of(decode(each.rle), 2), each.rle) for each in instances),
            category=label,
            split="val" if int(entry.id, 16) / 16**16 < val else "train",
            source=project.folder.absolute().name,
            meta={"how": sorted({each.how for each in instances}), "stage": sorted({each.stage for each in instances})},
        )
        for number, (label, instances) in enumerate(by_label.items(), 1)
    ]
