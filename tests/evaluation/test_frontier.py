"""Selection of samples by a policy's own answers."""

import json
from dataclasses import replace

import pytest

from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Records, get_benchmark
from segzero.evaluation.frontier import FrontierSettings, ask_samples, classify, read_answers, read_records, select
from segzero.policy import Sampling
from segzero.sample import Object
from segzero.tiny.questions import make_samples
from tests.helpers.evaluating import run_evaluation


@pytest.mark.parametrize(
    ("ious", "name"),
    [
        ([0.9] * 7 + [0.0], "sometimes right"),
        ([0.0] * 7 + [0.61], "sometimes right"),
        ([0.55, 0.62], "other"),  # some are right, but all are nearly alike
        ([0.6, 0.6], "other"),  # 0.6 itself is not right
        ([0.61, 0.95], "rough"),
        ([0.61, 0.8], "rough"),
        ([0.81, 0.95], "mastered"),
        ([1.0, 1.0], "mastered"),
        ([0.0, 0.09], "hopeless"),
        ([0.0, 0.1], "other"),
        ([0.1, 0.5], "other"),
    ],
)
def test_classes(ious, name):
    assert classify(ious) == name


def test_thresholds_must_rise():
    assert classify([0.5, 0.2], FrontierSettings(right=0.4)) == "sometimes right"
    for wrong in ({"right": 0.9}, {"hopeless": 0.7}, {"fine": 1.1}, {"spread": -0.1}, {"keep_mastered": -1.0}):
        with pytest.raises(UserError):
            FrontierSettings(**wrong)


IOUS = {"sometimes right": [0.9, 0.0], "rough": [0.7, 0.7], "mastered": [0.9, 0.9], "hopeless": [0.0, 0.0]}


def test_the_frontier_is_kept_and_a_share_of_the_rest(tmp_path):
    samples = make_samples(80, 3)
    names = [list(IOUS)[place % 4] for place in range(78)]
    ious = {sample.id: IOUS[name] for sample, name in zip(samples, names, strict=False)}
    ious[samples[78].id] = []  # it could not be asked; the last one has no answers
    data, out = to_parquet(samples, tmp_path / "train.parquet"), tmp_path / "chosen.parquet"
    report = select(data, ious, out)
    frontier = names.count("sometimes right") + names.count("rough")
    assert report.kept == {"sometimes right": 20, "rough": 20, "hopeless": 4, "mastered": 8} and frontier == 40
    assert report.read["failed"] == report.read["without answers"] == 1 and sum(report.read.values()) == 80
    assert report.mean["rough"] == pytest.approx(0.7)
    chosen = list(from_parquet(out))
    order = [sample.id for sample in samples]
    assert [order.index(sample.id) for sample in chosen] == sorted(order.index(sample.id) for sample in chosen)
    rows = [json.loads(line) for line in out.with_suffix(".classes.jsonl").read_text().splitlines()]
    assert len(rows) == 79 and sum(row["kept"] for row in rows) == len(chosen) == 52
    classes = {row["sample"]: row["class"] for row in rows}
    assert all(sample.meta["frontier"] == classes[sample.id] for sample in chosen)
    assert chosen[0].objects == samples[order.index(chosen[0].id)].objects
    select(data, ious, tmp_path / "other.parquet", FrontierSettings(seed=1))
    assert [s.id for s in from_parquet(tmp_path / "other.parquet")] != [s.id for s in chosen]


def test_nothing_to_keep_writes_nothing(tmp_path):
    [sample] = make_samples(1, 3)
    data = to_parquet([sample], tmp_path / "train.parquet")
    with pytest.raises(UserError, match="none of the 1 samples with answers is worth keeping"):
        select(data, {sample.id: [0.9, 0.9]}, tmp_path / "chosen.parquet")
    assert list(tmp_path.iterdir()) == [data]


def test_a_run_has_its_last_answers(tmp_path):
    file = tmp_path / "run" / "rollouts" / "ious.jsonl"
    file.parent.mkdir(parents=True)
    lines = [{"step": 1, "sample": "a", "ious": [0.1]}, {"step": 2, "sample": "a", "ious": [0.2, 1]}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"sample": "b", "io')
    assert read_records(tmp_path / "run") == read_records(file) == {"a": [0.2, 1.0]}
    with pytest.raises(UserError, match=r"a run writes rollouts/ious.jsonl if its reward draws masks"):
        read_records(tmp_path)


def test_evaluations_give_one_answer_each(pipeline, held_out, tmp_path):
    to_parquet(held_out[:2], tmp_path / "data" / "train.parquet")
    records = Records(get_benchmark("own").find(tmp_path / "data"))
    for name, tokens in (("long", 200), ("cut", 3)):
        run_evaluation(records, tmp_path / name, replace(pipeline, sampling=Sampling(max_tokens=tokens)))
    found = read_answers([tmp_path / "long", tmp_path / "cut"])
    assert [len(found[sample.id]) for sample in held_out[:2]] == [2, 2]
    assert found[held_out[0].id][0] > found[held_out[0].id][1] == 0.0


@pytest.mark.parametrize("line", ["[]", "{", '{"ious": [0.1]}', '{"sample": "a", "ious": [2]}', '{"sample": 3}'])
def test_odd_lines_are_refused(tmp_path, line):
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1: it holds no sample"):
        read_records(tmp_path / "x.jsonl")


def test_answers_are_sampled_once_and_failures_are_counted(pipeline, held_out, tmp_path):
    short = replace(pipeline, sampling=Sampling(max_tokens=160))
    broken = replace(held_out[2], image=b"no picture")
    unmasked = replace(held_out[3], objects=(Object((0, 0, 9, 9)),))
    samples, file = [*held_out[:2], broken, unmasked], tmp_path / "answers.jsonl"
    counts: list[int] = []
    ask_samples(short, samples[:1], 3, file, counts.append)
    with file.open("ab") as torn:
        torn.write(b'{"sample": "' + samples[1].id.encode())
    ask_samples(short, samples, 3, file, counts.append)
    assert counts == [0, 1, 1, 4]
    rows = [json.loads(line) for line in file.read_text().splitlines()][1:]
    assert len(rows) == 4 and len({row["sample"] for row in rows}) == 4
    problems = {row["sample"]: row["problem"] for row in rows if "problem" in row}
    assert set(problems) == {broken.id, unmasked.id} and "no masks" in problems[unmasked.id]
    found = read_records(file)
    assert found[broken.id] == [] and len(found[samples[0].id]) == 3
    assert max(found[samples[0].id] + found[samples[1].id]) > 0.6
    with pytest.raises(UserError, match="of another policy, or sampled otherwise"):
        ask_samples(short, samples, 4, file)


def test_command_line(run_segzero, held_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_parquet(held_out[:8], tmp_path / "data" / "train.parquet")
    command = ("data", "select", "--data", "data", "--out", "chosen.parquet")
    for wrong, message in (
        (command, "say how to select"),
        ((*command[:-1], "chosen", "--frontier"), "name a .parquet file"),
        ((*command, "--frontier", "--right", 0.9), "thresholds must rise"),
        ((*command, "--frontier", "--mask-model", "tiny"), "one answer to a question"),
    ):
        code, _, err = run_segzero(*wrong)
        assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "chosen.parquet").exists() and not (tmp_path / "chosen.answers.jsonl").exists()
    loose = ("--frontier", "--keep-mastered", 9, "--keep-hopeless", 9, "--fine", 0.97)
    code, out, err = run_segzero(*command, *loose, "--answers", 3, "--max-tokens", 200)
    assert code == 0, err
    assert "all" in out and "segzero data select chosen.answers.jsonl --frontier" in out
    chosen = [sample.id for sample in from_parquet(tmp_path / "chosen.parquet")]
    again = ("data", "select", "chosen.answers.jsonl", "--data", "data", "--out", "again.parquet", *loose)
    assert run_segzero(*again)[0] == 0
    assert [sample.id for sample in from_parquet(tmp_path / "again.parquet")] == chosen
