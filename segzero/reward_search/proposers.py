"""Proposers of candidates: a language model that reflects on earlier ones, and mutation and crossover without a model.

Both depend on earlier iterations and a seed alone, so that a search that goes on proposes what it would have proposed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rewards.search.expressions import Genome, crossover, genome_of, mutate, random_genome, render
from rewards.search.language import describe
from rewards.search.prompts import cut_code, first_prompt, mend_prompt, reflect_prompt, system_prompt
from segzero.reward_search.llm import LanguageModel
from segzero.reward_search.records import SearchCandidate

BASE = "base"  # id of the base as a candidate
PARENTS = 6  # that the offline search draws from: the best so far
ATTEMPTS = 20  # at a genome that there has not been yet
PROBLEMS_SHOWN = 6
REQUESTS_AT_ONCE = 4


@dataclass(frozen=True)
class Proposal:
    """The source of a candidate, and where it comes from."""

    source: str
    origin: str
    parents: tuple[str, ...] = ()


class Proposer(Protocol):
    """Writes candidates."""

    def propose(self, iteration: int, count: int, earlier: Sequence[SearchCandidate]) -> list[Proposal]:
        """Write so many candidates, in view of the base and the candidates of earlier iterations."""
        ...


@dataclass(frozen=True)
class OfflineProposer:
    """Mutates and crosses the terms of the best candidates; needs no model."""

    seed: int

    def propose(self, iteration: int, count: int, earlier: Sequence[SearchCandidate]) -> list[Proposal]:
        """Draw genomes that there have not been yet: half of them new in the first iteration, few later."""
        genomes = {one.id: genome_of(one.source) for one in earlier}
        known = {genome for genome in genomes.values() if genome is not None}
        # The base is varied even if the gates refuse it: that is what may be wrong with a base.
        best = sorted(
            (one for one in earlier if not one.problem or one.id == BASE), key=lambda one: (-one.score, one.id)
        )
        parents = [(genome, one.id) for one in best if (genome := genomes[one.id]) is not None][:PARENTS]
        proposals = []
        for place in range(count):
            rng = np.random.default_rng((self.seed, iteration, place))
            drawn = (_draw(parents, iteration, rng) for _ in range(ATTEMPTS))
            genome, origin, ids = next((one for one in drawn if one[0] not in known), _draw(parents, iteration, rng))
            known.add(genome)
            proposals.append(Proposal(render(genome), origin, ids))
        return proposals


def _draw(
    parents: Sequence[tuple[Genome, str]], iteration: int, rng: np.random.Generator
) -> tuple[Genome, str, tuple[str, ...]]:
    """Draw a genome; the earlier a parent is in the list, the likelier it is chosen."""
    if not parents or rng.random() < (0.5 if iteration == 1 else 0.1):
        return random_genome(rng), "new", ()
    one, one_id = parents[min(rng.integers(len(parents), size=2))]
    other, other_id = parents[int(rng.integers(len(parents)))]
    if other_id != one_id and rng.random() < 0.4:
        return mutate(crossover(one, other, rng), rng), "crossover", (one_id, other_id)
    child = mutate(one, rng)
    return (mutate(child, rng) if rng.random() < 0.5 else child), "mutation", (one_id,)


@dataclass(frozen=True)
class LlmProposer:
    """Asks a language model, and shows it what came of the earlier candidates."""

    model: LanguageModel
    task: str

    def propose(self, iteration: int, count: int, earlier: Sequence[SearchCandidate]) -> list[Proposal]:
        """Ask for so many candidates, several at once; a candidate that failed is shown to be mended."""
        questions = [self._question(iteration, place, earlier) for place in range(1, count + 1)]

        def ask(place: int) -> str:
            name = f"{iteration:02}-{place + 1:02}"
            return self.model.ask(name, system_prompt(describe()), questions[place][0], seed=place)

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            replies = list(threads.map(ask, range(count)))
        return [
            Proposal(cut_code(reply), origin, parents)
            for reply, (_, origin, parents) in zip(replies, questions, strict=True)
        ]

    def _question(
        self, iteration: int, place: int, earlier: Sequence[SearchCandidate]
    ) -> tuple[str, str, tuple[str, ...]]:
        """The words, the origin of what will be written, and its parents."""
        by_id = {one.id: one for one in earlier}
        before = by_id.get(f"{iteration - 1:02}-{place:02}")
        if before is not None and before.problem and before.origin != "mended":
            return mend_prompt(before.source, before.problem), "mended", (before.id,)
        written = [one for one in earlier if one.id != BASE]
        usable = [one for one in written if not one.problem]
        if not usable:
            base = by_id[BASE]
            return first_prompt(self.task, base.source, base.terms), "first", (BASE,)
        best = min(usable, key=lambda one: (-one.score, one.id))
        problems = list(dict.fromkeys(one.problem for one in reversed(written) if one.problem))[:PROBLEMS_SHOWN]
        words = reflect_prompt(self.task, best.source, best.terms, best.best, best.worst, problems)
        return words, "reflection", (best.id,)
