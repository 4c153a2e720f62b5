"""A phone, the keyboard alone, the dark: the same page for everybody."""

import pytest
from playwright.sync_api import expect

from tests.helpers import browsing
from tests.helpers.browsing import EASY, ask, ask_until, cards, open_example, shot

pytestmark = pytest.mark.slow

# Of every visible text: its contrast with what lies behind it, and what it says.
CONTRAST = """() => {
    const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const color = parse(getComputedStyle(each).backgroundColor);
            if (color.length === 3 || color[3] > 0.99) return color;
        }
        return [255, 255, 255];
    };
    const told = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
        const covered = element.closest("[disabled], .disabled, .unseen, .score, noscript, option");
        if (!own.length || covered || !element.checkVisibility({ visibilityProperty: true })) continue;
        const [front, back] = [parse(getComputedStyle(element).color), behind(element)].map(light);
        told.push([(Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05), own[0].data.trim()]);
    }
    return told;
}"""

# Of everything that can be pressed and seen: width, height, what it is called.
TARGETS = """() => [...document.querySelectorAll("button, summary, select, textarea, label:has(input[type=checkbox])")]
    .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest("details.think"))
    .map((each) => [each.offsetWidth, each.offsetHeight, each.getAttribute("aria-label") || each.textContent.trim()])"""

# What can be pressed but has no name.
NAMELESS = """() =>
    [...document.querySelectorAll("button, summary, select, textarea, input:not([type=file]), canvas[tabindex]")]
    .filter((each) => each.checkVisibility())
    .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
    .map((each) => each.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(new_page, served, scheme):
    page = new_page(served.url, color_scheme=scheme)
    page.locator(".example").first.wait_for()
    shot(page, f"opening_{scheme}")
    weak = [each for each in page.evaluate(CONTRAST) if each[0] < 4.5]
    open_example(page, 1)
    ask_until(page, "found", EASY)
    ask(page, "the shape right of [REF:1]")
    told = page.evaluate(CONTRAST)
    weak += [each for each in told if each[0] < 4.5]
    assert len(told) > 15 and weak == []
    assert page.evaluate(NAMELESS) == []
    shot(page, f"rounds_{scheme}")


def test_on_a_phone_by_touch(new_page, served):
    page = new_page(served.url, 390, 844, device_scale_factor=2, has_touch=True, is_mobile=True)
    page.locator(".example").first.wait_for()
    shot(page, "phone_opening")
    sideways = "() => document.scrollingElement.scrollWidth - innerWidth"
    assert page.evaluate(sideways) <= 0
    page.locator(".example").nth(1).tap()
    expect(page.locator("#canvas")).to_be_visible()
    shot(page, "phone_empty")
    ask_until(page, "found", EASY)
    shot(page, "phone_found")
    assert page.evaluate(sideways) <= 0
    small = [each for each in page.evaluate(TARGETS) if each[1] < 44 or each[0] < 40]
    assert small == []
    for name in ("#canvas", "#question"):  # in sight together with what was found
        box = page.locator(name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844
    ask(page, "the shape right of [REF:1]")
    shot(page, "phone_rounds")

    page.locator("[data-tool=add]").tap()
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    with page.expect_response("**/candidates"):
        box = canvas.bounding_box()
        canvas.tap(position={"x": box["width"] * 0.6, "y": box["height"] * 0.6})
    expect(page.locator("#tray")).to_be_in_viewport(ratio=1)
    shot(page, "phone_candidates")
    assert page.evaluate(sideways) <= 0
    page.locator("#keep").tap()
    expect(page.locator("#tray")).to_be_hidden()


def test_with_the_keyboard_alone(page):
    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press(key)
        raise AssertionError(f"{selector} can't be reached by {key}")

    tab_to(".example")
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused(timeout=browsing.ANSWER)
    page.keyboard.press("Control+A")
    page.keyboard.type("the largest shape")
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(1, timeout=browsing.ANSWER)

    tab_to("#canvas", "Shift+Tab")
    page.keyboard.press("Escape")  # let go of what was found
    page.keyboard.press("p")
    expect(page.locator("[data-tool=add]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowLeft")  # the crosshair, in the middle
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    shot(page, "keyboard")
    with page.expect_response("**/candidates") as caught:
        page.keyboard.press("Enter")
    [[x, y]] = caught.value.request.post_data_json["points"]
    assert 112 < x < 135 and 112 < y < 135
    expect(page.locator("#keep")).to_be_enabled()
    page.keyboard.press("2")
    expect(page.locator("#masks .mask").nth(1)).to_have_attribute("aria-checked", "true")
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2)

    page.keyboard.press("b")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # one corner
    for key in ("Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    with page.expect_response("**/candidates") as caught:
        page.keyboard.press("Enter")  # the other
    assert "box" in caught.value.request.post_data_json
    page.keyboard.press("Escape")
    expect(page.locator("#tray")).to_be_hidden()
    page.keyboard.press("Control+z")
    expect(cards(page)).to_have_count(1)
