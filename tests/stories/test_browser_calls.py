"""A person opens the page in Chromium, clicks Call and talks: what is heard, seen and told, also when it fails."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.api.tokens import mint
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.chromium import RATE_HZ, Chromium, executable, speech, write_camera, write_voice
from tests.support.echo import Window, match

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.processes, pytest.mark.browser]

SECRET = "a secret of the tests, at least 32 bytes long"
LIVE_MS = 15_000
SPOKEN_S = 8.0
RESTART_S = 2.5
"""From the beginning of a call to another network."""


@pytest.fixture(scope="module", autouse=True)
def needs_chromium() -> None:
    """Skips all of them at once."""
    executable()


def wish(**settings: str) -> GatewayWish:
    """One telephone call is enough, and a few of browsers."""
    return GatewayWish(calls=1, settings={"webrtc_calls": "8", **settings})


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayUnderTest]:
    """One for the stories that break nothing."""
    with GatewayUnderTest.start(wish()) as started:
        yield started


@pytest.fixture(scope="module")
def breaking() -> Iterator[GatewayUnderTest]:
    """One for the stories that break a part of it, which comes back."""
    with GatewayUnderTest.start(wish()) as started:
        yield started


@pytest.fixture
def own(breaking: GatewayUnderTest) -> GatewayUnderTest:
    """That one, when all of it is there again and nobody calls."""
    breaking.wait_for(lambda m: m["microturn_workers_ready"] == 2 and m["microturn_webrtc_calls_live"] == 0)
    return breaking


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, once, after a second of silence: nothing of them is said before the call is up."""
    path = tmp_path_factory.mktemp("voice") / "digits.wav"
    return write_voice(path, speech(SPOKEN_S), silence_s=1.0)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camera(tmp_path_factory.mktemp("camera") / "foreman.y4m")


@pytest.fixture
def chromium(voice: Path, camera: Path) -> Iterator[Chromium]:
    with Chromium.start(voice, camera) as started:
        yield started
        for page in started.context.pages:  # of a test that failed: its call would be kept for 30 s
            if page.evaluate("document.body.dataset.state") == "live":
                hang_up(page)
        assert not started.complaints


def click(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def wait_until(page: Page, state: str, timeout_ms: float = LIVE_MS) -> None:
    page.wait_for_selector(f"body[data-state={state}]", timeout=timeout_ms)


def wait_for_notice(page: Page, code: str, timeout_ms: float = LIVE_MS) -> str:
    """What it says."""
    page.wait_for_selector(f"#notice[data-code='{code}']", timeout=timeout_ms)
    return page.locator("#notice").inner_text()


def call(chromium: Chromium, gateway: GatewayUnderTest, path: str = "/") -> Page:
    """A page in a call; the voice goes as it is, so that its echo can be compared."""
    page = chromium.open(gateway.http + path)
    page.get_by_text("Devices and sound").click()
    page.get_by_label("I use headphones").check()
    click(page, "Call")
    wait_until(page, "live")
    page.wait_for_selector("body[data-call]")
    return page


def name_of_call(page: Page) -> str:
    return str(page.evaluate("document.body.dataset.call"))


def hang_up(page: Page) -> None:
    click(page, "Hang up")
    wait_until(page, "idle")


def poll(what: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not (held := what()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return held


def echoes(chromium: Chromium, page: Page, seconds: float, since_s: float = 0.0) -> list[Window]:
    """Windows of so many seconds of the digits, as found in what the page has heard until they are all there, of a
    call that is live for `since_s` already."""
    page.wait_for_timeout(1000 * (seconds + 2.0 - since_s))
    heard = chromium.heard(page)[-1]
    assert heard.rate_hz == RATE_HZ
    return match(speech(seconds), heard.pcm, RATE_HZ)


def check_echo(windows: list[Window]) -> None:
    """All of it, in order, with one lag.

    On a machine with time to spare every window is found at the same lag. A busy one costs a frame here and
    there, on either side, and Chromium's jitter buffer follows by a few frames.
    """
    assert len(windows) >= 10
    found = [window for window in windows if window.score > 0.6]
    assert len(found) >= 0.8 * len(windows), windows
    lags_ms = np.array([window.lag_ms for window in found if window.score > 0.75])
    assert np.max(np.abs(lags_ms - np.median(lags_ms))) <= 60.0, lags_ms
    assert float(np.median([window.score for window in found])) > 0.8, windows


# -- a call


@pytest.mark.long
def test_what_was_said_is_heard_a_turn_later(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    check_echo(echoes(chromium, page, 6.0))
    hang_up(page)


def test_the_strip_and_the_figures_tell_of_the_call(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    page.get_by_text("As text").click()
    page.get_by_text(re.compile("^The model spoke")).first.wait_for(timeout=10_000)
    assert page.get_by_text(re.compile("^You spoke")).count() >= 1
    strip = page.locator("#strip")
    told = re.compile(r"you spoke [1-9]\d* s, the model [1-9]\d* s")
    assert poll(lambda: bool(told.search(strip.get_attribute("aria-label") or "")))
    for figure in ("#delay", "#round-trip", "#jitter"):
        assert re.fullmatch(r"\d+ ms", page.locator(figure).inner_text())
    assert re.fullmatch(r"(< )?\d+(\.\d)? %", page.locator("#loss").inner_text())
    hang_up(page)


def test_typed_text_comes_back_as_a_caption(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    page.get_by_label("Type to the model").fill("Zählen Sie bis zehn, <b>bitte</b>.")
    page.keyboard.press("Enter")
    caption = page.locator(".line.model .words")
    caption.wait_for(timeout=5_000)
    assert caption.inner_text().strip() == "Zählen Sie bis zehn, <b>bitte</b>."
    assert page.locator(".line.you .words").inner_text() == "Zählen Sie bis zehn, <b>bitte</b>."
    hang_up(page)


def test_hanging_up_ends_it_everywhere(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 1)
    hang_up(page)
    gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
    assert page.evaluate("sessionStorage.getItem('microturn.call')") is None
    assert page.evaluate("document.getElementById('sound').srcObject") is None
    assert not page.locator("#notice").is_visible()
    page.reload()
    wait_until(page, "idle")


def test_a_call_that_is_cancelled_at_once_leaves_nothing(
    gateway: GatewayUnderTest, chromium: Chromium
) -> None:
    page = chromium.open(gateway.http)
    before = gateway.metrics()["microturn_webrtc_offers_total"]
    with page.expect_request(lambda request: request.method == "DELETE"):
        with page.expect_request(lambda request: request.method == "POST"):
            click(page, "Call")
        click(page, "Cancel")
    wait_until(page, "idle")
    gateway.wait_for(lambda m: m["microturn_webrtc_offers_total"] == before + 1)
    gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
    assert not page.locator("#notice").is_visible()


def test_a_reload_goes_on_with_the_call(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    name = name_of_call(page)
    page.wait_for_timeout(1_500)
    page.reload()
    wait_until(page, "live")
    page.wait_for_selector("body[data-resumed=true]")
    assert name_of_call(page) == name
    gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 1)
    check_echo(echoes(chromium, page, 4.0))
    page.get_by_label("Type to the model").fill("still here")
    page.keyboard.press("Enter")
    page.locator(".line.model").wait_for(timeout=5_000)
    hang_up(page)


def test_the_camera_goes_on_and_off_in_mid_call(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    page.evaluate("""() => {
      window.negotiations = 0;
      peerConnections.at(-1).addEventListener('signalingstatechange', () => { window.negotiations += 1; });
    }""")
    before = gateway.metrics()["microturn_model_video_frames_total"]
    click(page, "Camera on")
    page.wait_for_selector("#self:not([hidden])")
    gateway.wait_for(lambda m: m["microturn_model_video_frames_total"] >= before + 5)
    poll(lambda: page.locator("#camera-size").inner_text() != "")
    assert page.locator("#camera-size").inner_text() == "320 × 240"  # of a camera of 640 x 480
    click(page, "Camera off")
    page.wait_for_selector("#self", state="hidden")
    page.wait_for_timeout(600)
    after = gateway.metrics()["microturn_model_video_frames_total"]
    page.wait_for_timeout(1_000)
    assert gateway.metrics()["microturn_model_video_frames_total"] == after
    assert page.evaluate("window.negotiations") == 0
    hang_up(page)


def test_a_muted_microphone_is_silent(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    click(page, "Mute")
    page.wait_for_timeout(3_000)
    heard = chromium.heard(page)[-1].pcm
    assert len(heard) > RATE_HZ
    assert np.sqrt(np.mean(heard[-RATE_HZ:].astype(float) ** 2)) < 5.0
    click(page, "Unmute")
    assert poll(lambda: int(np.abs(chromium.heard(page)[-1].pcm[-RATE_HZ:]).max()) > 1_000)
    hang_up(page)


@pytest.mark.long
def test_a_new_network_is_a_new_path_for_the_same_call(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = call(chromium, gateway)
    before = gateway.metrics()["microturn_webrtc_ice_restarts_total"]
    page.wait_for_timeout(1000 * RESTART_S)  # in the middle of the digits
    page.evaluate("window.dispatchEvent(new Event('online'))")
    gateway.wait_for(lambda m: m["microturn_webrtc_ice_restarts_total"] == before + 1)
    check_echo(echoes(chromium, page, 6.0, since_s=RESTART_S))
    assert len(chromium.heard(page)) == 1  # by the same connection
    assert page.evaluate("document.body.dataset.state") == "live"
    hang_up(page)


# -- and when it fails


@pytest.mark.long
def test_beyond_capacity_a_page_waits_and_gets_through(voice: Path) -> None:
    with GatewayUnderTest.start(wish(webrtc_calls="1")) as own, Chromium.start(voice) as chromium:
        first = call(chromium, own)
        second = chromium.open(own.http)
        click(second, "Call")
        told = wait_for_notice(second, "full")
        assert "All lines are busy" in told and re.search(r"Calling again in \d+ s", told)
        first.bring_to_front()
        hang_up(first)
        second.bring_to_front()
        wait_until(second, "live")
        assert not second.locator("#notice").is_visible()
        hang_up(second)
        assert not chromium.complaints


def test_a_gateway_with_a_secret_asks_for_a_token(voice: Path) -> None:
    with GatewayUnderTest.start(wish(jwt_secret=SECRET)) as own, Chromium.start(voice) as chromium:
        page = chromium.open(own.http)
        click(page, "Call")
        assert "asks for a token" in wait_for_notice(page, "token-needed")
        page.get_by_label("Token").fill(mint(SECRET, "anna", -60))
        click(page, "Use this token")
        assert "the token has expired" in wait_for_notice(page, "token-refused")
        page.get_by_label("Token").fill(mint(SECRET, "anna", 60))
        click(page, "Use this token")
        wait_until(page, "live")
        assert "eyJ" not in page.evaluate("JSON.stringify(localStorage) + location.href + document.cookie")
        hang_up(page)

        invited = chromium.open(f"{own.http}/#token={mint(SECRET, 'bert', 60)}")
        assert invited.evaluate("location.href") == f"{own.http}/"
        click(invited, "Call")
        wait_until(invited, "live")
        hang_up(invited)
        assert not chromium.complaints


def test_a_blocked_microphone_leaves_listening_and_typing(gateway: GatewayUnderTest) -> None:
    with Chromium.start(
        flags=["--deny-permission-prompts"], left_out=["--use-fake-ui-for-media-stream"]
    ) as chromium:
        page = chromium.open(gateway.http)
        click(page, "Call")
        assert "The microphone is blocked" in wait_for_notice(page, "microphone-denied")
        click(page, "Call without microphone")
        wait_until(page, "live")
        click(page, "Camera on")
        assert "The call goes on with voice" in wait_for_notice(page, "camera-denied")
        page.get_by_label("Type to the model").fill("no voice")
        page.keyboard.press("Enter")
        page.locator(".line.model").wait_for(timeout=5_000)
        hang_up(page)
        assert not chromium.complaints


@pytest.mark.long
def test_without_a_path_for_media_it_says_so(voice: Path) -> None:
    nowhere = wish(webrtc_public_host="127.0.0.254")  # nobody listens there
    with GatewayUnderTest.start(nowhere) as own, Chromium.start(voice) as chromium:
        page = chromium.open(own.http)
        click(page, "Call")
        assert "TURN server" in wait_for_notice(page, "no-path", 20_000)
        wait_until(page, "idle")
        own.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
        assert not chromium.complaints


@pytest.mark.long
def test_a_worker_that_stands_still_is_waited_for(own: GatewayUnderTest, voice: Path) -> None:
    with Chromium.start(voice) as chromium:
        page = call(chromium, own)
        name = name_of_call(page)
        worker = own.only("webrtc-worker")
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            told = wait_for_notice(page, "resuming", 20_000)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        assert re.search(r"\d+ s left", told)
        wait_until(page, "live", 30_000)
        assert name_of_call(page) == name
        page.wait_for_selector("#notice", state="hidden")
        hang_up(page)
        assert not chromium.complaints


@pytest.mark.long
def test_a_worker_that_dies_ends_the_call_in_words(own: GatewayUnderTest, voice: Path) -> None:
    with Chromium.start(voice) as chromium:
        page = call(chromium, own)
        own.only("webrtc-worker").kill()
        assert "could not be continued" in wait_for_notice(page, "gone", 40_000)
        wait_until(page, "idle")
        click(page, "Call again")
        wait_until(page, "live")
        hang_up(page)
        assert not chromium.complaints


def test_a_gateway_that_came_back_still_knows_the_call(own: GatewayUnderTest, voice: Path) -> None:
    with Chromium.start(voice) as chromium:
        page = call(chromium, own)
        name = name_of_call(page)
        main = own.only("gateway")
        main.kill()
        own.successor(main)
        own.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 1)
        assert page.evaluate("document.body.dataset.state") == "live"
        page.reload()
        wait_until(page, "live")
        page.wait_for_selector("body[data-resumed=true]")
        assert name_of_call(page) == name
        hang_up(page)
