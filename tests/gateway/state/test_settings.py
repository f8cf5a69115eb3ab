"""Where the state is: what is wrong is refused with the value, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import GatewaySettings, load
from gateway.doctor import kept_state
from gateway.state import keys
from gateway.state.address import Address, parse
from loadtests.ports import free_port
from tests.gateway.state.server import StateServer


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"MICROTURN_{name.upper()}", raising=False)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://db.example", Address("server", nodes=(("db.example", 6379),))),
        ("redis://127.0.0.1:7000/3", Address("server", nodes=(("127.0.0.1", 7000),), db=3)),
        ("rediss://[::1]:7000", Address("server", True, (("::1", 7000),))),
        ("unix:///run/redis.sock?db=2", Address("unix", path="/run/redis.sock", db=2)),
        ("sentinel://a,b:1/main", Address("sentinel", nodes=(("a", 26379), ("b", 1)), master="main")),
        ("sentinels://a/main/4", Address("sentinel", True, (("a", 26379),), master="main", db=4)),
        ("cluster://a:1,b:2", Address("cluster", nodes=(("a", 1), ("b", 2)))),
        ("clusters://a", Address("cluster", True, (("a", 6379),))),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse(url) == address and load(redis=url).state_address == address


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"redis": "http://x"}, "scheme 'http': expected redis://HOST:PORT/DB, rediss://"),
        ({"redis": "on"}, "scheme 'on'"),
        ({"redis": "redis://u:hidden@x"}, "user or password in its URL, which others can see: give them as"),
        ({"redis": "redis://x:70000"}, "'x:70000', which is no HOST:PORT"),
        ({"redis": "redis://x/one"}, "'one' is no number of a database"),
        ({"redis": "redis://a,b"}, "several servers: name one, or use sentinel:// or cluster://"),
        ({"redis": "unix://run/x"}, "expected unix:///PATH of a socket, absolute"),
        ({"redis": "sentinel://a"}, "names no master: give sentinel://a/MASTER"),
        ({"redis": "cluster://a/3"}, "Redis Cluster has none, leave '3' out"),
        ({"redis_namespace": "a{b}"}, "redis_namespace = 'a{b}': expected up to 32 small letters"),
        ({"node": "a b"}, "node = 'a b': expected 1 to 64 letters"),
        ({"redis_password": "hidden"}, "of no use with redis = 'auto': name the server"),
        (
            {"redis": "redis://x", "redis_user": "u"},
            "redis_user = 'u' without redis_password: set MICROTURN_",
        ),
        ({"redis": "redis://x", "redis_tls_ca": "/x"}, "redis_tls_ca is of no use with redis = 'redis://x'"),
        ({"redis": "rediss://x", "redis_tls_ca": "/no"}, "redis_tls_ca = '/no' cannot be read"),
        (
            {"redis": "rediss://x", "redis_tls_cert": "/dev/null"},
            "redis_tls_cert and redis_tls_key go together",
        ),
        ({"redis_keep_s": 5}, "redis_keep_s = 5"),
    ],
)
def test_a_wrong_value_is_refused_in_words(flags: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError) as refused:
        load(**flags)
    assert told in str(refused.value) and "hidden" not in str(refused.value)


def test_no_state_is_kept_unless_it_is_asked_for() -> None:
    assert load().state_address is None and load(redis="off").state_address is None


def test_each_gateway_has_a_name_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    here, there = load(run_dir=tmp_path / "a"), load(run_dir=tmp_path / "b")
    assert here.node_name != there.node_name and here.node_name == load(run_dir=tmp_path / "a").node_name
    assert " " not in here.node_name and load(node="gw-1").node_name == "gw-1"


def test_all_keys_of_a_call_lie_in_one_slot() -> None:
    call = keys.name_of_telephone_call("ab}c{@host")
    assert keys.is_name(call) and keys.name_of_telephone_call("ab}c{@host") == call
    assert keys.name_of_telephone_call("other") != call and "host" not in call
    assert all(key.startswith(f"microturn:{{{call}}}:") for key in keys.keys("microturn", call))
    assert len(set(keys.keys("microturn", call))) == len(keys.PARTS)
    assert not keys.is_name("b-1}{x") and not keys.is_name("")


@pytest.mark.redis
def test_the_doctor_says_what_is_there(server: StateServer) -> None:
    def found(**values: object) -> tuple[bool, bool, str]:
        finding = kept_state(GatewaySettings(**values))  # type: ignore[arg-type]
        return finding.good, finding.fatal, finding.found

    good, _, told = found(redis=server.url)
    assert good and str(server.socket) in told and (told.startswith("valkey 9") or told.startswith("redis "))
    good, fatal, told = found(redis=f"redis://127.0.0.1:{free_port()}")
    assert not good and not fatal and "Connection" in told
    assert found(redis="off")[0] and "microturn up" in found()[2]
