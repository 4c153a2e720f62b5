"""Trials: what a run's files say, which candidates are trained with, and the comparison over seeds."""

import json
from dataclasses import replace

import pytest

from rewards.search.expressions import PRESET_GENOMES, Genome, render
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row
from segzero.reward_search.assessment import assess, score_groups
from segzero.reward_search.comparison import compare_finals
from segzero.reward_search.halving import choose_finalists, finals_seconds, halve, likeness, plan_trials, trials_seconds
from segzero.reward_search.records import SearchCandidate
from segzero.reward_search.settings import SearchSettings
from segzero.reward_search.trials import TrainingTrial, TrialFailed, TrialRunner, read_trial, step_seconds
from segzero.training.metrics_log import NAME
from tests.helpers.recorded_answers import recorded_groups

SETTINGS = SearchSettings("task", "soft", "policy", "segmenter", trial_steps=4)


def trial(name: str, last: float, rewards=(1.0, 1.0, 1.0, 1.0)) -> TrainingTrial:
    """A trial whose held-out score begins at 0.5."""
    steps = tuple((float(step), value) for step, value in enumerate(rewards, 1))
    return TrainingTrial(name, 4, steps, ((0.0, 0.6), (4.0, last + 0.1)), ((0.0, 0.4), (4.0, last - 0.1)), 60.0)


def test_a_trial_is_read_from_its_run(tmp_path):
    lines = [
        {"step": 0, "data": {"val/giou": 0.5, "val/n_acc": 0.25, "val/reward": 2.0}},
        *({"step": step, "data": {"reward/mean": 1.0 + step / 10}} for step in (1, 2, 3)),
        {"step": 4, "data": {"reward/mean": 1.4, "val/giou": 0.75, "val/n_acc": 0.5}},
        {"step": 4, "data": {"reward/mean": 1.5, "val/giou": 0.75, "val/n_acc": 0.5}},  # repeated after a kill
        {"step": 5, "data": {"reward/mean": 9.0}},
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "trial.json").write_text('{"seconds": 12.5, "calls": 2}')
    read = read_trial(tmp_path, 4)
    assert [value for _, value in read.rewards] == pytest.approx([1.1, 1.2, 1.3, 1.5])
    assert (
        read.held_out == [(0.0, 0.375), (4.0, 0.625)]
        and read.score == 0.625
        and (read.seconds, read.calls) == (12.5, 2)
    )


def test_the_score_is_that_of_the_last_two_validations():
    values = ((0.0, 0.1), (2.0, 0.2), (4.0, 0.5), (6.0, 0.6))
    assert replace(trial("a", 0.5), giou=values, n_acc=()).score == pytest.approx(0.55)
    assert replace(trial("a", 0.5), giou=values[:1], n_acc=()).score == 0  # before the training


def test_without_a_question_that_nothing_fits_the_score_is_giou():
    assert replace(trial("a", 0.5), n_acc=()).score == 0.6


def test_reward_up_and_held_out_down_is_a_finding():
    rising = (1.0, 1.1, 1.4, 1.6)
    assert "rose from 1.05 to 1.50" in trial("a", 0.4, rising).hacking
    assert "fell from 0.500 to 0.400" in trial("a", 0.4, rising).hacking
    assert not trial("a", 0.6, rising).hacking  # both rise
    assert not trial("a", 0.4, rising[::-1]).hacking  # both fall
    assert not trial("a", 0.485, rising).hacking  # chance
    assert not trial("a", 0.4, (1.0, 1.0, 1.01, 1.01)).hacking


def test_halving_keeps_the_better_half():
    candidates = [SearchCandidate(f"01-0{n}", 1, (), "new", "") for n in range(5)]
    tried = [(one, trial(one.id, score)) for one, score in zip(candidates, (0.2, 0.9, 0.5, 0.7, 0.1), strict=True)]
    assert [one.id for one in halve(tried)] == ["01-01", "01-03", "01-02"]
    assert [one.id for one in halve(tried[:1])] == ["01-00"]


@pytest.mark.parametrize(("seconds", "finalists", "seeds"), [(1e9, 5, 3), (900, 2, 3), (500, 2, 1), (0, 2, 1)])
def test_less_time_is_fewer_finalists_and_then_fewer_seeds(seconds, finalists, seeds):
    plan = plan_trials(seconds, 5, 20, 3, 1.0)
    assert (plan.finalists, plan.seeds) == (finalists, seeds)
    assert plan.seconds == trials_seconds(finalists, 20, 1.0) + finals_seconds(seeds, 40, 1.0)


def test_a_search_without_comparison_plans_none():
    assert plan_trials(0, 4, 20, 0, 1.0).seeds == 0


def test_the_seconds_of_a_step_are_measured():
    assert step_seconds([]) == 2.5 and step_seconds([trial("a", 0.5)]) == (60 - 35) / 4
    assert step_seconds([replace(trial("a", 0.5), seconds=90.0, calls=2)]) == (90 - 70) / 4


def test_finalists_are_the_best_of_those_that_differ():
    groups = recorded_groups(6)
    mask = PRESET_GENOMES["mask"]
    scaled = Genome.of(*(replace(term, weight=term.weight * 0.5) for term in mask.terms))
    sources = [render(one) for one in (mask, scaled, PRESET_GENOMES["phrase"])]
    judged = [assess(SearchCandidate(f"01-0{n}", 1, (), "new", source), groups) for n, source in enumerate(sources)]
    assert [one.problem for one in judged] == ["", "", ""]
    totals = [score_groups(source, groups) for source in sources]
    assert likeness(totals[0], totals[1]) == 1 and likeness(totals[0], totals[2]) < 0.99

    def score(one):
        return totals[int(one.id[-1])]

    chosen = choose_finalists([*judged, replace(judged[0], id="01-03", problem="refused")], 4, score)
    assert {"01-02"} < {one.id for one in chosen} and len(chosen) == 2
    assert chosen[0].score >= chosen[1].score
    assert choose_finalists(judged, 1, score) == chosen[:1]


def rows(*ious: float) -> list[Row]:
    return [Row(str(n), "question", score=Score(round(100 * iou), 100)) for n, iou in enumerate(ious)]


def test_seeds_are_pooled_by_question():
    base = [rows(0.2, 0.4, 0.6), rows(0.3, 0.4, 0.5)]
    winner = [rows(0.3, 0.5, 0.7), rows(0.2, 0.3, 0.4)]
    compared = compare_finals(base, winner)
    giou = compared.figures[0]
    assert (compared.seeds, compared.questions, giou.name) == (2, 3, "gIoU")
    assert giou.by_seed == pytest.approx((0.1, -0.1)) and giou.difference == pytest.approx(0)
    # In each question the seeds cancel: other questions would say the same.
    assert giou.low == pytest.approx(0) and giou.high == pytest.approx(0) and not compared.better
    better = compare_finals(base, [rows(0.3, 0.6, 0.7), rows(0.4, 0.5, 0.6)])
    assert compared.with_seeds[0] == pytest.approx(-0.1) and compared.with_seeds[1] == pytest.approx(0.1)
    assert better.better and 0 < better.figures[0].low <= better.figures[0].difference <= better.figures[0].high


def test_a_training_that_fails_says_why(tmp_path):
    runner = TrialRunner(tmp_path, replace(SETTINGS, policy=str(tmp_path / "none")))
    with pytest.raises(TrialFailed, match=r"`segzero train` ended with code 2: segzero: .*train\.log"):
        runner.train(tmp_path / "trials" / "a", "soft", 4, 0, 2)
    assert not (tmp_path / "trials" / "a" / "trial.json").exists()
