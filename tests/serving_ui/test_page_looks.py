"""Looks of the policy at its masks, on the page of a server that refines them."""

import numpy as np
import pytest
from playwright.sync_api import expect

from segzero.masks import decode
from segzero.refinement.pipeline import refining
from tests.helpers import servers
from tests.helpers.demo_page import (
    add_point_inside,
    ask,
    canvas_pixels,
    cards,
    dialogue_url,
    open_file,
    reload_dialogue,
    save_screenshot,
)
from tests.helpers.judge import KEEP, Judge

pytestmark = pytest.mark.slow


@pytest.fixture
def page(new_page, pipeline, held_out, tmp_path):
    """A page whose policy corrects a mask and then keeps it; of the rounds after that, each has one look."""
    sample = held_out[0]
    inside, outside = sample.objects[0].points[0], (6, sample.height - 6)
    (x, y), (far_x, far_y) = (pipeline.frame.to_frame(point, sample.size) for point in (inside, outside))
    points = f'[{{"point_2d": [{x}, {y}], "label": 1}}, {{"point_2d": [{far_x}, {far_y}], "label": 0}}]'
    says = (f"<think>too <b>small</b></think><answer>{points}</answer>", KEEP, "well", "<answer>[]</answer>")
    refined = refining(pipeline.with_models(Judge(pipeline.policy, *says), pipeline.segmenter), 3)
    path = tmp_path / "scene.png"
    path.write_bytes(sample.image)
    with servers.running(refined) as server:
        page = new_page(f"{server.url}/ui/")
        open_file(page, path)
        yield page


def looks(page, number):
    """Locate the choices of a round: its looks, then the result."""
    row = cards(page).nth(number - 1).get_by_role("radiogroup", name=f"Looks at the mask of round {number}")
    return row.get_by_role("radio")


def names(page, number):
    return [each.get_attribute("aria-label") for each in looks(page, number).all()]


def steps(page, number):
    """The steps of a round, as the server holds them."""
    return page.request.get(dialogue_url(page)).json()["rounds"][number - 1]["steps"]


def test_each_look_is_shown_by_mouse_and_by_keyboard(page, held_out):
    sample = held_out[0]
    plain = canvas_pixels(page, sample.size)
    assert ask(page, sample.question) == "found"
    correction = "Corrected (1 point inside, 1 point outside)"
    assert names(page, 1) == [f"Look 1 of 2: {correction}", "Look 2 of 2: Kept", "Result after 2 looks"]
    first, second, result = looks(page, 1).all()
    expect(result).to_have_attribute("aria-checked", "true")
    shown = canvas_pixels(page, sample.size)

    first.click()
    expect(first).to_have_attribute("aria-checked", "true")
    expect(result).to_have_attribute("aria-checked", "false")
    expect(page.locator(".looks p")).to_have_text(f"Look 1: {correction}.\ntoo <b>small</b>")
    save_screenshot(page, "look_corrected")
    look = steps(page, 1)[0]
    with_points = canvas_pixels(page, sample.size)
    brightness = [with_points[int(y) - 2 : int(y) + 4, int(x) - 2 : int(x) + 4].mean() for x, y in look["points"]]
    assert look["labels"] == [1, 0] and brightness[0] > 140 > brightness[1]  # a plus on white, a minus on black
    page.locator("[data-layer=points]").uncheck()
    before, drawn = decode(look["rle"]), np.abs(canvas_pixels(page, sample.size) - plain).max(-1) > 10
    assert drawn[before].mean() > 0.95 and drawn[~before].mean() < 0.05
    page.locator("[data-layer=points]").check()

    first.focus()
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-checked", "true")
    expect(page.locator(".looks p")).to_have_text("Look 2: Kept.\nright")
    page.keyboard.press("Escape")
    expect(result).to_be_focused()
    expect(page.locator(".looks p")).to_be_hidden()
    page.keyboard.press("ArrowRight")  # from the end to the beginning
    expect(first).to_be_focused()
    page.locator("#canvas").press("Escape")
    expect(result).to_have_attribute("aria-checked", "true")
    first.click()
    page.locator("[data-id='1']").click()  # selects an instance, which is the result's
    expect(result).to_have_attribute("aria-checked", "true")
    assert np.abs(canvas_pixels(page, sample.size) - shown).max() <= 10


def test_other_ends_of_the_looking_and_rounds_without_looks(page, held_out):
    sample = held_out[0]
    ask(page, sample.question)
    assert ask(page, sample.question) == "found"
    assert names(page, 2) == ["Look 1 of 1: Could not be read (no_answer)", "Result after 1 look"]
    assert ask(page, sample.question) == "nothing"
    assert names(page, 3) == ["Look 1 of 1: Nothing there", "Result after 1 look"]
    add_point_inside(page, sample.objects[0].points[0], sample.size)
    expect(page.locator("#keep")).to_be_enabled()
    looks(page, 3).first.click()  # which discards what is not kept
    expect(page.locator("#correction")).to_be_hidden()
    expect(page.locator("#hint")).to_contain_text("Click a thing")
    save_screenshot(page, "look_nothing")
    add_point_inside(page, sample.objects[0].points[0], sample.size)
    page.locator("#keep").click()
    expect(cards(page)).to_have_count(4)
    assert cards(page).nth(3).locator(".looks").count() == 0

    reload_dialogue(page)
    assert len(names(page, 1)) == 3 and len(names(page, 3)) == 2
    page.locator("#undo").click()
    expect(cards(page)).to_have_count(3)
    expect(looks(page, 3).last).to_have_attribute("aria-checked", "true")
