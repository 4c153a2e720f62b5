"""The screen "Programs": a program by hand, one for a question, its trace, failures, and a phone."""

import json

import pytest
from playwright.sync_api import expect

from tests.helpers.demo_page import ANSWER_TIMEOUT, HOSTILE_TEXT, open_example, run_demo_server, save_screenshot

pytestmark = pytest.mark.slow

PROGRAM = 'A=FIND("all shapes")\nB=LARGEST(A)\nRESULT(UNION(B, SMALLEST(A)))'


@pytest.fixture(scope="module")
def writing_server():
    """A server with a writer of programs."""
    with run_demo_server("--llm", "scenes") as server:
        yield server


def open_programs(page):
    """Open the first example on the screen."""
    page.locator(".example").first.wait_for()
    open_example(page)
    page.locator("[data-screen=programs]").click()
    expect(page.locator("#programs-form")).to_be_visible()


def run(page, source, button="#programs-run"):
    """Run a program, and return what the page got."""
    field = "#programs-source" if button == "#programs-run" else "#programs-question"
    page.locator(field).fill(source)
    with page.expect_response("**/v1/programs", timeout=ANSWER_TIMEOUT) as caught:
        page.locator(button).click()
    expect(page.locator("#programs-busy")).to_be_hidden(timeout=ANSWER_TIMEOUT)
    return caught.value


def steps(page):
    return page.locator("#programs-trace .step")


def rows(page):
    return page.locator("#programs-instances .instance")


def test_a_program_becomes_a_trace_whose_steps_can_be_seen(page):
    open_programs(page)
    expect(page.locator("#programs-question")).to_be_hidden()  # nobody writes programs here
    trace = run(page, PROGRAM).json()
    expect(steps(page)).to_have_count(5)
    expect(steps(page).first).to_contain_text('A = FIND("all shapes")')
    expect(steps(page).first).to_contain_text(f"Masks: {trace['steps'][0]['summary']}")
    expect(steps(page).last).to_have_attribute("aria-pressed", "true")
    expect(rows(page)).to_have_count(len(trace["result"]))
    expect(page.locator("#programs-outcome")).to_contain_text(trace["steps"][-1]["summary"])
    steps(page).nth(1).click()
    expect(rows(page)).to_have_count(1)
    assert rows(page).first.locator("input[type=text]").input_value() == "B"
    expect(steps(page).nth(1)).to_have_attribute("aria-pressed", "true")
    save_screenshot(page, "programs")


def test_a_number_is_told_and_a_failure_names_its_line(page):
    open_programs(page)
    count = run(page, 'RESULT(COUNT(FIND("all shapes")))').json()["result"]
    expect(page.locator("#programs-outcome")).to_contain_text(f"The answer is {count:g}")
    run(page, "A=SEGMENT([[900, 900, 950, 950]])\nRESULT(A)")
    expect(page.locator("#programs-outcome")).to_contain_text("Line 1: [900, 900, 950, 950] lies outside")
    expect(rows(page)).to_have_count(0)
    assert run(page, "import os").status == 422
    expect(page.locator("#banner-text")).to_contain_text("Line 1: 'import os' is no step")


def test_a_question_is_answered_by_a_program_that_can_be_changed(new_page, writing_server):
    page = new_page(writing_server.url)
    open_programs(page)
    expect(page.locator("#programs-writer")).to_have_text("scripted-writer writes the program")
    answer = run(page, "all shapes except the largest one", "#programs-write").json()
    assert page.locator("#programs-source").input_value() == answer["program"]
    expect(page.locator("#programs-outcome")).to_contain_text("object")
    changed = answer["program"].replace("LARGEST", "SMALLEST")
    assert run(page, changed).json()["program"] == changed
    with page.expect_response("**/v1/programs", timeout=ANSWER_TIMEOUT) as caught:
        page.locator("#programs-question").press("Enter")
    assert caught.value.json()["question"] == "all shapes except the largest one"


def test_what_the_server_says_is_text(page):
    open_programs(page)
    step = {"line": 1, "name": HOSTILE_TEXT, "text": HOSTILE_TEXT, "operator": "COUNT", "type": "Number"}
    step |= {"summary": HOSTILE_TEXT, "value": 1, "milliseconds": 1, "note": HOSTILE_TEXT}
    answer = {"question": "", "program": HOSTILE_TEXT, "width": 224, "height": 224, "steps": [step], "type": ""}
    answer |= {"result": None, "error": {"message": HOSTILE_TEXT, "line": 1}, "attempts": [], "seconds": 0.1}
    body = json.dumps(answer)
    page.route("**/v1/programs", lambda route: route.fulfill(body=body, content_type="application/json"))
    run(page, PROGRAM)
    expect(page.locator("#programs-trace")).to_contain_text(HOSTILE_TEXT)
    assert page.locator("#programs-trace img, #programs-trace script, #programs-outcome img").count() == 0


def test_a_phone_shows_all_of_it(new_page, writing_server):
    page = new_page(writing_server.url, width=390, height=844, has_touch=True, is_mobile=True)
    open_programs(page)
    run(page, "the left two shapes", "#programs-write")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for control in ("#programs-source", "#programs-run", "#programs-write", "#programs-question", ".step >> nth=0"):
        box = page.locator(control).bounding_box()
        assert box["height"] >= 40 and box["width"] >= 40, (control, box)
    save_screenshot(page, "programs_phone")
