"""Dialogues over HTTP: their rounds equal those of a dialogue in this process; each has an owner, and expires."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from segzero.dialogue import Dialogue
from segzero.errors import UserError
from segzero.masks import mask_iou
from segzero.serving import sessions
from segzero.serving.client import Client
from segzero.serving.limits import Limits, Tokens
from segzero.serving.options import ServerOptions
from tests.helpers import servers
from tests.helpers.servers import wait_until


@pytest.fixture(scope="module")
def scene(pipeline, held_out):
    """A scene with an object that is found."""
    results = pipeline([sample.image for sample in held_out], [sample.question for sample in held_out])
    return next(sample for sample, result in zip(held_out, results, strict=True) if result.instances)


def test_rounds_are_those_of_a_dialogue_in_this_process(server, pipeline, scene):
    here = Dialogue(scene.image, pipeline)
    with Client(server.url).dialogue(scene.image) as there:
        for question in (scene.question, "the shape left of [REF:1]", "the largest shape"):
            ours, theirs = here.ask(question), there.ask(question)
            assert theirs.raw_text == ours.raw_text and theirs.question == question
            assert mask_iou(theirs.union, ours.union) > 0.99
        x0, y0, x1, y1 = here.registry.regions[0].box
        point = ((x0 + x1) / 2, (y0 + y1) / 2)
        refined = here.refine(1, [point], [0])
        assert mask_iou(there.refine(1, [point], [0]).union, refined.union) > 0.99
        there.undo()
        there.undo()
        assert [r.question for r in there.rounds()] == [scene.question, "the shape left of [REF:1]"]
        there.clear()
        assert there.rounds() == []
        there.undo()
        assert len(there.rounds()) == 2
    with pytest.raises(UserError, match="404"):
        there.rounds()


@pytest.mark.slow
def test_rounds_by_hand_are_those_of_a_dialogue_in_this_process(server, pipeline, scene):
    here = Dialogue(scene.image, pipeline)
    with Client(server.url).dialogue(scene.image) as there:
        x0, y0, x1, y1 = here.ask(scene.question).instances[0].box
        there.ask(scene.question)
        point, outside = ((x0 + x1) / 2, (y0 + y1) / 2), (1.0, 1.0)
        for id in (None, 1):
            theirs = there.candidates(id, [point, outside], [1, 0])
            for (mask, score), found in zip(here.candidates(id, [point, outside], [1, 0]), theirs, strict=True):
                assert mask_iou(found.mask, mask) > 0.99 and found.score == pytest.approx(score, abs=1e-3)
        assert len(there.rounds()) == 1
        ours = here.draw([point], box=(x0, y0, x1, y1), question="that one", choice=1)
        drawn = there.draw([point], box=(x0, y0, x1, y1), question="that one", choice=1)
        assert drawn.question == "that one" and mask_iou(drawn.union, ours.union) > 0.99
        ours = here.refine(2, [outside], [0], choice=2)
        assert mask_iou(there.refine(2, [outside], [0], choice=2).union, ours.union) > 0.99
        there.undo()
        there.undo()
        assert len(there.rounds()) == 1
        with pytest.raises(UserError, match="choice"):
            there.draw([point], choice=3)


def test_mistakes_change_nothing(server, scene):
    with Client(server.url).dialogue(scene.image) as dialogue:
        for step, message in [
            (lambda: dialogue.undo(), "nothing to undo"),
            (lambda: dialogue.refine(7, [(1, 1)]), "no instance 7"),
            (lambda: dialogue.ask("what is on [REF:3]"), "no round 3"),
            (lambda: dialogue.ask(""), "empty"),
            (lambda: dialogue.ask("x" * 3000), "3000 characters"),
        ]:
            with pytest.raises(UserError, match=message):
                step()
        assert dialogue.rounds() == []


def test_a_dialogue_belongs_to_the_token_that_created_it(pipeline, scene, tmp_path):
    with servers.running(pipeline, tokens=Tokens(["mine", "yours"]), options=ServerOptions(flags=tmp_path)) as server:
        dialogue = Client(server.url, "mine").dialogue(scene.image)
        dialogue.ask(scene.question)
        with server.http("yours") as http, server.http() as nobody:
            paths = [
                (method, path.replace("/v1/dialogues/{id}", dialogue.path))
                for path, methods in http.get("/openapi.json").json()["paths"].items()
                if path.startswith("/v1/dialogues/{id}")
                for method in methods
            ]
            assert len(paths) == 12
            for method, path in paths:
                assert http.request(method, path, json={}).status_code == 404, path
                assert nobody.request(method, path, json={}).status_code == 401, path
        assert len(dialogue.rounds()) == 1


def test_the_image_is_given_back_as_it_came(server):
    picture, exif = Image.linear_gradient("L").convert("RGB").resize((60, 90)), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    picture.save(file, "WEBP", exif=exif)
    dialogue = Client(server.url).dialogue(file.getvalue())
    with server.http() as http:
        answer = http.get(f"{dialogue.path}/image")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert answer.headers["cache-control"] == "private, no-store" and answer.content == file.getvalue()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert http.get("/v1/dialogues/other/image").status_code == 404


def test_the_steps_that_undo_can_take_back_are_counted(server, scene):
    dialogue = Client(server.url).dialogue(scene.image)

    def steps() -> int:
        return dialogue.client.send("GET", dialogue.path)["steps"]

    assert steps() == 0
    dialogue.ask(scene.question)
    dialogue.refine(1, [(1, 1)], [0])
    dialogue.clear()
    assert steps() == 3 and dialogue.rounds() == []
    dialogue.undo()
    assert steps() == 2 and len(dialogue.rounds()) == 1


def test_unused_dialogues_make_room(pipeline, scene, monkeypatch):
    passed = 0.0  # seconds, for the server's dialogues alone
    monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
    with servers.running(pipeline, Limits(dialogues=2, idle=600)) as server, server.http() as http:
        client = Client(server.url, retries=0)
        first, second = client.dialogue(scene.image), client.dialogue(scene.image)
        refused = http.post("/v1/dialogues", files={"image": scene.image})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_dialogues"
        passed = 400.0
        assert second.rounds() == []  # used
        passed = 800.0
        client.dialogue(scene.image)
        assert http.get(first.path).status_code == 404 and http.get(second.path).status_code == 200


def test_dialogues_that_were_left_make_room_before_others(pipeline, scene):
    with servers.running(pipeline, Limits(dialogues=3)) as server, server.http() as http:
        client = Client(server.url, retries=0)
        stays, leaves, returns = (client.dialogue(scene.image) for _ in range(3))
        for dialogue in (returns, leaves):
            assert http.post(f"{dialogue.path}/leave").status_code == 204
        assert returns.rounds() == []  # its client has come back
        assert http.post("/v1/dialogues", files={"image": b"no image"}).status_code == 422
        assert "segzero_dialogues 3.0" in http.get("/metrics").text
        client.dialogue(scene.image)
        assert [http.get(each.path).status_code for each in (stays, leaves, returns)] == [200, 404, 200]
        assert http.post("/v1/dialogues", files={"image": scene.image}).status_code == 429


def test_the_steps_of_a_dialogue_are_bounded(pipeline, scene):
    with servers.running(pipeline, Limits(steps=2)) as server, Client(server.url).dialogue(scene.image) as dialogue:
        dialogue.ask(scene.question)
        dialogue.ask("the largest shape")
        with pytest.raises(UserError, match="at most 2 steps"):
            dialogue.ask("the smallest shape")
        dialogue.undo()
        dialogue.ask("the smallest shape")


def test_steps_of_several_dialogues_share_batches_and_are_not_mixed_up(server, pipeline, held_out):
    questions = ["the largest shape", "the smallest shape", "the shape left of [REF:1]"]

    def talk(make) -> list[str]:
        return [make.ask(question).raw_text for question in questions]

    samples = held_out[:3]
    expected = [talk(Dialogue(sample.image, pipeline)) for sample in samples]
    batches = []
    server.pool.batcher.on_batch, seen = lambda items, seconds: batches.append(items), server.pool.batcher.on_batch
    try:
        with ThreadPoolExecutor(3) as clients:
            made = [Client(server.url).dialogue(sample.image) for sample in samples]
            assert list(clients.map(talk, made)) == expected
    finally:
        server.pool.batcher.on_batch = seen
    assert max(batches) > 1


def test_two_steps_of_one_dialogue_come_one_after_the_other(server, pipeline, scene):
    dialogue = Client(server.url).dialogue(scene.image)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(dialogue.ask, ["the largest shape"] * 4))
    assert len(dialogue.rounds()) == 4


def test_a_step_that_its_client_does_not_wait_for_is_not_taken(server, scene):
    dialogue = Client(server.url).dialogue(scene.image)
    with server.http() as http, server.models_blocked():
        with pytest.raises(httpx.ReadTimeout):
            http.post(f"{dialogue.path}/ask", json={"question": "the largest shape"}, timeout=0.5)
        wait_until(lambda: "segzero_requests_inside 0.0" in http.get("/metrics").text)
    assert dialogue.rounds() == []
    dialogue.ask(scene.question)
    assert [round.question for round in dialogue.rounds()] == [scene.question]
