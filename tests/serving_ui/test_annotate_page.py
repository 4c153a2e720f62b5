"""The annotation page: clicks, boxes, the brush, the choice of three, labels, the next picture, all by keyboard too."""

import numpy as np
import pytest
from playwright.sync_api import expect

from segzero.data.annotation import Draft, open_project
from segzero.masks import decode, encode, mask_iou
from segzero.serving.limits import Tokens
from segzero.serving.options import ServerOptions
from segzero.tiny.scenes import make_scene
from tests.helpers import servers
from tests.helpers.demo_page import SCREENSHOTS

SCENES = [make_scene(np.random.default_rng(seed)) for seed in (4, 2, 5)]
SHAPE = max(SCENES[0].shapes, key=lambda shape: shape.radius)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "images").mkdir()
    for number, scene in enumerate(SCENES):
        (tmp_path / "images" / f"{number}.png").write_bytes(scene.png())
    return open_project(tmp_path / "project", tmp_path / "images")[0]


@pytest.fixture
def annotate(pipeline, project, new_page):
    """A function that opens the annotation page as the annotator anna."""
    tokens = Tokens(["anna secret"])
    with servers.running(pipeline, tokens=tokens, options=ServerOptions(annotation=project)) as server:

        def open_page(**size):
            page = new_page(f"{server.url}/ui/annotate.html", **size)
            page.locator("#token").fill("secret")
            page.keyboard.press("Enter")
            expect(page.locator("#workspace")).to_be_visible()
            expect(page.locator("#done")).to_be_enabled()
            return page

        yield open_page


def place(page, point):
    """Position on the page of a pixel of the scene."""
    box = page.locator("#canvas").bounding_box()
    return box["x"] + (point[0] + 0.5) * box["width"] / 224, box["y"] + (point[1] + 0.5) * box["height"] / 224


def instances(project, number=0):
    return project.read(list(project.entries)[number]).instances


def wait_for(page, project, count, number=0):
    """Wait until the page has saved so many instances."""
    for _ in range(100):
        if len(instances(project, number)) == count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(instances(project, number))


def test_a_click_gives_three_masks_and_the_kept_one_is_saved_under_its_label(annotate, project):
    page = annotate()
    expect(page.locator("#progress-line")).to_have_text("0 of 3 done · manual · anna")
    page.locator("#label").fill("shape")
    page.mouse.click(*place(page, SHAPE.point))
    expect(page.locator("#masks .mask")).to_have_count(3)
    page.screenshot(path=SCREENSHOTS / "annotate_choice.png")
    page.locator("#masks .mask").nth(1).click()
    expect(page.locator("#masks .mask").nth(1)).to_have_attribute("aria-checked", "true")
    page.locator("#masks .mask").nth(0).click()
    page.locator("#keep").click()
    wait_for(page, project, 1)
    [kept] = instances(project)
    assert (kept.label, kept.how, kept.who) == ("shape", "click", "anna") and kept.score > 0.5
    assert mask_iou(decode(kept.rle), SHAPE.mask) > 0.7
    page.locator("#done").click()
    expect(page.locator("#progress-line")).to_contain_text("1 of 3 done")
    expect(page.locator("#label-chips button")).to_have_text(["shape"])
    assert project.read(next(iter(project.entries))).done


def test_a_box_and_the_brush_make_masks_to_the_pixel(annotate, project):
    page = annotate()
    page.keyboard.press("b")
    x0, y0, x1, y1 = SHAPE.box
    page.mouse.move(*place(page, (x0 - 2, y0 - 2)))
    page.mouse.down()
    page.mouse.move(*place(page, (x1 + 2, y1 + 2)), steps=4)
    page.mouse.up()
    expect(page.locator("#masks .mask")).to_have_count(3)
    page.keyboard.press("Enter")
    wait_for(page, project, 1)
    assert instances(project)[0].how == "box" and mask_iou(decode(instances(project)[0].rle), SHAPE.mask) > 0.7
    page.keyboard.press("r")
    page.locator("#brush-size").evaluate("field => { field.value = 1 }")
    page.mouse.move(*place(page, (10, 10)))
    page.mouse.down()
    page.mouse.move(*place(page, (40, 10)), steps=10)
    page.mouse.up()
    page.keyboard.press("e")
    page.mouse.move(*place(page, (35, 6)))
    page.mouse.down()
    page.mouse.move(*place(page, (35, 14)), steps=10)
    page.mouse.up()
    page.screenshot(path=SCREENSHOTS / "annotate_brush.png")
    page.keyboard.press("Enter")
    wait_for(page, project, 2)
    painted = instances(project)[1]
    mask = decode(painted.rle)
    assert painted.how == "brush" and mask[10, 20] and not mask[10, 35] and mask[10, 39] and not mask[14].any()
    assert mask.sum() < 120 and not mask[:, :8].any() and not mask[:, 43:].any()  # the picture did not move meanwhile


def test_everything_works_by_keyboard(annotate, project):
    page = annotate()
    page.keyboard.press("l")
    page.keyboard.type("pear")
    page.keyboard.press("Enter")
    canvas = page.locator("#canvas")
    expect(canvas).to_be_focused()
    page.keyboard.press("r")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    expect(page.locator("#masks .mask")).to_have_count(1)
    page.keyboard.press("Enter")
    wait_for(page, project, 1)
    assert instances(project)[0].label == "pear" and decode(instances(project)[0].rle)[112, 112]
    page.keyboard.press("v")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    expect(page.locator("#annotate-instances .count")).to_have_text("1 of 1 picked")
    page.keyboard.press("Delete")
    wait_for(page, project, 0)
    page.keyboard.press("Control+z")
    wait_for(page, project, 1)
    page.keyboard.press("d")
    expect(page.locator("#progress-line")).to_contain_text("1 of 3 done")
    expect(canvas).to_have_attribute("aria-label", "1.png, 224 by 224 pixels")
    expect(page.locator("#done")).to_be_enabled()
    page.keyboard.press("s")
    expect(canvas).to_have_attribute("aria-label", "2.png, 224 by 224 pixels")
    expect(page.locator("#done")).to_be_enabled()
    page.keyboard.press("d")
    expect(page.locator("#progress-line")).to_contain_text("2 of 3 done")


def test_filled_masks_are_named_corrected_and_deleted(annotate, project):
    id = next(iter(project.entries))
    masks = [encode(shape.mask) for shape in SCENES[0].shapes[:2]]
    project.save(id, 0, [Draft("", rle, "everything", 0.93) for rle in masks], False, "everything mode")
    page = annotate()
    expect(page.locator("#annotate-instances .instance")).to_have_count(2)
    page.locator("#annotate-instances input[type=text]").first.fill("apple")
    page.keyboard.press("Enter")
    page.locator("#annotate-instances input[type=checkbox]").nth(1).check()
    page.locator("#label").fill("pear")
    page.keyboard.press("Enter")
    for _ in range(100):
        if [each.label for each in instances(project)] == ["apple", "pear"]:
            break
        page.wait_for_timeout(50)
    assert [(each.label, each.how) for each in instances(project)] == [("apple", "everything"), ("pear", "everything")]
    page.screenshot(path=SCREENSHOTS / "annotate_filled.png")


def test_what_somebody_else_saved_meanwhile_is_joined_with_what_is_new_here(annotate, project):
    page = annotate()
    id = next(iter(project.entries))
    project.save(id, 0, [Draft("theirs", encode(SCENES[0].shapes[0].mask), "click")], False, "anna")  # another tab
    page.locator("#label").fill("mine")
    page.mouse.click(*place(page, SHAPE.point))
    expect(page.locator("#masks .mask")).to_have_count(3)
    page.keyboard.press("Enter")
    expect(page.locator("#banner-text")).to_contain_text("This image was saved by anna")
    page.wait_for_timeout(800)
    assert [each.label for each in instances(project)] == ["theirs"]
    page.locator("#banner-action").click()
    wait_for(page, project, 2)
    assert [each.label for each in instances(project)] == ["theirs", "mine"]


def test_at_the_end_the_page_says_so(annotate, project):
    page = annotate()
    for _ in range(3):
        expect(page.locator("#done")).to_be_enabled()
        page.locator("#done").click()
        expect(page.locator("body")).not_to_have_class("busy")
    expect(page.locator("#finished-text")).to_have_text("All 3 pictures are done.")
    page.screenshot(path=SCREENSHOTS / "annotate_end.png")


def test_it_fits_a_phone(annotate, project):
    page = annotate(width=390, height=844)
    page.mouse.click(*place(page, SHAPE.point))
    expect(page.locator("#masks .mask")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator("[data-tool]").all():
        assert button.bounding_box()["height"] >= 44
    page.screenshot(path=SCREENSHOTS / "annotate_phone.png")
    page.locator("#keep").click()
    wait_for(page, project, 1)
    page.screenshot(path=SCREENSHOTS / "annotate_phone_list.png", full_page=True)
