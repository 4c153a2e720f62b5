"""ConverSeg's own evaluation: gIoU and cIoU of a mask model, one question at a time, and its files of each sample."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segzero.evaluation import metrics
from segzero.evaluation.exports import file_stem, write_pictures
from segzero.io import finite_or_zero, write_atomically
from segzero.mask_model.protocol import MaskModel, MaskQuestion
from segzero.sample import Sample
from segzero.viz.mask_pictures import RED, tinted


def evaluate(
    model: MaskModel, samples: Iterable[Sample], folder: Path | None = None, stems: set[str] | None = None
) -> list[metrics.Score]:
    """Score each sample; with a folder its prediction, truth, image, overlay and question are written there.

    `stems` are those of files that earlier calls wrote: splits may count from the same number.
    """
    scores, stems = [], set() if stems is None else stems
    for sample in samples:
        image = sample.open()
        [answer] = model.answer([MaskQuestion(image, sample.question)])
        scores.append(metrics.score_masks(answer.mask, sample.mask(), sample.ignore))
        print(f"{sample.id}: IoU {scores[-1].iou:.3f}", flush=True)
        if folder is not None:
            name = sample.id.removeprefix(f"{sample.split}-")
            stem = file_stem(sample.id if file_stem(name) in stems else name)
            stems.add(stem)
            write_atomically(folder / f"{stem}_prompt.txt", sample.question.encode())
            write_pictures(folder / stem, image, answer.mask, sample.mask(), tinted(image, answer.mask, RED))
    return scores


def figures(scores: Sequence[metrics.Score]) -> dict[str, float]:
    """The published figures of a split and its size; cIoU is 0 where no sample has a pixel."""
    return {
        "giou": metrics.giou(scores),
        "ciou": finite_or_zero(metrics.ciou(scores)),
        "samples": len(scores),
    }


def summary(of: Mapping[str, float]) -> str:
    """The line that the published script prints of a split.

    >>> summary(figures([metrics.Score(3, 4), metrics.Score(0, 0, pred_empty=True, true_empty=True)]))
    'giou0.875_ciou0.750'
    """
    return f"giou{of['giou']:.3f}_ciou{of['ciou']:.3f}"
