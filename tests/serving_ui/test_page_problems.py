"""What goes wrong is one line that says what to do, and the page goes on."""

import json
import shutil

import pytest
from PIL import Image
from playwright.sync_api import expect

from segzero.policy.checkpoint import CARD
from segzero.shipped import segmenter_path
from tests.helpers import browsing
from tests.helpers.browsing import ask, cards, demo_ui, open_example, open_file, shot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants one of two tokens, takes small pictures only, and has two segmenters."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text("open-sesame\nanother\n")
    shutil.copytree(segmenter_path(), folder / "other")
    (folder / "other" / CARD).write_text('{"name": "other"}')
    segmenters = ["--segmenter", str(segmenter_path()), "--segmenter", str(folder / "other")]
    limits = ["--max-megabytes", "1", "--max-pixels", "1000000"]
    with demo_ui("--tokens", str(folder / "tokens"), *segmenters, *limits) as served:
        yield served


def said(page):
    return page.locator("#problem-text")


def test_a_broken_file_and_an_unknown_one(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    page.locator("#file").set_input_files(tmp_path / "broken.png")
    expect(said(page)).to_contain_text("image")
    expect(page.locator("#opening")).to_be_visible()
    shot(page, "broken_file")
    page.locator("#problem-close").click()
    expect(page.locator("#problem")).to_be_hidden()
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    expect(said(page)).to_contain_text("image")
    open_example(page)  # and it goes on
    expect(page.locator("#problem")).to_be_hidden()


def test_a_format_that_browsers_cannot_show(page, tmp_path):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "scan.tiff")
    page.locator("#file").set_input_files(tmp_path / "scan.tiff")
    expect(said(page)).to_contain_text("Save it as PNG, JPEG or WebP")
    expect(page.locator("#opening")).to_be_visible()


def test_tokens_and_large_pictures(new_page, guarded, tmp_path):
    page = new_page(guarded.url)
    expect(page.locator("#token-dialog")).to_be_visible()
    shot(page, "token")
    page.locator("#token").fill("guessed")
    page.keyboard.press("Enter")
    expect(page.locator("#token-said")).to_have_text("That token was not known.")
    expect(page.locator("#token-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(said(page)).to_have_text("This server needs a token.")
    page.locator("#problem-action").click()
    page.locator("#token").fill("open-sesame")
    page.keyboard.press("Enter")
    expect(page.locator(".example").first).to_be_visible()
    page.reload()  # it is kept for the tab
    expect(page.locator(".example").first).to_be_visible()

    Image.effect_noise((1200, 1200), 90).save(tmp_path / "heavy.png")
    page.locator("#file").set_input_files(tmp_path / "heavy.png")
    expect(said(page)).to_contain_text("this server takes up to 1 MB")
    shot(page, "too_large")
    Image.new("L", (1200, 1200)).save(tmp_path / "wide.png")  # few bytes, many pixels
    page.locator("#file").set_input_files(tmp_path / "wide.png")
    expect(said(page)).to_contain_text("pixels")
    Image.new("L", (120, 120)).save(tmp_path / "small.png")
    open_file(page, tmp_path / "small.png")
    expect(page.locator("#problem")).to_be_hidden()


def test_models_are_chosen_where_there_is_a_choice(new_page, guarded):
    page = new_page(guarded.url)
    page.locator("#token").fill("open-sesame")
    page.keyboard.press("Enter")
    open_example(page)
    page.locator("#models > summary").click()
    expect(page.locator("#policy-name")).to_be_visible()  # there is one
    expect(page.locator("#pick-policy")).to_be_hidden()
    expect(page.locator("#models-again")).to_be_hidden()
    page.locator("#pick-segmenter").select_option("other")
    page.locator("#pick-memory").select_option("crop")
    shot(page, "models")
    with page.expect_response("**/v1/dialogues") as caught:
        page.locator("#models-again").click()
    begun = caught.value.json()
    assert (begun["segmenter"], begun["memory"]) == ("other", "crop")
    expect(page.locator("#models-line")).to_contain_text("other")

    page.reload()
    expect(page.locator("#canvas")).to_be_visible(timeout=browsing.ANSWER)
    expect(page.locator("#models-line")).to_contain_text("other")
    expect(page.locator("#pick-memory")).to_have_value("crop")
    page.locator("#new").click()
    with page.expect_response("**/v1/dialogues") as caught:
        open_example(page, 1)
    begun = caught.value.json()
    assert (begun["segmenter"], begun["memory"]) == ("other", "crop")

    page.evaluate("() => sessionStorage.setItem('segzero.token', 'another')")  # whose dialogue it is not
    page.reload()
    expect(said(page)).to_have_text("The server has forgotten the dialogue that was open here.")
    expect(page.locator("#opening")).to_be_visible()


def test_a_forgotten_dialogue_begins_again(page):
    with page.expect_response(lambda response: response.request.method == "POST") as caught:
        open_example(page)
    id = caught.value.json()["id"]
    ask(page, "the largest shape")
    page.request.delete(f"{page.url.replace('/ui/', '/v1/dialogues/')}{id}")
    page.locator("#question").fill("the circle")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("forgotten this dialogue")
    shot(page, "forgotten")
    page.locator("#problem-action").click()
    expect(cards(page)).to_have_count(0)
    expect(page.locator("#question")).to_have_value("the circle")
    assert ask(page, "the circle")


def test_a_server_that_is_gone_and_comes_again(new_page):
    port = browsing.free_port()
    with demo_ui(port=port) as served:
        page = new_page(served.url)
        open_example(page)
        ask(page, "the largest shape")
        served.process.kill()
        served.process.wait()
        page.locator("#question").fill("the circle")
        page.keyboard.press("Enter")
        expect(said(page)).to_contain_text("The server does not answer")
        expect(page.locator("#question")).to_have_value("the circle")
        shot(page, "server_gone")
    with demo_ui(port=port):
        page.locator("#problem-action").click()
        expect(said(page)).to_contain_text("forgotten this dialogue")
        page.locator("#problem-action").click()
        expect(page.locator("#problem")).to_be_hidden()
        expect(cards(page)).to_have_count(0)
        assert ask(page, "the circle")


BUSY = '{"error": {"code": "busy", "message": "too many requests; try again in 2 s"}'
STREAM = 'event: text\ndata: {"text": "<think>a"}\n\n: wait\n\n'


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"status": 429, "json": json.loads(BUSY + "}")}, "Too many requests; try again in 2 s."),
        ({"body": f'{STREAM}event: error\ndata: {BUSY}, "status": 429}}\n\n'}, "Too many requests; try again in 2 s."),
        ({"body": STREAM}, "The server does not answer. Start it again, then go on here."),  # it broke off
    ],
)
def test_a_server_that_fails_in_the_middle_is_asked_again(page, answer, line):
    open_example(page)
    kind = {} if "json" in answer else {"content_type": "text/event-stream"}
    page.route("**/ask", lambda route: route.fulfill(**answer, **kind))
    page.locator("#question").fill("the circle")
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text(line)
    page.unroute("**/ask")
    page.locator("#problem-action").click()
    expect(cards(page)).to_have_count(1, timeout=browsing.ANSWER)


def test_what_a_model_writes_is_shown_as_text(page):
    open_example(page)
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    answer = {"number": 1, "question": evil, "state": "unread", "error": "not_json", "think": evil, "raw_text": evil}
    answer |= {"refers": [], "warnings": [], "regions": []}
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.route("**/ask", lambda route: route.fulfill(json=answer))
    page.locator("#question").fill("x")
    page.keyboard.press("Enter")
    card = cards(page).first
    expect(card.locator("strong")).to_have_text(evil)
    expect(card.locator(".outcome")).to_contain_text("could not be read (not_json)")
    expect(card.get_by_role("button", name="Use as reference")).to_have_count(0)
    card.locator("summary").click()
    expect(card.locator(".think p")).to_have_text(evil)
    assert card.locator("img, script").count() == 0
    shot(page, "unread")
