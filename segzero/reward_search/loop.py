"""A search for a reward, from recorded answers to a winner with evidence. Stopped at any moment, the same call goes on.

1. Answers of the policy are recorded, with the segmenter's masks.
2. In each iteration a proposer writes candidates; each is parsed, gated and compared with the masks on those answers.
3. The best few are trained with for a short while; the better half by the held-out score goes on for twice as long.
4. The winner and the base are trained with from several seeds, and their answers to further questions compared.

Files in the folder of a search:

search.json     the settings; a call that goes on must have the same
data/, test/    the questions: for training and choosing, and for the last comparison alone
rollouts.jsonl  the recorded answers
llm/            prompts and replies; candidates/, trials/, final/: what was tried, and how it went
winner.py       the reward; winner.json: its evidence; report.html: everything on one page
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rewards.search.candidate import read_candidate
from rewards.search.expressions import PRESET_GENOMES, render
from segzero.io import write_atomically, write_json
from segzero.reward_search.assessment import assess, score_groups
from segzero.reward_search.comparison import RewardComparison, compare_finals
from segzero.reward_search.halving import choose_finalists, finals_seconds, halve, plan_trials
from segzero.reward_search.proposers import BASE, Proposal, Proposer
from segzero.reward_search.records import SearchCandidate, read_record, source_file, write_record
from segzero.reward_search.rollouts import AnswerGroup
from segzero.reward_search.settings import SearchSettings
from segzero.reward_search.trials import (
    START_SECONDS,
    TrainingTrial,
    TrialFailed,
    TrialRunner,
    refuse_base,
    step_seconds,
)

WINNER = "winner.py"
EVIDENCE = "winner.json"
PROPOSING_SHARE = 0.25  # of the time, at most, unless a search does not train

Say = Callable[[str], None]


@dataclass(eq=False)
class SearchRun:
    """Findings of a search so far."""

    out: Path
    settings: SearchSettings
    base: SearchCandidate
    candidates: list[SearchCandidate] = field(default_factory=list)
    trials: list[TrainingTrial] = field(default_factory=list)  # the longest of each candidate
    finals: list[TrainingTrial] = field(default_factory=list)  # of winner and base
    failed_trials: dict[str, str] = field(default_factory=dict)  # candidate -> why
    winner: SearchCandidate | None = None
    comparison: RewardComparison | None = None
    remarks: list[str] = field(default_factory=list)  # about what was left out, and why
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, of this call

    @property
    def hacking(self) -> list[tuple[str, str]]:
        """Trainings whose reward rose while their held-out score fell, with the finding."""
        return [(trial.name, trial.hacking) for trial in [*self.trials, *self.finals] if trial.hacking]


@dataclass(frozen=True)
class Clock:
    """The time that a call may take; None: as long as it needs."""

    minutes: float | None
    begin: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return float("inf") if self.minutes is None else 60 * self.minutes - (time.monotonic() - self.begin)

    def spent(self, share: float) -> bool:
        """Whether more than that share of the time is over."""
        return self.minutes is not None and self.left < 60 * self.minutes * (1 - share)


def search(
    out: Path,
    settings: SearchSettings,
    groups: Sequence[AnswerGroup],
    proposer: Proposer,
    clock: Clock,
    say: Say = lambda line: None,
    trains: bool = True,
) -> SearchRun:
    """Search, and write the winner; without trainings it is the candidate that agrees best with the masks."""
    run = SearchRun(out, settings, _base(out, settings, groups))
    begin = time.monotonic()
    say(f"base {settings.base}: {_in_words(run.base)}")
    _propose(run, groups, proposer, clock, PROPOSING_SHARE if trains else 1.0, say)
    run.seconds["candidates"] = time.monotonic() - begin
    usable = [one for one in run.candidates if not one.problem]
    if not usable:
        say("no candidate can be used; the report says why")
        return run
    runner = TrialRunner(out, settings)
    if trains:
        begin = time.monotonic()
        _try(run, runner, groups, clock, say)
        run.seconds["trials"] = time.monotonic() - begin
    else:
        run.winner = min(usable, key=lambda one: (-one.score, one.id))
    if run.winner is not None and trains and settings.seeds:
        begin = time.monotonic()
        _compare(run, runner, clock, say)
        run.seconds["comparison"] = time.monotonic() - begin
    if run.winner is not None:
        write_winner(run)
    return run


def _base(out: Path, settings: SearchSettings, groups: Sequence[AnswerGroup]) -> SearchCandidate:
    """Judge the base; a preset is judged by its rendering in the candidates' language."""
    known = read_record(out, BASE)
    if known is not None:
        return known
    is_file = settings.base.endswith(".py")
    source = read_candidate(settings.base).source if is_file else render(PRESET_GENOMES[settings.base])
    base = assess(SearchCandidate(BASE, 0, (), "base", source), groups)
    write_record(out, base)
    return base


def _propose(
    run: SearchRun, groups: Sequence[AnswerGroup], proposer: Proposer, clock: Clock, share: float, say: Say
) -> None:
    """Go through the iterations, as far as the time allows."""
    settings = run.settings
    for iteration in range(1, settings.iterations + 1):
        if iteration > 1 and clock.spent(share):
            run.remarks.append(f"time was over before iteration {iteration} of {settings.iterations}")
            return
        known = [read_record(run.out, f"{iteration:02}-{place:02}") for place in range(1, settings.candidates + 1)]
        proposals: Sequence[Proposal | None] = [None] * settings.candidates
        if None in known:
            proposals = proposer.propose(iteration, settings.candidates, [run.base, *run.candidates])
        judged = []
        for place, (one, proposal) in enumerate(zip(known, proposals, strict=True), 1):
            if one is None:
                assert proposal is not None
                id = f"{iteration:02}-{place:02}"
                new = SearchCandidate(id, iteration, proposal.parents, proposal.origin, proposal.source)
                one = assess(new, groups)
                write_record(run.out, one)
            judged.append(one)
        run.candidates += judged
        usable = [one for one in judged if not one.problem]
        refused = sum(one.refused for one in judged)
        best = max(usable, key=lambda one: one.score, default=None)
        words = f"; best {best.id}: {_in_words(best)}" if best else ""
        failed = len(judged) - len(usable) - refused
        say(f"iteration {iteration}: {len(usable)} usable, {refused} refused, {failed} failing{words}")


def _in_words(candidate: SearchCandidate) -> str:
    fit = candidate.fit
    if fit is None:
        return candidate.problem
    refused = f"; {candidate.problem}" if candidate.problem else ""
    return f"rank correlation {fit.correlation:.3f}, within questions {fit.within:.3f}{refused}"


def _try(run: SearchRun, runner: TrialRunner, groups: Sequence[AnswerGroup], clock: Clock, say: Say) -> None:
    """Train with the best few, and with the better half of them twice as long."""
    settings = run.settings
    plan = plan_trials(clock.left, settings.finalists, settings.trial_steps, settings.seeds, step_seconds([]))
    if plan.finalists < settings.finalists:
        run.remarks.append(f"time allows for {plan.finalists} finalists of {settings.finalists}")
    left = choose_finalists(run.candidates, plan.finalists, lambda one: score_groups(one.source, groups))
    say(f"trials of {', '.join(one.id for one in left)}")
    for steps in (settings.trial_steps, settings.final_steps):
        tried = _try_each(run, runner, left, steps, clock, say)
        if not tried:
            return
        run.winner = min(tried, key=lambda pair: (-pair[1].score, pair[0].id))[0]
        if len(tried) == 1:
            return
        left = halve(tried)


def _try_each(
    run: SearchRun, runner: TrialRunner, candidates: Sequence[SearchCandidate], steps: int, clock: Clock, say: Say
) -> list[tuple[SearchCandidate, TrainingTrial]]:
    """Train with each of the candidates, as long as there is time for it and for one seed of the comparison."""
    settings, tried = run.settings, []
    for place, one in enumerate(candidates):
        step = step_seconds(run.trials)
        needed = START_SECONDS + settings.trial_steps * step
        needed += finals_seconds(min(1, settings.seeds), settings.final_steps, step)
        if run.trials and clock.left < needed:
            run.remarks.append(f"time was over after {place} of {len(candidates)} trials of {steps} steps")
            break
        try:
            folder, source = run.out / "trials" / one.id, str(source_file(run.out, one.id))
            trial = runner.train(folder, source, steps, settings.seed, max(1, settings.trial_steps // 2))
        except TrialFailed as error:
            run.failed_trials[one.id] = str(error)
            say(f"{one.id} failed in training: {error}")
            continue
        tried.append((one, trial))
        run.trials = [*(other for other in run.trials if other.name != trial.name), trial]
        say(f"{one.id} after {steps} steps: held-out {trial.score:.3f}; {trial.seconds:.0f} s in all")
        if trial.hacking:
            say(f"{one.id}: {trial.hacking}")
    return tried


def _compare(run: SearchRun, runner: TrialRunner, clock: Clock, say: Say) -> None:
    """Train winner and base from several seeds, as many as there is time for, and compare their answers."""
    assert run.winner is not None
    settings = run.settings
    base = str(source_file(run.out, BASE)) if settings.base.endswith(".py") else settings.base
    names = {"base": base, "winner": str(source_file(run.out, run.winner.id))}
    rows: dict[str, list[Any]] = {name: [] for name in names}
    longest = 0.0
    for seed in range(1, settings.seeds + 1):
        if seed > 1 and clock.left < longest:
            run.remarks.append(f"time was over after {seed - 1} of {settings.seeds} seeds")
            break
        begin = time.monotonic()
        for name, reward in names.items():
            folder = run.out / "final" / f"{name}-{seed}"
            try:
                final = runner.train(folder, reward, settings.final_steps, settings.seed + seed, settings.trial_steps)
                run.finals.append(final)
                rows[name].append(runner.evaluate(folder, settings.final_steps))
            except TrialFailed as error:
                if name == "base":
                    raise refuse_base(error) from None
                run.failed_trials[f"final {name}-{seed}"] = str(error)
                run.remarks.append(f"the winner failed in the training of seed {seed}: {error}")
                return
        longest = max(longest, time.monotonic() - begin)
        run.comparison = compare_finals(rows["base"], rows["winner"])
        say(f"seed {seed}: " + run.comparison.in_words)


def write_winner(run: SearchRun) -> None:
    """Write winner.py and winner.json."""
    assert run.winner is not None
    write_atomically(run.out / WINNER, run.winner.source.encode("utf-8", "backslashreplace"))
    trial = next((one for one in run.trials if one.name == run.winner.id), None)
    evidence = {
        "candidate": run.winner.id,
        "lineage": lineage(run.winner, [run.base, *run.candidates]),
        "task": run.settings.task,
        "base": run.settings.base,
        "fit": run.winner.fit and asdict(run.winner.fit),
        "terms": [asdict(term) for term in run.winner.terms],
        "gates": list(run.winner.findings),
        "trial": trial and {**asdict(trial), "held_out": trial.held_out, "hacking": trial.hacking},
        "comparison": run.comparison and asdict(run.comparison),
        "remarks": run.remarks,
        "settings": asdict(run.settings),
    }
    write_json(run.out / EVIDENCE, evidence, indent=1)


def lineage(candidate: SearchCandidate, known: Sequence[SearchCandidate]) -> list[str]:
    """The candidate, its first parent, that one's first parent, and so on."""
    by_id = {one.id: one for one in known}
    line = [candidate.id]
    while (one := by_id.get(line[-1])) is not None and one.parents:
        line.append(one.parents[0])
    return line
