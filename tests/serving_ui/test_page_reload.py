"""A page that is loaded again goes on with its dialogue, as long as the server has it."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from segzero.masks import decode, points_of
from tests.helpers import browsing
from tests.helpers.browsing import (
    EASY,
    ask,
    ask_until,
    cards,
    click_pixel,
    download,
    only_masks,
    open_example,
    open_file,
    seen,
    shot,
)

pytestmark = pytest.mark.slow

SIZE = (224, 224)  # of the examples
GONE = "The server has forgotten the dialogue that was open here."

# Of every card: what it says, and its small picture.
CARDS = """() => [...document.querySelectorAll(".card")]
    .map((card) => [card.textContent, card.querySelector("canvas").toDataURL()])"""


def saved(page, folder) -> tuple[list[str], list[np.ndarray]]:
    """The questions and the masks, as the server has them."""
    rounds = json.loads(download(page, "json", folder).read_text())["rounds"]
    masks = [decode(region["rle"]) for round in rounds for region in round["regions"]]
    return [round["question"] for round in rounds], masks


def reload(page) -> None:
    page.reload()
    expect(page.locator("#canvas")).to_be_visible(timeout=browsing.ANSWER)
    expect(page.locator("body")).not_to_have_class("busy")


def address(page) -> str:
    """Of the dialogue that the page remembers."""
    id = page.evaluate("() => JSON.parse(sessionStorage.getItem('segzero.dialogue')).id")
    return f"{page.url.replace('/ui/', '/v1/dialogues/')}{id}"


def correct_the_first(page, masks: list[np.ndarray]) -> None:
    """By a point outside, taking the mask that the segmenter likes least."""
    page.locator("[data-tool=select]").click()
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")
    cards(page).first.locator("[data-id='1']").click()
    page.locator("[data-tool=remove]").click()
    [point] = points_of(masks[0])
    with page.expect_response("**/candidates"):
        click_pixel(page, point, SIZE)
    page.locator("#masks .mask").last.click()
    page.locator("#keep").click()
    expect(page.locator("#tray")).to_be_hidden()
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")  # nothing is chosen


def test_rounds_and_corrections_are_there_again_and_the_dialogue_goes_on(page, tmp_path, flags):
    open_example(page, 1)
    label = page.locator("#canvas").get_attribute("aria-label")
    first = ask_until(page, "found", EASY)
    ask(page, "the shape right of [REF:1]")
    questions, drawn = saved(page, tmp_path)
    correct_the_first(page, drawn)
    _, corrected = saved(page, tmp_path)
    assert questions == [first, "the shape right of [REF:1]"] and (corrected[0] != drawn[0]).any()
    only_masks(page)
    page.locator("#all").click()
    before = page.evaluate(CARDS), seen(page, SIZE)
    offered = page.locator("#followups").inner_text()
    shot(page, "before_reload")

    reload(page)
    expect(cards(page)).to_have_count(2)
    only_masks(page)
    shot(page, "after_reload")
    assert page.evaluate(CARDS) == before[0]
    assert np.abs(seen(page, SIZE) - before[1]).mean() < 0.5
    assert saved(page, tmp_path)[0] == questions
    assert all((now == then).all() for now, then in zip(saved(page, tmp_path)[1], corrected, strict=True))
    expect(page.locator("#canvas")).to_have_attribute("aria-label", label)
    assert page.locator("#followups").inner_text() == offered
    expect(page.locator("#all")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#problem")).to_be_hidden()

    page.locator("#question").fill("the shape left of")
    cards(page).first.get_by_role("button", name="Use as reference").click()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(3, timeout=browsing.ANSWER)
    assert saved(page, tmp_path)[0] == [*questions, "the shape left of [REF:1]"]
    cards(page).first.get_by_role("button", name="This answer is good").click()
    page.locator(".flag:not([hidden]) button").click()
    expect(cards(page).first).to_contain_text("Kept as good")
    assert json.loads((flags / "flags.jsonl").read_text().splitlines()[-1])["question"] == first

    page.locator("#undo").click()  # the third round
    expect(cards(page)).to_have_count(2)
    reload(page)
    correct_the_first(page, corrected)
    assert (saved(page, tmp_path)[1][0] != corrected[0]).any()
    for masks, left in ((corrected, 2), (drawn, 2), (None, 1), (None, 0)):
        with page.expect_response("**/undo"):
            page.locator("#undo").click()
        expect(cards(page)).to_have_count(left)
        if masks:
            assert (saved(page, tmp_path)[1][0] == masks[0]).all()
    expect(page.locator("#undo")).to_be_disabled()  # as many steps as the server has


def test_a_cleared_dialogue_is_there_again_and_can_be_brought_back(page):
    open_example(page, 0)
    ask_until(page, "found", EASY)
    page.locator("#clear").click()
    expect(cards(page)).to_have_count(0)
    reload(page)
    expect(page.locator("#no-rounds")).to_be_visible()
    page.locator("#undo").click()
    expect(cards(page)).to_have_count(1)


def test_a_dialogue_that_is_gone_is_said_to_be_so_once(page):
    open_example(page)
    ask(page, EASY[0])
    assert page.request.delete(address(page)).status == 204
    page.reload()
    expect(page.locator("#problem-text")).to_have_text(GONE)
    expect(page.locator("#problem")).to_have_class("calm")
    expect(page.locator("#problem-action")).to_be_hidden()
    expect(page.locator("#opening")).to_be_visible()
    expect(page.locator("#desk")).to_be_hidden()
    shot(page, "gone_after_reload")
    page.reload()
    expect(page.locator(".example").first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    open_example(page)
    assert ask(page, EASY[0])


def test_only_the_open_picture_is_remembered(page):
    open_example(page, 0)
    ask(page, EASY[0])
    first = address(page)
    page.locator("#new").click()
    page.reload()
    expect(page.locator(".example").first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    assert page.request.get(first).status == 200  # another tab may show it

    open_example(page, 1)
    ask(page, EASY[0])
    page.locator("#new").click()
    open_example(page, 2)
    reload(page)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("^Scene 3, "))
    expect(cards(page)).to_have_count(0)


def test_a_page_that_is_loaded_again_while_an_answer_is_written(page):
    open_example(page, 0)
    ask(page, EASY[0])
    page.locator("#question").fill(EASY[1])
    with page.expect_request("**/ask"):
        page.keyboard.press("Enter")
    reload(page)
    expect(page.locator(".pending")).to_have_count(0)
    # The round may come or not, and the page may know of it or not: after the next one both have the same.
    page.locator("#question").fill(EASY[2])
    page.keyboard.press("Enter")
    expect(cards(page).last).to_contain_text(EASY[2], timeout=browsing.ANSWER)
    expect(page.locator("body")).not_to_have_class("busy")
    there = page.request.get(address(page)).json()["rounds"]
    assert [card.locator(".asked strong").inner_text() for card in cards(page).all()] == [
        round["question"] for round in there
    ]


def test_two_tabs_go_on_with_one_dialogue(page):
    open_example(page, 0)
    ask(page, EASY[0])
    other = page.context.new_page()
    other.goto(page.url)
    kept = page.evaluate("() => sessionStorage.getItem('segzero.dialogue')")
    other.evaluate("(kept) => sessionStorage.setItem('segzero.dialogue', kept)", kept)  # as a duplicated tab has it
    reload(other)
    expect(cards(other)).to_have_count(1)
    ask(page, EASY[1])
    other.locator("#question").fill(EASY[2])
    other.keyboard.press("Enter")
    expect(cards(other)).to_have_count(3, timeout=browsing.ANSWER)
    expect(cards(other).nth(1)).to_contain_text(EASY[1])
    for left in (2, 1, 0):
        other.locator("#undo").click()
        expect(cards(other)).to_have_count(left)
    ask(other, EASY[3])
    page.locator("#question").fill(EASY[1])
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2, timeout=browsing.ANSWER)
    expect(cards(page).first).to_contain_text(EASY[3])


def test_a_large_turned_photo_is_there_again(page, tmp_path):
    upright = Image.radial_gradient("L").convert("RGB").resize((3000, 4000))
    upright.paste((220, 40, 40), (0, 0, 3000, 900))  # a red top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    open_file(page, tmp_path / "turned.jpg")
    before = seen(page, (300, 400))
    reload(page)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "turned.jpg, 3000 by 4000 pixels")
    assert np.abs(seen(page, (300, 400)) - before).mean() < 1
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, (1500, 600), upright.size)
    [[x, y]] = caught.value.request.post_data_json["points"]
    assert abs(x - 1500) < 8 and abs(y - 600) < 8


def test_a_server_that_does_not_answer_at_once_is_asked_again(page):
    open_example(page, 0)
    ask(page, EASY[0])
    page.route("**/image", lambda route: route.abort() if "/dialogues/" in route.request.url else route.continue_())
    page.reload()
    expect(page.locator("#problem-text")).to_contain_text("The server does not answer")
    page.unroute("**/image")
    page.locator("#problem-action").click()
    expect(cards(page)).to_have_count(1)
    expect(page.locator("#problem")).to_be_hidden()


def test_what_was_remembered_is_shown_as_text(page):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    picture = page.request.get(page.url.replace("/ui/", "/v1/examples/1/image")).body()
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.locator("#file").set_input_files({"name": evil, "mimeType": "image/png", "buffer": picture})
    expect(page.locator("#canvas")).to_be_visible(timeout=browsing.ANSWER)
    round = {"number": 1, "question": evil, "state": "unread", "error": "not_json", "think": evil, "raw_text": evil}
    round |= {"refers": [], "warnings": [], "regions": []}
    told = page.request.get(address(page)).json() | {"rounds": [round], "policy": evil}
    page.route(address(page), lambda route: route.fulfill(json=told))
    reload(page)
    expect(cards(page).first.locator("strong")).to_have_text(evil)
    expect(cards(page).first.locator(".think p")).to_have_text(evil)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", f"{evil}, 224 by 224 pixels")
    page.locator("#new").click()
    expect(page.locator("#problem-text")).to_have_text(f"{evil} is closed.")
    assert page.locator("img[src=x], body script").count() == 0


def test_a_page_that_is_left_gives_up_its_right_to_a_place(page):
    open_example(page, 1)
    left, figures = address(page), page.url.replace("/ui/", "/metrics")

    def told() -> str:
        lines = page.request.get(figures).text().splitlines()
        return next((line for line in lines if '/leave",status="204"' in line), "")

    before = told()
    page.goto("about:blank")
    for _ in range(100):
        if (after := told()) != before:
            break
        page.wait_for_timeout(100)
    assert after != before
    answer = page.request.get(left)
    assert answer.status == 200 and answer.json()["rounds"] == []
