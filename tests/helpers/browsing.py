"""A real server with the shipped models, and what a person does with its page."""

import base64
import io
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
from playwright.sync_api import Page, expect

SHOTS = Path(os.environ.get("SEGZERO_SCREENSHOTS", "build/screenshots"))
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
EASY = ["the largest shape", "the leftmost shape", "the rightmost shape", "the topmost shape"]  # each has an answer
START, ANSWER = 120, 60_000  # seconds for a server, milliseconds for the models


@dataclass
class Served:
    """`segzero demo-ui` as a process, and what it said."""

    url: str
    process: subprocess.Popen
    said: list[str] = field(default_factory=list)


@contextmanager
def demo_ui(*options: str, port: int | None = None) -> Iterator[Served]:
    """Until the block ends."""
    port = port or free_port()
    command = [sys.executable, "-m", "segzero", "demo-ui", "--no-browser", "--port", str(port), *options]
    process = subprocess.Popen(
        [*command, "--policy-backend", "transformers"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    served = Served(f"http://127.0.0.1:{port}/ui/", process)
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            served.said.append(line)
            if f"the page is at {served.url}" in line:
                ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.wait(START) and process.poll() is None, "".join(served.said)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def find_browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.fail(f"no browser: none of {', '.join(BROWSERS)} is installed; `make browser` installs one", pytrace=False)


def shot(page: Page, name: str) -> None:
    """Kept for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(350)  # smooth scrolling ends
    page.screenshot(path=SHOTS / f"{name}.png")


def open_file(page: Page, file: Path) -> None:
    page.locator("#file").set_input_files(file)
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER)


def open_example(page: Page, place: int = 0) -> None:
    page.locator(".example").nth(place).click()
    expect(page.locator("#canvas")).to_be_visible(timeout=ANSWER)


def cards(page: Page):
    return page.locator(".card:not(.pending)")


def ask(page: Page, question: str) -> str:
    """The state of the new round: found, nothing or unread."""
    before = cards(page).count()
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    expect(cards(page)).to_have_count(before + 1, timeout=ANSWER)
    [state] = set(re.findall(r"found|nothing|unread", cards(page).last.get_attribute("class") or ""))
    return state


def ask_until(page: Page, state: str, questions: list[str]) -> str:
    """The shipped policy is half-taught: the first of the questions that ends so."""
    for question in questions:
        if ask(page, question) == state:
            return question
        count = cards(page).count()
        page.locator("#undo").click()
        expect(cards(page)).to_have_count(count - 1)
    raise AssertionError(f"none of {questions} ended as {state}")


def seen(page: Page, size: tuple[int, int]) -> np.ndarray:
    """The canvas as it is, [H, W, 3], one value for each pixel of the image."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.evaluate("() => document.getElementById('canvas').toDataURL().split(',')[1]")
    drawn = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return np.asarray(drawn.resize(size, Image.Resampling.BOX), dtype=int)


def only_masks(page: Page) -> None:
    """Neither boxes nor points on the picture."""
    for layer in ("boxes", "points"):
        page.locator(f"[data-layer={layer}]").uncheck()


def download(page: Page, format: str, folder: Path) -> Path:
    page.locator("#downloads summary").click()
    with page.expect_download() as caught:
        page.locator(f"[data-download={format}]").click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def click_pixel(page: Page, point: tuple[float, float], size: tuple[int, int]) -> None:
    """In the middle of a pixel of the image."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    x, y = (
        (value + 0.5) / side * box[name] for value, side, name in zip(point, size, ("width", "height"), strict=True)
    )
    page.locator("#canvas").click(position={"x": x, "y": y})
