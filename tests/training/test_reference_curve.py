"""A run's metrics beside the reference's: values at a few steps, settings that differ, a page, and clear mistakes."""

import json

import pytest
from typer.testing import CliRunner

from segzero.cli.main import app
from segzero.errors import UserError
from segzero.training import metrics_log
from segzero.training.reference_curve import (
    NAMES,
    Curves,
    as_reference,
    compare_curves,
    differences,
    mean_around,
    read_reference,
    read_run,
)


def write_run(folder, rewards, model="some/policy", reward="mask"):
    """Write the metrics and settings of a run whose step N has the N-th reward; every second step is validated."""
    folder.mkdir()
    for step, value in enumerate(rewards, 1):
        validated = {"val/giou": value / 10} if step % 2 == 0 else {}
        metrics_log.append(folder / metrics_log.NAME, step, {"reward/mean": value, **validated})
    (folder / "config.yaml").write_text(
        f"actor_rollout_ref: {{model: {{path: {model}}}, rollout: {{n: 8}}}}\nreward: {{name: {reward}}}\n"
    )
    return folder


def test_a_step_is_compared_by_the_mean_around_it_and_a_validation_by_the_last_before():
    rows = [{"step": step, "data": {"reward/mean": float(step), "val/giou": step / 100}} for step in range(1, 21)]
    assert mean_around(rows, "reward/mean", 10) == 10.0 and mean_around(rows, "reward/mean", 1) == 3.5
    assert mean_around(rows, "val/giou", 10) == 0.1
    assert mean_around(rows, "answer/tokens", 10) is None


def test_values_stand_beside_the_least_and_the_largest_of_the_reference(tmp_path):
    run = read_run(write_run(tmp_path / "run", [1.0] * 12))
    runs = tuple(read_run(write_run(tmp_path / f"other{n}", [n] * 20)).runs[0] for n in (2.0, 4.0))
    compared = compare_curves(run, Curves("two", runs, {}))
    rewards = [one for one in compared if one.metric == "reward/mean"]
    assert [one.step for one in rewards] == [1, 3, 6, 9, 12]  # as far as both go
    assert {(one.value, one.low, one.high) for one in rewards} == {(1.0, 2.0, 4.0)}
    assert [one.step for one in compared if one.metric == "val/giou"] == [3, 6, 9, 12]


def test_settings_that_change_what_numbers_mean_are_named(tmp_path):
    run = read_run(write_run(tmp_path / "run", [1.0], model="/here/policy", reward="soft"))
    other = read_run(write_run(tmp_path / "other", [1.0], model="/there/policy"))
    assert differences(run, other) == ["reward.name: soft here, mask in the reference"]


def test_the_shipped_reference_is_whole():
    reference = read_reference()
    assert len(reference.runs) == 3 and reference.steps == 100
    known = {name for rows in reference.runs for row in rows for name in row["data"]}
    assert known == set(NAMES) - {"training/rollout_probs_diff_mean"}  # on a CPU vLLM's probabilities are the old ones
    first, last = reference.at("val/giou", 1), reference.at("val/giou", 100)
    assert max(first) < min(last)  # it learns


def test_a_reference_file_holds_what_was_measured(tmp_path):
    folder = write_run(tmp_path / "run", [1.0, 2.0], model="/private/place/policy")
    content = json.loads(as_reference("two steps", [folder]))
    assert content["runs"][0][1]["data"] == {"reward/mean": 2.0, "val/giou": 0.2}
    assert content["settings"]["actor_rollout_ref.model.path"] == "policy"


def test_the_command_prints_a_table_and_writes_a_page(tmp_path):
    folder = write_run(tmp_path / "run", [3.0] * 10, reward="soft")
    done = CliRunner().invoke(app, ["train", "compare", str(folder)])
    assert done.exit_code == 0, done.output
    assert "mean reward" in done.output and "reward.name: soft here, mask in the reference" in done.output
    page = (folder / "compare.html").read_text()
    assert page.count("<svg") == 2 and "held-out gIoU" in page


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no metrics in .*name the folder of a training run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="name the folder of a run"):
        CliRunner().invoke(app, ["train", "compare"], catch_exceptions=False)
