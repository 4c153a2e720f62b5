"""Gates that a reward has to pass before anything is trained with it, on answers written for a few fixed scenes.

>>> from rewards.presets import PRESETS
>>> report = try_gates(terms_of(PRESETS["soft"]))
>>> report.passed, report.findings
(True, ())
>>> report = try_gates(terms_of(PRESETS["vision_reasoner"]))
>>> print(report.findings[0])
nothing there: 'nothing' earns 2, not more than 'a false box' with 4 (no object)

A gate compares the totals of two answers to one scene. A finding names both, so that whoever wrote the reward sees what
to mend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.case import SQUARE, Case
from rewards.rubric import Rubric
from rewards.search.sandbox import CandidateFailure
from segzero.answer import POINTS, Answer, Instance, Phrase, render_answer
from segzero.masks import RLE, Box, encode
from segzero.sample import Object, Sample

TermsOfCases = Callable[[Sequence[Case]], Sequence[Mapping[str, float] | CandidateFailure]]

SIDE = 210  # pixels of a scene's image; a quarter of the frame's, so that masks are small
SCALE = 4
SCENES: tuple[tuple[Box, ...], ...] = (  # true boxes in the 840 frame
    ((120, 200, 320, 420),),
    ((600, 80, 680, 140),),
    ((80, 80, 240, 200), (440, 480, 640, 760)),
    ((40, 560, 200, 720), (320, 120, 440, 240), (600, 400, 760, 640)),
    ((40, 40, 160, 160), (240, 60, 340, 180), (480, 520, 600, 620), (640, 680, 780, 800)),
)
WRONG: tuple[Box, ...] = ((800, 4, 836, 40), (4, 780, 40, 836), (800, 440, 836, 480), (4, 300, 28, 328))
SHORT = "It stands on the left."
LONG = " ".join(f"Then I look at part {number} of the picture." for number in range(80))
REPEATED = " ".join([SHORT] * 80)
SHOWN = 3  # findings of one gate; the others are counted
_EQUAL = 1e-6


@dataclass(frozen=True)
class GateReport:
    """Outcome of the gates."""

    findings: tuple[str, ...]  # what a reward must not do; one line each
    notes: tuple[str, ...] = ()  # what is odd, but no reason to refuse it

    @property
    def passed(self) -> bool:
        """True if nothing was found."""
        return not self.findings


@dataclass(frozen=True)
class _Trial:
    """An answer to a scene."""

    name: str
    case: Case
    objects: int  # of the scene


@dataclass(frozen=True)
class _Comparison:
    """An order that the totals of two trials must have."""

    gate: str
    better: int
    worse: int
    relation: str  # ">", ">=" or "=="


@dataclass
class _Plan:
    """Trials and comparisons, put together scene by scene."""

    format: str
    trials: list[_Trial] = field(default_factory=list)
    comparisons: list[_Comparison] = field(default_factory=list)

    def add(self, name: str, truth: Sequence[Box], answer: Sequence[Box] | str, think: str = SHORT) -> int:
        """Add an answer to a scene; returns its number."""
        text = answer if isinstance(answer, str) else _written(answer, self.format, think)
        self.trials.append(_Trial(name, _case(text, truth, self.format), len(truth)))
        return len(self.trials) - 1

    def compare(self, gate: str, better: int, relation: str, *worse: int) -> None:
        """Ask for an order of totals."""
        self.comparisons += [_Comparison(gate, better, one, relation) for one in worse]


def terms_of(rubric: Rubric) -> TermsOfCases:
    """Make of a rubric what the gates take: its terms, with their weights."""

    def score(cases: Sequence[Case]) -> list[dict[str, float]]:
        rewards = [rubric.score(case) for case in cases]
        return [{term.name: term.weight * reward.terms[term.name] for term in rubric.terms} for reward in rewards]

    return score


def try_gates(score: TermsOfCases, format: str = "multi") -> GateReport:
    """Try a reward on answers of a format: `Sandbox.score`, or `terms_of` a rubric."""
    plan = _plan(format)
    results = score([trial.case for trial in plan.trials])
    findings = _failures(plan, results)
    totals = [None if isinstance(terms, CandidateFailure) else sum(terms.values()) for terms in results]
    by_gate: dict[str, list[str]] = {}
    for comparison in plan.comparisons:
        better, worse = totals[comparison.better], totals[comparison.worse]
        if better is not None and worse is not None and not _holds(better, comparison.relation, worse):
            by_gate.setdefault(comparison.gate, []).append(_finding(plan, comparison, better, worse))
    for gate, lines in by_gate.items():
        findings += _shortened(gate, lines)
    return GateReport(tuple(findings), tuple(_notes(results)))


def _plan(format: str) -> _Plan:
    plan = _Plan(format)
    for truth in SCENES:
        if len(truth) == 1 or format != "seg_zero":
            _add_scene(plan, truth)
    _add_empty_scene(plan)
    return plan


def _add_scene(plan: _Plan, truth: Sequence[Box]) -> None:
    """Answers to a scene with objects, and how their totals must be ordered."""
    count = len(truth)
    perfect = plan.add("the truth", truth, truth)
    near = plan.add("boxes a tenth off", truth, [_moved(box, 0.1) for box in truth])
    far = plan.add("boxes half a side off", truth, [_moved(box, 0.5) for box in truth])
    wrong = plan.add("wrong boxes", truth, WRONG[:count])
    malformed = [plan.add(name, truth, text) for name, text in _malformed(truth, plan.format)]
    plan.compare("quality", perfect, ">", far)
    plan.compare("quality", perfect, ">=", near)
    plan.compare("quality", near, ">", wrong)
    plan.compare("quality", near, ">=", far)
    plan.compare("quality", far, ">=", wrong)
    plan.compare("malformed", wrong, ">", *malformed)
    plan.compare("nothing there", near, ">", plan.add("nothing", truth, []))

    long = plan.add("the truth after many words", truth, truth, LONG)
    long_wrong = plan.add("wrong boxes after many words", truth, WRONG[:count], LONG)
    repeated = plan.add("the truth after the same words again and again", truth, truth, REPEATED)
    plan.compare("length", perfect, ">=", long, repeated)
    plan.compare("length", wrong, ">=", long_wrong)

    for side in (840, 5000):
        giant: Box = (0, 0, side, side)
        alone = plan.add(f"a box of {side} pixels", truth, [giant])
        plan.compare("giant boxes", near, ">", alone)
        if plan.format != "seg_zero":
            plan.compare(
                "giant boxes", perfect, ">=", plan.add(f"the truth and a box of {side} pixels", truth, [*truth, giant])
            )
    if plan.format != "seg_zero":
        _add_copies(plan, truth, perfect)
    if count > 1:
        turned = plan.add("boxes a tenth off, in another order", truth, [_moved(box, 0.1) for box in truth[::-1]])
        other_truth = plan.add(
            "boxes a tenth off, the truth in another order", truth[::-1], [_moved(box, 0.1) for box in truth]
        )
        plan.compare("order", near, "==", turned, other_truth)


def _add_copies(plan: _Plan, truth: Sequence[Box], perfect: int) -> None:
    one = plan.add("one right box", truth, truth[:1])
    near = plan.add("one box a tenth off", truth, [_moved(truth[0], 0.1)])
    for copies in (1, 3):
        for name, shift in ("again", 0.0), ("a little aside", 0.02):
            copy = [_moved(truth[0], shift)] * copies
            plan.compare(
                "copies", perfect, ">=", plan.add(f"the truth, a box {copies}x {name}", truth, [*truth, *copy])
            )
            plan.compare("copies", one, ">=", plan.add(f"one right box, {copies}x {name}", truth, [truth[0], *copy]))
    plan.compare("copies", near, ">=", plan.add("one box a tenth off, 3x again", truth, [_moved(truth[0], 0.1)] * 4))


def _add_empty_scene(plan: _Plan) -> None:
    """Answers to a scene in which nothing is there."""
    nothing = plan.add("nothing", (), [])
    false = plan.add("a false box", (), WRONG[:1])
    plan.compare("nothing there", nothing, ">", false)
    if plan.format != "seg_zero":
        plan.compare("nothing there", nothing, ">", plan.add("three false boxes", (), WRONG[:3]))
    plan.compare("nothing there", nothing, ">", plan.add("a box of 840 pixels", (), [(0, 0, 840, 840)]))
    malformed = [plan.add(name, (), text) for name, text in _malformed(WRONG[:1], plan.format)]
    plan.compare("malformed", nothing, ">", *malformed)
    plan.compare("length", nothing, ">=", plan.add("nothing, after many words", (), [], LONG))


def _malformed(boxes: Sequence[Box], format: str) -> list[tuple[str, str]]:
    """Texts that hold the right boxes, or none, in no readable form."""
    right = _written(boxes, format, SHORT)
    return [
        ("an answer with broken brackets", right.replace("}", "").replace('"', "'")),
        ("an answer cut off", right.split("</answer>")[0].rstrip("]}")),
        ("an answer without its tags", right.replace("<answer>", "").replace("</answer>", "")),
        ("words alone", "I see none."),
        ("no text", ""),
    ]


def _written(boxes: Sequence[Box], format: str, think: str) -> str:
    """An answer as a policy writes it."""
    if format == "phrase":
        return render_answer(
            Answer(think, phrases=tuple(Phrase(f"thing {i}", box) for i, box in enumerate(boxes))), format
        )
    return render_answer(Answer(think, tuple(Instance(box, _points(box)[: POINTS[format]]) for box in boxes)), format)


def _points(box: Box) -> tuple[tuple[float, float], ...]:
    """Two points in a box, in whole numbers."""
    x0, y0, x1, y1 = box
    return ((x0 + x1) // 2, (y0 + y1) // 2), ((3 * x0 + x1) // 4, (3 * y0 + y1) // 4)


def _moved(box: Box, share: float) -> Box:
    """A box moved towards the middle of the image by a share of its sides."""
    dx, dy = (round(share * (high - low)) for low, high in ((box[0], box[2]), (box[1], box[3])))
    dx, dy = (dx if box[0] < 420 else -dx), (dy if box[1] < 420 else -dy)
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def _case(text: str, truth: Sequence[Box], format: str) -> Case:
    """A case with masks: an ellipse in every box, as if a segmenter had drawn them."""
    objects = [
        Object(_in_image(box), tuple((x / SCALE, y / SCALE) for x, y in _points(box)), _ellipse(box)) for box in truth
    ]
    sample = Sample("gate", "scene.png", "the things", SIDE, SIDE, tuple(objects))
    case = Case.of_sample(text, sample, frame=SQUARE, format=format)
    if format == "phrase":
        return case
    masks = [_ellipse(instance.box) for instance in case.answer.instances]
    return Case.of_sample(text, sample, masks, frame=SQUARE, format=format)


def _in_image(box: Box) -> Box:
    x0, y0, x1, y1 = (value / SCALE for value in box)
    return x0, y0, x1, y1


def _ellipse(box: Box) -> RLE:
    """Mask of the ellipse in a box of the 840 frame, in pixels of the scene."""
    x0, y0, x1, y1 = _in_image(box)
    centres = np.arange(SIDE) + 0.5
    across, down = ((centres - (a + b) / 2) / max((b - a) / 2, 0.5) for a, b in ((x0, x1), (y0, y1)))
    return encode(across[None, :] ** 2 + down[:, None] ** 2 <= 1)


def _holds(better: float, relation: str, worse: float) -> bool:
    if relation == "==":
        return abs(better - worse) <= _EQUAL
    return better > worse + _EQUAL if relation == ">" else better >= worse - _EQUAL


def _finding(plan: _Plan, comparison: _Comparison, better: float, worse: float) -> str:
    first, second = plan.trials[comparison.better], plan.trials[comparison.worse]
    relation = {">": "not more than", ">=": "less than", "==": "unlike"}[comparison.relation]
    objects = {0: "no object", 1: "1 object"}.get(first.objects, f"{first.objects} objects")
    return f"{first.name!r} earns {better:.4g}, {relation} {second.name!r} with {worse:.4g} ({objects})"


def _failures(plan: _Plan, results: Sequence[Mapping[str, float] | CandidateFailure]) -> list[str]:
    """Findings of answers that the reward could not score at all."""
    failed = [
        f"{trial.name!r}: {result}"
        for trial, result in zip(plan.trials, results, strict=True)
        if isinstance(result, CandidateFailure) and result.kind != "untried"
    ]
    return _shortened("failed", failed)


def _shortened(gate: str, lines: Sequence[str]) -> list[str]:
    """The first lines of a gate, and how many more there are."""
    more = [f"{gate}: and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*(f"{gate}: {line}" for line in lines[:SHOWN]), *more]


def _notes(results: Sequence[Mapping[str, float] | CandidateFailure]) -> list[str]:
    """Terms that are the same for every answer: they cannot teach anything."""
    values: dict[str, set[float]] = {}
    scored = [terms for terms in results if not isinstance(terms, CandidateFailure)]
    for terms in scored:
        for name in terms:
            values.setdefault(name, set()).add(round(terms[name], 9))
    always = [name for name in values if len(values[name]) == 1 and all(name in terms for terms in scored)]
    return [f"the term {name!r} never moves: it is {values[name].pop():.4g} for every answer" for name in always]
