"""Monitoring of a run: numbers for the log, and answers to read and look at."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segzero.evaluation.frontier import IOUS
from segzero.evaluation.metrics import Score, ciou, giou, n_acc, precision_at, score_masks, t_acc
from segzero.frames import Frame
from segzero.images import load_image
from segzero.masks import box_mask, box_of, decode, union
from segzero.pipeline import in_pixels
from segzero.result import InstanceMask, Segmentation
from segzero.sample import Sample
from segzero.training.rollouts import History, Rollout, RolloutGroup
from segzero.viz.panel import beside

CATEGORIES = 12  # most categories of samples that have a validation metric each

# Numbers


def group_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of a training step: rewards by term, answers by error, and the share of groups with equal rewards."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {}
    totals, terms = [rollout.total for rollout in rollouts], [rollout.scored.reward.terms for rollout in rollouts]
    metrics = {"reward/mean": float(np.mean(totals)), "reward/std": float(np.std(totals))}
    for name in sorted({name for each in terms for name in each}):
        metrics[f"reward/{name}/mean"] = float(np.mean([each[name] for each in terms if name in each]))
    metrics["reward/flat_groups"] = float(np.mean([group.is_flat() for group in groups]))
    errors = Counter(rollout.scored.answer.error or "none" for rollout in rollouts)
    for code, count in errors.items():
        if code != "none":
            metrics[f"answer/error/{code}"] = count / len(rollouts)
    metrics["answer/readable"] = errors["none"] / len(rollouts)
    metrics["answer/thought"] = float(np.mean([bool(rollout.scored.answer.think.strip()) for rollout in rollouts]))
    metrics["answer/truncated"] = float(np.mean([rollout.generated.truncated for rollout in rollouts]))
    metrics["answer/tokens"] = float(np.mean([len(rollout.generated.ids) for rollout in rollouts]))
    later = [group.history for group in groups if group.prompt.notes]
    if later:
        metrics["dialogue/own_history"] = later.count(History.OWN) / len(later)
        metrics["dialogue/fallbacks"] = later.count(History.FALLBACK) / len(later)
    metrics |= own_mask_metrics([group for group in groups if not group.prompt.notes])
    shown = [group.teacher.attempts for group in groups if group.teacher]
    if shown:
        metrics["distillation/attempts"] = float(np.mean(shown))
    for phase in ("generate", "reward"):
        metrics[f"rollout/{phase}_seconds"] = float(np.mean([group.seconds[phase] for group in groups]))
    return metrics


def own_mask_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of the groups that look at a mask of the policy itself: what their answers do, and what that gains.

    A fallback is a group that was to look and had no mask, and so asks the question. An answer that can't be read
    leaves the mask as it is. Without masks, which a user's own reward does not ask for, there is no gain.
    """
    looks = [group for group in groups if group.history is History.OWN]
    fallbacks = sum(group.history is History.FALLBACK for group in groups)
    if not looks and not fallbacks:
        return {}
    metrics = {"own_masks/groups": float(len(looks)), "own_masks/fallbacks": float(fallbacks)}
    pairs = [(group.sample, rollout) for group in looks for rollout in group.rollouts]
    if not pairs:
        return metrics
    metrics["own_masks/kept"] = float(np.mean([rollout.scored.answer.keeps for _, rollout in pairs]))
    before = [score_masks(sample.current_mask, sample.mask(), sample.ignore).iou for sample, _ in pairs]
    metrics["own_masks/iou_before"] = float(np.mean(before))
    if all(rollout.scored.masks is not None for _, rollout in pairs):
        after = [
            unchanged if rollout.scored.answer.error is not None else score_rollout(sample, rollout).iou
            for unchanged, (sample, rollout) in zip(before, pairs, strict=True)
        ]
        metrics["own_masks/iou_after"] = float(np.mean(after))
    return metrics


def validation_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of one greedy answer per sample: gIoU, also by category, and the like.

    Without a segmenter there are reward and readability alone.
    """
    greedy = [group.rollouts[0] for group in groups]
    metrics = {
        "val/reward": float(np.mean([rollout.total for rollout in greedy])),
        "val/readable": float(np.mean([rollout.scored.answer.error is None for rollout in greedy])),
    }
    if all(rollout.scored.masks is not None for rollout in greedy):
        scores = [score_group(group) for group in groups]
        metrics |= {
            "val/giou": giou(scores),
            "val/ciou": ciou(scores),
            "val/p_at_0.5": precision_at(scores),
            "val/n_acc": n_acc(scores),
            "val/t_acc": t_acc(scores),
        }
        categories = sorted({group.sample.category for group in groups})
        for category in categories if 1 < len(categories) <= CATEGORIES else ():
            pairs = zip(groups, scores, strict=True)
            metrics[f"val/giou/{category}"] = giou([score for g, score in pairs if g.sample.category == category])
    # n_acc needs a sample without a target, and t_acc one with a target; NaN has no place in JSON.
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def score_group(group: RolloutGroup) -> Score:
    """Compare the masks of a greedy answer with the truth."""
    return score_rollout(group.sample, group.rollouts[0])


def score_rollout(sample: Sample, rollout: Rollout) -> Score:
    """Compare the masks of an answer, which a segmenter has drawn, with the truth."""
    scored = rollout.scored
    assert scored.masks is not None
    predicted = union(list(scored.masks), sample.size)
    return score_masks(predicted, sample.mask(), sample.ignore, failed=scored.answer.error is not None)


# Answers


class Extremes(NamedTuple):
    """The best and the worst answer of a group."""

    group: RolloutGroup
    best: Rollout
    worst: Rollout


class Recorder:
    """Appends the best and the worst answers of a few groups to a JSON-lines file, and draws them as panels.

    Per step it records the `groups` groups whose answers differ most; every `panels_every` steps it draws them too.
    Where the reward has drawn masks, ious.jsonl gets a line for every group of the step: the IoU of each answer, from
    which `segzero data select` chooses samples.
    """

    def __init__(self, folder: Path, frame: Frame, groups: int, panels_every: int = 0) -> None:
        self.folder, self.frame = folder, frame
        self.groups, self.panels_every = groups, panels_every

    def record(self, step: int, groups: Sequence[RolloutGroup], loggers: Any = None) -> None:
        """Record a step; of `loggers`, which is verl's Tracking, those that show pictures get the panels."""
        if self.groups <= 0 or not groups:
            return
        spread = sorted(groups, key=lambda group: max(group.totals) - min(group.totals), reverse=True)
        chosen = [_extremes(group) for group in spread[: self.groups]]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "rollouts.jsonl").open("a") as out:
            for group, best, worst in chosen:
                row = {"step": step, **_question(group), "best": _answer(best), "worst": _answer(worst)}
                out.write(json.dumps(row) + "\n")
        with (self.folder / IOUS).open("a") as out:
            for group in groups:
                if group.sample.mask() is not None and all(one.scored.masks is not None for one in group.rollouts):
                    ious = [round(score_rollout(group.sample, one).iou, 4) for one in group.rollouts]
                    out.write(json.dumps({"step": step, "sample": group.sample.id, "ious": ious}) + "\n")
        if self.panels_every and step % self.panels_every == 0:
            files = [self.folder / f"step_{step:06}_{place}.png" for place in range(len(chosen))]
            for extremes, file in zip(chosen, files, strict=True):
                self.panel(*extremes).save(file)
            log_panels(step, chosen, files, loggers.logger if loggers else {})

    def panel(self, group: RolloutGroup, best: Rollout, worst: Rollout) -> Image.Image:
        """Draw three sheets side by side: the truth, the best answer, the worst answer."""
        sample = group.sample
        image = load_image(sample.image)
        true = tuple(
            InstanceMask(decode(o.rle) if o.rle else box_mask(o.box, sample.size), o.box, o.points, 1.0)
            for o in sample.objects
        )
        sheets = [Segmentation(image, f"True: {_one_line_question(group)}", true).panel()]
        for name, rollout in (("Best", best), ("Worst", worst)):
            terms = ", ".join(f"{term} {value:.2f}" for term, value in rollout.scored.reward.terms.items())
            answer = rollout.scored.answer
            result = Segmentation(
                image,
                f"{name}, {rollout.total:.2f}: {terms}",
                self._instances(sample, rollout),
                think=answer.think,
                raw_text=rollout.text,
                error=answer.error,
                warnings=answer.warnings,
            )
            sheets.append(result.panel())
        return beside(sheets)

    def _instances(self, sample: Sample, rollout: Rollout) -> tuple[InstanceMask, ...]:
        """The masks of an answer; without a segmenter, its boxes filled."""
        answer = rollout.scored.answer
        if answer.phrases and rollout.scored.masks is not None:  # a phrase may have become several masks, or none
            found = [(mask, box) for mask in map(decode, rollout.scored.masks) if (box := box_of(mask)) is not None]
            return tuple(InstanceMask(mask, box, (), 1.0) for mask, box in found)
        if answer.action is not None and rollout.scored.masks:
            [mask] = map(decode, rollout.scored.masks)
            return tuple(InstanceMask(mask, box, (), 1.0) for box in [box_of(mask)] if box is not None)
        places = [in_pixels(instance, self.frame, sample.size) for instance in answer.instances]
        drawn = rollout.scored.masks
        masks = [decode(m) for m in drawn] if drawn is not None else [box_mask(box, sample.size) for box, _ in places]
        return tuple(InstanceMask(m, box, points, 1.0) for m, (box, points) in zip(masks, places, strict=True))


def _extremes(group: RolloutGroup) -> Extremes:
    ranked = sorted(group.rollouts, key=lambda rollout: rollout.total)
    return Extremes(group, ranked[-1], ranked[0])


def _question(group: RolloutGroup) -> dict[str, Any]:
    """The sample and its question, as the policy read it."""
    sample, prompt = group.sample, group.prompt
    row = {"sample": sample.id, "image": str(sample.image), "question": prompt.question}
    return row | ({"notes": prompt.notes, "history": group.history.value} if prompt.notes else {})


def _one_line_question(group: RolloutGroup) -> str:
    return " | ".join([group.prompt.question, *group.prompt.notes.splitlines()])


def _answer(rollout: Rollout) -> dict[str, Any]:
    return {
        "text": rollout.text,
        "total": rollout.total,
        "terms": rollout.scored.reward.terms,
        "error": rollout.scored.answer.error,
        "truncated": rollout.generated.truncated,
    }


def log_panels(step: int, chosen: Sequence[Extremes], files: Sequence[Path], backends: Mapping[str, Any]) -> None:
    """Send panels to those of verl's loggers, by name, that take pictures: as a table, or one by one."""
    for name, backend in backends.items():
        if name == "wandb":
            rows = _table(chosen, files, backend.Image)
            table = backend.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            # Once more by themselves: an offline run keeps a table's pictures outside its folder.
            panels = {f"panels/{place}": backend.Image(str(file)) for place, file in enumerate(files)}
            backend.log({"rollouts": table} | panels, step=step)
        elif name == "trackio":
            import pandas

            table = backend.trackio.Table(dataframe=pandas.DataFrame(_table(chosen, files, backend.trackio.Image)))
            backend.trackio.log({"rollouts": table}, step=step)
        elif name == "tensorboard":
            for place, file in enumerate(files):
                pixels = np.asarray(Image.open(file))  # [H, W, 3]
                backend.writer.add_image(f"rollouts/{place}", pixels, step, dataformats="HWC")


def _table(chosen: Sequence[Extremes], files: Sequence[Path], picture: Callable[[str], Any]) -> list[dict[str, Any]]:
    """One row per group."""
    return [
        {
            "sample": group.sample.id,
            "question": _one_line_question(group),
            "best": best.total,
            "worst": worst.total,
            "panel": picture(str(file)),
        }
        for (group, best, worst), file in zip(chosen, files, strict=True)
    ]
