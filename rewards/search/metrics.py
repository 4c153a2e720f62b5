"""Metrics of the offline search, as source in the language of candidates: functions of an answer and the truth.

Each is 0 to 1. Where nothing is there and nothing is answered, a metric of objects is 1, but `pair_overlap` is 0: it
looks at pairs alone, as a reward does that knows nothing of missing and superfluous objects.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSource:
    """The source of a metric's function, and names of further functions that it calls."""

    code: str
    calls: tuple[str, ...] = ()


HELPERS = {
    "points_of": '''
def points_of(one, other):
    """Mean closeness of an object's points to the nearest true point."""
    if not other.points:
        return 0.0
    return mean([
        float(inside(point, one.box)) * 30.0 / (30.0 + min([distance(point, true) for true in other.points]))
        for point in one.points
    ])
''',
    "over_pairs": '''
def over_pairs(values, answer, truth):
    """Sum of the pairs' values over the larger number of objects; 1 where nothing is there, rightly."""
    most = max(len(answer.instances), len(truth))
    return sum(values) / most if most else 1.0
''',
    "copies": '''
def copies(objects):
    """Number of boxes that repeat an earlier one: their IoU is above one half."""
    boxes = [one.box for one in objects]
    return sum([float(any([iou(boxes[i], boxes[k]) > 0.5 for k in range(i)])) for i in range(len(boxes))])
''',
    "overlapping": '''
def overlapping(answer, truth):
    """Pairs of predicted and true objects whose boxes overlap."""
    return [pair for pair in matched(answer.instances, truth) if iou(pair[0].box, pair[1].box) > 0.0]
''',
}

METRICS = {
    "box_overlap": MetricSource(
        '''
def box_overlap(answer, truth):
    """IoU of the paired boxes, over the larger number of objects."""
    return over_pairs([iou(one.box, other.box) for one, other in matched(answer.instances, truth)], answer, truth)
''',
        ("over_pairs",),
    ),
    "pair_overlap": MetricSource(
        '''
def pair_overlap(answer, truth):
    """Mean IoU of the paired boxes; objects without a partner don't count."""
    return mean([iou(one.box, other.box) for one, other in matched(answer.instances, truth)])
'''
    ),
    "box_closeness": MetricSource(
        '''
def box_closeness(answer, truth):
    """Closeness of the paired boxes' edges, one half at ten pixels, over the larger number of objects."""
    pairs = overlapping(answer, truth)
    return over_pairs([10.0 / (10.0 + l1(one.box, other.box)) for one, other in pairs], answer, truth)
''',
        ("over_pairs", "overlapping"),
    ),
    "points_closeness": MetricSource(
        '''
def points_closeness(answer, truth):
    """Closeness of points to a true one, one half at thirty pixels; outside their own box they are worth nothing."""
    return over_pairs([points_of(one, other) for one, other in overlapping(answer, truth)], answer, truth)
''',
        ("over_pairs", "overlapping", "points_of"),
    ),
    "points_inside": MetricSource(
        '''
def points_inside(answer, truth):
    """Share of points inside the true box of their object, over the larger number of objects."""
    pairs = overlapping(answer, truth)
    shares = [mean([float(inside(point, other.box)) for point in one.points]) for one, other in pairs]
    return over_pairs(shares, answer, truth)
''',
        ("over_pairs", "overlapping"),
    ),
    "mask_overlap": MetricSource(
        '''
def mask_overlap(answer, truth):
    """IoU of all drawn masks with all true ones."""
    if not answer.instances or not truth:
        return float(not answer.instances and not truth)
    return mask_iou(answer, truth)
'''
    ),
    "count": MetricSource(
        '''
def count(answer, truth):
    """Smaller number of objects over the larger; copies of an object don't count."""
    extra = max(0.0, copies(answer.instances) - copies(truth))
    return ratio(min(len(answer.instances) - extra, len(truth)), max(len(answer.instances), len(truth)))
''',
        ("copies",),
    ),
    "presence": MetricSource(
        '''
def presence(answer, truth):
    """1 if the answer is right about whether anything is there."""
    return float(bool(answer.instances) == bool(truth))
'''
    ),
    "readable": MetricSource(
        '''
def readable(answer, truth):
    """Share of the answer's objects that could be read."""
    objects = max(1, len(answer.instances))
    return objects / (objects + len(answer.warnings))
'''
    ),
}


def sources_of(metrics: Iterable[str]) -> list[str]:
    """Sources of metrics, and before them of the functions that they call."""
    wanted = list(metrics)
    called = {name for metric in wanted for name in METRICS[metric].calls}
    return [*(code for name, code in HELPERS.items() if name in called), *(METRICS[metric].code for metric in wanted)]
