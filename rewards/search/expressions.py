"""Rewards as sums of a few terms that a program can vary: the genome of the offline search.

A term is a metric of 0 to 1, a shape that bends it, and a weight. `render` writes a genome as the source of a
candidate, in the language that a language model writes, so that all that follows is the same for both.

>>> base = PRESET_GENOMES["mask"]
>>> genome_of(render(base)) == base
True
>>> child = mutate(base, np.random.default_rng(3))
>>> child != base and genome_of(render(child)) == child
True
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rewards.search.metrics import METRICS, sources_of

SHAPES = {
    "linear": "{metric}",
    "squared": "{metric} squared",
    "threshold": "[{metric} >= {scale:g}]",
    "exponential": "exp(({metric} - 1) / {scale:g})",
}
SCALES = {"threshold": (0.3, 0.9), "exponential": (0.1, 1.0)}  # range of a shape's number; the others have none
WEIGHTS = (0.25, 4.0)
MOST_TERMS = 6
LINE = "# genome: "  # of a rendered candidate, so that a search can go on from it


@dataclass(frozen=True, order=True)
class GenomeTerm:
    """One term of a genome; `scale` is the threshold or the temperature of its shape, and 0 of the other shapes."""

    metric: str
    shape: str = "linear"
    scale: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        low, high = SCALES.get(self.shape, (0.0, 0.0))
        sound = self.metric in METRICS and self.shape in SHAPES
        if not (sound and low <= self.scale <= high and WEIGHTS[0] <= self.weight <= WEIGHTS[1]):
            raise ValueError(f"no such term of a reward: {self}")

    @property
    def words(self) -> str:
        """The term in words."""
        return f"{self.weight:g} x " + SHAPES[self.shape].format(metric=self.metric, scale=self.scale)


@dataclass(frozen=True)
class Genome:
    """A reward as a sum of terms, each of another metric, in the order of their names."""

    terms: tuple[GenomeTerm, ...]

    def __post_init__(self) -> None:
        names = [term.metric for term in self.terms]
        if not 1 <= len(names) <= MOST_TERMS or len(set(names)) < len(names):
            raise ValueError(f"a genome has 1 to {MOST_TERMS} terms of different metrics, not {names}")

    @staticmethod
    def of(*terms: GenomeTerm) -> "Genome":
        """Make a genome of terms in any order."""
        return Genome(tuple(sorted(terms)))

    @property
    def words(self) -> str:
        """The reward in words."""
        return " + ".join(term.words for term in self.terms)


# The presets, as far as terms of this kind say the same. Format and thinking are one thing here: an answer that can't
# be read earns nothing.
PRESET_GENOMES = {
    "mask": Genome.of(
        GenomeTerm("mask_overlap", weight=3.0), GenomeTerm("count"), GenomeTerm("presence"), GenomeTerm("readable")
    ),
    "soft": Genome.of(
        GenomeTerm("box_overlap"),
        GenomeTerm("box_closeness"),
        GenomeTerm("points_closeness"),
        GenomeTerm("presence"),
        GenomeTerm("readable"),
    ),
    "phrase": Genome.of(GenomeTerm("box_overlap"), GenomeTerm("presence"), GenomeTerm("readable")),
    "vision_reasoner": Genome.of(
        GenomeTerm("pair_overlap", "threshold", 0.5),
        GenomeTerm("box_closeness", "threshold", 0.5),
        GenomeTerm("points_closeness", "threshold", 0.5),
        GenomeTerm("readable", weight=3.0),
    ),
    "seg_zero": Genome.of(
        GenomeTerm("pair_overlap", "threshold", 0.5),
        GenomeTerm("points_closeness", "threshold", 0.3),
        GenomeTerm("readable", weight=2.0),
    ),
    "dr_seg": Genome.of(
        GenomeTerm("pair_overlap"),
        GenomeTerm("count"),
        GenomeTerm("points_closeness"),
        GenomeTerm("readable", weight=3.0),
    ),
    "star": Genome.of(
        GenomeTerm("mask_overlap", "threshold", 0.5, weight=4.0),
        GenomeTerm("pair_overlap", "threshold", 0.5),
        GenomeTerm("box_closeness", "threshold", 0.5),
        GenomeTerm("points_closeness", "threshold", 0.5),
        GenomeTerm("readable", weight=3.0),
    ),
    "swim": Genome.of(GenomeTerm("mask_overlap", weight=2.0), GenomeTerm("readable")),
    "genseg_r1": Genome.of(GenomeTerm("mask_overlap"), GenomeTerm("presence"), GenomeTerm("readable", weight=2.0)),
    "lens": Genome.of(
        GenomeTerm("mask_overlap", "squared"), GenomeTerm("box_overlap", "squared"), GenomeTerm("readable")
    ),
}
PRESET_GENOMES["dialogue"] = PRESET_GENOMES["dr2seg"] = PRESET_GENOMES["refine"] = PRESET_GENOMES["mask"]
PRESET_GENOMES["seg_zero_strict"] = PRESET_GENOMES["seg_zero"]


def random_genome(rng: np.random.Generator) -> Genome:
    """Draw two to four terms."""
    metrics = rng.choice(sorted(METRICS), size=int(rng.integers(2, 5)), replace=False)
    return Genome.of(*(_random_term(str(metric), rng) for metric in metrics))


def mutate(genome: Genome, rng: np.random.Generator) -> Genome:
    """Change one thing: add, drop or replace a term, or give one another weight, shape or scale."""
    terms = list(genome.terms)
    place = int(rng.integers(len(terms)))
    unused = sorted(METRICS.keys() - {term.metric for term in terms})
    changes = ["weight", "shape", "scale"] + ["add"] * 2 * (len(terms) < MOST_TERMS and bool(unused))
    changes += ["drop"] * (len(terms) > 1) + ["replace"] * bool(unused)
    while True:
        match rng.choice(changes):
            case "add":
                child = Genome.of(*terms, _random_term(str(rng.choice(unused)), rng))
            case "drop":
                child = Genome.of(*terms[:place], *terms[place + 1 :])
            case "replace":
                child = _with(terms, place, _random_term(str(rng.choice(unused)), rng))
            case "weight":
                child = _with(terms, place, replace(terms[place], weight=_near(terms[place].weight, *WEIGHTS, rng)))
            case "scale" if terms[place].shape in SCALES:
                bounds = SCALES[terms[place].shape]
                child = _with(terms, place, replace(terms[place], scale=_near(terms[place].scale, *bounds, rng)))
            case _:
                drawn = _random_term(terms[place].metric, rng)
                child = _with(terms, place, replace(drawn, weight=terms[place].weight))
        if child != genome:
            return child


def crossover(one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
    """Take each metric's term from either parent, and about half of those that only one of them has."""
    of_one, of_other = ({term.metric: term for term in genome.terms} for genome in (one, other))
    chosen = []
    for metric in sorted(of_one.keys() | of_other.keys()):
        both = [terms[metric] for terms in (of_one, of_other) if metric in terms]
        if len(both) == 2 or rng.random() < 0.5:
            chosen.append(both[int(rng.integers(len(both)))])
    chosen = chosen or [one.terms[int(rng.integers(len(one.terms)))]]
    kept = rng.permutation(len(chosen))[:MOST_TERMS]
    return Genome.of(*(chosen[place] for place in kept))


def render(genome: Genome) -> str:
    """Write a genome as the source of a candidate."""
    numbers, entries = [], []
    for term in genome.terms:
        name = term.metric.upper()
        value = f"{term.metric}(answer, truth)"
        numbers.append(f"{name}_WEIGHT = {term.weight!r}")
        if term.shape in SCALES:
            number = f"{name}_{'THRESHOLD' if term.shape == 'threshold' else 'TEMPERATURE'}"
            numbers.append(f"{number} = {term.scale!r}")
            value = f"float({value} >= {number})" if term.shape == "threshold" else f"near_one({value}, {number})"
        elif term.shape == "squared":
            value = f"squared({value})"
        entries.append(f'        "{term.metric}": {name}_WEIGHT * {value},')
    shapes = {term.shape for term in genome.terms}
    helpers = [code for shape, code in SHAPE_SOURCES.items() if shape in shapes]
    functions = [*sources_of([term.metric for term in genome.terms]), *helpers]
    nothing = ", ".join(f'"{term.metric}": 0.0' for term in genome.terms)
    described = "\n".join(f"- {term.words}" for term in genome.terms)
    head = f'"""A reward of these terms:\n\n{described}\n"""\n\n{LINE}{_to_line(genome)}\n' + "\n".join(numbers)
    reward = [
        "def reward(answer, truth):",
        '    """Sum of the terms; an answer that can\'t be read earns nothing."""',
        "    if not answer.readable:",
        f"        return {{{nothing}}}",
        "    return {",
        *entries,
        "    }",
    ]
    return "\n\n\n".join([head, *(function.strip() for function in functions), "\n".join(reward) + "\n"])


SHAPE_SOURCES = {
    "squared": '''
def squared(value):
    """The square of a value."""
    return value * value
''',
    "exponential": '''
def near_one(value, temperature):
    """1 at 1, falling with the distance from it."""
    return math.exp((value - 1.0) / temperature)
''',
}


def genome_of(source: str) -> Genome | None:
    """The genome of which a source was rendered; None if it was written or changed by somebody else."""
    for line in source.splitlines():
        if line.startswith(LINE):
            try:
                genome = _from_line(line.removeprefix(LINE))
            except (ValueError, TypeError, KeyError, RecursionError):
                return None
            return genome if render(genome) == source else None
    return None


def _to_line(genome: Genome) -> str:
    return json.dumps([asdict(term) for term in genome.terms])


def _from_line(line: str) -> Genome:
    rows: Sequence[Mapping[str, Any]] = json.loads(line)
    return Genome.of(
        *(GenomeTerm(str(r["metric"]), str(r["shape"]), float(r["scale"]), float(r["weight"])) for r in rows)
    )


def _random_term(metric: str, rng: np.random.Generator) -> GenomeTerm:
    shape = str(rng.choice(sorted(SHAPES)))
    scale = round(float(rng.uniform(*SCALES[shape])), 2) if shape in SCALES else 0.0
    return GenomeTerm(metric, shape, scale, float(rng.choice([0.5, 1.0, 2.0, 3.0])))


def _near(value: float, low: float, high: float, rng: np.random.Generator) -> float:
    """A value up to twice as large or half as small, of two digits, in a range."""
    return float(np.clip(round(value * 2 ** float(rng.uniform(-1, 1)), 2), low, high))


def _with(terms: Sequence[GenomeTerm], place: int, term: GenomeTerm) -> Genome:
    return Genome.of(*terms[:place], term, *terms[place + 1 :])
