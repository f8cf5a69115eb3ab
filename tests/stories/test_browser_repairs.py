"""A real Chromium on a line that loses packets: what it and the gateway do about it, by both sides' own figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.chromium import Chromium, executable, speech, write_voice
from tests.support.lossy_relay import LossyRelay

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.lab, pytest.mark.processes, pytest.mark.browser]

LOSS = 0.1
NACK, RED = "a=rtcp-fb:111 nack", "a=fmtp:63 111/111"
WHIP = re.compile("/whip$")
INBOUND = """async () => {
  const stats = await window.peerConnections.at(-1).getStats();
  return [...stats.values()].find((one) => one.type === 'inbound-rtp' && one.kind === 'audio');
}"""
TALK_S = 10.0


@pytest.fixture(scope="module", autouse=True)
def needs_chromium() -> None:
    executable()


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("voice") / "digits.wav", speech(TALK_S + 4), silence_s=0.5)


@contextmanager
def gateway(**settings: str) -> Iterator[GatewayUnderTest]:
    with GatewayUnderTest.start(
        GatewayWish(calls=1, settings={"webrtc_calls": "2", "webrtc_tcp_port": "0", **settings})
    ) as started:
        yield started


During = Callable[["Talk", "Page"], None]


class Talk:
    """One call over a lossy relay: the SDP, the gateway's counters and the browser's statistics."""

    def __init__(
        self,
        started: GatewayUnderTest,
        chromium: Chromium,
        loss: float,
        without: Sequence[str] = (),
        during: During | None = None,
    ) -> None:
        self._loss, self._without = loss, without
        self.answer = ""
        self.relays = ExitStack()
        self.relay: LossyRelay | None = None
        before = started.metrics()
        chromium.context.route(WHIP, self._relay)
        with self.relays:
            page = chromium.open(started.http)
            page.get_by_role("button", name="Call", exact=True).click()
            page.wait_for_selector("body[data-state=live]", timeout=15_000)
            if during is not None:
                during(self, page)
            else:
                page.wait_for_timeout(1000 * TALK_S)
            self.inbound: dict[str, Any] = page.evaluate(INBOUND)
            page.get_by_role("button", name="Hang up", exact=True).click()
            page.wait_for_selector("body[data-state=idle]")
        chromium.context.unroute(WHIP)
        # told in one report with all else that the call counted
        ended = before.get("microturn_calls_ended_total", 0.0)
        started.wait_for(lambda m: m["microturn_calls_ended_total"] > ended)
        self.counted = {name: value - before.get(name, 0) for name, value in started.metrics().items()}

    def _relay(self, route: Route) -> None:
        """The offer less the lines `without`; the answer with the relay's port."""
        lines = (route.request.post_data or "").splitlines(keepends=True)
        offer = "".join(x for x in lines if not x.startswith(tuple(self._without)))
        response = route.fetch(post_data=offer)
        self.answer = response.text()
        found = re.search(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+)", self.answer)
        assert found is not None, self.answer
        self.relay = self.relays.enter_context(LossyRelay.start((found[1], int(found[2])), self._loss))
        body = self.answer.replace(f" {found[2]} typ", f" {self.relay.port} typ")
        route.fulfill(response=response, body=body)

    def count(self, name: str) -> float:
        """By this call, of the gateway's."""
        return self.counted[f"microturn_{name}_total"]

    @property
    def concealed_ms(self) -> float:
        """By the gateway."""
        return 1_000 * self.count("jitter_concealed_seconds")

    @property
    def browser_concealed_ms(self) -> float:
        return float(self.inbound["concealedSamples"]) / 48


def test_what_is_lost_is_repeated_or_comes_twice_both_ways(voice: Path) -> None:
    """Three calls over the same losses: in-band FEC alone, with repeats, with redundant audio."""
    with gateway(red="on") as started, Chromium.start(voice) as chromium:
        plain = Talk(started, chromium, LOSS, without=(NACK, RED))
        nack = Talk(started, chromium, LOSS, without=(RED,))
        red = Talk(started, chromium, LOSS, without=(NACK,))
        assert not chromium.complaints
    for talk, repeats, redundant in ((plain, False, False), (nack, True, False), (red, False, True)):
        print("concealed ms, gateway and browser:", talk.concealed_ms, talk.browser_concealed_ms)
        assert ((NACK in talk.answer), (RED in talk.answer)) == (repeats, redundant)
        assert talk.relay is not None and min(talk.relay.lost) > 20
        assert talk.count("jitter_late") + talk.count("jitter_duplicate") <= 3
    assert plain.count("gaps_asked") == plain.count("repeats_asked") == plain.count("jitter_revived") == 0

    assert nack.count("gaps_repaired") > 0.6 * nack.count("gaps_noticed") > 10
    assert nack.relay is not None and nack.count("repeats_repeated") > 0.6 * nack.relay.lost[1]
    assert nack.concealed_ms < 0.7 * plain.concealed_ms
    assert nack.browser_concealed_ms < 0.5 * plain.browser_concealed_ms

    assert red.count("gaps_asked") == red.count("red_malformed") == 0
    assert red.count("jitter_redundant") > 200
    assert red.count("gaps_mended") == red.count("jitter_revived") > 0.6 * red.count("gaps_noticed") > 10
    assert red.concealed_ms < 0.7 * plain.concealed_ms
    assert red.browser_concealed_ms < 0.5 * plain.browser_concealed_ms


def test_a_weak_line_is_said_once_and_once_that_it_is_good_again(voice: Path) -> None:
    with gateway() as started, Chromium.start(voice) as chromium:
        talk = Talk(started, chromium, 0.4, during=weak_and_good)
        assert not chromium.complaints
    assert talk.count("lines_weak") == 1
    assert talk.count("line_in_downs") == 3 and talk.count("line_in_ups") >= 1


def weak_and_good(talk: Talk, page: Page) -> None:
    notice = page.locator("#notice[data-code=weak-line]")
    notice.wait_for(timeout=30_000)
    assert talk.relay is not None
    talk.relay.loss = 0.0
    notice.wait_for(state="hidden", timeout=30_000)
