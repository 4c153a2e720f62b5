"""`segzero infer` and `segzero segment`: their output, their files, and their errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from segzero.batch_inference import jobs_from


@pytest.fixture
def run(run_segzero, monkeypatch, tmp_path):
    """Run `segzero ARGS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run_segzero


@pytest.fixture
def scene(tmp_path, held_out):
    """A held-out scene as a file, and its question."""
    path = tmp_path / "scene.png"
    path.write_bytes(held_out[0].image)
    return path, held_out[0].question


def test_infer_writes_the_wanted_formats(run, scene, tmp_path):
    path, question = scene
    code, out, _ = run("infer", path, question, "--format", "panel,mask,json,coco", "--policy-backend", "transformers")
    assert code == 0 and "1 of 1 done" in out and "comes with SegZero" in out
    assert {p.name for p in (tmp_path / "outputs").iterdir()} == {
        "scene_panel.png", "scene_mask.png", "scene.json", "coco.json",
    }  # fmt: skip
    answer = json.loads((tmp_path / "outputs" / "scene.json").read_text())
    assert answer["question"] == question and answer["think"]
    coco = json.loads((tmp_path / "outputs" / "coco.json").read_text())
    assert len(coco["images"]) == 1 and len(coco["annotations"]) == len(answer["instances"])


def test_infer_counts_the_images_it_cannot_read(run, scene, tmp_path):
    path, question = scene
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "a.png")
    (tmp_path / "folder" / "b.jpg").write_bytes(b"not a picture")
    code, out, _ = run("infer", "folder", question, "--policy-backend", "transformers")
    assert code == 2 and "1 of 2 done" in out and "b: not done" in out
    assert (tmp_path / "outputs" / "a.json").exists() and not (tmp_path / "outputs" / "b.json").exists()


def test_infer_reads_a_file_of_questions(run, scene, tmp_path):
    path, _ = scene
    lines = [{"image": path.name, "question": "the largest shape"}, {"image": path.name, "prompt": "the red circle"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("infer", "--questions", "q.jsonl", "--format", "json", "--policy-backend", "transformers")
    assert code == 0 and "2 of 2 done" in out
    assert json.loads((tmp_path / "outputs" / "scene_2.json").read_text())["question"] == "the red circle"


def test_infer_writes_every_answer_to_a_file_of_its_own(run, scene, tmp_path):
    path, question = scene
    names = ["a.png", "A.jpg", "a.jpg", "a_2.png", "coco.png", f"{'ö' * 120}.png", f"{'ö' * 110}x.png"]
    (tmp_path / "many").mkdir()
    for name in names:
        (tmp_path / "many" / name).write_bytes(path.read_bytes())
    code, out, _ = run("infer", "many", question, "--format", "panel,json,coco", "--policy-backend", "transformers")
    assert code == 0 and "7 of 7 done" in out
    written = [file.name for file in (tmp_path / "outputs").glob("*.json")]
    assert len({name.casefold() for name in written}) == len(names) + 1
    assert len(json.loads((tmp_path / "outputs" / "coco.json").read_text())["images"]) == len(names)
    assert len(list((tmp_path / "outputs").glob("*_panel.png"))) == len(names)


def test_infer_goes_on_when_one_result_cannot_be_written(run, scene, tmp_path):
    path, question = scene
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "outputs" / "a.json").mkdir(parents=True)  # stands where the file should be
    code, out, _ = run("infer", "[ab].png", question, "--format", "json,coco", "--policy-backend", "transformers")
    assert code == 2 and "1 of 2 done" in out and "a: not done: cannot write" in out
    assert json.loads((tmp_path / "outputs" / "b.json").read_text())["question"] == question
    [image] = json.loads((tmp_path / "outputs" / "coco.json").read_text())["images"]
    assert image["file_name"] == "b.png"


def test_infer_prints_names_and_problems_as_they_are(run, scene, tmp_path):
    _, question = scene
    lines = [{"image": "[/red]:cat:[.png", "question": question}, {"image": "half \ud83d.png", "question": question}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out_folder = "[/bold]"
    code, out, _ = run("infer", "--questions", "q.jsonl", "--out", out_folder, "--policy-backend", "transformers")
    assert code == 2 and "0 of 2 done; files in [/bold]/" in out
    assert "no such image: [/red]:cat:[.png" in out and "half \\ud83d.png" in out


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("x" * 200, "x" * 200),
        ("x" * 250, "x" * 200),
        ("ö" * 101, "ö" * 100),
        ("x" + "ö" * 100, "x" + "ö" * 99),  # the hundredth would be cut in two
        ("x" + "🐈" * 50, "x" + "🐈" * 49),
    ],
    ids=["fits", "long", "even", "odd", "four bytes"],
)
def test_long_names_are_cut_between_two_letters(stem, name, tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": f"{stem}.png", "question": "the cat"}) + "\n")
    [job] = jobs_from(tmp_path / "q.jsonl")
    assert job.name == name


def test_names_of_the_same_image_are_counted(tmp_path):
    images = ["a.png"] * 3 + ["a_3.png", "A.png", "COCO.png", "e\u0301.png", "\u00e9.png"]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"image": i, "question": "the cat"}) for i in images))
    names = [job.name for job in jobs_from(tmp_path / "q.jsonl")]
    assert names == ["a", "a_2", "a_3", "a_3_2", "A_4", "COCO_2", "e\u0301", "\u00e9_2"]


def test_segment_draws_every_reading(run, scene, tmp_path, held_out):
    path, _ = scene
    x, y = held_out[0].objects[0].points[0]
    code, out, _ = run("segment", path, "--point", f"{x},{y}", "--point", "-1,1", "--all-masks", "--format", "mask")
    assert code == 0 and out.count("predicted IoU") == 3
    area = (sum(Image.open(tmp_path / "outputs" / f"scene_{k}_mask.png").histogram()[255:]) for k in (1, 2, 3))
    assert all(count > 0 for count in area)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["infer"], "give IMAGES"),
        (["infer", "scene.png"], "give IMAGES"),
        (["infer", "scene.png", "   ?"], "question is empty"),
        (["infer", "missing.png", "the cat"], "missing.png"),
        (["infer", "scene.png", "the cat", "--format", "panle"], "did you mean 'panel'"),
        (["infer", "scene.png", "the cat", "--policy-backend", "vlm"], "vllm"),
        (["infer", "scene.png", "the cat", "--segmenter-backend", "sam"], "sam2"),
        (["infer", "scene.png", "the cat", "--policy", "no/such/folder"], "no/such/folder"),
        (["infer", "scene.png", "the cat", "--segmenter", "no/such/folder"], "no/such/folder"),
        (["infer", "scene.png", "the cat", "--prompt", "mutli"], "did you mean 'multi'"),
        (["infer", "scene.png", "the cat", "--frame", "stretch(x)"], "unknown frame"),
        (["infer", "--questions", "missing.jsonl"], "missing.jsonl"),
        (["infer", "--questions", "bad.jsonl"], "bad.jsonl, line 2"),
        (["segment", "scene.png"], "nothing to draw"),
        (["segment", "scene.png", "--point", "3"], "--point 3"),
        (["segment", "scene.png", "--point", "nan,3"], "--point nan,3"),
        (["segment", "scene.png", "--point", "9999,3"], "outside the image"),
        (["segment", "scene.png", "--point", "-3,3"], "negative"),
        (["segment", "scene.png", "--box", "9,9,3,3"], "x1 must be above x0"),
        (["segment", "scene.png", "--max-pixels", "100", "--point", "1,1"], "scene.png"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, scene, tmp_path, args, expected):
    (tmp_path / "bad.jsonl").write_text('{"image": "scene.png", "question": "the cat"}\n["scene.png"]\n')
    before = sorted(tmp_path.iterdir())
    code, _, err = run(*args)
    assert code == 2
    assert err.startswith("segzero: ") and err.count("\n") == 1 and expected in err
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def test_a_full_or_forbidden_folder_is_one_line(run, scene, tmp_path):
    path, question = scene
    (tmp_path / "outputs").write_text("a file stands where the folder should be")
    code, _, err = run("infer", path, question, "--policy-backend", "transformers")
    assert code == 2 and "outputs" in err and err.count("\n") == 1


@pytest.mark.slow
def test_the_script_takes_seg_zeros_flags(scene, tmp_path):
    path, question = scene
    script = Path(__file__).parents[2] / "inference_scripts" / "infer.py"
    command = [sys.executable, script, "--image_path", path, "--text", question, "--output_path", "answer.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    thinking, answer, picture = done.stdout.splitlines()
    assert thinking.startswith("Thinking process: ") and answer.startswith("Answer: [(")
    assert picture == "Picture: answer.png" and Image.open(tmp_path / "answer.png").width > 300
    command[3] = "absent.png"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "infer.py: no such image: absent.png; check the path\n")
