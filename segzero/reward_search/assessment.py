"""Judgement of a candidate without a training: parser, gates, and its scores of the recorded answers.

The candidate's code runs in the sandbox alone.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rewards import Case
from rewards.search.candidate import CandidateRefused, parse_candidate
from rewards.search.gates import try_gates
from rewards.search.prompts import JudgedAnswer
from rewards.search.sandbox import CandidateFailure, Sandbox
from rewards.search.term_statistics import fit, term_statistics, totals
from segzero.errors import one_line
from segzero.reward_search.records import SearchCandidate
from segzero.reward_search.rollouts import AnswerGroup

EXAMPLES = 2  # best and worst answers that are kept
MOST_FINDINGS = 12


def assess(candidate: SearchCandidate, groups: Sequence[AnswerGroup]) -> SearchCandidate:
    """Judge a candidate; the result says why it can't be used, or how well it agrees with the masks' IoU."""
    begin = time.monotonic()
    judged = _assess(candidate, groups)
    return replace(judged, seconds=round(time.monotonic() - begin, 3))


def _assess(candidate: SearchCandidate, groups: Sequence[AnswerGroup]) -> SearchCandidate:
    try:
        parsed = parse_candidate(candidate.source)
    except CandidateRefused as error:
        return replace(candidate, problem=one_line(error), refused=True)
    with Sandbox(parsed) as sandbox:
        answered = sandbox.score(cases_of(groups))
        problem = first_failure(answered)
        if problem:
            return replace(candidate, problem=problem)
        report = try_gates(sandbox.score, groups[0].written.format)
    findings = tuple(one_line(finding) for finding in [*report.findings, *report.notes][:MOST_FINDINGS])
    scores = by_group([terms for terms in answered if not isinstance(terms, CandidateFailure)], groups)
    ious = [group.ious for group in groups]
    described = replace(
        candidate,
        findings=findings,
        terms=tuple(term_statistics(scores, ious)),
        fit=fit(scores, ious),
        best=examples(groups, scores, best=True),
        worst=examples(groups, scores, best=False),
    )
    return described if report.passed else replace(described, problem=findings[0], refused=True)


def score_groups(source: str, groups: Sequence[AnswerGroup]) -> list[list[float]]:
    """Score the recorded answers with a candidate that can be used; the totals by group."""
    with Sandbox(parse_candidate(source)) as sandbox:
        answered = sandbox.score(cases_of(groups))
    return totals(by_group([{} if isinstance(terms, CandidateFailure) else terms for terms in answered], groups))


def first_failure(answered: Sequence[Mapping[str, float] | CandidateFailure]) -> str:
    """The first failure in words, with the number of failures; empty without any."""
    failures = [one for one in answered if isinstance(one, CandidateFailure)]
    if not failures:
        return ""
    first = failures[0]
    return one_line(f"{first} ({first.kind}; {len(failures)} of {len(answered)} answers)")


def by_group(answered: Sequence[Mapping[str, float]], groups: Sequence[AnswerGroup]) -> list[list[Mapping[str, float]]]:
    """Sort the terms of all answers into the groups that they came from."""
    rest = iter(answered)
    return [[next(rest) for _ in group.texts] for group in groups]


def examples(
    groups: Sequence[AnswerGroup], scores: Sequence[Sequence[Mapping[str, float]]], best: bool
) -> tuple[JudgedAnswer, ...]:
    """Select answers that earn most in groups whose answers earn different rewards, or least; one of a question."""
    earned = totals(scores)
    spread = [place for place, group in enumerate(earned) if max(group) > min(group)] or list(range(len(groups)))
    choose = max if best else min
    found = []
    for place in spread:
        number = choose(range(len(earned[place])), key=earned[place].__getitem__)
        found.append((earned[place][number], place, number))
    found.sort(key=lambda one: (-one[0] if best else one[0], one[1]))
    return tuple(example(groups[place], number, scores[place][number]) for _, place, number in found[:EXAMPLES])


def example(group: AnswerGroup, number: int, terms: Mapping[str, float]) -> JudgedAnswer:
    """Describe one recorded answer."""
    frame, size = group.written.frame, group.sample.size
    true = [
        {"bbox_2d": frame.to_frame(one.box, size), "point_2d": frame.to_frame(one.points[0], size)}
        if one.points
        else {"bbox_2d": frame.to_frame(one.box, size)}
        for one in group.sample.objects
    ]
    return JudgedAnswer(
        group.sample.id,
        group.sample.question,
        group.texts[number],
        json.dumps(true),
        round(group.ious[number], 4),
        {name: round(value, 4) for name, value in terms.items()},
    )


def cases_of(groups: Sequence[AnswerGroup]) -> list[Case]:
    """All recorded answers as rewards see them, in order."""
    return [case for group in groups for case in group.cases]
