"""One server for all tests, one browser per module, and a page of its own for each test."""

import pytest
from playwright.sync_api import sync_playwright

from tests.helpers.demo_page import find_browser, run_demo_server


@pytest.fixture(scope="module")
def browser():
    """A browser. It is not shared by the session: while Playwright runs, no other test can start an event loop."""
    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def feedback_folder(tmp_path_factory):
    """The folder in which the server stores feedback."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="session")
def server(feedback_folder):
    """A server that needs no token."""
    with run_demo_server("--flags", str(feedback_folder)) as server:
        yield server


@pytest.fixture
def new_page(browser):
    """A function that opens pages. The test fails if one of their scripts fails or breaks the security policy."""
    errors: list[str] = []
    contexts = []

    def make(url: str, width: int = 1280, height: int = 800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        # The browser also logs each response with an error status, which is not a mistake of the page.
        page.on(
            "console",
            lambda message: (
                errors.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def page(new_page, server):
    """The page in its first view, with the examples loaded."""
    page = new_page(server.url)
    page.locator(".example").first.wait_for()
    return page
