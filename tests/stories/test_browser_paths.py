"""Ways from a browser to the gateway that are not the plain one, each in network namespaces of its own.

The caller's Chromium sits behind a router, the gateway on the other side of it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway.api.tokens import mint
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support import coturn
from tests.support.chromium import RATE_HZ, Chromium, Pcm, executable, speech, write_voice
from tests.support.echo import match
from tests.support.netns import GATEWAY, RELAY, Internet, laid_out, needs_namespaces

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.lab, pytest.mark.processes, pytest.mark.browser]

SECRET = "a secret of the tests, at least 32 bytes long"
TURN_SECRET = "what coturn and the gateway share"
TCP_PORT = "7600"
SPOKEN_S = 24.0
FOUND, IN_PLACE_MS = 0.5, 500.0
"""How much of what was said must come back, and how near to the middle lag. What jitter buffers of a busy machine
stretch is found worse, and what is not the echo is found seconds off."""
LIVE_MS = 15_000
QUIET_BLOCK = RATE_HZ // 50
LOUD = 200
"""Above what a codec makes of silence, below every digit."""

_SELECTED_PAIR = """
async () => {
  const report = await peerConnections.at(-1).getStats();
  const all = [...report.values()];
  const { selectedCandidatePairId } = all.find((entry) => entry.type === 'transport');
  const pair = report.get(selectedCandidatePairId);
  return { local: report.get(pair.localCandidateId), remote: report.get(pair.remoteCandidateId) };
}
"""


@pytest.fixture(scope="module", autouse=True)
def needs() -> None:
    """Skips all of them at once."""
    executable()
    needs_namespaces()


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, once, after a second of silence: nothing of them is said before the call is up."""
    return write_voice(tmp_path_factory.mktemp("voice") / "digits.wav", speech(SPOKEN_S), silence_s=1.0)


@pytest.fixture
def net() -> Iterator[Internet]:
    """This thread is among the servers as long as the story goes."""
    with laid_out() as internet, internet.servers.entered():
        yield internet


def gateway_for(**settings: str) -> contextlib.AbstractContextManager[GatewayUnderTest]:
    """One that listens on an address that callers elsewhere can reach."""
    reachable = {"webrtc_calls": "2", "webrtc_host": GATEWAY, "http_host": GATEWAY, "jwt_secret": SECRET}
    return GatewayUnderTest.start(GatewayWish(calls=1, settings=reachable | settings))


@contextlib.contextmanager
def calling(net: Internet, gateway: GatewayUnderTest, voice: Path) -> Iterator[tuple[Chromium, Page]]:
    """The caller's page in a call, by an invitation with a token. It has hung up when the block is left."""
    flags = [f"--unsafely-treat-insecure-origin-as-secure={gateway.http}"]  # else no microphone
    with contextlib.ExitStack() as stack:
        with net.caller.entered():
            loopback = ["--allow-loopback-in-peer-connection"]
            chromium = stack.enter_context(Chromium.start(voice, flags=flags, left_out=loopback))
        page = chromium.open(f"{gateway.http}/#token={mint(SECRET, 'anna', 600)}")
        page.get_by_text("Devices and sound").click()
        page.get_by_label("I use headphones").check()  # the voice goes as it is
        page.get_by_role("button", name="Call", exact=True).click()
        page.wait_for_selector("body[data-call], #notice:not([hidden])", timeout=LIVE_MS)
        assert page.evaluate("document.body.dataset.state") == "live", page.locator("#notice").inner_text()
        yield chromium, page
        page.get_by_role("button", name="Hang up", exact=True).click()
        gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)


def heard(chromium: Chromium, page: Page) -> Pcm:
    """What came over the one connection that there was."""
    pieces = chromium.heard(page)
    assert len(pieces) == 1, f"{len(pieces)} connections"
    return pieces[0].pcm


def echo_lag_ms(chromium: Chromium, page: Page, from_s: float, to_s: float, timeout_s: float = 12.0) -> float:
    """How late that part of the digits is heard again; waited for until it is there, in its order."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        windows = match(speech(to_s), heard(chromium, page), RATE_HZ)
        wanted = [window for window in windows if window.at_ms >= 1000 * from_s]
        lags_ms = np.array([window.lag_ms for window in wanted if window.score > 0.6])
        in_place = np.abs(lags_ms - np.median(lags_ms)) < IN_PLACE_MS if len(lags_ms) else np.zeros(0, bool)
        if in_place.sum() >= max(5, FOUND * len(wanted)):
            return float(np.median(lags_ms))
        assert time.monotonic() < deadline_s, [(w.at_ms, round(w.lag_ms), round(w.score, 2)) for w in wanted]
        page.wait_for_timeout(500)


def longest_quiet_ms(pcm: Pcm) -> float:
    """The longest time that nothing was heard between two sounds."""
    blocks = np.abs(pcm[: len(pcm) // QUIET_BLOCK * QUIET_BLOCK].astype(np.int32)).reshape(-1, QUIET_BLOCK)
    loud = np.flatnonzero(blocks.max(axis=1) > LOUD)
    return 20.0 * float(np.max(np.diff(loud))) if len(loud) > 1 else 20.0 * len(blocks)


def spoken_s(chromium: Chromium, page: Page) -> float:
    """How far the digits have been heard, as long as the echo's lag is the usual one."""
    return len(heard(chromium, page)) / RATE_HZ - 2.0


def is_loud(pcm: Pcm) -> bool:
    """Whether anything is heard in it."""
    return int(np.abs(pcm.astype(np.int32)).max()) > LOUD


def wait_until(page: Page, holds: Callable[[], bool], timeout_s: float = 12.0) -> None:
    """While the page goes on."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        page.wait_for_timeout(100)


def selected_pair(page: Page) -> dict[str, dict[str, Any]]:
    """The two candidates that media goes between, as Chromium's statistics tell them."""
    pair: dict[str, dict[str, Any]] = page.evaluate(_SELECTED_PAIR)
    return pair


def test_these_firewalls_drop_udp_and_let_tcp_pass(net: Internet) -> None:
    listening = socket.create_server((GATEWAY, 5000))
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.bind((GATEWAY, 5000))
    receiving.settimeout(0.5)

    def udp_passes() -> bool:
        with net.caller.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.sendto(b"?", (GATEWAY, 5000))
            socket.create_connection((GATEWAY, 5000), 2.0).close()  # else TimeoutError
        try:
            return receiving.recv(9) == b"?"
        except TimeoutError:
            return False

    with listening, receiving:
        assert udp_passes()
        net.drop_udp()
        assert not udp_passes()


@pytest.mark.parametrize("away_s", [0.0, 5.0], ids=["at-once", "after-5-s"])
def test_a_caller_whose_interface_is_replaced_stays_in_the_call(
    net: Internet, voice: Path, away_s: float
) -> None:
    with gateway_for() as gateway, calling(net, gateway, voice) as (chromium, page):
        name = page.evaluate("document.body.dataset.call")
        before_ms = echo_lag_ms(chromium, page, 0.0, 3.0)
        assert selected_pair(page)["local"]["address"] == "10.77.1.2"
        turns = gateway.metrics()["microturn_turns_total"]

        net.unplug()
        page.wait_for_timeout(1000 * away_s)
        net.plug_in()
        gateway.wait_for(lambda m: m["microturn_webrtc_ice_restarts_total"] >= 1)
        wait_until(page, lambda: selected_pair(page)["local"]["address"] == "10.77.2.2")
        wait_until(page, lambda: is_loud(heard(chromium, page)[-RATE_HZ // 5 :]))
        begin_s = spoken_s(chromium, page) + 2.5  # the delay has 2 s to come back to its floor
        after_ms = echo_lag_ms(chromium, page, begin_s, begin_s + 4.0)
        quiet_ms = longest_quiet_ms(heard(chromium, page))

        told = f"away for {away_s:g} s: nothing was heard for {quiet_ms:.0f} ms"
        print(f"{told}; lag {before_ms:.0f} ms before, {after_ms:.0f} ms after")
        assert 500.0 < quiet_ms - 1000 * away_s < 8_000.0  # Chromium looks for interfaces every 2 s
        assert after_ms < before_ms + 600.0
        assert page.evaluate("document.body.dataset.call") == name
        assert page.evaluate("document.body.dataset.state") == "live"
        now = gateway.metrics()
        assert now["microturn_webrtc_offers_total"] == now["microturn_webrtc_calls_made_total"] == 1
        assert now["microturn_webrtc_calls_resumed_total"] == 0
        assert now["microturn_turns_total"] > turns + 5 * (4 + away_s)  # one each 200 ms, away or not


def test_through_a_turn_server_over_tcp_where_udp_is_blocked(
    net: Internet, voice: Path, tmp_path: Path
) -> None:
    net.drop_udp()
    urls = f"turn:{RELAY}:{coturn.PORT}?transport=udp,turn:{RELAY}:{coturn.PORT}?transport=tcp"
    with (
        coturn.running(RELAY, TURN_SECRET, tmp_path) as log,
        gateway_for(webrtc_tcp_port="0", turn_urls=urls, turn_secret=TURN_SECRET) as gateway,
        calling(net, gateway, voice) as (chromium, page),
    ):
        echo_lag_ms(chromium, page, 0.0, 5.0)
        pair = selected_pair(page)
        assert (pair["local"]["candidateType"], pair["local"]["relayProtocol"]) == ("relay", "tcp"), pair
        assert pair["local"]["address"] == RELAY and pair["remote"]["address"] == GATEWAY
        assert page.locator("#path").inner_text().endswith("relay, tcp")
        assert ":anna>" in log.read_text()  # credentials of this caller's own


def test_straight_over_tcp_where_udp_is_blocked(net: Internet, voice: Path) -> None:
    net.drop_udp()
    with (
        gateway_for(webrtc_tcp_port=TCP_PORT) as gateway,
        calling(net, gateway, voice) as (chromium, page),
    ):
        echo_lag_ms(chromium, page, 0.0, 5.0)
        pair = selected_pair(page)
        told = json.dumps(pair)
        assert (pair["local"]["protocol"], pair["remote"]["port"]) == ("tcp", int(TCP_PORT)), told
        assert page.locator("#path").inner_text().endswith("direct, tcp")
