"""Accessibility of the page: contrast in light and dark, touch on a phone, and use by keyboard alone."""

import pytest
from playwright.sync_api import expect

from tests.helpers.demo_page import (
    ANSWER_TIMEOUT,
    EXAMPLE_SIZE,
    QUESTIONS,
    ask,
    ask_until_found,
    cards,
    open_example,
    save_screenshot,
)

pytestmark = pytest.mark.slow

FOLLOWUP = "the shape right of [REF:1]"
MIN_CONTRAST = 4.5  # WCAG 2.1, level AA, for normal text
MIN_TARGET = (40, 44)  # CSS pixels of whatever can be tapped, width and height

# Returns [contrast ratio, text] of every visible text against its background.
MEASURE_CONTRAST = """() => {
    const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const background = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const color = parse(getComputedStyle(each).backgroundColor);
            if (color.length === 3 || color[3] > 0.99) return color;
        }
        return [255, 255, 255];
    };
    const ratios = [];
    for (const element of document.querySelectorAll("body *")) {
        const texts = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
        const isExempt = element.closest("[disabled], .disabled, .visually-hidden, .score, noscript, option");
        if (!texts.length || isExempt || !element.checkVisibility({ visibilityProperty: true })) continue;
        const [front, back] = [parse(getComputedStyle(element).color), background(element)].map(luminance);
        const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
        ratios.push([ratio, texts[0].data.trim()]);
    }
    return ratios;
}"""

# Returns [width, height, name] of everything visible that can be tapped.
MEASURE_TARGETS = """() =>
    [...document.querySelectorAll("button, summary, select, textarea, label:has(input[type=checkbox])")]
    .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest("details.thinking"))
    .map((each) => [each.offsetWidth, each.offsetHeight, each.getAttribute("aria-label") || each.textContent.trim()])"""

# Returns the HTML of visible controls without a name that a screen reader could read.
FIND_NAMELESS = """() =>
    [...document.querySelectorAll("button, summary, select, textarea, input:not([type=file]), canvas[tabindex]")]
    .filter((each) => each.checkVisibility())
    .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
    .map((each) => each.outerHTML.slice(0, 80))"""

# Returns by how many CSS pixels the page is wider than the window.
MEASURE_OVERFLOW = "() => document.scrollingElement.scrollWidth - innerWidth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast_and_controls_have_names(new_page, server, scheme):
    page = new_page(server.url, color_scheme=scheme)
    page.locator(".example").first.wait_for()
    save_screenshot(page, f"opening_{scheme}")
    ratios = page.evaluate(MEASURE_CONTRAST)
    open_example(page, 1)
    ask_until_found(page)
    ask(page, FOLLOWUP)
    of_rounds = page.evaluate(MEASURE_CONTRAST)
    assert len(of_rounds) > 15
    assert [each for each in ratios + of_rounds if each[0] < MIN_CONTRAST] == []
    assert page.evaluate(FIND_NAMELESS) == []
    save_screenshot(page, f"rounds_{scheme}")


def test_on_a_phone_by_touch(new_page, server):
    page = new_page(server.url, 390, 844, device_scale_factor=2, has_touch=True, is_mobile=True)
    page.locator(".example").first.wait_for()
    save_screenshot(page, "phone_opening")
    assert page.evaluate(MEASURE_OVERFLOW) <= 0
    page.locator(".example").nth(1).tap()
    expect(page.locator("#canvas")).to_be_visible()
    save_screenshot(page, "phone_empty")
    ask_until_found(page)
    save_screenshot(page, "phone_found")
    assert page.evaluate(MEASURE_OVERFLOW) <= 0
    targets = page.evaluate(MEASURE_TARGETS)
    assert [each for each in targets if each[0] < MIN_TARGET[0] or each[1] < MIN_TARGET[1]] == []
    for name in ("#canvas", "#question"):  # both stay visible together with the answer
        expect(page.locator(name)).to_be_in_viewport(ratio=1)
    ask(page, FOLLOWUP)
    save_screenshot(page, "phone_rounds")

    page.locator("[data-tool=add]").tap()
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    with page.expect_response("**/candidates"):
        box = canvas.bounding_box()
        canvas.tap(position={"x": box["width"] * 0.6, "y": box["height"] * 0.6})
    expect(page.locator("#correction")).to_be_in_viewport(ratio=1)
    save_screenshot(page, "phone_candidates")
    assert page.evaluate(MEASURE_OVERFLOW) <= 0
    page.locator("#keep").tap()
    expect(page.locator("#correction")).to_be_hidden()


def tab_to(page, selector: str, key: str = "Tab") -> None:
    """Press a key until the element has the focus."""
    for _ in range(60):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} can't be reached by {key}")


def test_with_the_keyboard_alone(page):
    tab_to(page, ".example")
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused(timeout=ANSWER_TIMEOUT)
    page.keyboard.press("Control+A")
    page.keyboard.type(QUESTIONS[0])
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(1, timeout=ANSWER_TIMEOUT)

    tab_to(page, "#canvas", "Shift+Tab")
    page.keyboard.press("Escape")  # deselects what was found
    page.keyboard.press("p")
    expect(page.locator("[data-tool=add]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowLeft")  # the first arrow key shows the crosshair, in the middle of the image
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    save_screenshot(page, "keyboard")
    with page.expect_response("**/candidates") as caught:
        page.keyboard.press("Enter")
    [[x, y]] = caught.value.request.post_data_json["points"]
    side = EXAMPLE_SIZE[0]
    assert side / 2 < x < side and x == y  # right of and below the middle, by the same step
    expect(page.locator("#keep")).to_be_enabled()
    page.keyboard.press("2")
    expect(page.locator("#masks .mask").nth(1)).to_have_attribute("aria-checked", "true")
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2)

    page.keyboard.press("b")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # the first corner
    for key in ("Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    with page.expect_response("**/candidates") as caught:
        page.keyboard.press("Enter")  # the opposite corner
    x0, y0, x1, y1 = caught.value.request.post_data_json["box"]
    assert x0 < x1 and y0 < y1
    page.keyboard.press("Escape")
    expect(page.locator("#correction")).to_be_hidden()
    page.keyboard.press("Control+z")
    expect(cards(page)).to_have_count(1)
