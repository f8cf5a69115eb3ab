"""The page as people meet it who use a keyboard, a screen reader, a phone, or a dark room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.console.conftest import ELSEWHERE
from tests.support.chromium import Chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

CONTRAST = """
() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest(':disabled')) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    found.push([element.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}
"""


def names(page: Page, role: Any) -> list[str]:
    """Accessible names of what is seen with this role."""
    found = page.get_by_role(role).all()
    return [one.aria_snapshot().split('"')[1] if '"' in one.aria_snapshot() else "" for one in found]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


def test_every_control_has_a_name(page: Page) -> None:
    page.locator("#devices").evaluate("(devices) => { devices.open = true; }")
    assert names(page, "button") == ["Send", "Mute", "Call", "Camera on"]
    assert names(page, "combobox") == ["Microphone", "Camera", "Speaker"]
    assert names(page, "textbox") == ["Type to the model"]
    assert names(page, "slider") == ["Volume"]
    assert len(names(page, "checkbox")) == 2
    assert names(page, "heading") == ["microturn", "Conversation", "You", "Turn by turn"]
    assert names(page, "img") == ["Time line of both sides. Nothing was said yet."]
    assert names(page, "log") == ["Captions"]


def test_the_keyboard_reaches_all_in_the_order_of_sight(origin: str, chromium: Chromium) -> None:
    page = chromium.open(origin)
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(focused(page))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", order[-1]
    assert order == ["conversation", "Devices and sound", "mute", "call", "camera", "As text"]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(origin: str, chromium: Chromium, scheme: Any) -> None:
    page = chromium.open(origin)
    page.emulate_media(color_scheme=scheme)
    page.locator("#devices").evaluate("(devices) => { devices.open = true; }")
    page.get_by_role("button", name="Call", exact=True).click()
    page.wait_for_selector("#notice:not([hidden])")
    found = page.evaluate(CONTRAST)
    assert len(found) > 25
    assert not [text for text, ratio in found if ratio < 4.5], found  # WCAG 2.2, 1.4.3
    page.close()


@pytest.mark.parametrize("width", [320, 360, 414, 768, 1280, 1920])
def test_nothing_is_wider_than_the_window(origin: str, chromium: Chromium, width: int) -> None:
    page = chromium.open(origin)
    page.set_viewport_size({"width": width, "height": 740})
    call = page.get_by_role("button", name="Call", exact=True).bounding_box()
    assert call is not None and call["height"] >= 44
    assert call["y"] + call["height"] <= 740  # the first thing to do is in sight
    page.locator("#devices").evaluate("(devices) => { devices.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = page.evaluate("""() => [...document.querySelectorAll('button')]
      .filter((button) => button.scrollWidth > button.clientWidth).map((button) => button.id)""")
    assert not clipped
    page.close()


def test_motion_is_left_out_where_it_is_not_wanted(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.evaluate("document.body.dataset.state = 'calling'")
    assert page.evaluate("getComputedStyle(document.querySelector('.lamp')).animationName") == "none"
    page.evaluate("document.body.dataset.state = 'idle'")
    page.emulate_media(reduced_motion="no-preference")


def test_a_token_of_the_address_does_not_stay_there(origin: str, chromium: Chromium) -> None:
    page = chromium.open(f"{origin}?x=1#token=aaa.bbb.ccc&view=wide")
    assert page.evaluate("location.href") == f"{origin}?x=1#view=wide"
    assert page.evaluate("sessionStorage.getItem('microturn.token')") == '"aaa.bbb.ccc"'
    assert page.evaluate("localStorage.length") == 0
    page.close()


def test_an_old_call_is_not_resumed(origin: str, chromium: Chromium) -> None:
    page = chromium.open(origin)
    kept = {"resume": "web-0.b-0.x", "camera": False, "seenMs": 0}
    page.evaluate("(kept) => sessionStorage.setItem('microturn.call', JSON.stringify(kept))", kept)
    page.reload()
    page.wait_for_timeout(300)
    assert page.evaluate("document.body.dataset.state") == "idle"
    assert not page.locator("#notice").is_visible()
    page.close()


def test_an_insecure_page_says_why_it_cannot_call(origin: str, chromium: Chromium) -> None:
    page = chromium.open(origin.replace("127.0.0.1", ELSEWHERE))
    assert "secure connection" in page.locator("#notice").inner_text()
    assert page.get_by_role("button", name="Call", exact=True).is_disabled()
    page.close()


def test_the_page_works_under_the_policy_that_it_is_served_with(page: Page, chromium: Chromium) -> None:
    page.wait_for_timeout(300)
    told = [c for c in chromium.complaints if "Cross-Origin-Opener-Policy" not in c]  # of the insecure page
    assert not [c for c in told if "Content Security Policy" in c or "error" in c.lower()]
