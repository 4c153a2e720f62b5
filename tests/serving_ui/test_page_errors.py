"""Errors on the page: each is one line that says what to do, and the page can still be used afterwards."""

import json
import shutil

import pytest
from PIL import Image
from playwright.sync_api import expect

from segzero.policy.checkpoint import CARD
from segzero.shipped import policy_path, segmenter_path
from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    HOSTILE_ROUND,
    HOSTILE_TEXT,
    QUESTIONS,
    ask,
    banner,
    cards,
    dialogue_url,
    free_port,
    open_example,
    open_file,
    reload_dialogue,
    run_demo_server,
    save_screenshot,
    send_question,
)

pytestmark = pytest.mark.slow

QUESTION = "the circle"
EVENTS = 'event: text\ndata: {"text": "<think>a"}\n\n: wait\n\n'
BUSY = {"error": {"code": "busy", "message": "too many requests; try again in 2 s"}}
BUSY_EVENT = f"event: error\ndata: {json.dumps(BUSY | {'status': 429})}\n\n"


@pytest.fixture(scope="module")
def restricted_server(tmp_path_factory):
    """A server that requires one of two tokens, accepts small images only, and has one policy and two segmenters."""
    folder = tmp_path_factory.mktemp("restricted")
    (folder / "tokens").write_text("open-sesame\nanother\n")
    shutil.copytree(segmenter_path(), folder / "other")
    (folder / "other" / CARD).write_text('{"name": "other"}')
    segmenters = ["--segmenter", str(segmenter_path()), "--segmenter", str(folder / "other")]
    limits = ["--max-megabytes", "1", "--max-pixels", "1000000"]
    with run_demo_server(
        "--tokens", str(folder / "tokens"), "--policy", str(policy_path()), *segmenters, *limits
    ) as server:
        yield server


def enter_token(page, token: str) -> None:
    page.locator("#token").fill(token)
    page.keyboard.press("Enter")


def test_a_file_that_is_not_an_image_is_refused(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    page.locator("#file").set_input_files(tmp_path / "broken.png")
    expect(banner(page)).to_contain_text("image")
    expect(page.locator("#upload")).to_be_visible()
    save_screenshot(page, "broken_file")
    page.locator("#banner-close").click()
    expect(page.locator("#banner")).to_be_hidden()
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    expect(banner(page)).to_contain_text("image")
    open_example(page)
    expect(page.locator("#banner")).to_be_hidden()


def test_a_format_that_browsers_cannot_show(page, tmp_path):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "scan.tiff")
    page.locator("#file").set_input_files(tmp_path / "scan.tiff")
    expect(banner(page)).to_contain_text("Save it as PNG, JPEG or WebP")
    expect(page.locator("#upload")).to_be_visible()


def test_a_token_is_asked_for_and_kept_for_the_tab(new_page, restricted_server):
    page = new_page(restricted_server.url)
    expect(page.locator("#token-dialog")).to_be_visible()
    save_screenshot(page, "token")
    enter_token(page, "guessed")
    expect(page.locator("#token-error")).to_have_text("That token was not known.")
    expect(page.locator("#token-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(banner(page)).to_have_text("This server needs a token.")
    page.locator("#banner-action").click()
    enter_token(page, "open-sesame")
    expect(page.locator(".example").first).to_be_visible()
    page.reload()
    expect(page.locator(".example").first).to_be_visible()
    expect(page.locator("#token-dialog")).to_be_hidden()


def test_an_image_over_the_limits_is_refused(new_page, restricted_server, tmp_path):
    page = new_page(restricted_server.url)
    enter_token(page, "open-sesame")
    expect(page.locator(".example").first).to_be_visible()
    Image.effect_noise((1200, 1200), 90).save(tmp_path / "heavy.png")
    page.locator("#file").set_input_files(tmp_path / "heavy.png")
    expect(banner(page)).to_contain_text("this server takes up to 1 MB")
    save_screenshot(page, "too_large")
    Image.new("L", (1200, 1200)).save(tmp_path / "wide.png")  # few bytes, many pixels
    page.locator("#file").set_input_files(tmp_path / "wide.png")
    expect(banner(page)).to_contain_text("pixels")
    Image.new("L", (120, 120)).save(tmp_path / "small.png")
    open_file(page, tmp_path / "small.png")
    expect(page.locator("#banner")).to_be_hidden()


def test_models_can_be_chosen_where_there_are_several(new_page, restricted_server):
    page = new_page(restricted_server.url)
    enter_token(page, "open-sesame")
    open_example(page)
    page.locator("#models > summary").click()
    expect(page.locator("#policy-name")).to_be_visible()  # there is only one
    expect(page.locator("#pick-policy")).to_be_hidden()
    expect(page.locator("#models-restart")).to_be_hidden()
    page.locator("#pick-segmenter").select_option("other")
    page.locator("#pick-memory").select_option("crop")
    save_screenshot(page, "models")
    with page.expect_response("**/v1/dialogues") as caught:
        page.locator("#models-restart").click()
    created = caught.value.json()
    assert (created["segmenter"], created["memory"]) == ("other", "crop")
    expect(page.locator("#models-line")).to_contain_text("other")

    reload_dialogue(page)
    expect(page.locator("#models-line")).to_contain_text("other")
    expect(page.locator("#pick-memory")).to_have_value("crop")
    page.locator("#new").click()
    with page.expect_response("**/v1/dialogues") as caught:
        open_example(page, 1)
    created = caught.value.json()
    assert (created["segmenter"], created["memory"]) == ("other", "crop")

    page.evaluate("() => sessionStorage.setItem('segzero.token', 'another')")  # the dialogue belongs to the first token
    page.reload()
    expect(banner(page)).to_have_text("The server has forgotten the dialogue that was open here.")
    expect(page.locator("#upload")).to_be_visible()


def test_a_mask_model_can_be_chosen_beside_a_policy(new_page, mask_model):
    with run_demo_server("--policy", str(policy_path()), "--mask-model", str(mask_model)) as server:
        page = new_page(server.url)
        open_example(page)
        page.locator("#models > summary").click()
        page.locator("#pick-memory").select_option("crop")
        page.locator("#pick-policy").select_option(label=f"{mask_model.name} (masks at once)")
        expect(page.locator("#pick-memory")).to_be_hidden()
        with page.expect_response("**/v1/dialogues") as caught:
            page.locator("#models-restart").click()
        created = caught.value.json()
        assert (created["policy"], created["memory"]) == (mask_model.name, "masks")
        expect(page.locator("#models-summary")).to_contain_text("draws by hand")
        send_question(page, "the largest shape")
        expect(cards(page)).to_have_count(1)
        page.locator("#models > summary").click()
        page.locator("#pick-policy").select_option(index=0)
        expect(page.locator("#pick-memory")).to_have_value("text")


def test_an_expired_dialogue_can_be_restarted(page):
    open_example(page)
    ask(page, QUESTIONS[0])
    assert page.request.delete(dialogue_url(page)).status == 204
    send_question(page, QUESTION)
    expect(banner(page)).to_contain_text("forgotten this dialogue")
    save_screenshot(page, "forgotten")
    page.locator("#banner-action").click()
    expect(cards(page)).to_have_count(0)
    expect(page.locator("#question")).to_have_value(QUESTION)
    assert ask(page, QUESTION)


def test_a_server_that_stops_and_is_started_again(new_page):
    port = free_port()
    with run_demo_server(port=port) as server:
        page = new_page(server.url)
        open_example(page)
        ask(page, QUESTIONS[0])
        server.process.kill()
        server.process.wait()
        send_question(page, QUESTION)
        expect(banner(page)).to_contain_text("The server does not answer")
        expect(page.locator("#question")).to_have_value(QUESTION)
        save_screenshot(page, "server_gone")
    with run_demo_server(port=port):
        page.locator("#banner-action").click()
        expect(banner(page)).to_contain_text("forgotten this dialogue")
        page.locator("#banner-action").click()
        expect(page.locator("#banner")).to_be_hidden()
        expect(cards(page)).to_have_count(0)
        assert ask(page, QUESTION)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        pytest.param({"status": 429, "json": BUSY}, "Too many requests; try again in 2 s.", id="refused"),
        pytest.param({"body": EVENTS + BUSY_EVENT}, "Too many requests; try again in 2 s.", id="error while streaming"),
        pytest.param(
            {"body": EVENTS}, "The server does not answer. Start it again, then go on here.", id="incomplete stream"
        ),
    ],
)
def test_a_question_that_fails_can_be_sent_again(page, answer, line):
    open_example(page)
    content_type = {} if "json" in answer else {"content_type": "text/event-stream"}
    page.route("**/ask", lambda route: route.fulfill(**answer, **content_type))
    send_question(page, QUESTION)
    expect(banner(page)).to_have_text(line)
    page.unroute("**/ask")
    page.locator("#banner-action").click()
    expect(cards(page)).to_have_count(1, timeout=ANSWER_TIMEOUT)


def test_texts_of_a_model_are_not_read_as_html(page):
    open_example(page)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.route("**/ask", lambda route: route.fulfill(json=HOSTILE_ROUND))
    send_question(page, "x")
    card = cards(page).first
    expect(card.locator("strong")).to_have_text(HOSTILE_TEXT)
    expect(card.locator(".outcome")).to_contain_text("could not be read (not_json)")
    expect(card.get_by_role("button", name="Use as reference")).to_have_count(0)
    card.locator("summary").click()
    expect(card.locator(".thinking p")).to_have_text(HOSTILE_TEXT)
    assert card.locator("img, script").count() == 0
    save_screenshot(page, "unread")
