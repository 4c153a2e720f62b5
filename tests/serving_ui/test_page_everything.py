"""The screen "Everything": settings, a run, and the instances to pick, merge, rename, delete and export."""

import json

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from segzero.masks import area, box_of, decode
from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    EXAMPLE_SIZE,
    ask,
    canvas_pixels,
    click_pixel,
    open_example,
    open_file,
    save_screenshot,
)
from tests.serving_ui.test_page_accessibility import FIND_NAMELESS, MEASURE_CONTRAST, MEASURE_OVERFLOW, MIN_CONTRAST

pytestmark = pytest.mark.slow


def find_everything(page, points: int = 16) -> list[dict]:
    """Run on the screen, and return the masks that the server sent."""
    page.locator("[data-screen=everything]").click()
    page.locator("#everything-points").fill(str(points))
    with page.expect_response("**/v1/everything", timeout=ANSWER_TIMEOUT) as caught:
        page.locator("#everything-run").click()
    masks = caught.value.json()["masks"]
    expect(page.locator(".instance")).to_have_count(len(masks))
    return masks


def export(page, name: str, folder):
    page.locator("#everything-instances summary").click()
    with page.expect_download() as caught:
        page.locator("#everything-instances .menu-panel button", has_text=name).click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def test_instances_are_picked_merged_renamed_deleted_and_exported(page, tmp_path):
    open_example(page, 1)
    before = canvas_pixels(page, EXAMPLE_SIZE)
    masks = find_everything(page)
    assert len(masks) >= 3 and (canvas_pixels(page, EXAMPLE_SIZE) != before).any()
    save_screenshot(page, "everything_found")
    rows, button = page.locator(".instance"), lambda name: page.get_by_role("button", name=name, exact=True)
    expect(button("Merge")).to_be_disabled()
    smallest = min(range(len(masks)), key=lambda place: masks[place]["area"])
    inside = np.argwhere(decode(masks[smallest]["rle"]))
    row, column = inside[len(inside) // 2]
    click_pixel(page, (column, row), EXAMPLE_SIZE)
    expect(page.locator(".instance.picked")).to_have_count(1)
    page.locator(".instance.picked label").click()
    expect(page.locator(".instance.picked")).to_have_count(0)

    rows.nth(0).locator("label").click()
    rows.nth(1).locator("label").click()
    expect(page.locator("#everything-instances .count")).to_have_text(f"2 of {len(masks)} picked")
    save_screenshot(page, "everything_picked")
    button("Merge").click()
    expect(rows).to_have_count(len(masks) - 1)
    expect(rows.nth(0).locator("small")).to_have_text("merged")
    rows.nth(0).get_by_role("textbox").fill("the <b>two</b>")
    rows.nth(1).locator("label").click()
    page.keyboard.press("Delete")
    expect(rows).to_have_count(len(masks) - 2)
    save_screenshot(page, "everything_edited")

    coco = json.loads(export(page, "COCO", tmp_path).read_text())
    [image], annotations = coco["images"], coco["annotations"]
    assert (image["width"], image["height"]) == EXAMPLE_SIZE and len(annotations) == len(masks) - 2
    union = decode(masks[0]["rle"]) | decode(masks[1]["rle"])
    merged = next(each for each in annotations if each["id"] == 1)
    assert (decode(merged["segmentation"]) == union).all() and merged["area"] == union.sum() and "score" not in merged
    assert [category["name"] for category in coco["categories"]] == ["the <b>two</b>", "object"]
    for each in annotations:
        x0, y0, x1, y1 = box_of(decode(each["segmentation"]))
        assert each["bbox"] == [x0, y0, x1 - x0, y1 - y0] and each["area"] == area(each["segmentation"])
    with Image.open(export(page, "Picture", tmp_path)) as picture:
        assert picture.size == EXAMPLE_SIZE

    for count in (len(masks) - 1, len(masks) - 1, len(masks)):  # the deletion, the name, the merge
        page.locator("#everything-instances").get_by_role("button", name="Take back").click()
        expect(rows).to_have_count(count)


def test_rounds_and_instances_are_apart(page):
    open_example(page, 1)
    ask(page, "the largest shape")
    masks = find_everything(page, 8)
    expect(page.locator("#rounds-panel")).to_be_hidden()
    expect(page.locator("[data-tool=add]")).to_be_hidden()
    page.locator("[data-screen=ask]").click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator("#everything-panel")).to_be_hidden()
    page.locator("[data-screen=everything]").click()
    expect(page.locator(".instance")).to_have_count(len(masks))
    page.locator("#new").click()
    open_example(page, 2)
    expect(page.locator(".instance")).to_have_count(0)


def test_no_mask_and_refusals_are_told(page):
    open_example(page, 1)
    page.locator("[data-screen=everything]").click()
    page.locator("#everything-iou").fill("1")
    page.locator("#everything-points").fill("4")
    page.locator("#everything-run").click()
    expect(page.locator("#everything-outcome")).to_contain_text("No mask passes", timeout=ANSWER_TIMEOUT)
    page.locator("#everything-points").fill("0")
    page.locator("#everything-run").click()
    assert page.evaluate("() => !document.getElementById('everything-form').checkValidity()")
    expect(page.locator("#everything-run")).to_be_visible()


def test_a_run_can_be_stopped(page):
    open_example(page, 1)
    page.locator("[data-screen=everything]").click()
    page.locator("#everything-points").fill("64")
    page.locator("#everything-crops").select_option("1")
    page.locator("#everything-run").click()
    page.locator("#everything-stop").click()
    expect(page.locator("#everything-run")).to_be_enabled(timeout=ANSWER_TIMEOUT)
    expect(page.locator(".instance")).to_have_count(0)
    find_everything(page, 8)


def test_over_a_photo_the_page_says_what_the_shipped_models_know(page, tmp_path):
    open_example(page, 0)
    expect(page.locator("#only-scenes")).to_be_hidden()
    page.locator("#new").click()
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "photo.png")
    open_file(page, tmp_path / "photo.png")
    expect(page.locator("#only-scenes")).to_contain_text("only know drawn scenes of coloured shapes")
    page.locator("[data-screen=everything]").click()
    expect(page.locator("#only-scenes")).to_be_visible()
    save_screenshot(page, "everything_photo")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_screen_can_be_read(new_page, server, scheme):
    page = new_page(server.url, color_scheme=scheme)
    page.locator(".example").first.wait_for()
    open_example(page, 1)
    find_everything(page, 8)
    page.locator(".instance label").first.click()
    page.wait_for_timeout(300)  # until the button's colour has changed
    assert [each for each in page.evaluate(MEASURE_CONTRAST) if each[0] < MIN_CONTRAST] == []
    assert page.evaluate(FIND_NAMELESS) == []
    save_screenshot(page, f"everything_{scheme}")


def test_on_a_phone(new_page, server, tmp_path):
    page = new_page(server.url, 390, 844, device_scale_factor=2, has_touch=True, is_mobile=True)
    page.locator(".example").first.wait_for()
    page.locator(".example").nth(1).tap()
    expect(page.locator("#canvas")).to_be_visible()
    page.locator("[data-screen=everything]").tap()
    save_screenshot(page, "phone_everything")
    masks = find_everything(page)
    page.locator(".instance label").first.tap()
    expect(page.locator(".instance.picked")).to_have_count(1)
    save_screenshot(page, "phone_everything_found")
    assert page.evaluate(MEASURE_OVERFLOW) <= 0 and len(masks) >= 3
    page.evaluate("() => scrollTo(0, 0)")
    page.locator("#new").tap()
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "photo.png")
    open_file(page, tmp_path / "photo.png")
    save_screenshot(page, "phone_photo")
