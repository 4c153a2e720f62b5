"""`segzero eval`: its output, its files and its errors."""

import json
import shutil
from functools import partial

import pytest

from segzero.data.exports import export
from segzero.data.parquet import to_parquet
from segzero.evaluation.exports import file_stem
from tests.helpers.benchmark_files import write_all
from tests.helpers.reader_files import box_mask, jpeg, mask_png, write_json


@pytest.fixture
def run(run_segzero, monkeypatch, tmp_path):
    """Run `segzero eval ARGS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_segzero, "eval")


TINY = ("--policy-backend", "transformers", "--cache", "cache")


@pytest.mark.slow
def test_a_benchmark_again_with_another_prompt_and_compared(run, held_out, tmp_path):
    to_parquet(held_out[:3], tmp_path / "mine" / "test.parquet")
    code, out, _ = run("--benchmark", "own", "--data", "mine", *TINY, "--save_preds", "preds", "--output", "seg_zero")
    assert code == 0 and "3/3" in out and "giou" in out and "comes with SegZero" in out
    assert (tmp_path / "evaluation/own/output_0.json").is_file()
    assert (tmp_path / "preds" / f"{file_stem(held_out[0].id)}_panel.png").is_file()
    answers = len(list((tmp_path / "cache/answers").rglob("*.json")))
    assert answers == 3

    code, _, complaint = run("--benchmark", "own", "--data", "mine", *TINY, "--prompt", "vision_reasoner")
    assert code == 2 and complaint.count("\n") == 1 and "its prompt is multi, now it is vision_reasoner" in complaint
    code, *_ = run("--benchmark", "own", "--data", "mine", *TINY, "--prompt", "vision_reasoner", "--out", "other")
    assert code == 0

    code, out, _ = run("compare", "evaluation/own", "other/own", "--out", "both.json")
    assert code == 0 and "3 samples" in out and "giou" in out and "samples changed" in out
    assert json.loads((tmp_path / "both.json").read_text())["samples"] == 3
    before = (tmp_path / "evaluation/own/metrics.json").read_bytes()
    (tmp_path / "mine").rename(tmp_path / "moved")
    code, out, _ = run("rescore", "evaluation/own", "--data", "moved")
    assert code == 0 and (tmp_path / "evaluation/own/metrics.json").read_bytes() == before


def test_convseg_json_and_a_record_that_cannot_be_read(run, tmp_path):
    jpeg(tmp_path / "images/1.jpg")
    mask_png(tmp_path / "masks/1.png", box_mask(1, 1, 4, 4))
    item = {"id": "1", "image": "images/1.jpg", "mask": "masks/1.png", "prompt": "a rail", "concept": "affordances"}
    absent = item | {"image": "images/2.jpg"}
    write_json(tmp_path / "items.json", {"items": [absent]})
    code, _, complaint = run("--input_json", "items.json", *TINY)
    assert code == 2 and "items: none of the 1 records can be read, the first: " in complaint
    write_json(tmp_path / "items.json", {"dataset": "d", "count": 2, "items": [item, absent]})
    code, out, _ = run("--input_json", "items.json", *TINY)
    assert code == 0 and "items: 1 of 2 records can't be read and count as failed" in out
    assert "images/2.jpg" in out
    metrics = json.loads((tmp_path / "evaluation/items/metrics.json").read_text())
    assert metrics["samples"] == 2 and metrics["errors"]["unreadable"]["count"] == 1
    code, _, complaint = run("--input_json", "items.json", *TINY, "--strict", "--out", "strict")
    assert code == 2 and "--strict" in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "strict").exists()


def test_options_are_kept_and_read_back(run, held_out, tmp_path):
    to_parquet(held_out[:2], tmp_path / "mine" / "test.parquet")
    assert run("--benchmark", "own", "--data", "mine", *TINY, "--max-tokens", 300, "--strict")[0] == 0
    file = tmp_path / "evaluation/own/options.json"
    written = file.read_bytes()
    kept = json.loads(written)
    given = {"benchmark": "own", "data": "mine", "max_tokens": 300, "strict": True, "cache": "cache"}
    assert given.items() <= kept.items() and kept["batch"] == 16 and kept["policy"] is None

    code, out, _ = run("--options", file, "--batch", 4)
    assert code == 0 and "2 samples are finished already" in out
    assert file.read_bytes() == written  # of the evaluation that was begun
    assert run("--options", file, "--limit", 1, "--out", "first")[0] == 0
    changed = json.loads((tmp_path / "first/own/options.json").read_text())
    assert changed == kept | {"limit": 1, "out": "first"}
    assert json.loads((tmp_path / "first/own/run.json").read_text())["settings"]["max_tokens"] == 300
    assert json.loads((tmp_path / "first/own/metrics.json").read_text())["samples"] == 1


def test_own_data_in_another_format(run, held_out, tmp_path):
    """SegZero's own export as COCO, read back: categories of images, with average precision."""
    to_parquet(held_out[:2], tmp_path / "mine" / "test.parquet")
    export(tmp_path / "mine", "coco", tmp_path / "coco")
    options = ("--format", "coco", "--option", "images=coco/images")
    code, out, _ = run("--benchmark", "own", "--data", "coco/instances.json", *options, *TINY)
    assert code == 0 and "2/2" in out
    metrics = json.loads((tmp_path / "evaluation/own/metrics.json").read_text())
    assert metrics["samples"] == 2 and metrics["average_precision"]
    assert metrics["protocol"]["reader"] == "coco" and metrics["protocol"]["level"] == "category"


@pytest.mark.slow
def test_convsegs_hub_mode_and_all_benchmarks_that_are_there(run, tmp_path):
    write_all(tmp_path / "root")
    code, *_ = run("--hf_dataset", "root/aadarsh99/ConverSeg", "--hf_config", "default", *TINY)
    assert code == 0
    for split in ("sam_seeded", "human_annotated"):
        metrics = json.loads((tmp_path / f"evaluation/ConverSeg_{split}/metrics.json").read_text())
        assert metrics["samples"] == 1 and metrics["protocol"]["options"] == {"split": split}
    for name in ("lvis", "coco", "segllm", "regiondial", "refer_seg", "reason_seg", "muse", "MMR", "sj9909"):
        shutil.rmtree(tmp_path / "root" / name)
    code, out, err = run("--benchmark", "all", "--data", "root", *TINY, "--save-preds", "preds")
    assert code == 0, err
    assert "converseg_sam_seeded: 1 samples, while the published set has 1194" in out
    done = {path.name for path in (tmp_path / "preds").iterdir()}
    assert len(done) == 17 and {"converseg_sam_seeded", "coco_val_seg_zero"} <= done


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--benchmark", "reasonseg_tset"], "did you mean 'reasonseg_test'"),
        (["--benchmark", "reasonseg_test"], "no data of reasonseg_test at reason_seg/ReasonSeg"),
        (["--benchmark", "all"], "holds the data of no benchmark"),
        (["--benchmark", "own", "--data", "empty"], "must hold one of prompts.csv"),
        (["--benchmark", "own", "--data", "missing"], "no data of own at missing; --data names them"),
        (["--benchmark", "own", "--data", "good", "--format", "foldr"], "did you mean 'folder'"),
        (["--benchmark", "own", "--data", "empty", "--option", "split=val"], "--format and --option go together"),
        (["--benchmark", "reasonseg_test", "--data", "empty", "--format", "folder"], "no data of reasonseg_test"),
        (["--benchmark", "own", "--input_json", "bad.json"], "say what to evaluate"),
        (["--data", "."], "say what to evaluate"),
        (["--input_json", "missing.json"], "no such file: missing.json"),
        (["--input_json", "bad.json"], "bad.json: it is not JSON"),
        (["--input_json", "list.json"], "list.json: it must be an object"),
        (["--hf_dataset", "nobody/nothing"], "cannot get nobody/nothing from the hub"),
        (["--hf_dataset", "nobody/nothing", "--hf_splits", ","], "names no split"),
        (["--hf_dataset", "nobody/nothing", "--hf_config", "other"], "only the configuration 'default'"),
        (["--benchmark", "own", "--output", "segzreo"], "did you mean 'segzero'"),
        (["--benchmark", "own", "--history", "ture"], "did you mean 'true'"),
        (
            ["--benchmark", "own", "--data", "good", "--history", "predicted"],
            "no sample of own has earlier rounds; leave",
        ),
        (["--benchmark", "own", "--data", "good", "--policy", "no/such"], "no/such"),
        (["--benchmark", "own", "--data", "good", "--segmenter", "no/such"], "no/such"),
        (["--benchmark", "own", "--data", "good", "--prompt", "mutli"], "did you mean 'multi'"),
        (["--options", "missing.json"], "cannot read options from missing.json"),
        (["--options", "list.json"], "list.json holds no options"),
        (["compare", "empty", "good"], "no finished evaluation in empty"),
        (["rescore", "empty"], "no evaluation in empty"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, tmp_path, held_out, args, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    to_parquet(held_out[:1], tmp_path / "good" / "test.parquet")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(*args)
    assert code == 2
    assert err.startswith("segzero: ") and err.count("\n") == 1 and expected in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


def test_an_output_folder_that_cannot_be_one(run, tmp_path, held_out):
    to_parquet(held_out[:1], tmp_path / "mine" / "test.parquet")
    (tmp_path / "evaluation").write_text("a file stands where the folder should be")
    code, _, err = run("--benchmark", "own", "--data", "mine", *TINY)
    assert code == 2 and err.count("\n") == 1 and "evaluation" in err


@pytest.mark.slow
def test_dialogues_of_a_data_root(run, tmp_path):
    """Both histories beside each other, and a benchmark that knows of none as ever."""
    write_all(tmp_path / "root")
    names = ("regiondial_refcocog", "mr_refcoco", "refcoco_val")
    args = ("--benchmark", ",".join(names), "--data", "root", *TINY, "--save_preds", "preds")
    code, out, _ = run(*args, "--history", "true")
    assert code == 0 and "predicted" not in out
    code, out, _ = run(*args)  # both, one of which is finished
    assert code == 0 and "2 samples are finished already" in out
    assert "mr_refcoco: giou by round" in out and "mr_refcoco, predicted history" in out
    for name in names[:2]:
        folder = tmp_path / "evaluation" / name
        both = json.loads((folder / "metrics.json").read_text())
        assert list(both["by_round"]) == ["1", "2"] and set(both["by_round"]["2"]) == {"true", "predicted"}
        assert (folder / "report.html").is_file() and (folder / "predicted_history/report.html").is_file()
    assert (tmp_path / "evaluation/refcoco_val/predictions.jsonl").is_file()
    assert {path.name for path in (tmp_path / "preds/mr_refcoco").iterdir()} == {"true_history", "predicted_history"}
    assert (tmp_path / "preds/refcoco_val").is_dir()

    code, out, _ = run("compare", "evaluation/mr_refcoco", "evaluation/mr_refcoco", "--out", "both.json")
    assert code == 0 and set(json.loads((tmp_path / "both.json").read_text())) == {"true", "predicted"}
    code, out, _ = run("compare", *(f"evaluation/mr_refcoco/{each}_history" for each in ("true", "predicted")))
    assert code == 0 and "2 samples" in out
    before = (tmp_path / "evaluation/mr_refcoco/metrics.json").read_bytes()
    code, out, _ = run("rescore", "evaluation/mr_refcoco")
    assert code == 0 and "giou by round" in out
    assert (tmp_path / "evaluation/mr_refcoco/metrics.json").read_bytes() == before


@pytest.mark.slow
def test_two_workers_give_the_same_figures(run, held_out, tmp_path):
    to_parquet(held_out, tmp_path / "mine" / "test.parquet")
    assert run("--benchmark", "own", "--data", "mine", *TINY, "--out", "one")[0] == 0
    options = ("--policy-backend", "transformers", "--cache", "cache2", "--workers", 2, "--batch", 4, "--out", "two")
    assert run("--benchmark", "own", "--data", "mine", *options)[0] == 0
    one, two = ((tmp_path / name / "own/metrics.json").read_bytes() for name in ("one", "two"))
    assert json.loads(one)["figures"] == json.loads(two)["figures"]
    code, _, err = run("--benchmark", "own", "--data", "mine", *options[:-1], "three", "--policy", "no/such")
    assert code == 2 and "no/such" in err and err.count("\n") == 1
