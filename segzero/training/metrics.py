"""What a step's groups and a validation say, as numbers for the log."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from segzero.evaluation.metrics import Score, ciou, giou, n_acc, precision_at, score_masks, t_acc
from segzero.masks import union
from segzero.training.rollouts import Group, History

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
    later = [group.history for group in groups if group.asked.notes]
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
