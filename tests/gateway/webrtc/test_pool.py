"""The pool: calls go where there is room, answers find who asked, and what is over is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway import control
from gateway.api.sdpfrag import Fragment
from gateway.config import GatewaySettings
from gateway.webrtc.pool import MOST_REQUESTS, BrowserCall, WebrtcPool, plan_webrtc
from tests.support.web_worker import OFFER, PWD, UFRAG

ANSWER = "v=0\r\na=ice-ufrag:ours\r\n"


def planned(**values: object) -> GatewaySettings:
    return GatewaySettings(**values)  # type: ignore[arg-type]


class Bench:
    """A pool, and what it sends to each worker."""

    def __init__(self, workers: int = 2, calls: int = 4, answer_s: float = 5.0) -> None:
        self.pool = WebrtcPool(plan_webrtc(planned(webrtc_workers=workers, webrtc_calls=calls)), answer_s)
        self.sent: dict[str, list[control.MainMessage]] = {name: [] for name in self.pool.places}

    def welcome(self, name: str, *calls: str, attached: bool = True) -> None:
        sent = self.sent[name]
        ready = control.WebrtcReady(
            name, 1, 2, attached, list(calls), 1, 1, {call: f"of-{call}" for call in calls}
        )
        self.pool.welcome(ready, lambda packet: sent.append(control.decode_main(packet)))

    def take(self, name: str, status: int = 201, sdp: str = ANSWER) -> control.WebrtcRequest:
        """Answer the oldest request of a worker."""
        request = self.sent[name].pop(0)
        assert not isinstance(request, control.Drain)
        self.pool.hear(name, control.Answered(request.id, status, sdp, call=request.call, resume="r"))
        return request


def on_a_bench(story: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    asyncio.run(asyncio.wait_for(story(bench), 5))  # type: ignore[arg-type]


async def ask(work: Awaitable[object]) -> asyncio.Future[object]:
    """Begin to ask, so that the request is out."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


def test_the_plan_shares_calls_and_ports_out() -> None:
    web = plan_webrtc(planned(webrtc_workers=3, webrtc_calls=40, webrtc_udp_port=7700, webrtc_tcp_port=0))
    assert [w.name for w in web] == ["web-0", "web-1", "web-2"]
    assert [w.max_calls for w in web] == [14, 13, 13]
    assert [w.udp_port for w in web] == [7700, 7701, 7702] and {w.tcp_port for w in web} == {0}
    assert not plan_webrtc(planned(webrtc_calls=0))
    assert len(plan_webrtc(planned(webrtc_workers=8, webrtc_calls=2))) == 2
    free = plan_webrtc(planned(webrtc_workers=2, webrtc_udp_port=0, video="off"))
    assert {w.udp_port for w in free} == {0} and {w.video_frames_per_chunk for w in free} == {0}


def test_offers_go_where_there_is_most_room_and_never_beyond() -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0", "b-0000000000000001")
        bench.welcome("web-1")
        asked = [await ask(bench.pool.offer(OFFER)) for _ in range(4)]
        assert (len(bench.sent["web-0"]), len(bench.sent["web-1"])) == (1, 2)  # those out count as taken
        _, refused = await bench.pool.offer(OFFER)
        assert (refused.status, refused.retry_after_s) == (503, 2) and bench.pool.is_full()
        for name in ("web-0", "web-1", "web-1"):
            bench.take(name)
        done = await asyncio.gather(*asked)
        assert sorted(answered.status for _, answered in done) == [201, 201, 201, 503]
        assert bench.pool.live == 4 and bench.pool.counters.refused_full == 2

    on_a_bench(story, Bench())


def test_a_call_takes_one_place_while_its_answer_is_on_its_way_to_who_asked() -> None:
    """Found with eight clients that came at once where there were eight places: one was refused."""

    async def story(bench: Bench) -> None:
        bench.welcome("web-0")
        asked = await ask(bench.pool.offer(OFFER))
        bench.take("web-0")
        assert not asked.done() and bench.pool.places["web-0"].room == 1
        await asked
        assert bench.pool.places["web-0"].room == 1

    on_a_bench(story, Bench(1))


def test_workers_without_a_model_server_get_no_offers() -> None:
    async def story(bench: Bench) -> None:
        assert (await bench.pool.offer(OFFER))[1].status == 503
        bench.welcome("web-0", attached=False)
        assert not bench.pool.is_ready and (await bench.pool.offer(OFFER))[1].status == 503
        bench.pool.hear("web-0", control.Attachable(True))
        asked = await ask(bench.pool.offer(OFFER))
        bench.take("web-0")
        assert (await asked)[0] == "web-0"  # type: ignore[index]
        bench.pool.draining = True
        assert (await bench.pool.offer(OFFER))[1].status == 503
        assert bench.pool.counters.refused_not_ready == 3

    on_a_bench(story, Bench())


def test_an_offer_goes_where_its_engine_has_a_model_server() -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0")
        bench.welcome("web-1", "b-0000000000000001", attached=False)
        _, refused = await bench.pool.offer(OFFER, engine="lab")
        assert refused.status == 503 and "no model server of engine lab is there" in refused.reason
        bench.pool.hear("web-1", control.Attachable(True, "lab"))
        assert bench.pool.has_engine("lab") and not bench.pool.is_full("lab")
        assert 0 < bench.pool.room_for("lab") < bench.pool.room and bench.pool.room_for("away") == 0
        asked = await ask(bench.pool.offer(OFFER, engine="lab"))  # which has less room
        request = bench.take("web-1")
        assert isinstance(request, control.Offer) and request.engine == "lab"
        assert (await asked)[0] == "web-1"  # type: ignore[index]
        usual = await ask(bench.pool.offer(OFFER))
        bench.take("web-0")
        assert (await usual)[0] == "web-0"  # type: ignore[index]
        bench.pool.hear("web-0", control.Attachable(False))
        assert bench.pool.has_engine("lab") and not bench.pool.is_ready, "one engine's loss is no other's"

    on_a_bench(story, Bench())


def test_a_resume_token_leads_to_its_worker_even_when_that_is_full() -> None:
    async def story(bench: Bench) -> None:
        name = "b-0000000000000001"
        bench.welcome("web-0", name, "b-0000000000000002")
        bench.welcome("web-1")
        asked = await ask(bench.pool.offer(OFFER, f"web-0.{name}.{'s' * 22}"))
        request = bench.sent["web-0"].pop(0)
        assert isinstance(request, control.Offer) and request.resume.endswith("s" * 22)
        bench.pool.hear("web-0", control.Answered(request.id, 201, ANSWER, call=name, resume="r"))
        assert (await asked)[0] == "web-0"  # type: ignore[index]
        assert bench.pool.live == 2 and bench.pool.counters.calls_resumed == 1
        found = bench.pool.find("web-0", name)
        assert isinstance(found, BrowserCall) and found.etag == "ours"

    on_a_bench(story, Bench())


@pytest.mark.parametrize("token", ["x", "web-0.b-1.s", "web-0..", "web 0.b-0000000000000001." + "s" * 22])
def test_what_is_no_resume_token_is_said_to_be_none(token: str) -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0")
        with pytest.raises(ValueError, match="no token"):
            await bench.pool.offer(OFFER, token)

    on_a_bench(story, Bench())


def test_a_call_that_ends_right_behind_its_answer_is_not_kept() -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0")
        asked = await ask(bench.pool.offer(OFFER))
        request = bench.take("web-0")
        bench.pool.hear("web-0", control.CallEnded(request.call))  # before whoever asked has run again
        await asked
        assert bench.pool.live == 0 and bench.pool.find("web-0", request.call) == "gone"

    on_a_bench(story, Bench())


def test_a_lost_worker_takes_its_calls_and_frees_who_waits() -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0", "b-0000000000000001")
        bench.welcome("web-1", "b-0000000000000002")
        call = bench.pool.find("web-0", "b-0000000000000001")
        assert isinstance(call, BrowserCall)
        asked = await ask(bench.pool.hang_up("web-0", call))
        assert bench.pool.lose("web-0") == 1 and bench.pool.live == 1
        assert (await asked).status == 503  # type: ignore[attr-defined]
        assert bench.pool.find("web-0", "b-0000000000000001") == "away"
        bench.welcome("web-0")  # its successor
        assert bench.pool.find("web-0", "b-0000000000000001") == "gone"

    on_a_bench(story, Bench())


def test_an_adopted_call_goes_by_if_match_until_its_credentials_are_known() -> None:
    async def story(bench: Bench) -> None:
        name = "b-0000000000000001"
        bench.welcome("web-0", name)
        call = bench.pool.find("web-0", name)
        assert isinstance(call, BrowserCall) and call.etag == f"of-{name}"
        fragment = Fragment(UFRAG, PWD, (), True)
        for any_session, kind, status in ((False, control.Candidates, 204), (True, control.Candidates, 204)):
            asked = await ask(bench.pool.patch("web-0", call, fragment, any_session=any_session))
            assert isinstance(bench.take("web-0", status), kind)
            await asked
        assert call.credentials == (UFRAG, PWD)  # learnt from the first, so that the second is no restart
        bench.pool.lose("web-0")
        bench.welcome("web-0", name)
        call = bench.pool.find("web-0", name)
        assert isinstance(call, BrowserCall)
        asked = await ask(bench.pool.patch("web-0", call, fragment, any_session=True))
        assert isinstance(bench.take("web-0", 200), control.IceRestart)
        await asked
        assert call.etag == "ours" and bench.pool.counters.ice_restarts == 1

    on_a_bench(story, Bench())


def test_a_worker_that_does_not_keep_up_is_not_asked_without_end() -> None:
    async def story(bench: Bench) -> None:
        bench.welcome("web-0", "b-0000000000000001")
        call = bench.pool.find("web-0", "b-0000000000000001")
        assert isinstance(call, BrowserCall)
        asked = [await ask(bench.pool.hang_up("web-0", call)) for _ in range(MOST_REQUESTS + 5)]
        done = await asyncio.gather(*asked)
        statuses = [answered.status for answered in done]  # type: ignore[attr-defined]
        assert statuses == [504] * MOST_REQUESTS + [503] * 5
        assert bench.pool.counters.answers_timed_out == MOST_REQUESTS and not bench.pool.places["web-0"].out

    on_a_bench(story, Bench(answer_s=0.05))


def test_a_socket_that_is_full_is_said_and_not_raised() -> None:
    async def story(bench: Bench) -> None:
        def full(packet: bytes) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        bench.pool.welcome(control.WebrtcReady("web-0", 1, 2, True, [], 1, 1), full)
        assert (await bench.pool.offer(OFFER))[1].status == 503
        assert not bench.pool.places["web-0"].offered and not bench.pool.places["web-0"].out

    on_a_bench(story, Bench())


@pytest.mark.parametrize(
    "ready",
    [
        control.WebrtcReady("web-9", 1, 2, True, [], 1, 1),
        control.Ready("web-0", 1, 5060, 4, 8000, "2.17", True, []),
    ],
)
def test_strangers_are_not_welcome(ready: control.Ready | control.WebrtcReady) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="unexpected"):
        bench.pool.welcome(ready, lambda packet: None)
    bench.welcome("web-0")
    with pytest.raises(ValueError, match="here already"):
        bench.welcome("web-0")
    with pytest.raises(ValueError, match="unexpected"):
        bench.pool.hear("web-0", control.Report({}, {}))
