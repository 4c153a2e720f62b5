"""A person's walk through the page, in a real browser against a real server: what is seen, sent and written."""

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


def saved_masks(page, folder) -> list[np.ndarray]:
    """Of all instances, as the server has them."""
    rounds = json.loads(download(page, "json", folder).read_text())["rounds"]
    return [decode(region["rle"]) for round in rounds for region in round["regions"]]


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after - before).max(-1) > 10


def test_upload_ask_and_the_mask_appears(page, tmp_path):
    shot(page, "opening")
    expect(page.locator("#models-of")).to_contain_text("reads the question")
    picture = tmp_path / "scene.png"
    picture.write_bytes(page.request.get(page.url.replace("/ui/", "/v1/examples/1/image")).body())
    open_file(page, picture)
    shot(page, "empty")
    before = seen(page, SIZE)
    true = np.asarray(Image.open(picture).convert("RGB"), dtype=int)
    assert np.abs(before - true).mean() < 4  # the picture itself, at its place

    ask_until(page, "found", EASY)
    shot(page, "found")
    only_masks(page)
    [mask, *more] = saved_masks(page, tmp_path)
    found = np.any([mask, *more], axis=0)
    difference = changed(before, seen(page, SIZE))
    assert difference[found].mean() > 0.95
    assert difference[~found].mean() < 0.05  # contours, and the numbers
    page.locator("[data-layer=masks]").uncheck()
    assert changed(before, seen(page, SIZE))[found].mean() < 0.5  # only numbers are left
    page.locator("[data-layer=masks]").check()
    page.locator("#opacity").fill("0")
    assert changed(before, seen(page, SIZE))[found].mean() < 0.5


def test_a_second_round_refers_to_the_first(page, tmp_path):
    open_example(page, 1)
    first = ask_until(page, "found", EASY)
    page.locator("#question").fill("the shape right of")
    cards(page).first.get_by_role("button", name="Use as reference").click()
    expect(page.locator("#question")).to_have_value(re.compile(r"^the shape right of \[REF:1\] ?$"))
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2, timeout=browsing.ANSWER)
    shot(page, "second_round")
    rounds = json.loads(download(page, "json", tmp_path).read_text())["rounds"]
    assert [each["question"] for each in rounds] == [first, "the shape right of [REF:1]"]
    assert rounds[1]["refers"] == [1]
    count = sum(len(each["regions"]) for each in rounds)
    assert list(range(1, count + 1)) == [
        int(chip.get_attribute("data-id")) for chip in page.locator("#rounds [data-id]").all()
    ]

    cards(page).first.locator(".show").click()
    expect(cards(page).first).to_have_class(re.compile("shown"))
    page.locator("#all").click()
    shot(page, "all_rounds")


def test_a_click_corrects_an_instance_and_undo_takes_it_back(page, tmp_path):
    open_example(page, 1)
    ask_until(page, "found", EASY)
    [before, *_] = saved_masks(page, tmp_path)
    [point] = points_of(before)
    cards(page).first.locator("[data-id]").first.click()
    if cards(page).first.locator("[data-id]").first.get_attribute("aria-pressed") != "true":  # it was chosen already
        cards(page).first.locator("[data-id]").first.click()
    page.locator("[data-tool=remove]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, point, SIZE)
    sent = caught.value.request.post_data_json
    assert sent == {"id": 1, "points": [list(point)], "labels": [0]}
    masks = caught.value.json()["masks"]
    expect(page.locator("#tray-title")).to_have_text("Correct instance 1")
    options = page.locator("#masks .mask")
    expect(options).to_have_count(len([each for each in masks if each["box"]]))
    assert [option.locator(".score").inner_text() for option in options.all()] == [
        f"{each['score']:.2f}" for each in masks if each["box"]
    ]
    last = options.count() - 1
    options.nth(last).click()
    expect(options.nth(last)).to_have_attribute("aria-checked", "true")
    shot(page, "candidates")
    assert (saved_masks(page, tmp_path)[0] == before).all()  # nothing has happened yet
    with page.expect_response("**/refine") as caught:
        page.locator("#keep").click()
    expect(page.locator("#tray")).to_be_hidden()
    kept = saved_masks(page, tmp_path)[0]
    assert (kept == decode(masks[last]["rle"])).all() and (kept != before).any()
    shot(page, "corrected")
    page.locator("#undo").click()
    expect(page.locator("#said")).to_have_text("1 round is left")
    assert (saved_masks(page, tmp_path)[0] == before).all()


def test_a_box_without_an_instance_draws_a_new_one(page, tmp_path):
    open_example(page, 0)
    page.locator("[data-tool=box]").click()
    box = page.locator("#canvas").bounding_box()
    scale = box["width"] / SIZE[0]
    page.mouse.move(box["x"] + 100 * scale, box["y"] + 60 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 175 * scale, box["y"] + 130 * scale, steps=4)
    with page.expect_response("**/candidates") as caught:
        page.mouse.up()
    drawn = caught.value.request.post_data_json
    assert set(drawn) == {"points", "labels", "box"}
    assert np.abs(np.array(drawn["box"]) - [100, 60, 175, 130]).max() <= 1
    expect(page.locator("#tray-title")).to_have_text("A new instance")
    shot(page, "drawing")
    page.locator("#keep").click()
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first).to_contain_text("Drawn by hand")
    page.keyboard.press("Escape")
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")  # lets go of what was drawn
    page.locator("[data-tool=add]").click()
    click_pixel(page, (137, 95), SIZE)
    page.locator("#tray-name").fill("a ring")
    expect(page.locator("#keep")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2)
    expect(cards(page).last).to_contain_text("a ring")
    with Image.open(download(page, "overlay", tmp_path)) as overlay:
        assert overlay.size[0] >= SIZE[0]


def test_downloads_are_what_their_readers_expect(page, tmp_path):
    open_example(page, 2)
    ask_until(page, "found", EASY)
    path = download(page, "coco", tmp_path)
    read = COCO(str(path))
    masks = saved_masks(page, tmp_path)
    annotations = read.loadAnns(read.getAnnIds())
    assert len(annotations) == len(masks) > 0
    for annotation, mask in zip(annotations, masks, strict=True):
        assert (read.annToMask(annotation).astype(bool) == mask).all()
        assert coco.area(read.annToRLE(annotation)) == annotation["area"]
    with zipfile.ZipFile(download(page, "masks", tmp_path)) as packed:
        assert len([name for name in packed.namelist() if name.endswith(".png")]) >= len(masks)
    with Image.open(download(page, "overlay", tmp_path)) as overlay:
        assert overlay.format == "PNG" and min(overlay.size) >= 224


def test_a_flagged_answer_is_kept_with_its_note(page, flags):
    open_example(page, 3)
    question = ask_until(page, "found", EASY)
    cards(page).first.get_by_role("button", name="This answer is bad").click()
    page.locator(".flag input").fill("the wrong one")
    shot(page, "flag")
    page.locator(".flag button").click()
    expect(cards(page).first).to_contain_text("Kept as bad")
    line = json.loads((flags / "flags.jsonl").read_text().splitlines()[-1])
    assert line["verdict"] == "bad" and line["note"] == "the wrong one"
    assert question in json.dumps(line)


def test_nothing_there_is_said_so(page, tmp_path):
    # The shipped policy is half-taught: of some questions for what is not there, it should see through one.
    absent = [sample for sample in make_samples(6 * 9, HELD_OUT_SEED + 3) if not sample.objects]
    for number, sample in enumerate(absent):
        path = tmp_path / f"{number}.png"
        path.write_bytes(sample.image)
        open_file(page, path)
        if ask(page, sample.question) == "nothing":
            break
        page.locator("#new").click()
    expect(cards(page).last.locator(".outcome")).to_have_text("Nothing there: nothing in the picture fits.")
    shot(page, "nothing")


def test_clear_can_be_undone(page):
    open_example(page, 0)
    ask_until(page, "found", EASY)
    with page.expect_response("**/clear"):
        page.locator("#clear").click()
    expect(cards(page)).to_have_count(0)
    page.locator("#undo").click()
    expect(cards(page)).to_have_count(1)


def test_a_new_picture_does_not_lose_the_rounds_before(page):
    open_example(page, 0)
    question = ask_until(page, "found", EASY)
    page.locator("#new").click()
    expect(page.locator("#opening")).to_be_visible()
    open_example(page, 1)
    expect(cards(page)).to_have_count(0)
    page.locator("#new").click()
    open_example(page, 0)  # the first dialogue is over now
    ask_until(page, "found", EASY)
    page.locator("#new").click()
    shot(page, "closed")
    with page.expect_request(lambda request: request.url.endswith("/leave")) as ended:
        open_example(page, 1)
        ask(page, "the leftmost shape")
        page.locator("#new").click()
    assert ended.value.response().status == 204
    page.locator("#problem-action").click()
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first).to_contain_text("the leftmost shape")
    assert ask(page, question)  # the server has it too


def test_a_picture_is_dropped_or_pasted(page, tmp_path):
    give = """async ([kind, target]) => {
        const data = new DataTransfer();
        const blob = await (await fetch("/v1/examples/1/image")).blob();
        data.items.add(new File([blob], "given.png", { type: "image/png" }));
        const event = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        document.querySelector(target).dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [kind, "body"])
        expect(page.locator("#canvas")).to_have_attribute("aria-label", "given.png, 224 by 224 pixels")
        page.locator("#new").click()


def test_a_turned_photo_is_shown_and_measured_upright(page, tmp_path):
    upright = Image.new("RGB", (90, 160), (30, 30, 200))
    upright.paste((220, 40, 40), (0, 0, 90, 40))  # a red top
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    open_file(page, tmp_path / "turned.jpg")
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "turned.jpg, 90 by 160 pixels")
    assert np.abs(seen(page, upright.size) - np.asarray(upright, dtype=int)).mean() < 8
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, (70, 20), upright.size)
    assert caught.value.request.post_data_json["points"] == [[70, 20]]


def test_a_large_photo_is_shown_small_and_clicked_in_its_own_pixels(page, tmp_path):
    Image.radial_gradient("L").convert("RGB").resize((4200, 2800)).save(tmp_path / "large.jpg")
    open_file(page, tmp_path / "large.jpg")
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, (3000, 1000), (4200, 2800))
    [[x, y]] = caught.value.request.post_data_json["points"]
    assert abs(x - 3000) < 8 and abs(y - 1000) < 8
    expect(page.locator("#tray-said")).not_to_have_text("Drawing ...", timeout=browsing.ANSWER)


def test_zooming_brings_a_click_to_its_pixel(page):
    open_example(page, 1)
    whole = seen(page, SIZE)
    box = page.locator("#canvas").bounding_box()
    near = {"x": box["x"] + box["width"] * 0.75, "y": box["y"] + box["height"] * 0.5}
    page.mouse.move(**near)
    for _ in range(4):
        page.mouse.wheel(0, -200)
    expect(page.locator("#zoom-now")).not_to_have_text("100 %")
    times = float(page.locator("#zoom-now").inner_text().removesuffix(" %")) / 100
    corner = 224 * 0.75 * (1 - 1 / times), 224 * 0.5 * (1 - 1 / times)  # what was under the pointer stays there
    part = Image.fromarray(whole.astype(np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC, box=(*corner, *(value + 224 / times for value in corner))
    )
    assert times > 3 and np.abs(seen(page, SIZE) - np.asarray(part, dtype=int)).mean() < 5
    shot(page, "zoomed")

    page.mouse.down()  # the hand moves the picture
    page.mouse.move(near["x"] - box["width"] * 0.25, near["y"], steps=3)
    page.mouse.up()
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        page.mouse.click(box["x"] + 1, box["y"] + 1)
    [[x, y]] = caught.value.request.post_data_json["points"]
    assert abs(x - min(corner[0] + 224 * 0.25 / times, 224 - 224 / times)) <= 1.5 and abs(y - corner[1]) <= 1.5
    page.locator("#zoom-now").click()
    page.locator("#undo").click()  # the point
    expect(page.locator("#tray")).to_be_hidden()
    assert np.abs(seen(page, SIZE) - whole).mean() < 1


def test_the_answer_streams_in_and_can_be_stopped(page):
    open_example(page, 0)
    page.evaluate("""() => {
        window.thoughts = new Set();
        new MutationObserver(() => {
            const stream = document.querySelector(".stream");
            if (stream?.isConnected && stream.textContent) window.thoughts.add(stream.textContent);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });
    }""")
    assert ask(page, EASY[0]) in ("found", "nothing", "unread")
    thoughts = page.evaluate("() => [...window.thoughts]")
    assert len(thoughts) > 1 and all("<" not in each for each in thoughts)
    assert all(later.startswith(earlier) for earlier, later in pairwise(thoughts))

    page.route("**/ask", lambda route: None)  # never answered
    page.locator("#question").fill("the circle")
    page.keyboard.press("Enter")
    expect(page.locator(".pending")).to_contain_text("the circle")
    shot(page, "waiting")
    page.unroute("**/ask")
    page.locator("#stop").click()
    expect(page.locator(".pending")).to_have_count(0)
    expect(page.locator("#question")).to_have_value("the circle")
