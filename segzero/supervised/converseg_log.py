"""Files that ConverSeg's train.py writes beside its checkpoints: TensorBoard scalars and pictures of validations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from segzero.io import png_bytes, write_atomically
from segzero.mask_model.converseg import ConverSegModel
from segzero.sample import Sample
from segzero.supervised.converseg_export import save_raw
from segzero.supervised.converseg_flags import TrainFlags
from segzero.supervised.converseg_learner import ConverSegLearner
from segzero.supervised.losses import mask_iou
from segzero.viz.mask_pictures import GREEN, RED, captioned, grid, tinted

FEWEST, MOST = 4, 8  # samples of a validation
WIDTH = 512  # of a picture


class RunLog:
    """Writer of checkpoints, scalars and pictures; it counts steps as the flags count them."""

    def __init__(
        self, flags: TrainFlags, learner: ConverSegLearner, training: Sequence[Sample], validation: Sequence[Sample]
    ) -> None:
        self.flags, self.learner, self.out = flags, learner, Path(flags.out)
        count = min(max(flags.val_count, FEWEST), MOST)
        self.validation, self.some, self.some_trained = validation, validation[:count], training[:count]
        self.val_dir = Path(flags.val_dir or self.out / "val")
        self.train_dir = self.val_dir.with_name(f"{self.val_dir.name}_train".replace("val_train", "train"))
        self.writer = SummaryWriter(self.out / "tb" / flags.name)

    def after(self, update: int, figures: dict[str, float]) -> None:
        """Write what is due after an update."""
        before, step = ((u * self.flags.acc) for u in (update - 1, update))
        terms = self.learner.take_terms()

        def due(every: int) -> bool:
            return bool(every) and step // every > before // every

        if due(self.flags.log_every):
            scalars = {"loss": figures["loss"], **terms, "lr": figures["lr"]}
            for name, value in scalars.items():
                self.writer.add_scalar(f"train/{name}", value, step)
        if due(self.flags.val_every):
            self.writer.add_scalar("val/mean_iou", self.validate(self.some, self.val_dir, step), step)
            self.writer.add_scalar(
                "train_subset/mean_iou", self.validate(self.some_trained, self.train_dir, step), step
            )
        if due(self.flags.save_every):
            self.save(step // self.flags.save_every * self.flags.save_every)

    def finish(self) -> None:
        """Write the last checkpoint, and validate it on all samples that were put aside."""
        self.save("final")
        whole = self.validate(self.validation, self.val_dir, "final")
        self.writer.add_scalar("val/final_mean_iou", whole, self.flags.steps)
        self.writer.close()

    def save(self, step: int | str) -> None:
        """Write the files of a step."""
        model = self.learner.model
        assert isinstance(model, ConverSegModel)
        sam2 = Path(self.flags.resume_sam_path or self.flags.checkpoint)
        save_raw(model, sam2, self.out, self.flags.name, step)

    @torch.no_grad()  # inference mode would make features that can't be trained with
    def validate(self, samples: Sequence[Sample], folder: Path, step: int | str) -> float:
        """Mean IoU of samples at the decoder's resolution; the first of them are drawn into the folder."""
        self.learner.eval()
        overlaps: list[float] = []
        rows: list[list[Image.Image]] = []
        for sample in samples:
            logits, truth = self.learner.compare(self.learner.encode([sample]))
            overlaps.append(float(mask_iou(logits, truth)[0]))
            if len(rows) < MOST:
                rows.append(_row(sample, logits[0] > 0, truth[0] > 0, overlaps[-1]))
        self.learner.train()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"step_{step}.png", png_bytes(grid(rows)))
        mean = float(np.mean(overlaps))
        print(f"step {step}: mean IoU {mean:.4f} of {len(samples)} samples in {folder}", flush=True)
        return mean


def _row(sample: Sample, predicted: Tensor, true: Tensor, overlap: float) -> list[Image.Image]:
    """The image with its question, the truth in green and the prediction in red."""
    image = sample.open()
    image = image.resize((WIDTH, max(1, round(WIDTH * image.height / image.width))))
    pictures = [tinted(image, _enlarged(mask, image.size), c) for mask, c in ((true, GREEN), (predicted, RED))]
    captions = (f"{sample.question} | IoU {overlap:.3f}", "truth", "prediction")
    return [captioned(picture, text) for picture, text in zip((image, *pictures), captions, strict=True)]


def _enlarged(mask: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.cpu().numpy()).resize(size))
