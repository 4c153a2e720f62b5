"""The search without trainings: what wins, what is refused, and going on after a stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.search.expressions import Genome, GenomeTerm, render
from segzero.errors import UserError
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row, write_rows
from segzero.policy.chat_server import ChatServer
from segzero.reward_search.assessment import score_groups
from segzero.reward_search.halving import choose_finalists
from segzero.reward_search.llm import LanguageModel
from segzero.reward_search.loop import Clock, lineage, search
from segzero.reward_search.proposers import LlmProposer, OfflineProposer
from segzero.reward_search.records import read_record
from segzero.reward_search.report import write_report
from segzero.reward_search.settings import SearchSettings, begin
from segzero.training.metrics_log import NAME
from tests.helpers.policy_server import ScriptedPolicyServer
from tests.helpers.recorded_answers import recorded_groups
from tests.helpers.reward_writer import BEST, RewardWriter

SETTINGS = SearchSettings("All <objects> asked for.", "soft", "policy", "segmenter", candidates=6, iterations=2)


@pytest.fixture(scope="module")
def groups():
    return recorded_groups()


def test_a_scripted_model_the_right_one_wins_and_the_malicious_ones_are_refused(groups, tmp_path):
    marker = tmp_path / "marker"
    writer = RewardWriter(str(marker))
    settings = replace(SETTINGS, candidates=8, iterations=3, llm="scripted")
    with ScriptedPolicyServer(writer).running() as server:
        proposer = LlmProposer(LanguageModel(ChatServer(server.url), "scripted", tmp_path), settings.task)
        run = search(tmp_path, settings, groups, proposer, Clock(None), trains=False)
    assert run.winner is not None and run.winner.source.strip() == BEST.strip() and run.winner.id == "02-01"
    assert (tmp_path / "winner.py").read_text() == run.winner.source
    assert not marker.exists()
    by_id = {one.id: one for one in run.candidates}
    assert len(by_id) == 24
    broken, mended = by_id["01-02"], by_id["02-02"]
    assert broken.problem.startswith("line 4: ") and "division by zero" in broken.problem and not broken.refused
    assert mended.origin == "mended" and mended.parents == ("01-02",) and not mended.problem
    assert by_id["01-03"].refused and by_id["01-03"].terms  # talkative: it runs, but the gates see through it
    for place in (4, 5, 6, 7, 8):  # imports, opens, climbs, never ends, no code at all
        assert by_id[f"01-{place:02}"].refused, by_id[f"01-{place:02}"].problem
    assert run.winner.score == max(one.score for one in run.candidates)
    page = write_report(run, groups).read_text()
    assert "All &lt;objects&gt; asked for." in page and "<objects>" not in page
    assert all(one.id in page for one in run.candidates)
    assert page.count("<img") == 4 and "24 replies" in page


def test_an_offline_search_finds_a_better_reward_than_a_weak_base(groups, tmp_path):
    weak = Genome.of(GenomeTerm("pair_overlap", "threshold", 0.5, 2.0), GenomeTerm("readable"))
    file = tmp_path / "weak.py"
    file.write_text(render(weak))
    settings = replace(SETTINGS, base=str(file))
    run = search(tmp_path / "out", settings, groups, OfflineProposer(0), Clock(None), trains=False)
    assert run.base.refused and run.base.fit and run.winner and run.winner.fit
    assert run.winner.fit.score > run.base.fit.score + 0.05
    evidence = json.loads((tmp_path / "out" / "winner.json").read_text())
    assert evidence["candidate"] == run.winner.id and evidence["fit"]["within"] == run.winner.fit.within
    assert evidence["lineage"] == lineage(run.winner, [run.base, *run.candidates])


def test_a_search_that_was_stopped_goes_on_to_the_same_end(groups, tmp_path):
    whole = search(tmp_path / "whole", SETTINGS, groups, OfflineProposer(0), Clock(None), trains=False)
    out = tmp_path / "stopped"

    class Stop(Exception):
        pass

    class StoppingProposer(OfflineProposer):
        def propose(self, iteration, count, earlier):
            if iteration == 2:
                raise Stop
            return super().propose(iteration, count, earlier)

    with pytest.raises(Stop):
        search(out, SETTINGS, groups, StoppingProposer(0), Clock(None), trains=False)
    kept = read_record(out, "01-03")
    (out / "candidates" / "01-06.json").unlink()  # it was stopped in the middle of an iteration
    again = search(out, SETTINGS, groups, OfflineProposer(0), Clock(None), trains=False)
    assert [one.source for one in again.candidates] == [one.source for one in whole.candidates]
    assert read_record(out, "01-03") == kept  # with the seconds of the first call
    assert again.winner and whole.winner and again.winner.id == whole.winner.id


def test_the_time_ends_the_iterations_but_not_the_first(groups, tmp_path):
    run = search(tmp_path, SETTINGS, groups, OfflineProposer(0), Clock(0.0), trains=False)
    assert len(run.candidates) == SETTINGS.candidates and "before iteration 2 of 2" in run.remarks[0]


def test_other_settings_are_refused(tmp_path):
    begin(tmp_path, SETTINGS)
    begin(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="its candidates is 6, now it is 7; choose another --out"):
        begin(tmp_path, replace(SETTINGS, candidates=7))


def test_a_torn_candidate_is_one_line(groups, tmp_path):
    search(tmp_path, replace(SETTINGS, iterations=1), groups, OfflineProposer(0), Clock(None), trains=False)
    (tmp_path / "candidates" / "01-02.json").write_text('{"id": 3}')
    with pytest.raises(UserError, match=r"01-02\.json is no candidate of a search; remove it"):
        search(tmp_path, replace(SETTINGS, iterations=1), groups, OfflineProposer(0), Clock(None), trains=False)


def finish_training(folder: Path, steps: int, last: float, reward: float = 1.0) -> None:
    """Write what a finished training leaves: its numbers, from a held-out score of 0.5 on, and a checkpoint."""
    rows = [{"step": step, "data": {"reward/mean": 1 + (reward - 1) * step / steps}} for step in range(1, steps + 1)]
    for step, value in ((0, 0.5), (steps // 2, (0.5 + last) / 2), (steps, last)):
        rows.append({"step": step, "data": {"val/giou": value, "val/n_acc": value}})
    (folder / "run" / f"global_step_{steps}").mkdir(parents=True)
    (folder / "run" / NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "trial.json").write_text('{"seconds": 60.0, "calls": 1}')


def test_finished_trainings_are_read_and_hacking_is_shown(groups, tmp_path):
    settings = replace(SETTINGS, iterations=1, finalists=2, trial_steps=8, seeds=2)
    search(tmp_path, settings, groups, OfflineProposer(0), Clock(None), trains=False)
    (tmp_path / "winner.py").unlink()
    candidates = [read_record(tmp_path, f"01-0{place}") for place in range(1, 7)]
    first, second = choose_finalists(candidates, 2, lambda one: score_groups(one.source, groups))
    for one, last, reward in ((first, 0.4, 3.0), (second, 0.7, 1.0)):
        finish_training(tmp_path / "trials" / one.id, 16, last, reward)
    for name, iou in (("base", 40), ("winner", 60)):
        for seed in (1, 2):
            finish_training(tmp_path / "final" / f"{name}-{seed}", 16, iou / 100)
            rows = [Row(str(place), score=Score(iou + place, 100)) for place in range(9)]
            (tmp_path / "final" / f"{name}-{seed}" / "evaluation" / "own").mkdir(parents=True)
            write_rows(tmp_path / "final" / f"{name}-{seed}" / "evaluation" / "own", rows)
    said: list[str] = []
    run = search(tmp_path, settings, groups, OfflineProposer(0), Clock(None), said.append)
    assert run.winner is not None and run.winner.id == second.id  # the other one fits better, and trains worse
    assert [name for name, _ in run.hacking] == [first.id]
    assert any("reward hacking: over 8 steps" in line or "reward hacking: over 16 steps" in line for line in said)
    assert run.comparison is not None and run.comparison.better
    assert run.comparison.figures[0].by_seed == pytest.approx((0.2, 0.2))
    page = write_report(run, groups).read_text()
    assert "Reward hacking" in page and "+0.200" in page and page.count("<svg") == 4
    evidence = json.loads((tmp_path / "winner.json").read_text())
    assert evidence["comparison"]["figures"][0]["difference"] == pytest.approx(0.2)


def test_a_candidate_that_fails_in_training_is_counted(groups, tmp_path):
    settings = replace(SETTINGS, iterations=1, finalists=1, seeds=0, policy=str(tmp_path / "none"))
    run = search(tmp_path, settings, groups, OfflineProposer(0), Clock(None))
    assert run.winner is None and not (tmp_path / "winner.py").exists()
    [(id, why)] = run.failed_trials.items()
    assert "ended with code 2" in why
    page = write_report(run, groups).read_text()
    assert "<td>failed" in page and id in page and "no candidate can be used" in page
