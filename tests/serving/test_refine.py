"""A server that refines masks: its answers hold the looks, a dialogue's rounds are looked at too."""

import base64

from segzero.dialogue import Dialogue
from segzero.images import load_image
from segzero.masks import decode
from segzero.refinement.pipeline import refining
from segzero.serving.schema import SegmentAnswer
from tests.helpers import servers


def test_answers_hold_the_looks(pipeline, held_out):
    sample, refined = held_out[0], refining(pipeline, 2)
    [expected] = refined([sample.image], [sample.question])
    url = "data:image/png;base64," + base64.b64encode(sample.image).decode()
    with servers.running(refined) as server, server.http() as http:
        response = http.post("/v1/segment", json={"image": url, "question": sample.question})
    assert response.status_code == 200, response.text
    answer = SegmentAnswer.model_validate(response.json())
    assert [step.action for step in answer.steps] == [step.action for step in expected.steps] != []
    assert (decode(response.json()["steps"][0]["rle"]) == expected.steps[0].mask).all()


def test_rounds_of_a_dialogue_are_looked_at(pipeline, held_out):
    result = Dialogue(load_image(held_out[0].image), refining(pipeline, 1)).ask(held_out[0].question)
    assert len(result.steps) == 1
