"""A real demo server with the shipped models, and the actions of a user on its page in a real browser."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from segzero.masks import decode

SCREENSHOTS = Path(os.environ.get("SEGZERO_SCREENSHOTS", "build/screenshots"))
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
START_TIMEOUT = 120  # seconds, for a server
ANSWER_TIMEOUT = 60_000  # milliseconds, for the models

EXAMPLE_SIZE = (224, 224)  # pixels of the example images, width and height
# Questions that have an answer in every example image.
QUESTIONS = ["the largest shape", "the leftmost shape", "the rightmost shape", "the topmost shape"]
HOSTILE_TEXT = "<img src=x onerror=alert(1)><script>alert(2)</script>"
# A round of the server whose texts would run scripts if the page inserted them as HTML.
HOSTILE_ROUND = {
    "number": 1,
    "question": HOSTILE_TEXT,
    "state": "unread",
    "error": "not_json",
    "think": HOSTILE_TEXT,
    "raw_text": HOSTILE_TEXT,
    "refers": [],
    "warnings": [],
    "regions": [],
}
EXIF_ORIENTATION = 0x0112


@dataclass
class DemoServer:
    """`segzero demo-ui` as a process, and the lines it has printed."""

    url: str
    process: subprocess.Popen
    output: list[str] = field(default_factory=list)


@contextmanager
def run_demo_server(*options: str, port: int | None = None) -> Iterator[DemoServer]:
    """Run a server until the block ends."""
    port = port or free_port()
    command = [sys.executable, "-m", "segzero", "demo-ui", "--no-browser", "--port", str(port), *options]
    process = subprocess.Popen(
        [*command, "--policy-backend", "transformers"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    server = DemoServer(f"http://127.0.0.1:{port}/ui/", process)
    ready = threading.Event()

    def read_output() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.output.append(line)
            if f"the page is at {server.url}" in line:
                ready.set()
        ready.set()

    threading.Thread(target=read_output, daemon=True).start()
    try:
        assert ready.wait(START_TIMEOUT) and process.poll() is None, "".join(server.output)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Find a TCP port that no process listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_browser() -> str:
    """Find the path of an installed browser, or fail the test."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.fail(f"no browser: none of {', '.join(BROWSERS)} is installed; `make browser` installs one", pytrace=False)


def save_screenshot(page: Page, name: str) -> None:
    """Save a screenshot for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(350)  # until smooth scrolling has ended
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def open_file(page: Page, file: Path) -> None:
    """Open an image file, and wait until the canvas shows it."""
    page.locator("#file").set_input_files(file)
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER_TIMEOUT)


def open_example(page: Page, place: int = 0) -> None:
    """Open an example image, and wait until the canvas shows it."""
    page.locator(".example").nth(place).click()
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER_TIMEOUT)


def reload_dialogue(page: Page) -> None:
    """Reload the page, and wait until it shows its dialogue again."""
    page.reload()
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER_TIMEOUT)
    expect(page.locator("body")).not_to_have_class("busy")


def cards(page: Page) -> Locator:
    """Locate the cards of all finished rounds."""
    return page.locator(".card:not(.pending)")


def banner(page: Page) -> Locator:
    """Locate the line that says what went wrong."""
    return page.locator("#banner-text")


def send_question(page: Page, question: str) -> None:
    """Type a question and press Enter, without waiting for the answer."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


def ask(page: Page, question: str) -> str:
    """Ask a question and return the state of the new round: found, nothing or unread."""
    before = cards(page).count()
    send_question(page, question)
    expect(cards(page)).to_have_count(before + 1, timeout=ANSWER_TIMEOUT)
    [state] = set(re.findall(r"found|nothing|unread", cards(page).last.get_attribute("class") or ""))
    return state


def ask_until_found(page: Page) -> str:
    """Ask until an answer finds something, and return that question. The shipped policy misses some on purpose."""
    for question in QUESTIONS:
        if ask(page, question) == "found":
            return question
        count = cards(page).count()
        page.locator("#undo").click()
        expect(cards(page)).to_have_count(count - 1)
    raise AssertionError(f"none of {QUESTIONS} found anything")


def canvas_pixels(page: Page, size: tuple[int, int]) -> np.ndarray:
    """Read the canvas at the image's size (width, height): [H, W, 3], integers."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.evaluate("() => document.getElementById('canvas').toDataURL().split(',')[1]")
    canvas = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return np.asarray(canvas.resize(size, Image.Resampling.BOX), dtype=int)


def hide_boxes_and_points(page: Page) -> None:
    """Leave only masks and labels on the canvas."""
    for layer in ("boxes", "points"):
        page.locator(f"[data-layer={layer}]").uncheck()


def click_pixel(page: Page, point: tuple[float, float], size: tuple[int, int]) -> None:
    """Click the middle of a pixel of the image, whose size is (width, height)."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    x, y = (
        (value + 0.5) / side * box[name] for value, side, name in zip(point, size, ("width", "height"), strict=True)
    )
    page.locator("#canvas").click(position={"x": x, "y": y})


def add_point_inside(page: Page, point: tuple[float, float], size: tuple[int, int]) -> list[list[int]]:
    """Click a pixel of the image with the Inside tool, and return the points that the page sends."""
    page.locator("[data-tool=add]").click()
    with page.expect_response("**/candidates") as caught:
        click_pixel(page, point, size)
    return caught.value.request.post_data_json["points"]


def download(page: Page, format: str, folder: Path) -> Path:
    """Download an export of the dialogue into a folder."""
    page.locator("#downloads summary").click()
    with page.expect_download() as caught:
        page.locator(f"[data-download={format}]").click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def dialogue_url(page: Page) -> str:
    """Return the server's address of the dialogue that the page has open."""
    id = page.evaluate("() => JSON.parse(sessionStorage.getItem('segzero.dialogue')).id")
    return f"{page.url.replace('/ui/', '/v1/dialogues/')}{id}"


def last_feedback(folder: Path) -> dict:
    """Read the last line of feedback that the server has stored."""
    return json.loads((folder / "flags.jsonl").read_text().splitlines()[-1])


def saved_rounds(page: Page, folder: Path) -> list[dict]:
    """Download the rounds as the server stores them."""
    return json.loads(download(page, "json", folder).read_text())["rounds"]


def saved_masks(page: Page, folder: Path) -> list[np.ndarray]:
    """Download the masks of all regions as the server stores them."""
    return [decode(region["rle"]) for round in saved_rounds(page, folder) for region in round["regions"]]


def save_turned(upright: Image.Image, path: Path) -> None:
    """Save an image as cameras do that are held on their side: turned, with an EXIF tag that turns it back."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
