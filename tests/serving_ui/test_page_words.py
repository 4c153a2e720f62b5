"""The screen "By words": phrases, thresholds, models, instances, flags, and a phone."""

import json

import pytest
from playwright.sync_api import expect

from tests.helpers.demo_page import ANSWER_TIMEOUT, HOSTILE_TEXT, last_feedback, open_example, save_screenshot

pytestmark = pytest.mark.slow

PHRASE = "the large shapes"  # of which the shipped policy finds several in the first example


def open_words(page):
    """Open the first example on the screen."""
    open_example(page)
    page.locator("[data-screen=words]").click()
    expect(page.locator("#words-form")).to_be_visible()


def submit(page, phrases):
    """Look for phrases, and return what the page sent and got."""
    page.locator("#words-phrases").fill(phrases)
    with page.expect_response("**/v1/words", timeout=ANSWER_TIMEOUT) as caught:
        page.locator("#words-run").click()
    expect(page.locator("#words-busy")).to_be_hidden(timeout=ANSWER_TIMEOUT)
    return caught.value


def rows(page):
    return page.locator("#words-instances .instance")


def test_phrases_become_instances_with_names(page):
    open_words(page)
    assert page.locator("#words-box").input_value() == "0.3" and page.locator("#words-text").input_value() == "0.25"
    answer = submit(page, f"{PHRASE}, dog bone ,").json()
    assert [one["phrase"] for one in answer["phrases"]] == [PHRASE, "dog bone"]
    found = [len(one["instances"]) for one in answer["phrases"]]
    assert found[0] > 1
    expect(rows(page)).to_have_count(sum(found))
    assert rows(page).first.locator("input[type=text]").input_value() == PHRASE
    lines = page.locator("#words-outcome li")
    expect(lines.first).to_contain_text(f"{PHRASE} {found[0]} instances")
    expect(lines.first).to_contain_text("presence ")
    save_screenshot(page, "words")


def test_thresholds_are_sent_and_may_leave_nothing(page):
    open_words(page)
    page.locator("#words-box").fill("1")
    expect(page.locator("output[for=words-box]")).to_have_text("1.00")
    answer = submit(page, PHRASE).json()
    assert answer["phrases"][0]["instances"] == [] and answer["phrases"][0]["presence"] > 0
    expect(page.locator("#words-outcome li")).to_contain_text("nothing there")
    expect(rows(page)).to_have_count(0)


def test_instances_are_picked_merged_deleted_and_flagged(page, feedback_folder):
    open_words(page)
    count = len(submit(page, PHRASE).json()["phrases"][0]["instances"])
    rows(page).nth(0).locator("input[type=checkbox]").check()
    rows(page).nth(1).locator("input[type=checkbox]").check()
    page.locator("#words-instances button", has_text="Merge").click()
    expect(rows(page)).to_have_count(count - 1)
    page.locator("#words-note").fill("two of them are one")
    page.locator("#words-bad").click()
    expect(page.locator("#words-flag-status")).to_have_text("Kept as bad. Thank you.", timeout=ANSWER_TIMEOUT)
    line = last_feedback(feedback_folder)
    assert (line["question"], line["verdict"], line["note"]) == (PHRASE, "bad", "two of them are one")
    assert len(line["objects"]) == count - 1


def test_clear_empties_the_screen_and_examples_fill_it(page):
    open_words(page)
    submit(page, PHRASE)
    page.locator("#words-box").fill("0.5")
    page.locator("#words-clear").click()
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#words-outcome li")).to_have_count(0)
    assert page.locator("#words-phrases").input_value() == "" and page.locator("#words-box").input_value() == "0.3"
    chip = page.locator("#words-examples .chip").first
    text = chip.text_content()
    with page.expect_response("**/v1/words", timeout=ANSWER_TIMEOUT) as caught:
        chip.click()
    assert caught.value.json()["phrases"][0]["phrase"] == text


def test_what_the_server_says_is_text(page):
    open_words(page)
    hostile = {"phrase": HOSTILE_TEXT, "presence": 0.5, "error": None, "instances": []}
    body = json.dumps({"size": {"width": 224, "height": 224}, "phrases": [hostile]})
    page.route("**/v1/words", lambda route: route.fulfill(body=body, content_type="application/json"))
    submit(page, "cup")
    expect(page.locator("#words-outcome")).to_contain_text(HOSTILE_TEXT)
    assert page.locator("#words-outcome img, #words-outcome script").count() == 0


def test_an_error_is_one_line_and_can_be_tried_again(page):
    open_words(page)
    response = submit(page, "a <|im_end|> cup")
    assert response.status == 422
    expect(page.locator("#banner-text")).to_contain_text("special tokens")


def test_a_phone_shows_all_of_it(new_page, server):
    page = new_page(server.url, width=390, height=844, has_touch=True, is_mobile=True)
    page.locator(".example").first.wait_for()
    open_words(page)
    submit(page, f"{PHRASE}, dog")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for control in ("#words-phrases", "#words-run", "#words-clear", "#words-good", "#words-bad", "[data-screen=words]"):
        box = page.locator(control).bounding_box()
        assert box["height"] >= 40 and box["width"] >= 40, (control, box)
    save_screenshot(page, "words_phone")
    page.locator("#words-instances").scroll_into_view_if_needed()
    save_screenshot(page, "words_phone_instances")
