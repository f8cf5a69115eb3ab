"""Certificates from a real https server, from a folder and from nowhere, and what callers wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sip.message import Request, parse
from gateway.sip.stir import store as stores
from gateway.sip.stir import verifier as verifiers
from gateway.sip.stir.fetch import MOST_BYTES, Hosts
from gateway.sip.stir.verdict import Distrust
from gateway.sip.stir.verifier import Verifier, make_verifier
from tests.gateway.sip.stir.test_identity import invite
from tests.support.call_signers import (
    ANNA,
    Authority,
    CertificateServer,
    identity,
    new_key,
    passport,
    pem,
    tn_auth_list,
)

NOW_S = time.time()
ROOT, HTTPS, KEY = Authority(now_s=NOW_S), Authority("https", now_s=NOW_S), new_key()
LEAF = pem(ROOT.leaf(KEY, tn_auth_list(provider="709J")))


@pytest.fixture
def anchors(tmp_path: Path) -> str:
    file = tmp_path / "anchors.pem"
    file.write_bytes(pem(ROOT.certificate))
    return str(file)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CertificateServer]:
    with CertificateServer(HTTPS, tmp_path).serving() as server:
        yield server


def from_server(server: CertificateServer, anchors: str, *hosts: str, hold_s: float = 5.0) -> Verifier:
    hosts = hosts or (f"localhost:{server.port}", "127.0.0.0/8", "::1/128")
    return make_verifier(anchors, hosts, str(server.ca), "", 60, hold_s)


def call(url: str, key: object = KEY, **options: str) -> Request:
    return invite(identity(passport(key, NOW_S, url=url, **options), url))  # type: ignore[arg-type]


def ask(verifier: Verifier, *requests: Request) -> list[str]:
    """Results of calls that come together, at once where that is possible."""

    async def all_of_them() -> list[str]:
        async def one(request: Request) -> str:
            verdict = verifier.at_once(request, NOW_S)
            return (verdict or await verifier.verify(request, NOW_S)).text

        try:
            return list(await asyncio.gather(*(one(request) for request in requests)))
        finally:
            await verifier.close()

    return asyncio.run(all_of_them())


def test_a_certificate_is_fetched_once_and_then_known(server: CertificateServer, anchors: str) -> None:
    verifier = from_server(server, anchors)
    url = server.put("/a.pem", LEAF)
    assert verifier.at_once(call(url), NOW_S) is None
    assert ask(verifier, call(url), call(url, attest="C")) == ["verified A", "verified C"]
    assert server.asked == ["/a.pem"] and verifier.counters.fetches == 1
    verdict = verifier.at_once(call(url, attest="B"), NOW_S)
    assert verdict is not None and verdict.text == "verified B"
    assert ask(verifier, call(url, key=new_key())) == ["failed signature"]
    assert server.asked == ["/a.pem"]


def test_what_hosts_may_answer(server: CertificateServer, anchors: str) -> None:
    for path, answer in {
        "/missing.pem": (404, {}, b""),
        "/page": (200, {"Content-Type": "text/html"}, LEAF),
        "/zip": (200, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, LEAF),
        "/large.pem": (200, {"Content-Type": "text/plain"}, LEAF + b"\n" * MOST_BYTES),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/plain": (301, {"Location": f"http://localhost:{server.port}/a.pem"}, b""),
        "/away": (307, {"Location": "https://cr.example.net/a.pem"}, b""),
        "/once": (302, {"Location": "/a.pem"}, b""),
        "/odd": (302, {"Location": "https://[::1"}, b""),
    }.items():
        server.files[path] = answer
    server.put("/a.pem", LEAF)
    results = {
        path: ask(from_server(server, anchors), call(server.url(path)))[0]
        for path in (
            "/missing.pem",
            "/page",
            "/zip",
            "/large.pem",
            "/loop",
            "/plain",
            "/away",
            "/once",
            "/odd",
        )
    }
    assert results == {
        "/missing.pem": "failed fetch", "/page": "failed fetch", "/zip": "failed fetch",
        "/large.pem": "failed fetch", "/loop": "failed fetch", "/plain": "failed info", "/away": "failed info",
        "/once": "verified A", "/odd": "failed fetch",
    }  # fmt: skip


def test_whom_nobody_asks(server: CertificateServer, anchors: str) -> None:
    url = server.put("/a.pem", LEAF)
    private = from_server(server, anchors, f"localhost:{server.port}")
    assert ask(private, call(url)) == ["failed fetch"], "a listed name that leads to a private address"
    address = url.replace("localhost", "127.0.0.1")
    assert ask(from_server(server, anchors), call(address)) == ["failed info"], "no such host in the list"
    assert ask(from_server(server, anchors, f"localhost:{server.port + 1}"), call(url)) == ["failed info"]
    assert ask(from_server(server, anchors, "localhost", "127.0.0.0/8"), call(url)) == ["failed info"]
    assert ask(from_server(server, anchors), call(url.replace("https", "http"))) == ["failed info"]
    assert ask(from_server(server, anchors), call(url.replace("//", "//me:you@"))) == ["failed info"]
    assert ask(from_server(server, anchors), call("nothing")) == ["failed info"]
    strange = make_verifier(anchors, (f"localhost:{server.port}", "127.0.0.0/8", "::1/128"), "", "", 60)
    assert ask(strange, call(url)) == ["failed fetch"], "its own certificate is nobody's"
    assert server.asked == []
    named = from_server(server, anchors, f"127.0.0.1:{server.port}")
    assert ask(named, call(address)) == ["verified A"], "an address that the operator has named"


def test_a_slow_host_holds_nobody_up_and_the_next_call_has_its_certificate(
    server: CertificateServer, anchors: str
) -> None:
    server.slow_s = 0.4
    url = server.put("/a.pem", LEAF)
    verifier = from_server(server, anchors, hold_s=0.1)

    async def two_calls() -> list[str]:
        began_s = time.monotonic()
        first = await verifier.verify(call(url), NOW_S)
        assert time.monotonic() - began_s < 0.35
        for _ in range(200):
            await asyncio.sleep(0.01)
            if (second := verifier.at_once(call(url), NOW_S)) is not None:
                break
        assert second is not None
        return [first.text, second.text]

    assert asyncio.run(two_calls()) == ["failed timeout", "verified A"]
    assert verifier.counters.fetches == 1


def test_many_addresses_and_many_calls_wait_for_nothing_beyond_a_bound(
    server: CertificateServer, anchors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MOST_FETCHES", 2)
    server.slow_s = 0.1
    urls = [server.put(f"/{n}.pem", LEAF) for n in range(4)]
    found = ask(from_server(server, anchors), *(call(url) for url in urls))
    assert found == ["verified A", "verified A", "failed busy", "failed busy"]
    monkeypatch.setattr(verifiers, "MOST_HELD", 1)
    found = ask(from_server(server, anchors), *(call(urls[0]) for _ in range(3)))
    assert found == ["verified A", "failed busy", "failed busy"]


def test_addresses_that_lead_to_none_are_left_alone_for_a_while(
    server: CertificateServer, anchors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = from_server(server, anchors)
    now = [100.0]
    verifier._store._clock = lambda: now[0]
    url = server.url("/late.pem")
    assert ask(verifier, call(url)) == ["failed fetch"]
    server.put("/late.pem", LEAF, Cache_Control="max-age=90")
    assert ask(verifier, call(url)) == ["failed fetch"] and len(server.asked) == 1
    now[0] += stores.KEEP_NONE_S
    assert ask(verifier, call(url)) == ["verified A"] and len(server.asked) == 2
    now[0] += 89.0
    assert ask(verifier, call(url)) == ["verified A"] and len(server.asked) == 2
    now[0] += 2.0
    assert ask(verifier, call(url)) == ["verified A"] and len(server.asked) == 3
    monkeypatch.setattr(stores, "MOST_KEPT", 2)
    for n in range(5):
        assert ask(verifier, call(server.url(f"/none{n}.pem"))) == ["failed fetch"]
    asked = len(server.asked)
    assert ask(verifier, call(url)) == ["verified A"] and len(server.asked) == asked
    assert (
        ask(verifier, call(server.url("/none0.pem"))) == ["failed fetch"] and len(server.asked) == asked + 1
    )


def test_certificates_from_a_folder(anchors: str, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "a.pem").write_bytes(LEAF)
    (tmp_path / "outside.pem").write_bytes(LEAF)
    (folder / "large.pem").write_bytes(LEAF + b"\n" * MOST_BYTES)
    verifier = make_verifier(anchors, (), "", str(folder), 60)
    assert ask(verifier, call("https://cr.example.net/deep/a.pem")) == ["verified A"]
    for url in (
        "https://x/b.pem", "https://x/..%2foutside.pem", "https://x/../outside.pem", "https://x/large.pem",
        "https://x/.a.pem", "http://x/a.pem", "https://x/a.pem?x", "https://x/.",
    ):  # fmt: skip
        assert ask(verifier, call(url)) == ["failed info"], url


def test_a_certificate_that_is_not_for_that_number_or_not_for_now(anchors: str, tmp_path: Path) -> None:
    for name, leaf in {
        "mine": ROOT.leaf(KEY, tn_auth_list((ANNA, 2))),
        "other": ROOT.leaf(KEY, tn_auth_list("4930123")),
        "old": ROOT.leaf(KEY, tn_auth_list(ANNA), NOW_S - 9_000, NOW_S - 5_000),
        "bare": ROOT.leaf(KEY, None),
        "forged": Authority(now_s=NOW_S).leaf(KEY, tn_auth_list(ANNA)),
    }.items():
        (tmp_path / f"{name}.pem").write_bytes(pem(leaf))
    verifier = make_verifier(anchors, (), "", str(tmp_path), 60)
    names = ("mine", "other", "old", "bare", "forged")
    assert ask(verifier, *(call(f"https://x/{name}.pem") for name in names)) == [
        "verified A", "failed number", "failed expired", "failed tn-list", "failed untrusted",
    ]  # fmt: skip


def test_a_bug_of_ours_ends_with_the_call(
    anchors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*anything: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(verifiers, "claim_of", broken)
    verifier = make_verifier(anchors, (), "", str(tmp_path), 60)
    assert ask(verifier, call("https://x/a.pem")) == ["failed error"]


@pytest.mark.parametrize(
    "listed", ["https://x", "x:0", "x:99999", "*", "*.", "10.0.0.0/99", "a b", "x/y", "ä.example"]
)
def test_hosts_that_cannot_be_meant(listed: str) -> None:
    with pytest.raises(ValueError, match="stir_hosts"):
        Hosts([listed])


def test_which_addresses_are_fetched_from() -> None:
    from yarl import URL

    hosts = Hosts(["cr.example.net", "*.carrier.example:444", "[2001:db8::1]"])

    def allows(url: str) -> bool:
        try:
            hosts.check(URL(url))
        except Distrust:
            return False
        return True

    assert allows("https://CR.example.net/x") and allows("https://cr.example.net:8443/x")
    assert allows("https://a.b.carrier.example:444/") and allows("https://[2001:db8::1]/x")
    assert not allows("https://carrier.example:444/") and not allows("https://a.carrier.example/")
    assert not allows("https://cr.example.net:444/") and not allows("https://xcr.example.net/")
    assert not allows("https://cr.example.net.evil.example/") and not allows("//cr.example.net/")
    for address in (
        "10.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1",
        "224.0.0.1",
        "::ffff:10.0.0.1",
        "x",
    ):
        assert not hosts.may_reach(address), address
    assert hosts.may_reach("8.8.8.8") and Hosts(["10.0.0.0/8"]).may_reach("10.1.2.3")


def test_a_garbage_request_is_nobody(anchors: str, tmp_path: Path) -> None:
    verifier = make_verifier(anchors, (), "", str(tmp_path), 60)
    parsed = parse(b"INVITE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP x\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>\r\n"
                   b"Call-ID: 1\r\nCSeq: 1 INVITE\r\ny: \xff\xfe\r\n\r\n")  # fmt: skip
    assert isinstance(parsed, Request)
    assert ask(verifier, parsed) == ["failed header"], "the short form of its name is known, too"
