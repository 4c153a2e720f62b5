"""Benchmarks of configs/eval, each evaluated with the shipped models, and the records of their data."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segzero.data.parquet import to_parquet
from segzero.data.readers import READERS
from segzero.errors import UserError
from segzero.evaluation.benchmarks import OWN, Records, Task, Unreadable, get_benchmark, load_benchmarks, survey
from segzero.evaluation.figures import summarise
from segzero.evaluation.predict import answer, with_cache
from segzero.evaluation.predictions import PREDICTIONS
from segzero.evaluation.scoring import PredictedObject, score_sample
from segzero.evaluation.side_by_side import folder_of
from segzero.sample import Object, Sample
from tests.helpers.benchmark_files import write_all
from tests.helpers.evaluating import run_evaluation

EVERY = [name for name in load_benchmarks() if name != OWN]
# Where the fixture has more than one sample, or some without a target.
SAMPLES = {"grefcoco_val": 2, "grefcoco_testA": 2, "grefcoco_testB": 2, "grefcoco_val_all_seg_zero": 2}
SAMPLES |= {"muse_val": 2, "muse_test_few": 2, "muse_test_many": 2, "reasonseg_x_val": 2, "reasonseg_x_test": 2}
SAMPLES |= {"coco_val2017": 2, "lvis_val": 3} | {name: 2 for name in EVERY if name.startswith(("mr_", "regiondial_"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cached(pipeline, tmp_path_factory):
    """The shipped models; the benchmarks' fixtures share images and questions, which are answered once."""
    return with_cache(pipeline, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", [*EVERY, OWN])
def test_an_entry_says_how_it_is_read(name):
    benchmark = get_benchmark(name)
    assert benchmark.reader in (*READERS, OWN)
    assert benchmark.level in ("expression", "instance", "question", "category", "image", "round")
    assert bool(benchmark.path) != bool(benchmark.hub)
    assert benchmark.ignore and benchmark.note
    figures = [value for model in benchmark.published.values() for value in model.values()]
    assert all(1 < value < 100 for value in figures)  # percent


@pytest.mark.parametrize("name", EVERY)
def test_every_benchmark_is_evaluated(name, root, cached, tmp_path):
    assert get_benchmark(name).is_at(root)
    task = get_benchmark(name).find(root)
    records = Records(task)
    count, problems, dialogues = survey(records)
    assert (count, problems, dialogues) == (SAMPLES.get(name, 1), [], task.benchmark.level == "round")
    history = "true" if dialogues else None
    metrics = run_evaluation(records, tmp_path, cached, history=history)
    lines = [json.loads(line) for line in (folder_of(tmp_path, history) / PREDICTIONS).read_text().splitlines()]
    assert len(lines) == metrics["samples"] == count
    assert [line["id"] for line in lines] == [record.id for record in task.read()]
    assert all(line["raw_text"] for line in lines)
    if name.startswith("counting"):
        assert metrics["figures"]["count_exact"]["of"] == 1
    elif name != "coco_val_seg_zero":  # which has boxes and no masks
        assert metrics["figures"]["giou"]["of"] == count
    assert metrics["protocol"]["level"] == task.benchmark.level
    assert ("average_precision" in metrics) == (task.benchmark.level == "category")
    if task.benchmark.level == "round":
        assert set(metrics["by_round"]) == {"1", "2"}


def test_reason_seg_asks_its_first_text_and_leaves_ignored_pixels_out(root):
    [sample] = get_benchmark("reasonseg_val").find(root).read()
    assert isinstance(sample, Sample)
    assert sample.question == "the thing to sit on" and sample.ignore is not None


def test_reason_seg_x_has_figures_for_each_reasoning_type(root, cached, tmp_path):
    metrics = run_evaluation(get_benchmark("reasonseg_x_test").find(root), tmp_path, cached)
    assert set(metrics["by_concept"]) == {"C/R", "P/F"}


def test_data_in_other_places_and_unknown_names(tmp_path):
    with pytest.raises(UserError, match="did you mean 'reasonseg_test'"):
        get_benchmark("reasonseg_tset")
    with pytest.raises(UserError, match="--data names the folder that holds reason_seg/ReasonSeg"):
        get_benchmark("reasonseg_val").find(tmp_path)
    assert not get_benchmark("reasonseg_val_seg_zero").is_at(tmp_path)
    (tmp_path / "ReasonSeg_val").mkdir()
    assert get_benchmark("reasonseg_val_seg_zero").find(tmp_path).source == str(tmp_path / "ReasonSeg_val")


def test_records_that_cannot_be_read_are_samples_too(tmp_path):
    folder = tmp_path / "items"
    folder.mkdir()
    item = {"id": "1", "image": "absent.jpg", "mask": "absent.png", "prompt": "the cat"}
    (folder / "items.json").write_text(json.dumps({"items": [item, item | {"id": "2"}]}))
    task = Task(load_benchmarks()["converseg_sam_seeded"], str(folder / "items.json"))
    task = Task(type(task.benchmark)("mine", "converseg", "question", "none"), task.source)
    first, second = task.read()
    assert isinstance(first, Unreadable) and isinstance(second, Unreadable)
    assert (first.id, second.id) == ("unreadable-0", "unreadable-1") and "absent.jpg" in first.problem
    assert survey(task.read()).samples == 2 and len(list(Task(task.benchmark, task.source, limit=1).read())) == 1


def test_own_samples_with_one_id_are_refused(tmp_path, held_out):
    to_parquet([held_out[0], held_out[0]], tmp_path / "a.parquet")
    with pytest.raises(UserError, match="two samples have the id"):
        survey(get_benchmark(OWN).find(tmp_path).read())


def test_own_masks_that_are_no_masks_of_the_image_are_listed(tmp_path, held_out):
    good = held_out[0]
    wide = replace(good, id="wide", width=9)
    bomb = replace(good, id="bomb", objects=(Object((0, 0, 1, 1), rle={"size": [2**30, 2**30], "counts": "0"}),))
    table = pq.read_table(to_parquet([good, wide], tmp_path / "data" / "a.parquet"))
    rows = table.to_pylist()
    rows.append(rows[0] | {"id": "bomb", "objects": [rows[0]["objects"][0] | {"rle": bomb.objects[0].rle}]})
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "data" / "a.parquet")
    count, problems, _ = survey(get_benchmark(OWN).find(tmp_path / "data").read())
    assert count == 3 and [problem.split(":")[0] for problem in problems] == ["sample 'wide'", "sample 'bomb'"]


def test_a_truth_that_cannot_be_scored_is_refused_before_a_model_is_loaded(tmp_path, held_out):
    to_parquet([replace(held_out[0], meta={"count": "many"})], tmp_path / "a.parquet")
    with pytest.raises(UserError, match="its count must be a whole number"):
        survey(get_benchmark(OWN).find(tmp_path).read())


def test_an_unreadable_record_lowers_the_mean(cached, held_out, tmp_path):
    record = Unreadable("unreadable-0", "it makes no sense")
    [(failed, lost), (answered, _)] = answer(cached, [record, held_out[0]])
    assert answered.score is not None and answered.error is None
    assert failed.score is not None and failed.score.failed and lost.lost
    right = score_sample(held_out[0], [PredictedObject(held_out[0].objects[0].box, held_out[0].mask())])
    assert summarise([lost, right])["figures"]["giou"] == {"value": 0.5, "low": 0.0, "high": 1.0, "of": 2}


def test_small_data_are_read_once_by_any_number_of_passes(tmp_path, held_out):
    file = to_parquet(held_out[:3], tmp_path / "data" / "a.parquet")
    records = Records(get_benchmark(OWN).find(file.parent))
    assert next(iter(records)).id == held_out[0].id
    to_parquet(held_out[:4], file)
    assert len(list(records)) == 4  # an unfinished pass keeps nothing
    file.unlink()
    assert [record.id for record in records] == [sample.id for sample in held_out[:4]]


def test_large_data_are_not_kept(tmp_path, held_out):
    file = to_parquet(held_out[:3], tmp_path / "data" / "a.parquet")
    records = Records(get_benchmark(OWN).find(file.parent), kept_bytes=len(held_out[0].image) + 1)
    assert len(list(records)) == 3
    to_parquet(held_out[:2], file)
    assert len(list(records)) == 2
