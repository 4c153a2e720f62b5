"""Referring data -> training samples: points, joined questions, dialogues, empty answers; unusable ones are left out.

>>> built = build_samples(list(read("data/mine", "folder")), SampleRecipe(join=0.2), seeds=(0, 0))  # doctest: +SKIP
>>> len(built.samples), built.left_out                                              # doctest: +SKIP
(120, Counter({'it has more than 120 objects': 1}))

The samples of a block depend on the block, the recipe and the seeds alone.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from segzero.answer import MAX_OBJECTS
from segzero.data.dialogue_synthesis import with_dialogues
from segzero.data.validation import LONGEST, imperfect_terms, problems
from segzero.errors import UserError
from segzero.images import image_key
from segzero.masks import box_of, decode, points_of, union
from segzero.sample import Object, Sample, object_key

MAX_JOINED = 3  # questions in one
MAX_ROUNDS = 12  # rounds of a dialogue
MAX_PARTS = 16  # questions of an image that are considered for joining
TRIES = 20  # attempts to find a question whose category is not in an image

COUNT_ALONE = "its truth is a count alone"
NO_POINTS = "an object has neither a mask nor points"
TOO_MANY = f"it has more than {MAX_OBJECTS} objects"
TOO_SMALL = "its truth loses points when written in whole numbers, as of an object too small"
DISAGREES = "the segmenter draws an object otherwise"
SURPLUS_EMPTY = "nothing is there, beyond the share asked for"

KeepFilter = Callable[[Sequence[Sample]], list[bool]]  # True for each sample to keep


@dataclass(frozen=True)
class SampleRecipe:
    """Options for making training samples of what was read; `join` and `no_target` are fractions of the result."""

    join: float = 0.0  # questions about several things, made of questions about each
    no_target: float | None = None  # questions that nothing matches; None: as many as were read
    dialogues: int = 0  # rounds of the dialogues that questions begin, wherever possible; 0: no dialogues
    filter_iou: float | None = None  # least IoU of each mask with the one that a segmenter predicts

    def __post_init__(self) -> None:
        shares = {"--join": self.join, "--no-target": self.no_target or 0.0}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise UserError(f"{name} {share} is not a share; give a number from 0 to under 1, such as 0.2")
        if sum(shares.values()) > 0.9:
            raise UserError("--join and --no-target leave less than a tenth for the questions as they are")
        if self.dialogues and not 2 <= self.dialogues <= MAX_ROUNDS:
            raise UserError(f"--dialogues {self.dialogues}: a dialogue has 2 to {MAX_ROUNDS} rounds")
        if self.filter_iou is not None and not 0 < self.filter_iou < 1:
            raise UserError(f"--filter-iou {self.filter_iou} is not an IoU between 0 and 1; 0.6 is usual")


@dataclass
class BuiltSamples:
    """Training samples of a block, and counts of those that were left out, by reason."""

    samples: list[Sample] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)  # a line for each malformed sample among those left out


def build_samples(
    block: Sequence[Sample], recipe: SampleRecipe, seeds: Sequence[int], keep: KeepFilter | None = None
) -> BuiltSamples:
    """Make the training samples of a block; `keep` says which samples pass the filter by a segmenter."""
    rng = np.random.default_rng(list(seeds))
    built = BuiltSamples()
    usable = list(_usable(block, built))
    if keep is not None:
        kept = keep(usable)
        built.left_out[DISAGREES] += kept.count(False)
        usable = [sample for sample, is_kept in zip(usable, kept, strict=True) if is_kept]
    present, empty = [s for s in usable if not s.empty], [s for s in usable if s.empty]
    joined = list(_joined(usable, round(len(usable) * recipe.join / (1 - recipe.join)), rng))
    if recipe.no_target is not None:
        wanted = round((len(present) + len(joined)) * recipe.no_target / (1 - recipe.no_target))
        chosen = sorted(rng.permutation(len(empty))[:wanted])
        built.left_out[SURPLUS_EMPTY] += len(empty) - len(chosen)
        empty = [empty[i] for i in chosen]
        empty += _borrowed(usable, wanted - len(empty), rng)
    rounds = list(_dialogues(present, recipe.dialogues, rng)) if recipe.dialogues else present
    built.samples = [*rounds, *joined, *empty]
    kinds = {"as read": len(present), "later rounds": len(rounds) - len(present)}
    built.kinds = +Counter(kinds | {"joined": len(joined), "nothing there": len(empty)})
    built.left_out = +built.left_out  # without the reasons that occur 0 times
    return built


def _usable(block: Sequence[Sample], built: BuiltSamples) -> Iterator[Sample]:
    """Samples with points whose true answer gets the highest reward of every preset; the others are counted."""
    image_problems: dict[str, str] = {}
    for sample in block:
        key = image_key(sample.image)
        if key not in image_problems:
            image_problems[key] = _image_problem(sample)
        sample = replace(sample, objects=tuple(_with_points(true) for true in sample.objects))
        problem = image_problems[key] or "; ".join(problems(sample))
        if problem:
            built.problems.append(f"sample {sample.id!r:.80}: {problem}")
        reason = problem or _unfit(sample)
        if reason:
            built.left_out[reason] += 1
        else:
            yield sample


def _image_problem(sample: Sample) -> str:
    try:
        image = sample.open()
    except UserError:
        return "its image is absent or can't be decoded"
    return "" if image.size == sample.size else "its image has another size than it says"


def _with_points(true: Object) -> Object:
    """The object with its mask's box and the centres of two inscribed circles, as published; unchanged without mask."""
    if true.rle is None:
        return true
    mask = decode(true.rle)
    box = box_of(mask)
    return true if box is None else Object(box, points_of(mask, 2), true.rle)


def _unfit(sample: Sample) -> str:
    """The reason why a well-formed sample can't be trained on; empty if it can."""
    if sample.empty and sample.meta.get("count"):
        return COUNT_ALONE
    if not all(true.points for true in sample.objects):
        return NO_POINTS
    if len(sample.objects) > MAX_OBJECTS:
        return TOO_MANY
    return TOO_SMALL if any(imperfect_terms(sample).values()) else ""


def _joined(samples: Sequence[Sample], wanted: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Questions about several things in an image; the images take turns, as long as any has a combination left."""
    single = (sample for sample in samples if not sample.empty and not sample.turns)
    combinations_left = [_combinations(group, rng) for group in _by_image(single).values() if len(group) > 1]
    while wanted > 0 and combinations_left:
        for of_image in [combinations_left[i] for i in rng.permutation(len(combinations_left))]:
            parts = next((parts for parts in of_image if _can_join(parts)), None)
            if parts is None:
                combinations_left.remove(of_image)
            elif wanted > 0:
                wanted -= 1
                yield _join(parts)


def _dialogues(samples: Sequence[Sample], rounds: int, rng: np.random.Generator) -> Iterator[Sample]:
    for group in _by_image(samples).values():
        yield from with_dialogues(group, rounds, rng)


def _by_image(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[image_key(sample.image)].append(sample)
    return groups


def _combinations(group: Sequence[Sample], rng: np.random.Generator) -> Iterator[list[Sample]]:
    """All pairs and triples of up to MAX_PARTS of an image's samples, in random order."""
    some = [group[i] for i in rng.permutation(len(group))[:MAX_PARTS]]
    sets = [chosen for count in range(2, MAX_JOINED + 1) for chosen in combinations(range(len(some)), count)]
    return ([some[i] for i in sets[place]] for place in rng.permutation(len(sets)))


def _can_join(parts: Sequence[Sample]) -> bool:
    """True if the samples mean different objects in different words, and one answer and question can hold them."""
    objects = [object_key(true) for part in parts for true in part.objects]
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
    """Questions about other images, put to images that are known to hold nothing of their category.

    It is known if the reader has put the categories of everything in the image into `meta["categories"]`.
    """
    hosts = list({image_key(s.image): s for s in samples if "categories" in s.meta}.values())
    lenders = [s for s in samples if s.category and not s.empty and not s.turns]
    used: set[tuple[str, str]] = set()
    for turn in range(wanted if hosts and lenders else 0):
        if turn % len(hosts) == 0:
            order = rng.permutation(len(hosts))
        host = hosts[order[turn % len(hosts)]]
        for lender in (lenders[i] for i in rng.integers(len(lenders), size=TRIES)):
            pair = (image_key(host.image), lender.question)
            if lender.category in host.meta["categories"] or pair in used:
                continue
            used.add(pair)
            yield replace(
                host,
                id=f"{host.id}-nothing-{lender.id}",
                question=lender.question,
                objects=(),
                ignore=None,
                category=lender.category,
                concept="",
                turns=(),
                meta={"borrowed": lender.id},
            )
            break
