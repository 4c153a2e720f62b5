"""The benchmarks of configs/eval: each loads, finds its data, and is evaluated by the shipped policy."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segzero.data.parquet import to_parquet
from segzero.data.readers import READERS
from segzero.errors import UserError
from segzero.evaluation.benchmarks import OWN, Task, Unreadable, get_benchmark, load_benchmarks
from segzero.evaluation.figures import summarise
from segzero.evaluation.html_report import folder_of
from segzero.evaluation.predict import answer, remember, settings_of
from segzero.evaluation.predictions import NAME
from segzero.evaluation.runner import evaluate, survey
from segzero.evaluation.scoring import Predicted, score_sample
from segzero.sample import Object, Sample
from tests.helpers.benchmark_files import write_all

EVERY = [name for name in load_benchmarks() if name != OWN]
# Where the fixture has more than one sample, or some without a target.
SAMPLES = {"grefcoco_val": 2, "grefcoco_testA": 2, "grefcoco_testB": 2, "grefcoco_val_all_seg_zero": 2}
SAMPLES |= {"coco_val2017": 2, "lvis_val": 3} | {name: 2 for name in EVERY if name.startswith(("mr_", "regiondial_"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def remembering(pipeline, tmp_path_factory):
    """The shipped models; the benchmarks' fixtures share images and questions, which are answered once."""
    return remember(pipeline, tmp_path_factory.mktemp("cache"))


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
def test_every_benchmark_is_evaluated(name, root, remembering, tmp_path):
    assert get_benchmark(name).is_at(root)
    task = get_benchmark(name).find(root)
    count, problems, dialogues = survey(task)
    assert (count, problems, dialogues) == (SAMPLES.get(name, 1), [], task.benchmark.level == "round")
    task = replace(task, history="true" if dialogues else None)
    metrics = evaluate(
        task,
        tmp_path,
        lambda chunks, history: (answer(remembering, chunk, history) for chunk in chunks),
        settings_of(remembering),
        2,
    )
    lines = [json.loads(line) for line in (folder_of(tmp_path, task.history) / NAME).read_text().splitlines()]
    assert len(lines) == metrics["samples"] == count
    assert [line["id"] for line in lines] == [item.id for item in task.read()]
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


def test_data_elsewhere_and_names_nobody_knows(tmp_path):
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
    assert survey(task)[0] == 2 and len(list(Task(task.benchmark, task.source, limit=1).read())) == 1


def test_own_samples_with_one_id_are_refused(tmp_path, held_out):
    to_parquet([held_out[0], held_out[0]], tmp_path / "a.parquet")
    with pytest.raises(UserError, match="two samples have the id"):
        survey(get_benchmark(OWN).find(tmp_path))


def test_own_masks_that_are_no_masks_of_the_image_are_listed(tmp_path, held_out):
    good = held_out[0]
    wide = replace(good, id="wide", width=9)
    bomb = replace(good, id="bomb", objects=(Object((0, 0, 1, 1), rle={"size": [2**30, 2**30], "counts": "0"}),))
    table = pq.read_table(to_parquet([good, wide], tmp_path / "data" / "a.parquet"))
    rows = table.to_pylist()
    rows.append(rows[0] | {"id": "bomb", "objects": [rows[0]["objects"][0] | {"rle": bomb.objects[0].rle}]})
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "data" / "a.parquet")
    count, problems, _ = survey(get_benchmark(OWN).find(tmp_path / "data"))
    assert count == 3 and [problem.split(":")[0] for problem in problems] == ["sample 'wide'", "sample 'bomb'"]


def test_a_truth_that_cannot_be_scored_is_refused_before_anything_is_asked(tmp_path, held_out):
    to_parquet([replace(held_out[0], meta={"count": "many"})], tmp_path / "a.parquet")
    with pytest.raises(UserError, match="its count must be a whole number"):
        survey(get_benchmark(OWN).find(tmp_path))


def test_an_unreadable_record_lowers_the_mean(remembering, held_out, tmp_path):
    item = Unreadable("unreadable-0", "it makes no sense")
    [failed, found] = answer(remembering, [item, held_out[0]])
    assert found.score is not None and found.error is None
    row, right = (
        failed.row(item),
        score_sample(held_out[0], [Predicted(held_out[0].objects[0].box, held_out[0].mask())]),
    )
    assert failed.score is not None and failed.score.failed
    assert summarise([row, right])["figures"]["giou"] == {"value": 0.5, "low": 0.0, "high": 1.0, "of": 2}
