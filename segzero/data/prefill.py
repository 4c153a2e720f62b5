"""Masks of everything mode in an annotation project: confident ones for annotators to judge, or all without asking.

>>> prefill(project, load_segmenter("facebook/sam2.1-hiera-large"))                        # doctest: +SKIP
Prefilled(images=20, masks=131, empty=1, passed_over=0)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from segzero.data.annotation import MAX_INSTANCES, AnnotationProject, Draft
from segzero.errors import UserError
from segzero.images import load_image
from segzero.segmenter import Segmenter
from segzero.segmenter.everything import PRESETS, EverythingSettings, find_everything

CONFIDENCE = {"semi": 0.9, "auto": 0.8}  # stage -> predicted IoU above which a mask is taken; 0.8 is SAM2's own
MADE_BY = {"semi": "everything", "auto": "automatic"}  # stage -> how the masks of everything mode were made
WHO = "everything mode"
SMALLEST = 5e-4  # share of an image's pixels: smaller masks are specks, which nobody wants to judge


@dataclass
class Prefilled:
    """Counts of a call of `prefill`."""

    images: int = 0
    masks: int = 0
    empty: int = 0  # images in which nothing was found
    passed_over: int = 0  # images that somebody had annotated before

    def __str__(self) -> str:
        return (
            f"everything mode put {self.masks} masks into {self.images} images; nothing was found in {self.empty}, "
            f"{self.passed_over} had annotations already"
        )


def prefill(
    project: AnnotationProject,
    segmenter: Segmenter,
    confidence: float | None = None,
    settings: EverythingSettings = PRESETS["sam2"],
    progress: Callable[[int], None] = lambda done: None,
) -> Prefilled:
    """Put masks of everything mode into each image without annotations; stopped at any moment, a second call goes on.

    In the stage `auto` these images are then done; in `semi` annotators judge the masks and add the others.
    """
    if project.stage not in CONFIDENCE:
        raise UserError(f"the stage {project.stage} takes no masks of everything mode; use semi or auto")
    least_iou = CONFIDENCE[project.stage] if confidence is None else confidence
    settings = replace(settings, pred_iou_thresh=least_iou)
    counted = Prefilled()
    for number, id in enumerate(project.entries, 1):
        if project.read(id).revision:
            counted.passed_over += 1
        else:
            image = load_image(project.image_file(id), name=project.entry(id).file)
            least = SMALLEST * image.width * image.height
            found = [each for each in find_everything(segmenter, image, settings) if each.area >= least]
            made_by = MADE_BY[project.stage]
            drafts = [Draft("", each.rle, made_by, round(each.score, 4)) for each in found[:MAX_INSTANCES]]
            project.save(id, 0, drafts, project.stage == "auto", WHO)
            counted.images += 1
            counted.masks += len(drafts)
            counted.empty += not drafts
        progress(number)
    return counted
