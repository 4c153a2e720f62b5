"""Reloading: the page restores its dialogue as long as the server has it."""

import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from segzero.masks import points_of
from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    EXAMPLE_SIZE,
    HOSTILE_ROUND,
    HOSTILE_TEXT,
    QUESTIONS,
    add_point_inside,
    ask,
    ask_until_found,
    banner,
    canvas_pixels,
    cards,
    click_pixel,
    dialogue_url,
    hide_boxes_and_points,
    last_feedback,
    open_example,
    open_file,
    reload_dialogue,
    save_screenshot,
    save_turned,
    saved_masks,
    saved_rounds,
    send_question,
)

pytestmark = pytest.mark.slow

FOLLOWUP = "the shape right of [REF:1]"

# Returns the text and the thumbnail of every card.
READ_CARDS = """() => [...document.querySelectorAll(".card")]
    .map((card) => [card.textContent, card.querySelector("canvas").toDataURL()])"""


def saved_questions(page, folder) -> list[str]:
    return [round["question"] for round in saved_rounds(page, folder)]


def correct_first_region(page, masks: list[np.ndarray]) -> None:
    """Correct the first region by a point outside, with the last of the candidate masks."""
    page.locator("[data-tool=select]").click()
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")
    cards(page).first.locator("[data-id='1']").click()
    page.locator("[data-tool=remove]").click()
    [point] = points_of(masks[0])
    with page.expect_response("**/candidates"):
        click_pixel(page, point, EXAMPLE_SIZE)
    page.locator("#masks .mask").last.click()
    page.locator("#keep").click()
    expect(page.locator("#correction")).to_be_hidden()
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")  # deselects the region


def test_a_reloaded_page_shows_the_same_rounds_and_corrections(page, tmp_path):
    open_example(page, 1)
    label = page.locator("#canvas").get_attribute("aria-label")
    first = ask_until_found(page)
    ask(page, FOLLOWUP)
    drawn = saved_masks(page, tmp_path)
    correct_first_region(page, drawn)
    corrected = saved_masks(page, tmp_path)
    assert (corrected[0] != drawn[0]).any()
    hide_boxes_and_points(page)
    page.locator("#show-all").click()
    cards_before, pixels_before = page.evaluate(READ_CARDS), canvas_pixels(page, EXAMPLE_SIZE)
    followups = page.locator("#followups").inner_text()
    save_screenshot(page, "before_reload")

    reload_dialogue(page)
    expect(cards(page)).to_have_count(2)
    hide_boxes_and_points(page)
    save_screenshot(page, "after_reload")
    assert page.evaluate(READ_CARDS) == cards_before
    assert np.abs(canvas_pixels(page, EXAMPLE_SIZE) - pixels_before).mean() < 0.5
    assert saved_questions(page, tmp_path) == [first, FOLLOWUP]
    assert all((now == then).all() for now, then in zip(saved_masks(page, tmp_path), corrected, strict=True))
    expect(page.locator("#canvas")).to_have_attribute("aria-label", label)
    assert page.locator("#followups").inner_text() == followups
    expect(page.locator("#show-all")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#banner")).to_be_hidden()


def test_a_restored_dialogue_takes_questions_and_feedback(page, tmp_path, feedback_folder):
    open_example(page, 1)
    first = ask_until_found(page)
    reload_dialogue(page)
    page.locator("#question").fill("the shape left of")
    cards(page).first.get_by_role("button", name="Use as reference").click()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2, timeout=ANSWER_TIMEOUT)
    assert saved_questions(page, tmp_path) == [first, "the shape left of [REF:1]"]
    cards(page).first.get_by_role("button", name="This answer is good").click()
    page.locator(".feedback:not([hidden]) button").click()
    expect(cards(page).first).to_contain_text("Kept as good")
    assert last_feedback(feedback_folder)["question"] == first


def test_a_restored_dialogue_can_be_corrected_and_undone_to_its_beginning(page, tmp_path):
    open_example(page, 1)
    ask_until_found(page)
    ask(page, FOLLOWUP)
    drawn = saved_masks(page, tmp_path)
    correct_first_region(page, drawn)
    corrected = saved_masks(page, tmp_path)
    ask(page, QUESTIONS[0])
    page.locator("#undo").click()  # the third round
    expect(cards(page)).to_have_count(2)

    reload_dialogue(page)
    correct_first_region(page, corrected)
    assert (saved_masks(page, tmp_path)[0] != corrected[0]).any()
    for masks, rounds_left in ((corrected, 2), (drawn, 2), (None, 1), (None, 0)):
        with page.expect_response("**/undo"):
            page.locator("#undo").click()
        expect(cards(page)).to_have_count(rounds_left)
        if masks:
            assert (saved_masks(page, tmp_path)[0] == masks[0]).all()
    expect(page.locator("#undo")).to_be_disabled()  # as many steps as the server has


def test_a_cleared_dialogue_is_restored_and_clear_can_be_undone(page):
    open_example(page, 0)
    ask_until_found(page)
    page.locator("#clear").click()
    expect(cards(page)).to_have_count(0)
    reload_dialogue(page)
    expect(page.locator("#no-rounds")).to_be_visible()
    page.locator("#undo").click()
    expect(cards(page)).to_have_count(1)


def test_a_dialogue_that_the_server_has_dropped_is_reported_once(page):
    open_example(page)
    ask(page, QUESTIONS[0])
    assert page.request.delete(dialogue_url(page)).status == 204
    page.reload()
    expect(banner(page)).to_have_text("The server has forgotten the dialogue that was open here.")
    expect(page.locator("#banner")).to_have_class("notice")
    expect(page.locator("#banner-action")).to_be_hidden()
    expect(page.locator("#upload")).to_be_visible()
    expect(page.locator("#workspace")).to_be_hidden()
    save_screenshot(page, "gone_after_reload")
    page.reload()
    expect(page.locator(".example").first).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()
    open_example(page)
    assert ask(page, QUESTIONS[0])


def test_only_the_open_image_is_restored(page):
    open_example(page, 0)
    ask(page, QUESTIONS[0])
    first = dialogue_url(page)
    page.locator("#new").click()
    page.reload()
    expect(page.locator(".example").first).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()
    assert page.request.get(first).status == 200  # another tab may show it

    open_example(page, 1)
    ask(page, QUESTIONS[0])
    page.locator("#new").click()
    open_example(page, 2)
    reload_dialogue(page)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("^Scene 3, "))
    expect(cards(page)).to_have_count(0)


def test_a_page_reloaded_during_an_answer_has_the_rounds_of_the_server(page):
    open_example(page, 0)
    ask(page, QUESTIONS[0])
    with page.expect_request("**/ask"):
        send_question(page, QUESTIONS[1])
    reload_dialogue(page)
    expect(page.locator(".pending")).to_have_count(0)
    # The round may be saved or not, and the page may have loaded it or not; after the next round both agree.
    send_question(page, QUESTIONS[2])
    expect(cards(page).last).to_contain_text(QUESTIONS[2], timeout=ANSWER_TIMEOUT)
    expect(page.locator("body")).not_to_have_class("busy")
    rounds = page.request.get(dialogue_url(page)).json()["rounds"]
    shown = [card.locator(".card-title strong").inner_text() for card in cards(page).all()]
    assert shown == [round["question"] for round in rounds]


def test_two_tabs_can_continue_one_dialogue(page):
    open_example(page, 0)
    ask(page, QUESTIONS[0])
    other = page.context.new_page()
    other.goto(page.url)
    session = page.evaluate("() => sessionStorage.getItem('segzero.dialogue')")
    # A duplicated tab has a copy of the session.
    other.evaluate("(session) => sessionStorage.setItem('segzero.dialogue', session)", session)
    reload_dialogue(other)
    expect(cards(other)).to_have_count(1)
    ask(page, QUESTIONS[1])
    send_question(other, QUESTIONS[2])
    expect(cards(other)).to_have_count(3, timeout=ANSWER_TIMEOUT)
    expect(cards(other).nth(1)).to_contain_text(QUESTIONS[1])
    for rounds_left in (2, 1, 0):
        other.locator("#undo").click()
        expect(cards(other)).to_have_count(rounds_left)
    ask(other, QUESTIONS[3])
    send_question(page, QUESTIONS[1])
    expect(cards(page)).to_have_count(2, timeout=ANSWER_TIMEOUT)
    expect(cards(page).first).to_contain_text(QUESTIONS[3])


def test_a_large_turned_photo_is_restored_upright(page, tmp_path):
    upright = Image.radial_gradient("L").convert("RGB").resize((3000, 4000))
    upright.paste((220, 40, 40), (0, 0, 3000, 900))  # a red top
    save_turned(upright, tmp_path / "turned.jpg")
    open_file(page, tmp_path / "turned.jpg")
    before = canvas_pixels(page, (300, 400))
    reload_dialogue(page)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "turned.jpg, 3000 by 4000 pixels")
    assert np.abs(canvas_pixels(page, (300, 400)) - before).mean() < 1
    [[x, y]] = add_point_inside(page, (1500, 600), upright.size)
    assert abs(x - 1500) < 8 and abs(y - 600) < 8


def test_restoring_can_be_repeated_after_a_failure(page):
    open_example(page, 0)
    ask(page, QUESTIONS[0])
    page.route("**/image", lambda route: route.abort() if "/dialogues/" in route.request.url else route.continue_())
    page.reload()
    expect(banner(page)).to_contain_text("The server does not answer")
    page.unroute("**/image")
    page.locator("#banner-action").click()
    expect(cards(page)).to_have_count(1)
    expect(page.locator("#banner")).to_be_hidden()


def test_restored_texts_are_not_read_as_html(page):
    picture = page.request.get(page.url.replace("/ui/", "/v1/examples/1/image")).body()
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.locator("#file").set_input_files({"name": HOSTILE_TEXT, "mimeType": "image/png", "buffer": picture})
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER_TIMEOUT)
    url = dialogue_url(page)
    answer = page.request.get(url).json() | {"rounds": [HOSTILE_ROUND], "policy": HOSTILE_TEXT}
    page.route(url, lambda route: route.fulfill(json=answer))
    reload_dialogue(page)
    expect(cards(page).first.locator("strong")).to_have_text(HOSTILE_TEXT)
    expect(cards(page).first.locator(".thinking p")).to_have_text(HOSTILE_TEXT)
    width, height = EXAMPLE_SIZE
    label = f"{HOSTILE_TEXT}, {width} by {height} pixels"
    expect(page.locator("#canvas")).to_have_attribute("aria-label", label)
    page.locator("#new").click()
    expect(banner(page)).to_have_text(f"{HOSTILE_TEXT} is closed.")
    assert page.locator("img[src=x], body script").count() == 0


def test_a_closed_page_tells_the_server(page):
    open_example(page, 1)
    dialogue, metrics = dialogue_url(page), page.url.replace("/ui/", "/metrics")

    def leave_count() -> str:
        lines = page.request.get(metrics).text().splitlines()
        return next((line for line in lines if '/leave",status="204"' in line), "")

    before = leave_count()
    page.goto("about:blank")
    for _ in range(100):
        if (after := leave_count()) != before:
            break
        page.wait_for_timeout(100)
    assert after != before
    answer = page.request.get(dialogue)
    assert answer.status == 200 and answer.json()["rounds"] == []
