"""WHIP over real HTTP, towards a worker over a real control connection (RFC 9725)."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import control
from gateway.api import body
from gateway.api.tokens import mint
from gateway.api.turn import mint as mint_turn
from tests.support.certificate import certificate
from tests.support.web_worker import OFFER, PWD, UFRAG, Visit, WebSite, WebWorker, fragment, visit

SEEDS = Path(__file__).parents[4] / "shared/data/fuzz/sdp"
SECRET = "a secret of at least thirty-two bytes"


def on_a_site(story: Callable[[Visit], Awaitable[None]], run_dir: Path, **settings: Any) -> None:
    async def told() -> None:
        async with visit(run_dir, **settings) as here:
            await story(here)

    asyncio.run(told())


async def told(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The problem of a refusal, whose form is RFC 9457's."""
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json(content_type=None)
    assert problem["status"] == response.status and problem["title"] and problem["detail"] and problem["code"]
    return problem


def test_a_call_from_its_offer_to_its_end(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        assert made.status == 201 and made.headers["Content-Type"] == "application/sdp"
        call = next(iter(here.worker.calls))
        assert made.headers["Location"] == f"/whip/web-0/{call}"
        assert made.headers["ETag"] == f'"{here.worker.calls[call][0]}"'
        assert made.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
        assert made.headers["Microturn-Resume"].startswith(f"web-0.{call}.")
        assert (await made.text()).startswith("v=0") and "Link" not in made.headers

        ended = await here.http.delete(made.headers["Location"], headers={"If-Match": '"long gone"'})
        assert ended.status == 200 and not here.worker.calls
        again = await here.http.delete(made.headers["Location"])
        assert again.status == 404 and (await told(again))["code"] == "gone"
        assert here.pool.live == 0 and here.pool.counters.calls_hung_up == 1

    on_a_site(story, tmp_path)


def test_who_is_called_decides_what_the_model_is_to_be(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        headers = {"Content-Type": "application/sdp"}
        for query, persona in (("", ""), ("?to=count", "count"), ("?to=100", "correct 482913")):
            made = await here.http.post(f"/whip{query}", data=OFFER, headers=headers)
            assert made.status == 201 and here.worker.heard[-1].persona == persona
        strange = await here.http.post("/whip?to=nobody", data=OFFER, headers=headers)
        assert strange.status == 404 and (await told(strange))["code"] == "no-such-name"
        assert len(here.worker.heard) == 3

    on_a_site(story, tmp_path, personas={"count": "count", "100": "correct 482913"})


def test_a_name_may_have_an_engine_of_its_own_which_may_be_away(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        async def call(name: str) -> aiohttp.ClientResponse:
            headers = {"Content-Type": "application/sdp"}
            return await here.http.post(f"/whip?to={name}", data=OFFER, headers=headers)

        away = await call("lab")
        assert away.status == 503 and away.headers["Retry-After"] == "2"
        problem = await told(away)
        assert (
            problem["code"] == "not-ready" and "no model server of engine lab is there" in problem["detail"]
        )
        here.worker.tell(control.Attachable(True, "lab"))
        here.worker.tell(control.Attachable(False))
        await here.site.until(lambda: here.pool.has_engine("lab") and not here.pool.has_engine(""))
        assert (await call("lab")).status == 201 and (await here.post()).status == 503
        (offered,) = here.worker.heard
        assert isinstance(offered, control.Offer)
        assert (offered.engine, offered.persona) == ("lab", "interpret")
        metrics = await (await here.http.get("/metrics")).text()
        assert 'microturn_model_up{engine="lab"} 0.0' in metrics.splitlines()

    engines = {"lab": {"socket": str(tmp_path / "lab.sock"), "persona": "interpret"}}
    on_a_site(story, tmp_path, engines=engines, rules=[{"called": "lab", "engine": "lab"}])


def test_if_match_decides_between_trickle_and_restart(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        path, etag = made.headers["Location"], made.headers["ETag"]
        same, other = fragment(), fragment("new1", "w" * 24)
        table = [
            (same, None, 428),
            (same, etag, 204),
            (same, f'"x", {etag}', 204),
            (same, "*", 204),
            (same, '"*"', 204),
            (same, '"elsewhere"', 412),
            (same, f"W/{etag}", 412),
            (same, "garbage", 412),
            (other, None, 428),
            (other, '"elsewhere"', 412),
        ]
        for text, if_match, status in table:
            response = await here.patch(path, text, if_match)
            assert response.status == status, (text[:20], if_match)
            assert "ETag" not in response.headers and (await response.read() == b"") is (status == 204)
        heard = [m for m in here.worker.heard if isinstance(m, control.Candidates)]
        assert len(heard) == 4 and heard[0].ufrag == UFRAG and heard[0].pwd == PWD
        assert heard[0].candidates[0].startswith("1387637174 1 udp") and not heard[0].complete

        restarted = await here.patch(path, other, '"*"')
        assert restarted.status == 200 and restarted.content_type == "application/trickle-ice-sdpfrag"
        assert "a=ice-ufrag:" in await restarted.text() and restarted.headers["ETag"] != etag
        assert (await here.patch(path, other, etag)).status == 412  # of the session before
        assert (await here.patch(path, other, restarted.headers["ETag"])).status == 204
        third = await here.patch(path, fragment("new2", "v" * 24), restarted.headers["ETag"])
        assert third.status == 200  # updated credentials are a restart, whatever the field says

    on_a_site(story, tmp_path)


def test_an_ice_restart_that_fails_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        here.worker.silent = True
        failed = await here.patch(made.headers["Location"], fragment("new1", "w" * 24), "*")
        assert failed.status == 504 and (await told(failed))["code"] == "no-answer"
        here.worker.silent = False
        assert (await here.patch(made.headers["Location"], fragment(), made.headers["ETag"])).status == 204

    on_a_site(story, tmp_path)


def test_a_dropped_browser_resumes_its_call(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        first = await here.post()
        token = first.headers["Microturn-Resume"]
        second = await here.post(Microturn_Resume=token)
        assert second.status == 201 and second.headers["Location"] == first.headers["Location"]
        assert second.headers["ETag"] != first.headers["ETag"]
        assert here.pool.counters.calls_resumed == 1 and here.pool.live == 1
        wrong = token[:-4] + ("0000" if token[-4:] != "0000" else "1111")
        for resume, status in [
            (wrong, 404),
            ("web-9" + token[5:], 404),
            ("nonsense", 400),
            ("../../etc/passwd", 400),
            (token + "x" * 200, 400),
        ]:
            refused = await here.post(Microturn_Resume=resume)
            assert refused.status == status
            await told(refused)
        assert here.pool.live == 1

    on_a_site(story, tmp_path)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (OFFER, "text/plain", 415),
        (OFFER, "application/json", 415),
        (b"", "application/sdp", 400),
        (b"hello", "application/sdp", 400),
        (b"v=0\r\n\xff\xfe", "application/sdp", 400),
        (b"v=0\r\ns=\x00\r\n", "application/sdp", 400),
        (b"v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "application/sdp", 422),
        (OFFER.replace("opus/48000/2", "PCMU/8000"), "application/sdp", 406),
        (b"v=0\r\n" + b"a" * 32_768, "application/sdp", 413),
        (b"v=0\r\n" + b'"' * 32_760, "application/sdp", 413),  # twice as long on the way to the worker
    ],
)
def test_bad_offers_are_refused_in_words(
    tmp_path: Path, body: str | bytes, content_type: str, status: int
) -> None:
    async def story(here: Visit) -> None:
        refused = await here.post(body, Content_Type=content_type)
        assert refused.status == status
        await told(refused)
        if status == 415:
            assert refused.headers["Accept-Post"] == "application/sdp"
        assert here.pool.live == 0 and (await here.post()).status == 201

    on_a_site(story, tmp_path)


def test_a_body_without_a_length_is_measured_as_it_comes(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b"v=0\r\n" + b"a" * 4096

    async def story(here: Visit) -> None:
        headers = {"Content-Type": "application/sdp"}
        refused = await here.http.post("/whip", data=endless(), headers=headers)
        assert refused.status == 413 and (await told(refused))["code"] == "too-long"

    on_a_site(story, tmp_path)


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_S", 0.1)

    async def story(here: Visit) -> None:
        host, port = here.site.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /whip HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n")
        writer.write(b"Content-Length: 1000\r\n\r\nv=0")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert (await here.post()).status == 201

    on_a_site(story, tmp_path)


def test_a_worker_that_speaks_nonsense_is_let_go_and_may_come_again(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        nonsense_of_all_kinds = (b"{}", b"\xff", b'{"type":"Answered"}', control.encode(control.Drain()))
        for times, nonsense in enumerate(nonsense_of_all_kinds, 2):
            assert here.worker.connection is not None
            here.worker.connection.send(nonsense)
            await here.site.until(lambda n=times: here.worker.connected_times == n and here.site.is_ready)
            assert (await here.post()).status == 201
            here.worker.calls.clear()

    on_a_site(story, tmp_path)


def test_the_page_and_its_calls_over_tls(tmp_path: Path) -> None:
    files = certificate(tmp_path)

    async def story(here: Visit) -> None:
        trust = ssl.create_default_context(cafile=files["http_tls_cert"])
        url = here.site.url.replace("http://127.0.0.1", "https://localhost")
        async with aiohttp.ClientSession(url) as http:
            headers = {"Content-Type": "application/sdp"}
            made = await http.post("/whip", data=OFFER, headers=headers, ssl=trust)
            assert made.status == 201
            assert (await http.delete(made.headers["Location"], ssl=trust)).status == 200
        with pytest.raises(aiohttp.ClientError):
            await here.http.get("/")  # without TLS

    on_a_site(story, tmp_path, **files)


def test_bad_fragments_and_calls_that_are_none(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        path, etag = made.headers["Location"], made.headers["ETag"]
        for text in ("", "a=ice-ufrag:abcd\r\n", "nonsense", fragment() + "a=candidate:x\r\n"):
            refused = await here.patch(path, text, etag)
            assert refused.status == 400
            await told(refused)
        typed = await here.http.patch(path, data=fragment(), headers={"If-Match": etag})
        assert typed.status == 415 and typed.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
        for gone in ("/whip/web-0/b-0123456789abcdef", "/whip/web-7/x", "/whip/web-0/..%2f..%2fetc"):
            assert (await here.patch(gone, fragment(), "*")).status == 404
            assert (await here.http.delete(gone)).status == 404

    on_a_site(story, tmp_path)


def test_other_methods_are_kept_for_the_future(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
            refused = await here.http.request(method, "/whip")
            assert refused.status == 405 and refused.headers["Allow"] == "POST, OPTIONS"
        for method in ("GET", "HEAD", "PUT", "POST"):
            refused = await here.http.request(method, made.headers["Location"])
            assert refused.status == 405 and refused.headers["Allow"] == "PATCH, DELETE, OPTIONS"
        asked = await here.http.options("/whip")
        assert asked.status == 200 and asked.headers["Accept-Post"] == "application/sdp"
        asked = await here.http.options(made.headers["Location"])
        assert asked.status == 200 and asked.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"

    on_a_site(story, tmp_path)


def test_beyond_the_places_callers_are_told_when_to_come_back(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = [await here.post() for _ in range(3)]
        assert [m.status for m in made] == [201] * 3
        full = await here.post()
        assert full.status == 503 and full.headers["Retry-After"] == "2"
        assert (await told(full))["code"] == "full"
        here.worker.end(made[0].headers["Location"].split("/")[-1])
        await here.site.until(lambda: here.pool.live == 2)
        assert (await here.post()).status == 201
        assert here.pool.counters.refused_full == 1

    on_a_site(story, tmp_path)


def test_without_a_model_server_no_call_is_taken(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        here.worker.tell(control.Attachable(False))
        await here.site.until(lambda: not here.site.is_ready)
        refused = await here.post()
        assert refused.status == 503 and "Retry-After" in refused.headers
        assert (await told(refused))["code"] == "not-ready"
        assert (await here.http.get("/readyz")).status == 503
        here.worker.tell(control.Attachable(True))
        await here.site.until(lambda: here.site.is_ready)
        assert (await here.post()).status == 201

    on_a_site(story, tmp_path)


def test_a_worker_that_does_not_answer_costs_its_caller_only(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        here.worker.silent = True
        late = await here.post()
        assert late.status == 504
        here.worker.silent = False
        offered = next(m for m in here.worker.heard if isinstance(m, control.Offer))
        here.worker.tell(here.worker.answer(offered))  # nobody waits for it any more: it is given back
        await here.site.until(lambda: any(isinstance(m, control.HangUp) for m in here.worker.heard))
        assert here.pool.counters.answers_too_late == 1 and not here.worker.calls and here.pool.live == 0

    on_a_site(story, tmp_path)


def test_a_worker_dies_while_an_offer_is_out(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        await here.post()
        here.worker.silent = True
        waiting = asyncio.create_task(here.post())
        await here.site.until(lambda: len(here.worker.heard) == 2)
        assert here.worker.connection is not None
        here.worker.calls.clear()
        here.worker.connection.shutdown(2)
        refused = await waiting
        assert refused.status == 503 and refused.headers["Retry-After"]
        metrics = await (await here.http.get("/metrics")).text()
        assert "microturn_calls_lost_total 1.0" in metrics

    on_a_site(story, tmp_path)


def test_the_main_process_dies_and_knows_its_calls_again(tmp_path: Path) -> None:
    """The worker lives on: URLs, entity tags and resume tokens hold with the next main process."""

    async def story() -> None:
        async with visit(tmp_path) as before:
            made = await before.post()
            worker = before.worker
            path, etag = made.headers["Location"], made.headers["ETag"]
            settings, calls = before.site.settings, worker.calls
        site = WebSite(settings)
        async with site.open(), aiohttp.ClientSession(site.url) as http:
            away = await http.delete(path)
            assert away.status == 503 and away.headers["Retry-After"] == "1"  # not 404: it may come back
            async with WebWorker(settings.worker_socket, calls=calls).connected() as again:
                await site.until(lambda: site.is_ready)
                here = Visit(site, again, http)
                assert here.pool.counters.calls_adopted == 1
                assert (await here.patch(path, fragment(), etag)).status == 204
                assert (await here.patch(path, fragment("new1", "w" * 24), "*")).status == 200
                assert (await here.post(Microturn_Resume=made.headers["Microturn-Resume"])).status == 201
                assert (await http.delete(path)).status == 200 and not again.calls

    asyncio.run(story())


def test_only_bearers_of_a_good_token_call(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        good = f"Bearer {mint(SECRET, 'anna', 60)}"
        made = await here.post(Authorization=good)
        assert made.status == 201
        path = made.headers["Location"]
        for header, status, error in [
            (None, 401, None),
            ("Basic YTpi", 401, "invalid_token"),
            (f"Bearer {mint('x' * 40, 'eve', 60)}", 401, "invalid_token"),
            (f"Bearer {mint(SECRET, 'anna', -60)}", 401, "invalid_token"),
            (f"Bearer {mint(SECRET, 'anna', 60, scope='listen')}", 403, "insufficient_scope"),
        ]:
            headers = {"Authorization": header} if header else {}
            for response in (
                await here.post(**headers),
                await here.http.delete(path, headers=headers),
                await here.http.patch(path, data=fragment(), headers=headers),
                await here.http.get("/ice", headers=headers),
            ):
                assert response.status == status
                challenge = response.headers["WWW-Authenticate"]
                assert challenge.startswith("Bearer ") and (error is None) == ("error=" not in challenge)
                assert error is None or f'error="{error}"' in challenge
                await told(response)
        assert (await here.http.options("/whip")).status == 200  # preflights have no token
        assert (await here.http.get("/healthz")).status == 200
        assert (await here.http.delete(path, headers={"Authorization": good})).status == 200

    on_a_site(story, tmp_path, jwt_secret=SECRET)


def test_the_open_door_is_for_names_of_this_machine(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        rebound = await here.post(Host="evil.example")
        assert rebound.status == 403 and "jwt_secret" in (await told(rebound))["detail"]
        assert (await here.post(Host="[::g")).status in (400, 403)
        assert (await here.post(Host="localhost:8080")).status == 201
        assert (await here.post(Host="[::1]:8080")).status == 201

    on_a_site(story, tmp_path)


def test_pages_of_other_origins_need_to_be_configured(tmp_path: Path) -> None:
    ours = {"Origin": "https://app.example"}

    async def story(here: Visit) -> None:
        asks = {**ours, "Access-Control-Request-Method": "POST"}
        preflight = await here.http.options("/whip", headers=asks)
        assert preflight.status == 200 and preflight.headers["Access-Control-Allow-Origin"] == ours["Origin"]
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert "Microturn-Resume" in preflight.headers["Access-Control-Allow-Headers"]
        for response in (await here.post(**ours), await here.post("bad", **ours)):
            assert response.headers["Access-Control-Allow-Origin"] == ours["Origin"]
            assert "Location" in response.headers["Access-Control-Expose-Headers"]
            assert response.headers["Vary"] == "Origin"
        stranger = await here.http.options("/whip", headers={**asks, "Origin": "https://evil.example"})
        assert not [name for name in stranger.headers if name.startswith("Access-Control")]

    on_a_site(story, tmp_path, web_origins=("https://app.example",))


def test_ice_servers_come_with_credentials_of_their_own(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        made = await here.post()
        stun, udp, tcp = made.headers.getall("Link")
        assert stun == '<stun:s.example:3478>; rel="ice-server"'
        assert udp.startswith('<turn:t.example:3478?transport=udp>; rel="ice-server"; username="')
        assert 'credential-type="password"' in tcp and "transport=tcp" in tcp
        call = made.headers["Location"].split("/")[-1]
        assert f':{call}"; credential="' in udp
        servers = (await (await here.http.get("/ice")).json())["iceServers"]
        assert servers[0] == {"urls": ["stun:s.example:3478"]} and len(servers[1]["urls"]) == 2
        expiry = int(servers[1]["username"].split(":")[0])
        assert (servers[1]["username"], servers[1]["credential"]) == mint_turn("shared", "page", expiry)

    on_a_site(
        story,
        tmp_path,
        stun_urls="stun:s.example:3478",
        turn_urls="turn:t.example:3478?transport=udp, turn:t.example:3478?transport=tcp",
        turn_secret="shared",
    )


def test_who_offers_too_fast_is_slowed_down(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        answers = [await here.post("no SDP") for _ in range(9)]
        assert [a.status for a in answers[:4]] == [400] * 4 and answers[-1].status == 429
        assert answers[-1].headers["Retry-After"] == "1" and (await told(answers[-1]))["code"] == "too-fast"
        metrics = await (await here.http.get("/metrics")).text()
        refused = 'microturn_admission_refused_total{by="http",reason='
        assert f'{refused}"rate"}}' in metrics and f'{refused}"malformed"}} 4.0' in metrics

    on_a_site(story, tmp_path, webrtc_offers_per_s=1)


def test_hostile_bodies_are_refused_and_live_calls_go_on(tmp_path: Path) -> None:
    """Seeds when they are here, else our own offer; each cut, flipped and padded by a seeded hand."""
    files = sorted(SEEDS.iterdir()) if SEEDS.is_dir() else []
    seeds = [file.read_bytes()[:40_000] for file in files] or [OFFER.encode()]
    dice = random.Random(5)

    async def story(here: Visit) -> None:
        live = await here.post()
        statuses = set()
        for _ in range(200):
            body = bytearray(dice.choice(seeds))
            for _ in range(dice.randrange(8)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            sent = bytes(body[: dice.randrange(1, len(body) + 1)])
            response = await here.post(sent)
            statuses.add(response.status)
            if response.status == 201:
                assert (await here.http.delete(response.headers["Location"])).status == 200
            else:
                await told(response)
            statuses.add((await here.patch(live.headers["Location"], sent.decode("latin-1"), "*")).status)
        assert statuses <= {200, 201, 204, 400, 406, 413, 422} and 400 in statuses
        assert here.pool.live == 1 and here.pool.counters.answers_timed_out == 0

    on_a_site(story, tmp_path, webrtc_offers_per_s=0)
