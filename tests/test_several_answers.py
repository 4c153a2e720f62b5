"""Several answers to one question, through the shipped models."""

import json
from dataclasses import replace

import pytest

from segzero.answer import Answer, Instance
from segzero.data.parquet import to_parquet
from segzero.evaluation.benchmarks import Records, get_benchmark
from segzero.evaluation.predict import answer, with_cache
from segzero.pipeline import Query, SegZeroPipeline
from segzero.policy import Sampling
from segzero.several_answers import SeveralAnswersPipeline, notes_of, sample_outputs
from segzero.votes import VoteSettings
from tests.helpers.evaluating import run_evaluation


@pytest.fixture(scope="module")
def short(pipeline) -> SegZeroPipeline:
    """The shipped models with short answers, for what needs no good ones."""
    return replace(pipeline, sampling=Sampling(max_tokens=48))


def texts(outputs) -> list[str]:
    return [output.text for output in outputs]


def test_sampled_answers_do_not_depend_on_the_batch(short, held_out):
    queries = [Query(sample.open(), sample.question) for sample in held_out[:3]]
    together = list(map(texts, sample_outputs(short, queries, 3, 1.0)))
    alone = [texts(outputs) for query in reversed(queries) for outputs in sample_outputs(short, [query], 3, 1.0)]
    assert together == alone[::-1]
    assert len({text for outputs in together for text in outputs}) > 3
    [four] = sample_outputs(short, queries[:1], 4, 1.0)
    assert texts(four)[:3] == together[0]
    other = replace(short, sampling=replace(short.sampling, seed=1))
    assert list(map(texts, sample_outputs(other, queries[:1], 3, 1.0))) != together[:1]


def test_votes_answer_as_well_as_one_greedy_answer(pipeline, held_out):
    voting = SeveralAnswersPipeline(pipeline, VoteSettings(answers=4))
    rows = [row for _, row in answer(voting, held_out[:4])]
    assert sum(row.score.iou for row in rows) / 4 > 0.5
    [result] = voting([held_out[0].open()], [held_out[0].question])
    assert result.presence is not None and result.timings["policy"] > 0
    assert (result.union == voting.answer(Query(held_out[0].open(), held_out[0].question), None).union).all()
    assert voting.settings["decoding"] == "4 votes at temperature 1.0" and voting.settings["votes"]["answers"] == 4


def test_own_attempts_are_read_in_the_prompt(short, held_out, monkeypatch):
    asked = []
    generate = short.policy.generate
    monkeypatch.setattr(
        type(short.policy),
        "generate",
        lambda self, requests, sampling: asked.append(requests) or generate(requests, sampling),
    )
    reading = SeveralAnswersPipeline(short, own_attempts=3)
    [result] = reading.run([Query(held_out[0].open(), held_out[0].question, notes="Earlier rounds: none.")])
    assert [len(requests) for requests in asked] == [3, 1]
    text = asked[1][0].messages[1]["content"][-1]["text"]
    assert text.startswith("Earlier rounds: none.\nEarlier attempts at this question") and " of 3: " in text
    assert result.question == held_out[0].question and reading.settings["own_attempts"] == 3


def test_notes_list_each_attempt_once_and_few_objects():
    one = Answer("because", (Instance((1, 2, 30, 40), ((5, 6),)),))
    crowd = Answer("", tuple(Instance((n, 0, n + 1, 9), ((n, 1),)) for n in range(40)))
    lines = notes_of([one, Answer(error="not_json"), replace(one, think="other"), crowd], "multi").splitlines()
    assert lines[1] == '2 of 4: [{"bbox_2d": [1,2,30,40], "point_2d": [5,6]}]'
    assert lines[2] == "1 of 4: no readable answer"
    assert lines[3].count("bbox_2d") == 12 and "because" not in "".join(lines)


def test_an_evaluation_keeps_sampled_answers_and_goes_on(short, held_out, tmp_path):
    to_parquet(held_out[:4], tmp_path / "data" / "val.parquet")
    records = Records(get_benchmark("own").find(tmp_path / "data"))
    voting = SeveralAnswersPipeline(with_cache(short, tmp_path / "cache"), VoteSettings(answers=2))
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(records, tmp_path / "stopped", voting, batch=3, stop_after=1)
    whole = run_evaluation(records, tmp_path / "whole", voting, batch=1)
    rest = run_evaluation(records, tmp_path / "stopped", voting, batch=3)
    assert whole["figures"] == rest["figures"] and whole["protocol"]["votes"]["answers"] == 2
    cached = list((tmp_path / "cache" / "answers").rglob("*.json"))
    assert len(cached) == 2 * 4  # each answer once, whatever the batches


def test_command_lines(run_segzero, held_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held_out[0].open().save("scene.png")
    code, out, _ = run_segzero("infer", "scene.png", held_out[0].question, "--votes", 2, "--max-tokens", 200)
    assert code == 0 and "1 of 1 done" in out
    assert "presence" in json.loads((tmp_path / "outputs/scene.json").read_text())
    for command in (("infer", "scene.png", "x"), ("eval", "--benchmark", "own", "--data", ".")):
        code, _, err = run_segzero(*command, "--votes", 1)
        assert code == 2 and "a single answer can't vote" in err and err.count("\n") == 1
        code, _, err = run_segzero(*command, "--votes", 4, "--mask-model", "tiny")
        assert code == 2 and "leave --votes out" in err
    code, _, err = run_segzero("eval", "--benchmark", "own", "--data", ".", "--votes", 4, "--program-writer", "scenes")
    assert code == 2 and "leave --program-writer out" in err


def test_eval_with_votes_is_another_protocol(run_segzero, held_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_parquet(held_out[:2], tmp_path / "data" / "val.parquet")
    command = ("eval", "--benchmark", "own", "--data", "data", "--out", "out", "--cache", "cache", "--max-tokens", 32)
    assert run_segzero(*command, "--votes", 2, "--own-attempts", 2)[0] == 0
    protocol = json.loads((tmp_path / "out/own/metrics.json").read_text())["protocol"]
    assert protocol["own_attempts"] == 2 and protocol["votes"]["object_share"] == 0.2
    code, _, err = run_segzero(*command)
    assert code == 2 and "other settings" in err
