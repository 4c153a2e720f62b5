"""One server for all tests, one browser for a module; each test has a page of its own."""

import pytest
from playwright.sync_api import sync_playwright

from tests.helpers import browsing


@pytest.fixture(scope="module")
def browser():
    """Not for the session: while Playwright runs, no other test of this process can start an event loop."""
    path = browsing.find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def flags(tmp_path_factory):
    """Where flagged answers are kept."""
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="session")
def served(flags):
    """Everybody may come in."""
    with browsing.demo_ui("--flags", str(flags)) as served:
        yield served


@pytest.fixture
def new_page(browser):
    """Makes pages, whose scripts may not fail and who may not be refused anything by their own policy."""
    wrong: list[str] = []
    contexts = []

    def make(url: str, width: int = 1280, height: int = 800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # What the server refuses is logged too, and is not the page's mistake.
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(new_page, served):
    """The page, its examples shown."""
    page = new_page(served.url)
    page.locator(".example").first.wait_for()
    return page
