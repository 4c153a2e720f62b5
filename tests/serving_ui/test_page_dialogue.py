"""A dialogue on the page: rounds, references, corrections, undo, feedback and downloads."""

import json
import re
import zipfile
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pycocotools import mask as coco
from pycocotools.coco import COCO

from segzero.masks import decode, points_of
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    EXAMPLE_SIZE,
    QUESTIONS,
    ask,
    ask_until_found,
    canvas_pixels,
    cards,
    click_pixel,
    download,
    hide_boxes_and_points,
    last_feedback,
    open_example,
    open_file,
    save_screenshot,
    saved_masks,
    saved_rounds,
    send_question,
)

pytestmark = pytest.mark.slow


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where two pictures differ visibly: [H, W]."""
    return np.abs(after - before).max(-1) > 10


def test_an_answer_is_drawn_where_its_masks_are(page, tmp_path):
    save_screenshot(page, "opening")
    expect(page.locator("#models-summary")).to_contain_text("reads the question")
    path = tmp_path / "scene.png"
    path.write_bytes(page.request.get(page.url.replace("/ui/", "/v1/examples/1/image")).body())
    open_file(page, path)
    save_screenshot(page, "empty")
    before = canvas_pixels(page, EXAMPLE_SIZE)
    image = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    assert np.abs(before - image).mean() < 4

    ask_until_found(page)
    save_screenshot(page, "found")
    hide_boxes_and_points(page)
    found = np.any(saved_masks(page, tmp_path), axis=0)
    difference = changed(before, canvas_pixels(page, EXAMPLE_SIZE))
    assert difference[found].mean() > 0.95
    assert difference[~found].mean() < 0.05  # contours and labels
    page.locator("[data-layer=masks]").uncheck()
    assert changed(before, canvas_pixels(page, EXAMPLE_SIZE))[found].mean() < 0.5  # only labels are left
    page.locator("[data-layer=masks]").check()
    page.locator("#opacity").fill("0")
    assert changed(before, canvas_pixels(page, EXAMPLE_SIZE))[found].mean() < 0.5


def test_a_second_round_refers_to_the_first(page, tmp_path):
    open_example(page, 1)
    first = ask_until_found(page)
    page.locator("#question").fill("the shape right of")
    cards(page).first.get_by_role("button", name="Use as reference").click()
    expect(page.locator("#question")).to_have_value(re.compile(r"^the shape right of \[REF:1\] ?$"))
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2, timeout=ANSWER_TIMEOUT)
    save_screenshot(page, "second_round")
    rounds = saved_rounds(page, tmp_path)
    assert [round["question"] for round in rounds] == [first, "the shape right of [REF:1]"]
    assert rounds[1]["refers"] == [1]
    count = sum(len(round["regions"]) for round in rounds)
    chips = page.locator("#rounds [data-id]").all()
    assert [int(chip.get_attribute("data-id")) for chip in chips] == list(range(1, count + 1))

    cards(page).first.locator(".card-head").click()
    expect(cards(page).first).to_have_class(re.compile("shown"))
    page.locator("#show-all").click()
    save_screenshot(page, "all_rounds")


def test_a_click_corrects_an_instance_and_undo_takes_it_back(page, tmp_path):
    open_example(page, 1)
    ask_until_found(page)
    [before, *_] = saved_masks(page, tmp_path)
    [point] = points_of(before)
    chip = cards(page).first.locator("[data-id]").first
    chip.click()
    if chip.get_attribute("aria-pressed") != "true":  # it was selected already, and the click deselected it
        chip.click()
    page.locator("[data-tool=remove]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, point, EXAMPLE_SIZE)
    assert caught.value.request.post_data_json == {"id": 1, "points": [list(point)], "labels": [0]}
    masks = [mask for mask in caught.value.json()["masks"] if mask["box"]]
    expect(page.locator("#correction-title")).to_have_text("Correct instance 1")
    options = page.locator("#masks .mask")
    expect(options).to_have_count(len(masks))
    scores = [option.locator(".score").inner_text() for option in options.all()]
    assert scores == [f"{mask['score']:.2f}" for mask in masks]
    options.last.click()
    expect(options.last).to_have_attribute("aria-checked", "true")
    save_screenshot(page, "candidates")
    assert (saved_masks(page, tmp_path)[0] == before).all()  # nothing is saved yet
    with page.expect_response("**/refine"):
        page.locator("#keep").click()
    expect(page.locator("#correction")).to_be_hidden()
    corrected = saved_masks(page, tmp_path)[0]
    assert (corrected == decode(masks[-1]["rle"])).all() and (corrected != before).any()
    save_screenshot(page, "corrected")
    page.locator("#undo").click()
    expect(page.locator("#announcement")).to_have_text("1 round is left")
    assert (saved_masks(page, tmp_path)[0] == before).all()


def test_a_box_or_a_point_without_a_selected_instance_draws_a_new_one(page, tmp_path):
    open_example(page, 0)
    page.locator("[data-tool=box]").click()
    canvas = page.locator("#canvas").bounding_box()
    scale = canvas["width"] / EXAMPLE_SIZE[0]
    page.mouse.move(canvas["x"] + 100 * scale, canvas["y"] + 60 * scale)
    page.mouse.down()
    page.mouse.move(canvas["x"] + 175 * scale, canvas["y"] + 130 * scale, steps=4)
    with page.expect_response("**/candidates") as caught:
        page.mouse.up()
    prompt = caught.value.request.post_data_json
    assert set(prompt) == {"points", "labels", "box"}
    assert np.abs(np.array(prompt["box"]) - [100, 60, 175, 130]).max() <= 1
    expect(page.locator("#correction-title")).to_have_text("A new instance")
    save_screenshot(page, "drawing")
    page.locator("#keep").click()
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first).to_contain_text("Drawn by hand")

    page.keyboard.press("Escape")
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")  # deselects what was drawn
    page.locator("[data-tool=add]").click()
    click_pixel(page, (137, 95), EXAMPLE_SIZE)
    page.locator("#correction-name").fill("a ring")
    expect(page.locator("#keep")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2)
    expect(cards(page).last).to_contain_text("a ring")
    with Image.open(download(page, "overlay", tmp_path)) as overlay:
        assert overlay.width >= EXAMPLE_SIZE[0]


def test_downloads_can_be_read(page, tmp_path):
    open_example(page, 2)
    ask_until_found(page)
    annotated = COCO(str(download(page, "coco", tmp_path)))
    masks = saved_masks(page, tmp_path)
    annotations = annotated.loadAnns(annotated.getAnnIds())
    assert len(annotations) == len(masks) > 0
    for annotation, mask in zip(annotations, masks, strict=True):
        assert (annotated.annToMask(annotation).astype(bool) == mask).all()
        assert coco.area(annotated.annToRLE(annotation)) == annotation["area"]
    with zipfile.ZipFile(download(page, "masks", tmp_path)) as archive:
        assert len([name for name in archive.namelist() if name.endswith(".png")]) >= len(masks)
    with Image.open(download(page, "overlay", tmp_path)) as overlay:
        assert overlay.format == "PNG"
        assert overlay.width >= EXAMPLE_SIZE[0] and overlay.height >= EXAMPLE_SIZE[1]


def test_feedback_is_stored_with_its_note(page, feedback_folder):
    open_example(page, 3)
    question = ask_until_found(page)
    cards(page).first.get_by_role("button", name="This answer is bad").click()
    page.locator(".feedback input").fill("the wrong one")
    save_screenshot(page, "flag")
    page.locator(".feedback button").click()
    expect(cards(page).first).to_contain_text("Kept as bad")
    line = last_feedback(feedback_folder)
    assert line["verdict"] == "bad" and line["note"] == "the wrong one"
    assert question in json.dumps(line)


def test_an_empty_answer_is_shown_as_nothing_there(page, tmp_path):
    # The shipped policy is trained halfway on purpose: it sees through some of the questions about absent shapes.
    absent = [sample for sample in make_samples(6 * 9, HELD_OUT_SEED + 3) if not sample.objects]
    for number, sample in enumerate(absent):
        path = tmp_path / f"{number}.png"
        path.write_bytes(sample.image)
        open_file(page, path)
        if ask(page, sample.question) == "nothing":
            break
        page.locator("#new").click()
    expect(cards(page).last.locator(".outcome")).to_have_text("Nothing there: nothing in the picture fits.")
    save_screenshot(page, "nothing")


def test_clear_can_be_undone(page):
    open_example(page, 0)
    ask_until_found(page)
    with page.expect_response("**/clear"):
        page.locator("#clear").click()
    expect(cards(page)).to_have_count(0)
    page.locator("#undo").click()
    expect(cards(page)).to_have_count(1)


def test_an_answer_streams_in_and_can_be_stopped(page):
    open_example(page, 0)
    page.evaluate("""() => {
        window.thoughts = new Set();
        new MutationObserver(() => {
            const stream = document.querySelector(".stream");
            if (stream?.isConnected && stream.textContent) window.thoughts.add(stream.textContent);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });
    }""")
    ask(page, QUESTIONS[0])
    thoughts = page.evaluate("() => [...window.thoughts]")
    assert len(thoughts) > 1 and all("<" not in text for text in thoughts)
    assert all(later.startswith(earlier) for earlier, later in pairwise(thoughts))

    page.route("**/ask", lambda route: None)  # is never answered
    send_question(page, "the circle")
    expect(page.locator(".pending")).to_contain_text("the circle")
    save_screenshot(page, "waiting")
    page.unroute("**/ask")
    page.locator("#stop").click()
    expect(page.locator(".pending")).to_have_count(0)
    expect(page.locator("#question")).to_have_value("the circle")
