"""Runs of programs with the shipped models: values, traces, failures with their lines, and pipelines of programs."""

import json
import re
from html import escape

import pytest

from segzero.errors import UserError
from segzero.mask_pipeline import MaskPipeline
from segzero.masks import mask_iou
from segzero.pipeline import Query
from segzero.programs import ProgramLimits, ProgramWriter, Trace, run_program
from segzero.programs.pipeline import ProgramPipeline
from segzero.programs.run import PipelineModels
from segzero.programs.trace import PROGRAM_ERROR
from segzero.programs.values import ProgramError
from segzero.segmenter.everything import PRESETS, EverythingSettings
from segzero.tiny.scripted_writer import ScriptedWriter
from segzero.words import find_words
from tests.helpers.recording import RecordingModel

FEW = EverythingSettings(points_per_side=4, stability_thresh=0.5)
PROGRAM = """# large things, and what lies around them
A=FIND("all shapes")
B=LARGEST(A)
C=CROP(B, 0.2)
D=FIND("the largest shape", image=C)
E=SEGMENT(BOXES(B))
F=SEGMENT(POINTS(B))
G=ASK("the largest shape")
RESULT(UNION(UNION(B, D), UNION(E, UNION(F, G))))"""


@pytest.fixture(scope="module")
def image(held_out):
    return held_out[0].open()


@pytest.fixture(scope="module")
def trace(pipeline, image):
    return run_program(pipeline, image, PROGRAM)


def test_the_result_is_one_of_the_objects(trace, pipeline, image):
    assert trace.problem == "" and trace.type == "Masks" and not trace.segmentation.error
    [largest] = {row.step.name: row for row in trace.rows}["B"].value
    found = find_words(pipeline, image, ["all shapes"])[0]
    assert largest.area == max(int(one.mask.sum()) for one in found)
    values = {row.step.name: row.value for row in trace.rows}
    for name in "EF":  # drawn in its box, and at its deepest point
        assert mask_iou(values[name][0].mask, largest.mask) > 0.5, name
    x0, y0, x1, y1 = values["C"].box
    assert values["D"] and all(x0 <= one.bounds[0] and one.bounds[3] <= y1 for one in values["D"])
    assert (x1 - x0, y1 - y0) == values["C"].image.size < image.size
    assert trace.rows[-1].value[0] is largest and len(trace.segmentation) == len(trace.value)
    assert all(one.mask.shape == (image.height, image.width) for one in trace.segmentation)


def test_the_trace_tells_each_step(trace, tmp_path):
    content = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert [step["line"] for step in content["steps"]] == [2, 3, 4, 5, 6, 6, 7, 7, 8, 9, 9, 9, 9, 9]
    assert content["steps"][2]["type"] == "Image" and content["steps"][2]["value"]["box"]
    assert all(step["milliseconds"] >= 0 and step["summary"] for step in content["steps"])
    assert content["steps"][8]["note"], "the policy's thinking"
    assert content["error"] is None and content["result"] == content["steps"][-1]["value"]
    files = trace.save(tmp_path, "a<b>")
    page = files["html"].read_text()
    assert page.count("<img") == 1 + len(trace.rows) and "http" not in page.replace("data:image", "")
    assert "FIND(&quot;all shapes&quot;)" in page and json.loads(files["json"].read_text()) == content
    assert page.count("<tr>") == 1 + len(trace.rows)
    assert trace.sheet(3, 100).size == (300, 3 * 160)  # six steps with a name and pixels, and the result


def test_a_trace_can_be_read_back(trace, image):
    again = Trace.from_dict(json.loads(json.dumps(trace.to_dict())), image)
    assert again.to_dict() | {"seconds": 0} == trace.to_dict() | {"seconds": 0}
    assert (again.segmentation.union == trace.segmentation.union).all()


@pytest.mark.parametrize(
    "change",
    [
        {"program": "RESULT(1)"}, {"program": "import os"}, {"steps": []}, {"steps": 3}, {"attempts": None},
        {"steps": [{"value": [{"rle": {"size": [9, 9], "counts": "0o"}, "score": 1, "box": [1, 2, 3, 4]}],
                    "milliseconds": 1, "note": ""}], "error": {"message": "x", "line": 1}},
    ],
)  # fmt: skip
def test_a_trace_that_makes_no_sense_is_refused(trace, image, change):
    with pytest.raises(UserError, match="this is no trace of a program"):
        Trace.from_dict(trace.to_dict() | change, image)


def test_phrases_are_asked_together_and_the_picture_is_encoded_once(pipeline, image):
    policy, segmenter = RecordingModel(pipeline.policy), RecordingModel(pipeline.segmenter)
    program = 'A=FIND("all circles")\nB=FIND("all rings", IMAGE)\nRESULT(UNION(A, UNION(B, FIND("all circles"))))'
    run = run_program(pipeline.with_models(policy, segmenter), image, program)
    assert len(policy.requests) == 2 and segmenter.embedded == 1
    assert len({len(row.value) for row in run.rows if row.step.text == 'FIND("all circles")'}) == 1


def test_everything_finds_masks_of_the_whole_and_of_a_part(pipeline, image):
    program = "A=EVERYTHING()\nB=CROP([[0, 0, 112, 112]], 0)\nRESULT(EVERYTHING(B))"
    run = run_program(pipeline, image, program, everything=FEW)
    assert len(run.rows[0].value) > 1 and len(run.value) > 0
    assert all(one.bounds[2] <= 112 and one.bounds[3] <= 112 for one in run.value)


def test_numbers_and_words_are_results_without_masks(pipeline, image):
    counted = run_program(pipeline, image, 'RESULT(COUNT(FIND("all shapes")))')
    assert counted.type == "Number" and counted.value >= 1 and counted.rows[-1].summary == f"{counted.value:g}"
    assert counted.segmentation.error == PROGRAM_ERROR and "is a Number, not Masks" in counted.segmentation.problem
    said = run_program(pipeline, image, 'RESULT("nothing")')
    assert (said.type, said.value) == ("Text", "nothing") and said.html().count("<img") == 1


def test_a_step_that_fails_ends_the_run_with_its_line(pipeline, image):
    source = 'A=FIND("all shapes")\n\nB=SEGMENT([[900, 900, 950, 950]])\nRESULT(B)'
    run = run_program(pipeline, image, source)
    assert run.line == 3 and "outside the picture's part [0, 0, 224, 224]" in run.problem and len(run.rows) == 1
    assert run.value is None and run.segmentation.error == PROGRAM_ERROR
    assert run.segmentation.problem == run.failure and run.failure.startswith("line 3: ")
    assert run.segmentation.think.splitlines()[-1] == f"failed: {run.failure}" and escape(run.failure) in run.html()
    assert Trace.from_dict(run.to_dict(), image).failure == run.failure


def test_time_and_masks_are_bounded(pipeline, image):
    late = run_program(pipeline, image, 'A=FIND("all shapes")\nRESULT(A)', limits=ProgramLimits(seconds=0))
    assert (late.line, late.rows) == (1, ()) and late.problem == "the program took longer than 0 s"
    enough = 224 * 224 * len(find_words(pipeline, image, ["all shapes"])[0])
    for most, line in ((enough, 0), (enough - 1, 1)):
        run = run_program(pipeline, image, 'A=FIND("all shapes")\nRESULT(A)', limits=ProgramLimits(most_pixels=most))
        assert run.line == line and ("too many" in run.problem) == bool(line)


def test_an_answer_that_can_not_be_read_is_the_steps_failure(pipeline, image, monkeypatch):
    monkeypatch.setattr(PipelineModels, "find_together", lambda self, phrases: None)
    unread = find_words(pipeline, image, ["all shapes"])[0]
    object.__setattr__(unread, "error", "not_json")
    monkeypatch.setattr("segzero.programs.run.find_words", lambda *_: [unread])
    run = run_program(pipeline, image, 'RESULT(FIND("all shapes"))')
    assert run.failure == "line 1: the policy's answer can't be read (not_json)"


def test_what_is_no_program_is_refused_before_anything_runs(pipeline, image, mask_model):
    recorded = RecordingModel(pipeline.policy)
    with pytest.raises(ProgramError, match="line 2: RESULT takes"):
        run_program(pipeline.with_models(recorded, pipeline.segmenter), image, "A=CROP(EVERYTHING())\nRESULT(A)")
    assert recorded.requests == []
    with pytest.raises(UserError, match="programs need a policy and a segmenter"):
        run_program(MaskPipeline.from_pretrained(mask_model, "cpu"), image, 'RESULT(FIND("cup"))')


def test_a_pipeline_of_programs_answers_as_a_policy_does(pipeline, held_out):
    queries = [Query(held_out[0].open(), "the left two shapes"), Query(held_out[1].open(), "what is round")]
    with ScriptedWriter().running() as served:
        programs = ProgramPipeline(pipeline, ProgramWriter(served.url), PRESETS["scenes"])
        two, asked = programs.run(queries)
        with pytest.raises(UserError, match="programs know of no earlier rounds"):
            programs.run([Query(queries[0].image, "it", notes="instance 1")])
    assert two.raw_text.splitlines()[-1] == "RESULT(LEFTMOST(SHAPES, 2))" and two.error is None and len(two) == 2
    assert re.search(r"SHAPES=UNION\(.*\): \d objects", two.think)
    assert asked.raw_text == 'RESULT(ASK("what is round"))'
    assert programs.settings["program_writer"] == "scripted-writer" and programs.draw([two]) == [two]


def test_a_segmenter_that_reads_text_finds_phrases_itself(pipeline, image, tmp_path):
    from segzero.segmenter import load_segmenter
    from tests.helpers.random_sam3 import build_sam3

    build_sam3(tmp_path)
    policy, sam3 = RecordingModel(pipeline.policy), load_segmenter(tmp_path, device="cpu")
    run = run_program(pipeline.with_models(policy, sam3), image, 'A=FIND("cup")\nB=FIND("dog")\nRESULT(UNION(A, B))')
    assert policy.requests == [] and run.problem == ""
    expected = find_words(pipeline.with_models(policy, sam3), image, ["cup"])[0]
    assert {one.score for one in run.rows[0].value} <= {one.score for one in expected}
    asked = run_program(pipeline.with_models(policy, sam3), image, 'RESULT(ASK("the largest shape"))')
    assert len(policy.requests) == 1 and asked.rows[0].note
