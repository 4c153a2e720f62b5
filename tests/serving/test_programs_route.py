"""/v1/programs on a real server: the trace that `run_program` gives, programs for questions, and refusals."""

import pytest

from segzero.errors import UserError
from segzero.images import load_image
from segzero.programs import ProgramWriter, run_program
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.options import ServerOptions
from segzero.serving.routes import programs
from segzero.tiny.scripted_server import serving
from segzero.tiny.scripted_writer import ScriptedWriter
from tests.helpers import servers

PROGRAM = 'A=FIND("all shapes")\nB=CROP(A)\nC=SEGMENT(BOXES(A))\nRESULT(UNION(LARGEST(A), C))'


@pytest.fixture(scope="module")
def image(held_out):
    return held_out[0].image


@pytest.fixture(scope="module")
def server(pipeline):
    """A server with a writer of programs."""
    with ScriptedWriter().running() as written:
        options = ServerOptions(writer=ProgramWriter(written.url))
        with servers.running(pipeline, options=options) as running:
            yield running


def test_the_trace_is_that_of_the_library(server, pipeline, image):
    theirs = Client(server.url).program(image, PROGRAM)
    ours = run_program(pipeline, load_image(image), PROGRAM)
    assert [row.summary for row in theirs.rows] == [row.summary for row in ours.rows]
    assert (theirs.segmentation.union == ours.segmentation.union).all() and len(theirs.value) == len(ours.value)
    assert [row.step.text for row in theirs.rows] == [row.step.text for row in ours.rows]
    assert theirs.html().count("<img") == 1 + len(theirs.rows)


def test_a_question_gets_a_program(server, image):
    with server.http() as http:
        assert http.get("/v1/models").json()["program_writer"] == "scripted-writer"
    trace = Client(server.url).program(image, question="the left two shapes")
    assert trace.question == "the left two shapes" and trace.source.endswith("RESULT(LEFTMOST(SHAPES, 2))")
    assert len(trace.attempts) == 1 and len(trace.value) == 2


def test_everything_has_the_segmenters_preset(server, image):
    trace = Client(server.url).program(image, "RESULT(EVERYTHING(CROP([[0, 0, 60, 60]], 0)))")
    assert trace.rows[-2].step.operator.name == "EVERYTHING" and not trace.problem


def test_masks_come_as_pngs_on_request(server, image):
    with server.http() as http:
        data = {"program": PROGRAM, "format": "png"}
        answer = http.post("/v1/programs", files={"image": image}, data=data).json()
    masks = [one for step in answer["steps"] if step["type"] == "Masks" for one in step["value"]] + answer["result"]
    assert masks and all(one["png"].startswith("data:image/png") and "rle" not in one for one in masks)


def test_numbers_and_failures_are_answers(server, image):
    with server.http() as http:
        count = http.post("/v1/programs", files={"image": image}, data={"program": 'RESULT(COUNT(FIND("cup")))'}).json()
        late = {"program": "RESULT(SEGMENT([[900, 900, 950, 950]]))"}
        failed = http.post("/v1/programs", files={"image": image}, data=late)
    assert count["type"] == "Number" and count["result"] >= 0 and count["error"] is None
    assert failed.status_code == 200 and failed.json()["error"]["line"] == 1 and failed.json()["result"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "send a program or a question, and not both"),
        ({"program": PROGRAM, "question": "cup"}, "send a program or a question, and not both"),
        ({"program": "A=FIND('cup')"}, "line 1: the last line must be RESULT(...)"),
        ({"program": "import os"}, "line 1: 'import os' is no step"),
        ({"program": "x" * 16_001}, "program: String should have at most 16000 characters"),
        ({"question": "x" * 2_001}, "the question has 2001 characters; at most 2000 are read"),
        ({"question": " "}, "the question is empty"),
        ({"program": PROGRAM, "policy": "none"}, "unknown policy 'none'"),
        ({"program": PROGRAM, "phrases": "cup"}, "phrases: Extra inputs are not permitted"),
    ],
)
def test_what_can_not_be_used_is_refused(server, image, fields, message):
    with server.http() as http:
        response = http.post("/v1/programs", files={"image": image}, data=fields)
    assert response.status_code == 422 and response.json()["error"]["message"].startswith(message), response.text


def test_more_masks_than_can_be_written_end_the_program(server, image, monkeypatch):
    monkeypatch.setattr(programs, "MASK_PIXELS", 224 * 224)
    trace = Client(server.url).program(image, 'A=FIND("all shapes")\nRESULT(A)')
    assert trace.line == 1 and "too many" in trace.problem


def test_a_server_without_a_writer_takes_programs_alone(pipeline, mask_model, image):
    from segzero.mask_pipeline import MaskPipeline

    model = MaskPipeline.from_pretrained(mask_model, "cpu").model
    with servers.running(pipeline, options=ServerOptions(mask_models=(model,))) as server:
        client = Client(server.url, retries=0)
        with pytest.raises(UserError, match="422: this server has no language model to write programs"):
            client.program(image, question="cup")
        with pytest.raises(UserError, match="422: programs need a policy and a segmenter"):
            client.program(image, PROGRAM, policy=mask_model.name)
        with server.http() as http:
            assert http.get("/v1/models").json()["program_writer"] is None


def test_a_writer_that_is_gone_or_slow_is_the_servers_error(pipeline, image):
    with serving(lambda body: (503, {}, {}), "busy") as port:
        writer = ProgramWriter(f"http://127.0.0.1:{port}/v1", timeout=2, retries=0)
    options = ServerOptions(writer=writer)
    with servers.running(pipeline, Limits(seconds=5), options=options) as server, server.http() as http:
        response = http.post("/v1/programs", files={"image": image}, data={"question": "cup"})
    assert response.status_code == 503 and response.json()["error"]["code"] == "unavailable"
