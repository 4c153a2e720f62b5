"""The best and the worst answers of a few groups each step, to be read and looked at by people."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segzero.evaluation.metrics import Score, ciou, giou, n_acc, precision_at, score_masks, t_acc
from segzero.frames import Frame
from segzero.images import load_image
from segzero.masks import box_mask, decode, union
from segzero.pipeline import in_pixels
from segzero.result import InstanceMask, Segmentation
from segzero.sample import Sample
from segzero.training.rollouts import Answer, Group, History
from segzero.viz.panel import beside


class Extremes(NamedTuple):
    """Of one group."""

    group: Group
    best: Answer
    worst: Answer


class Recorder:
    """Appends to one JSON-lines file, and now and then draws a panel: the truth, the best and the worst answer.

    `groups` a step are recorded, those whose answers differ most; every `panels_every` steps they are drawn too.
    """

    def __init__(self, folder: Path, frame: Frame, groups: int, panels_every: int = 0) -> None:
        self.folder, self.frame = folder, frame
        self.groups, self.panels_every = groups, panels_every

    def record(self, step: int, groups: Sequence[Group], loggers: Any = None) -> None:
        """`loggers` is verl's Tracking; those of them that show pictures get the panels."""
        if self.groups <= 0 or not groups:
            return
        spread = sorted(groups, key=lambda group: max(group.totals) - min(group.totals), reverse=True)
        chosen = [Extremes(group, *_best_and_worst(group)) for group in spread[: self.groups]]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "rollouts.jsonl").open("a") as out:
            for seen in chosen:
                row = {"step": step, **_about(seen.group), "best": _describe(seen.best), "worst": _describe(seen.worst)}
                out.write(json.dumps(row) + "\n")
        if self.panels_every and step % self.panels_every == 0:
            files = [self.folder / f"step_{step:06}_{place}.png" for place in range(len(chosen))]
            for seen, file in zip(chosen, files, strict=True):
                self.panel(*seen).save(file)
            show(step, chosen, files, loggers.logger if loggers else {})

    def panel(self, group: Group, best: Answer, worst: Answer) -> Image.Image:
        """Three sheets side by side: what is true, the best answer, the worst answer."""
        sample = group.sample
        image = load_image(sample.image)
        true = tuple(
            InstanceMask(decode(o.rle) if o.rle else box_mask(o.box, sample.size), o.box, o.points, 1.0)
            for o in sample.objects
        )
        sheets = [Segmentation(image, f"True: {_words(group)}", true).panel()]
        for name, answer in (("Best", best), ("Worst", worst)):
            terms = ", ".join(f"{term} {value:.2f}" for term, value in answer.scored.terms.items())
            parsed = answer.scored.answer
            result = Segmentation(
                image,
                f"{name}, {answer.scored.total:.2f}: {terms}",
                self._found(sample, answer),
                think=parsed.think,
                raw_text=answer.text,
                error=parsed.error,
                warnings=parsed.warnings,
            )
            sheets.append(result.panel())
        return beside(sheets)

    def _found(self, sample: Sample, answer: Answer) -> tuple[InstanceMask, ...]:
        """What an answer drew; without a segmenter, its boxes filled."""
        places = [in_pixels(instance, self.frame, sample.size) for instance in answer.scored.answer.instances]
        drawn = answer.scored.masks
        masks = [decode(m) for m in drawn] if drawn is not None else [box_mask(box, sample.size) for box, _ in places]
        return tuple(InstanceMask(m, box, points, 1.0) for m, (box, points) in zip(masks, places, strict=True))


def _best_and_worst(group: Group) -> tuple[Answer, Answer]:
    ranked = sorted(group.answers, key=lambda answer: answer.scored.total)
    return ranked[-1], ranked[0]


def _about(group: Group) -> dict[str, Any]:
    """The sample, and what was asked."""
    sample, prompt = group.sample, group.prompt
    found = {"sample": sample.id, "image": str(sample.image), "question": prompt.question}
    return found | ({"notes": prompt.notes, "history": group.history.value} if prompt.notes else {})


def _words(group: Group) -> str:
    """What was asked, in one line."""
    return " | ".join([group.prompt.question, *group.prompt.notes.splitlines()])


def _describe(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "total": answer.scored.total,
        "terms": answer.scored.terms,
        "error": answer.scored.answer.error,
        "truncated": answer.truncated,
    }


def show(step: int, chosen: Sequence[Extremes], files: Sequence[Path], backends: Mapping[str, Any]) -> None:
    """Panels for those of verl's loggers, by name, that take pictures: a table of them, or each by itself."""
    for name, backend in backends.items():
        if name == "wandb":
            rows = _rows(chosen, files, backend.Image)
            table = backend.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            # Once more by themselves: an offline run keeps a table's pictures outside its folder.
            panels = {f"panels/{place}": backend.Image(str(file)) for place, file in enumerate(files)}
            backend.log({"rollouts": table} | panels, step=step)
        elif name == "trackio":
            import pandas

            table = backend.trackio.Table(dataframe=pandas.DataFrame(_rows(chosen, files, backend.trackio.Image)))
            backend.trackio.log({"rollouts": table}, step=step)
        elif name == "tensorboard":
            for place, file in enumerate(files):
                pixels = np.asarray(Image.open(file))  # [H, W, 3]
                backend.writer.add_image(f"rollouts/{place}", pixels, step, dataformats="HWC")


def _rows(chosen: Sequence[Extremes], files: Sequence[Path], picture: Callable[[str], Any]) -> list[dict[str, Any]]:
    """A table's rows, one a group."""
    return [
        {
            "sample": seen.group.sample.id,
            "question": _words(seen.group),
            "best": seen.best.scored.total,
            "worst": seen.worst.scored.total,
            "panel": picture(str(file)),
        }
        for seen, file in zip(chosen, files, strict=True)
    ]


FLAT = 1e-6  # a group whose rewards differ by less teaches nothing: its advantages are rounding errors


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards by term, answers by error, and how many groups had nothing to tell apart."""
    answers = [answer for group in groups for answer in group.answers]
    if not answers:
        return {}
    totals = [answer.scored.total for answer in answers]
    metrics = {"reward/mean": float(np.mean(totals)), "reward/std": float(np.std(totals))}
    for term in sorted({name for answer in answers for name in answer.scored.terms}):
        values = [answer.scored.terms[term] for answer in answers if term in answer.scored.terms]
        metrics[f"reward/{term}/mean"] = float(np.mean(values))
    metrics["reward/flat_groups"] = float(np.mean([np.ptp(group.totals) < FLAT for group in groups]))
    errors = Counter(answer.scored.answer.error or "none" for answer in answers)
    for code, count in errors.items():
        if code != "none":
            metrics[f"answer/error/{code}"] = count / len(answers)
    metrics["answer/readable"] = errors["none"] / len(answers)
    metrics["answer/truncated"] = float(np.mean([answer.truncated for answer in answers]))
    metrics["answer/tokens"] = float(np.mean([answer.tokens for answer in answers]))
    later = [group.history for group in groups if group.prompt.notes]
    if later:
        metrics["dialogue/own_history"] = later.count(History.OWN) / len(later)
        metrics["dialogue/fallbacks"] = later.count(History.FALLBACK) / len(later)
    for phase in ("generate", "reward"):
        metrics[f"rollout/{phase}_seconds"] = float(np.mean([group.seconds[phase] for group in groups]))
    return metrics


def validation_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """gIoU and its companions of one greedy answer a sample; reward and readability alone without a segmenter."""
    rewards = [group.answers[0].scored.total for group in groups]
    metrics = {"val/reward": float(np.mean(rewards))}
    readable = [group.answers[0].scored.answer.error is None for group in groups]
    metrics["val/readable"] = float(np.mean(readable))
    if all(group.answers[0].scored.masks is not None for group in groups):
        scores = [score_group(group) for group in groups]
        metrics |= {
            "val/giou": giou(scores),
            "val/ciou": ciou(scores),
            "val/p_at_0.5": precision_at(scores),
            "val/n_acc": n_acc(scores),
            "val/t_acc": t_acc(scores),
        }
    # No sample tells n_acc where each has a target, nor t_acc where none has; NaN has no place in JSON.
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def score_group(group: Group) -> Score:
    """The masks of a greedy answer against the truth."""
    scored = group.answers[0].scored
    assert scored.masks is not None
    drawn = union(list(scored.masks), group.sample.size)
    return score_masks(drawn, group.sample.mask(), group.sample.ignore, failed=scored.answer.error is not None)


SHOWN_TERMS = 6
_BEGUN = time.monotonic()


def stage(text: str) -> None:
    """One line for each part of the start, which takes a minute or two: people want to see that it moves."""
    print(f"[{time.monotonic() - _BEGUN:4.0f} s] {text}", flush=True)


class Progress:
    """Keeps what the line needs from step to step."""

    def __init__(self) -> None:
        self.giou: float | None = None
        self.first = self.total = 0
        self.begun = time.monotonic()

    def start(self, done: int, total: int) -> None:
        self.first, self.total, self.begun = done, total, time.monotonic()

    def validated(self, metrics: dict[str, float]) -> None:
        self.giou = metrics.get("val/giou")
        shown = "  ".join(f"{name.removeprefix('val/')} {value:.3f}" for name, value in metrics.items())
        print(f"validation  {shown}", flush=True)

    def stepped(self, step: int, metrics: dict[str, Any]) -> None:
        print(self.line(step, metrics), flush=True)

    def line(self, step: int, metrics: dict[str, Any]) -> str:
        """
        >>> progress = Progress()
        >>> progress.start(0, 10)
        >>> progress.line(5, {"reward/mean": 4.2, "reward/format/mean": 1.9, "perf/throughput": 310.0})[:54]
        'step 5/10  reward 4.200 (format 1.90)  310 tokens/s  l'
        """
        terms = [
            f"{name.split('/')[1]} {value:.2f}"
            for name, value in metrics.items()
            if name.startswith("reward/") and name.count("/") == 2 and name.endswith("/mean")
        ]
        parts = [f"step {step}/{self.total}", f"reward {metrics.get('reward/mean', float('nan')):.3f}"]
        if terms:
            parts[-1] += f" ({', '.join(terms[:SHOWN_TERMS])})"
        if self.giou is not None:
            parts.append(f"gIoU {self.giou:.3f}")
        if "perf/throughput" in metrics:
            parts.append(f"{metrics['perf/throughput']:.0f} tokens/s")
        left = (time.monotonic() - self.begun) / max(1, step - self.first) * (self.total - step)
        return "  ".join([*parts, f"left {_clock(left)}"])


def _clock(seconds: float) -> str:
    """
    >>> _clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
