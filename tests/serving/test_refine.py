"""A server that refines masks: its answers hold the looks, a dialogue's rounds are looked at too."""

import base64

from segzero.dialogue import Dialogue
from segzero.images import load_image
from segzero.masks import decode
from segzero.refinement.pipeline import refining
from segzero.serving.client import Client
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


def test_rounds_of_a_dialogue_hold_the_looks(pipeline, held_out):
    sample, refined = held_out[0], refining(pipeline, 1)
    dialogue = Dialogue(load_image(sample.image), refined)
    [look] = dialogue.ask(sample.question).steps
    with servers.running(refined) as server, Client(server.url).dialogue(sample.image) as remote:
        asked, drawn = remote.ask(sample.question), remote.draw(points=sample.objects[0].points)
        [round, by_hand] = remote.rounds()
    assert drawn.steps == by_hand.steps == ()
    for result in (dialogue.result(1), asked, round):
        [step] = result.steps
        assert step.to_dict() == look.to_dict()


def test_a_loaded_dialogue_knows_the_looks(pipeline, held_out, tmp_path):
    dialogue = Dialogue(load_image(held_out[0].image), refining(pipeline, 2))
    dialogue.ask(held_out[0].question)
    loaded = Dialogue.load(dialogue.save(tmp_path / "d.json"), held_out[0].image, pipeline)
    assert loaded.registry == dialogue.registry and loaded.result(1).steps
