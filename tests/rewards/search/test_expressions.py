"""Genomes: every one that mutation and crossover make is a candidate that can be read and says what it is."""

import json

import numpy as np
import pytest

from rewards import PRESETS, read_case
from rewards.search.candidate import parse_candidate
from rewards.search.expressions import (
    LINE,
    METRICS,
    MOST_TERMS,
    PRESET_GENOMES,
    Genome,
    GenomeTerm,
    crossover,
    genome_of,
    mutate,
    random_genome,
    render,
)
from rewards.search.sandbox import Sandbox

TRUTH = [
    {"bbox_2d": [100, 100, 300, 300], "point_2d": [200, 200]},
    {"bbox_2d": [500, 500, 700, 650], "point_2d": [600, 575]},
]


def written(*boxes) -> str:
    objects = [{"bbox_2d": list(box), "point_2d": [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2]} for box in boxes]
    return f"<think>two</think><answer>{json.dumps(objects)}</answer>"


@pytest.mark.parametrize("seed", range(12))
def test_descendants_are_candidates_that_say_what_they_are(seed):
    rng = np.random.default_rng(seed)
    family = [random_genome(rng), PRESET_GENOMES["soft"]]
    for _ in range(25):
        one, other = (family[int(place)] for place in rng.integers(len(family), size=2))
        for child in (mutate(one, rng), crossover(one, other, rng)):
            source = render(child)
            candidate = parse_candidate(source)
            assert genome_of(source) == child
            assert candidate.needs_masks == any(term.metric == "mask_overlap" for term in child.terms)
            assert 1 <= len(child.terms) <= MOST_TERMS
            family.append(child)
    assert len(set(family)) > 20


def test_the_same_seed_gives_the_same_descendants():
    def descend(seed: int) -> list[Genome]:
        rng = np.random.default_rng(seed)
        genomes = [random_genome(rng)]
        for _ in range(10):
            genomes.append(mutate(crossover(genomes[-1], genomes[0], rng), rng))
        return genomes

    assert descend(3) == descend(3) != descend(4)


def test_mutation_reaches_every_metric_and_shape():
    rng, genome, seen = np.random.default_rng(0), Genome.of(GenomeTerm("count")), set()
    for _ in range(2000):
        genome = mutate(genome, rng)
        seen |= {(term.metric, term.shape) for term in genome.terms}
    assert len(seen) == len(METRICS) * 4


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_has_a_rendering(preset):
    parse_candidate(render(PRESET_GENOMES[preset]))


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_metric_is_1_for_the_truth_and_less_for_worse_answers(metric):
    truth, near, half, far = (
        read_case(text, TRUTH)
        for text in (
            written((100, 100, 300, 300), (500, 500, 700, 650)),
            written((110, 100, 310, 300), (500, 510, 700, 660)),
            written((100, 100, 300, 300)),
            written((310, 310, 420, 420), (10, 10, 60, 60), (710, 10, 800, 60)),
        )
    )
    with Sandbox(parse_candidate(render(Genome.of(GenomeTerm(metric))))) as sandbox:
        values = [terms[metric] for terms in sandbox.score([truth, near, half, far])]
    assert values[0] == 1
    assert all(0 <= value <= 1 for value in values)
    if metric in ("box_overlap", "box_closeness", "mask_overlap", "pair_overlap"):
        assert values[0] > values[1] > values[3]
    if metric in ("box_overlap", "box_closeness", "points_closeness", "points_inside", "mask_overlap", "count"):
        assert values[2] < 0.75
    if metric == "pair_overlap":
        assert values[2] == 1  # it does not know what is missing


def test_copies_of_an_object_do_not_fill_up_the_count():
    one, copied = written((100, 100, 300, 300)), written((100, 100, 300, 300), (102, 100, 302, 300))
    with Sandbox(parse_candidate(render(Genome.of(GenomeTerm("count"))))) as sandbox:
        alone, twice = (terms["count"] for terms in sandbox.score([read_case(text, TRUTH) for text in (one, copied)]))
    assert alone == twice == 0.5


def test_shapes_bend_a_metric():
    text = written((100, 100, 300, 300))  # half of the objects
    terms = [GenomeTerm("count", shape, scale, 2.0) for shape, scale in (
        ("linear", 0.0), ("squared", 0.0), ("threshold", 0.5), ("threshold", 0.51), ("exponential", 0.5),
    )]  # fmt: skip
    values = []
    for term in terms:
        with Sandbox(parse_candidate(render(Genome.of(term)))) as sandbox:
            values.append(sandbox.score([read_case(text, TRUTH)])[0]["count"])
    assert values == pytest.approx([1.0, 0.5, 2.0, 0.0, 2 * np.exp(-1)])


@pytest.mark.parametrize(
    "term",
    [("volume", "linear", 0.0, 1.0), ("count", "cubed", 0.0, 1.0), ("count", "threshold", 0.0, 1.0),
     ("count", "linear", 0.0, 40.0), ("count", "linear", 0.0, float("nan"))],
)  # fmt: skip
def test_a_term_beyond_its_ranges_is_refused(term):
    with pytest.raises(ValueError, match="no such term"):
        GenomeTerm(*term)


def test_a_changed_source_has_no_genome():
    source = render(PRESET_GENOMES["mask"])
    assert genome_of(source.replace("MASK_OVERLAP_WEIGHT = 3.0", "MASK_OVERLAP_WEIGHT = 2.0")) is None
    assert genome_of("def reward(answer, truth):\n    return {'a': 1.0}\n") is None
    odd = '[{"metric": 3, "shape": [], "scale": {}, "weight": 0}]'
    for line in ("[", "{}", '[{"metric": "count"}]', "[" * 100_000, odd):
        assert genome_of(f"{LINE}{line}\n") is None
