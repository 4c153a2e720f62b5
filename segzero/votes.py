"""Votes of several answers to one question: is something there, how many objects, and which pixels (StAR, 2603.14382).

>>> results = [pipeline(["street.jpg"], ["the umbrella"])[0] for _ in range(8)]      # doctest: +SKIP
>>> vote(results).presence                                                         # doctest: +SKIP
0.875

Answers that can't be read have no vote. Of the others a share says whether something is there at all; the usual number
of objects among those that found some is the number of the result. Masks that are nearly alike are one object, however
many answers drew them, and objects with most votes are kept. A pixel belongs to an object if the masks that have it
hold half of the segmenter's scores. StAR's script can also take an object's best mask alone, which is its default.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segzero.errors import UserError
from segzero.masks import RLE, encode, iou_matrix, merge_checked
from segzero.result import InstanceMask, Segmentation


@dataclass(frozen=True)
class VoteSettings:
    """Number of answers and shares that decide; the defaults are StAR's."""

    answers: int = 32  # to each question
    temperature: float = 1.0
    nothing_there: float = 0.5  # least share of answers without objects for "nothing there"
    same_object: float = 0.85  # least IoU of a mask with the first of its object
    object_share: float = 0.2  # least share of answers that an object is in; where none reaches it, all are candidates
    pixel_share: float = 0.5  # least share of an object's masks, weighted by their scores, that a pixel is in

    def __post_init__(self) -> None:
        shares = (self.nothing_there, self.same_object, self.object_share, self.pixel_share)
        if self.answers < 2 or not self.temperature > 0:
            raise UserError(f"{self.answers} answers at temperature {self.temperature} can't vote; take 2 and above 0")
        if not all(0 < share <= 1 for share in shares):
            raise UserError("the shares that decide a vote must lie above 0, and be 1 at most")


@dataclass(frozen=True)
class _Candidate:
    """A mask of one of the answers."""

    answer: int
    instance: InstanceMask


def vote(results: Sequence[Segmentation], settings: VoteSettings = VoteSettings()) -> Segmentation:
    """Make one result of several about the same question and image.

    Thinking and raw text are those of the answer that is nearest to the result; `presence` is the share of readable
    answers that found something. If no answer can be read, the result is the first of them, with its error.
    """
    seconds = {name: sum(each.timings.get(name, 0.0) for each in results) for name in results[0].timings}
    readable = [result for result in results if result.error is None]
    if not readable:
        return replace(results[0], timings=seconds)
    empty = [result for result in readable if not result.instances]
    presence = 1 - len(empty) / len(readable)
    if len(empty) / len(readable) >= settings.nothing_there:
        return replace(empty[0], timings=seconds, presence=presence)
    found = [result for result in readable if result.instances]
    count = Counter(len(result.instances) for result in found).most_common(1)[0][0]
    candidates = [_Candidate(number, one) for number, result in enumerate(found) for one in result.instances]
    objects = _elect(_cluster(candidates, settings.same_object), count, settings.object_share * len(readable))
    instances = tuple(_merge(members, settings.pixel_share) for members in objects)
    nearest = _nearest(found, instances)
    return replace(nearest, instances=instances, warnings=(), timings=seconds, presence=presence)


def _cluster(candidates: Sequence[_Candidate], same: float) -> list[list[_Candidate]]:
    """Group masks by their IoU with the first mask of a group, in the order of the answers."""
    rles = [encode(each.instance.mask) for each in candidates]
    ious = iou_matrix(rles, rles)  # [C, C]
    groups: list[list[int]] = []
    for place in range(len(candidates)):
        group = next((group for group in groups if ious[place, group[0]] >= same), None)
        if group is None:
            groups.append([place])
        else:
            group.append(place)
    return [[candidates[place] for place in group] for group in groups]


def _elect(objects: list[list[_Candidate]], count: int, least: float) -> list[list[_Candidate]]:
    """Choose the objects that most answers have, then those with the highest scores."""

    def votes(members: Sequence[_Candidate]) -> int:
        return len({each.answer for each in members})

    shared = [members for members in objects if votes(members) >= least] or objects
    scores = {id(members): float(np.mean([each.instance.score for each in members])) for members in shared}
    return sorted(shared, key=lambda members: (-votes(members), -scores[id(members)]))[:count]


def _merge(members: Sequence[_Candidate], share: float) -> InstanceMask:
    """Make one object of its masks: the pixels that most of them have, the median box, the best mask's points."""
    instances = [each.instance for each in members]
    weights = np.array([max(one.score, 0.0) for one in instances])
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(instances), 1 / len(instances))
    total = np.zeros(instances[0].mask.shape, np.float32)  # [H, W]
    for one, weight in zip(instances, weights, strict=True):
        total += np.float32(weight) * one.mask
    x0, y0, x1, y1 = (float(edge) for edge in np.median([one.box for one in instances], axis=0))
    best = max(instances, key=lambda one: one.score)
    score = float(np.mean([one.score for one in instances]))
    return InstanceMask(total >= share - 1e-6, (x0, y0, x1, y1), best.points, score)  # weights sum to nearly 1


def _nearest(found: Sequence[Segmentation], instances: Sequence[InstanceMask]) -> Segmentation:
    """The answer whose masks together are nearest to those of the result."""
    whole = [_union(answer.instances, answer) for answer in found]
    ious = iou_matrix(whole, [_union(instances, found[0])])[:, 0]
    return found[int(ious.argmax())]


def _union(instances: Sequence[InstanceMask], answer: Segmentation) -> RLE:
    return merge_checked([encode(one.mask) for one in instances], answer.image.size)
