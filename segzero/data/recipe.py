"""Referring data -> training samples, a block at a time: points, joins, dialogues, no answers, what is left out.

>>> made = cook(list(read("data/mine", "folder")), Recipe(join=0.2), seeds=(0, 0))           # doctest: +SKIP
>>> len(made.samples), made.left_out
(120, Counter({'it has more than 120 objects': 1}))

What comes of a block depends on the block, the recipe and the seeds alone.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from segzero.answer import MAX_OBJECTS
from segzero.data.dialogue_synthesis import from_instances
from segzero.data.validation import LONGEST, losses, problems
from segzero.errors import UserError
from segzero.masks import box_of, decode, points_of, union
from segzero.sample import Object, Sample

MOST_JOINED = 3  # questions in one
MOST_ROUNDS = 12  # of a conversation
MOST_PARTS = 16  # of an image's questions that are joined
TRIES = 20  # at a question whose category is not in an image

COUNT_ALONE = "its truth is a count alone"
NO_POINTS = "an object has neither a mask nor points"
TOO_MANY = f"it has more than {MAX_OBJECTS} objects"
TOO_SMALL = "its truth loses points when written in whole numbers, as of an object too small"
DISAGREES = "the segmenter draws an object otherwise"

Agree = Callable[[Sequence[Sample]], list[bool]]


@dataclass(frozen=True)
class Recipe:
    """What to make of what was read; `join` and `no_target` are shares of the result."""

    join: float = 0.0  # questions about several things, made of questions about each
    no_target: float | None = None  # questions to which nothing is the answer; None: as many as were read
    dialogues: int = 0  # rounds of the conversations that questions become, wherever they can
    filter_iou: float | None = None  # a sample needs this IoU of each mask with the one that a segmenter draws

    def __post_init__(self) -> None:
        shares = {"--join": self.join, "--no-target": self.no_target or 0.0}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise UserError(f"{name} {share} is no share; give a number from 0 to under 1, such as 0.2")
        if sum(shares.values()) > 0.9:
            raise UserError("--join and --no-target leave less than a tenth for the questions as they are")
        if self.dialogues and not 2 <= self.dialogues <= MOST_ROUNDS:
            raise UserError(f"--dialogues {self.dialogues}: a dialogue has 2 to {MOST_ROUNDS} rounds")
        if self.filter_iou is not None and not 0 < self.filter_iou < 1:
            raise UserError(f"--filter-iou {self.filter_iou} is no IoU between 0 and 1; 0.6 is usual")


@dataclass
class Made:
    """What a block became. `problems` are lines about samples that make no sense, among what was left out."""

    samples: list[Sample] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def cook(block: Sequence[Sample], recipe: Recipe, seeds: Sequence[int], agree: Agree | None = None) -> Made:
    """The training samples of a block; `agree` says of each sample whether a segmenter draws its masks."""
    rng = np.random.default_rng(list(seeds))
    made = Made()
    good = list(_usable(block, made))
    if agree is not None:
        verdicts = agree(good)
        made.left_out[DISAGREES] += verdicts.count(False)
        good = [sample for sample, agrees in zip(good, verdicts, strict=True) if agrees]
    there, nothing = [s for s in good if not s.empty], [s for s in good if s.empty]
    joined = list(_joined(good, round(len(good) * recipe.join / (1 - recipe.join)), rng))
    if recipe.no_target is not None:
        wanted = round((len(there) + len(joined)) * recipe.no_target / (1 - recipe.no_target))
        kept = sorted(rng.permutation(len(nothing))[:wanted])
        made.left_out["nothing is there, beyond the share asked for"] += len(nothing) - len(kept)
        nothing = [nothing[i] for i in kept]
        nothing += _borrowed(good, wanted - len(nothing), rng)
    talks = list(_conversations(there, recipe.dialogues, rng)) if recipe.dialogues else there
    made.samples = [*talks, *joined, *nothing]
    kinds = {"as read": len(there), "later rounds": len(talks) - len(there)}
    made.kinds = +Counter(kinds | {"joined": len(joined), "nothing there": len(nothing)})
    made.left_out = +made.left_out  # without what is 0
    return made


def image_key(sample: Sample) -> str:
    """What two samples of the same image file share."""
    return sample.image if isinstance(sample.image, str) else hashlib.sha256(sample.image).hexdigest()


def _usable(block: Sequence[Sample], made: Made) -> Iterator[Sample]:
    """Samples with points whose truth earns the most under every preset; the others are counted."""
    images: dict[str, str] = {}  # what is wrong with each
    for sample in block:
        key = image_key(sample)
        if key not in images:
            images[key] = _image_problem(sample)
        sample = replace(sample, objects=tuple(_with_points(true) for true in sample.objects))
        wrong = images[key] or "; ".join(problems(sample))
        if wrong:
            made.problems.append(f"sample {sample.id!r:.80}: {wrong}")
        reason = wrong or _unfit(sample)
        if reason:
            made.left_out[reason] += 1
        else:
            yield sample


def _image_problem(sample: Sample) -> str:
    try:
        image = sample.open()
    except UserError:
        return "its image is absent or can't be decoded"
    return "" if image.size == sample.size else "its image has another size than it says"


def _with_points(true: Object) -> Object:
    """As published: the box of the mask, and the centres of two inscribed circles. Without a mask, as it is."""
    if true.rle is None:
        return true
    mask = decode(true.rle)
    box = box_of(mask)
    return true if box is None else Object(box, points_of(mask, 2), true.rle)


def _unfit(sample: Sample) -> str:
    if sample.empty and sample.meta.get("count"):
        return COUNT_ALONE
    if not all(true.points for true in sample.objects):
        return NO_POINTS
    if len(sample.objects) > MAX_OBJECTS:
        return TOO_MANY
    return TOO_SMALL if any(losses(sample).values()) else ""


def _joined(samples: Sequence[Sample], wanted: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Questions about several things in an image; each round gives an image one more, as long as there are any."""
    single = (sample for sample in samples if not sample.empty and not sample.turns)
    choices = [_choices(group, rng) for group in _by_image(single).values() if len(group) > 1]
    while wanted > 0 and choices:
        for some in [choices[i] for i in rng.permutation(len(choices))]:
            parts = next((parts for parts in some if _fit(parts)), None)
            if parts is None:
                choices.remove(some)
            elif wanted > 0:
                wanted -= 1
                yield _join(parts)


def _conversations(samples: Sequence[Sample], rounds: int, rng: np.random.Generator) -> Iterator[Sample]:
    for group in _by_image(samples).values():
        yield from from_instances(group, rounds, rng)


def _by_image(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[image_key(sample)].append(sample)
    return groups


def _choices(group: Sequence[Sample], rng: np.random.Generator) -> Iterator[list[Sample]]:
    """All pairs and threes of an image's samples, or of some of them, in any order."""
    some = [group[i] for i in rng.permutation(len(group))[:MOST_PARTS]]
    sets = [chosen for count in range(2, MOST_JOINED + 1) for chosen in combinations(range(len(some)), count)]
    return ([some[i] for i in sets[place]] for place in rng.permutation(len(sets)))


def _fit(parts: Sequence[Sample]) -> bool:
    """They mean different objects in different words, and neither are too many."""
    objects = [(true.box, true.rle["counts"] if true.rle else "") for part in parts for true in part.objects]
    letters = sum(len(part.question) + len(" and ") for part in parts)
    differ = len(set(objects)) == len(objects) and len({part.question.lower() for part in parts}) == len(parts)
    return differ and len(objects) <= MAX_OBJECTS and letters <= LONGEST


def _join(parts: Sequence[Sample]) -> Sample:
    ignored = [part.ignore for part in parts if part.ignore is not None]
    categories = {part.category for part in parts}
    return replace(
        parts[0],
        id="+".join(part.id for part in parts),
        question=" and ".join(part.question.rstrip(".?! ") for part in parts),
        objects=tuple(true for part in parts for true in part.objects),
        ignore=union(ignored, parts[0].size) if ignored else None,
        category=categories.pop() if len(categories) == 1 else "",
        concept="",
        meta={"joined": [part.id for part in parts]},
    )


def _borrowed(samples: Sequence[Sample], wanted: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Questions about other images, asked about images that hold nothing of their category.

    Only where that is known: the reader has put the categories of all that is in the image into
    `meta["categories"]`.
    """
    hosts = list({image_key(s): s for s in samples if "categories" in s.meta}.values())
    lenders = [s for s in samples if s.category and not s.empty and not s.turns]
    asked: set[tuple[str, str]] = set()
    for turn in range(wanted if hosts and lenders else 0):
        if turn % len(hosts) == 0:
            order = rng.permutation(len(hosts))
        host = hosts[order[turn % len(hosts)]]
        for lender in (lenders[i] for i in rng.integers(len(lenders), size=TRIES)):
            name = f"{host.id}-nothing-{lender.id}"
            if lender.category not in host.meta["categories"] and (image_key(host), lender.question) not in asked:
                asked.add((image_key(host), lender.question))
                yield replace(
                    host,
                    id=name,
                    question=lender.question,
                    objects=(),
                    ignore=None,
                    category=lender.category,
                    concept="",
                    turns=(),
                    meta={"borrowed": lender.id},
                )
                break
