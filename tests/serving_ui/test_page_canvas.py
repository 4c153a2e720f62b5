"""Images on the canvas: how they are opened and closed, and how a position on the canvas becomes a pixel."""

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    EXAMPLE_SIZE,
    QUESTIONS,
    add_point_inside,
    ask,
    ask_until_found,
    canvas_pixels,
    cards,
    open_example,
    open_file,
    save_screenshot,
    save_turned,
)

pytestmark = pytest.mark.slow

# Dispatches a drop or a paste of an image file.
TRANSFER = """async (kind) => {
    const data = new DataTransfer();
    const blob = await (await fetch("/v1/examples/1/image")).blob();
    data.items.add(new File([blob], "given.png", { type: "image/png" }));
    const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_can_be_dropped_or_pasted(page, kind):
    page.evaluate(TRANSFER, kind)
    width, height = EXAMPLE_SIZE
    expect(page.locator("#canvas")).to_have_attribute("aria-label", f"given.png, {width} by {height} pixels")


def test_the_dialogue_before_a_new_image_can_be_reopened(page):
    open_example(page, 0)
    question = ask_until_found(page)
    page.locator("#new").click()
    expect(page.locator("#upload")).to_be_visible()
    open_example(page, 1)
    expect(cards(page)).to_have_count(0)
    page.locator("#new").click()
    open_example(page, 0)  # only the last dialogue can be reopened, no longer the first
    ask_until_found(page)
    page.locator("#new").click()
    save_screenshot(page, "closed")
    with page.expect_request(lambda request: request.url.endswith("/leave")) as left:
        open_example(page, 1)
        ask(page, QUESTIONS[1])
        page.locator("#new").click()
    assert left.value.response().status == 204
    page.locator("#banner-action").click()
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first).to_contain_text(QUESTIONS[1])
    assert ask(page, question)  # the server still has it


def test_a_turned_photo_is_shown_and_measured_upright(page, tmp_path):
    upright = Image.new("RGB", (90, 160), (30, 30, 200))
    upright.paste((220, 40, 40), (0, 0, 90, 40))  # a red top
    save_turned(upright, tmp_path / "turned.jpg")
    open_file(page, tmp_path / "turned.jpg")
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "turned.jpg, 90 by 160 pixels")
    assert np.abs(canvas_pixels(page, upright.size) - np.asarray(upright, dtype=int)).mean() < 8
    assert add_point_inside(page, (70, 20), upright.size) == [[70, 20]]


def test_a_click_on_a_large_photo_is_sent_in_pixels_of_the_photo(page, tmp_path):
    size = (4200, 2800)
    Image.radial_gradient("L").convert("RGB").resize(size).save(tmp_path / "large.jpg")
    open_file(page, tmp_path / "large.jpg")
    [[x, y]] = add_point_inside(page, (3000, 1000), size)
    assert abs(x - 3000) < 8 and abs(y - 1000) < 8
    expect(page.locator("#correction-message")).not_to_have_text("Drawing ...", timeout=ANSWER_TIMEOUT)


def test_zooming_and_panning_keep_clicks_on_their_pixels(page):
    open_example(page, 1)
    side = EXAMPLE_SIZE[0]
    whole = canvas_pixels(page, EXAMPLE_SIZE)
    box = page.locator("#canvas").bounding_box()
    pointer = {"x": box["x"] + box["width"] * 0.75, "y": box["y"] + box["height"] * 0.5}
    page.mouse.move(**pointer)
    for _ in range(4):
        page.mouse.wheel(0, -200)
    expect(page.locator("#zoom-level")).not_to_have_text("100 %")
    zoom = float(page.locator("#zoom-level").inner_text().removesuffix(" %")) / 100
    # The pixel under the pointer stays there, so the visible part begins here.
    left, top = side * 0.75 * (1 - 1 / zoom), side * 0.5 * (1 - 1 / zoom)
    visible = (left, top, left + side / zoom, top + side / zoom)
    part = Image.fromarray(whole.astype(np.uint8)).resize(EXAMPLE_SIZE, Image.Resampling.BICUBIC, box=visible)
    assert zoom > 3 and np.abs(canvas_pixels(page, EXAMPLE_SIZE) - np.asarray(part, dtype=int)).mean() < 5
    save_screenshot(page, "zoomed")

    page.mouse.down()  # with the Select tool, dragging moves the visible part
    page.mouse.move(pointer["x"] - box["width"] * 0.25, pointer["y"], steps=3)
    page.mouse.up()
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        page.mouse.click(box["x"] + 1, box["y"] + 1)
    [[x, y]] = caught.value.request.post_data_json["points"]
    expected_left = min(left + side * 0.25 / zoom, side - side / zoom)
    assert abs(x - expected_left) <= 1.5 and abs(y - top) <= 1.5
    page.locator("#zoom-level").click()
    page.locator("#undo").click()  # removes the point
    expect(page.locator("#correction")).to_be_hidden()
    assert np.abs(canvas_pixels(page, EXAMPLE_SIZE) - whole).mean() < 1
