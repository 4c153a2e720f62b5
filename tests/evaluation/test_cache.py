"""The cache of answers and masks: nothing is computed twice, and a damaged file is written anew."""

import json
from dataclasses import replace

import pytest

from segzero.data.parquet import to_parquet
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.predict import answer, with_cache
from segzero.evaluation.predictions import PREDICTIONS
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Sampling
from tests.helpers.evaluating import run_evaluation


@pytest.fixture
def task(held_out, tmp_path) -> Task:
    return get_benchmark("own").find(to_parquet(held_out[:6], tmp_path / "data" / "test.parquet").parent)


@pytest.mark.slow
def test_answers_and_masks_are_computed_once(task, recorded, tmp_path):
    first = run_evaluation(task, tmp_path / "a", with_cache(recorded, tmp_path / "cache"))
    drawn = len(recorded.segmenter.prompts)
    assert len(recorded.policy.requests) == 6 and recorded.segmenter.embedded == 6 and drawn > 0
    again = run_evaluation(task, tmp_path / "b", with_cache(recorded, tmp_path / "cache"), batch=4)
    assert again["figures"] == first["figures"]
    lines = [[json.loads(line) for line in (tmp_path / out / PREDICTIONS).read_text().splitlines()] for out in "ab"]
    assert [line | {"seconds": {}} for line in lines[0]] == [line | {"seconds": {}} for line in lines[1]]
    kept = [path for path in (tmp_path / "cache" / "masks").rglob("*.json") if path.name != "nothing.json"]
    assert len(recorded.policy.requests) == recorded.segmenter.embedded == 6
    assert len(recorded.segmenter.prompts) == drawn == len(kept)
    other = SegZeroPipeline(recorded.policy, recorded.segmenter, prompt="vision_reasoner")
    run_evaluation(task, tmp_path / "c", with_cache(other, tmp_path / "cache"))
    assert len(recorded.policy.requests) == 12  # another prompt gives other answers


@pytest.mark.slow
def test_a_damaged_cache_is_written_anew(task, recorded, tmp_path):
    first = run_evaluation(task, tmp_path / "a", with_cache(recorded, tmp_path / "cache"))
    drawn = len(recorded.segmenter.prompts)
    for number, path in enumerate(sorted((tmp_path / "cache").rglob("*.json"))):
        path.write_bytes((b'{"text": 1}', b'{"rle": {"size": [1, 1], "counts": "1"}, "score": 1}', b"")[number % 3])
    again = run_evaluation(task, tmp_path / "b", with_cache(recorded, tmp_path / "cache"))
    assert again["figures"] == first["figures"]
    assert len(recorded.policy.requests) == 12 and len(recorded.segmenter.prompts) == 2 * drawn


def test_an_image_with_two_questions_is_encoded_once(recorded, held_out, tmp_path):
    twice = [held_out[0], replace(held_out[0], id="again", question="the largest shape")]
    answer(with_cache(recorded, tmp_path / "cache"), twice)
    assert recorded.segmenter.embedded == 1 and len(recorded.policy.requests) == 2


def test_sampled_answers_are_not_kept(recorded, held_out, tmp_path):
    models = with_cache(SegZeroPipeline(recorded.policy, recorded.segmenter), tmp_path / "cache")
    models.sampling = Sampling(temperature=1.0, max_tokens=8)
    for _ in range(2):
        answer(models, [held_out[0]])
    assert len(recorded.policy.requests) == 2 and not (tmp_path / "cache/answers").exists()
