# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may begin something: the access list, the bucket of a source, scanners, and what is told of them."""

import random

import pytest

from gateway.sip.flows import Flow
from gateway.sip.guard import MOST_TOLD, SCANNERS, Guard, GuardRules, Note, Standing, Verdict
from gateway.sip.timers import SECOND_NS

MINUTE_NS = 60 * SECOND_NS
PASS, REFUSE, DROP = Verdict.PASS, Verdict.REFUSE, Verdict.DROP


class Calls:
    """What the router would know."""

    def __init__(self, **standings: Standing) -> None:
        self.standings = {call_id.encode(): standing for call_id, standing in standings.items()}

    def standing(self, call_id: bytes) -> Standing:
        return self.standings.get(call_id, Standing.UNKNOWN)


def message(method: str = "INVITE", call_id: str = "new", *more: str, line: str = "Call-ID: {}") -> bytes:
    lines = [
        f"{method} sip:100@192.0.2.9 SIP/2.0",
        "Via: SIP/2.0/UDP 198.51.100.1",
        line.format(call_id),
        *more,
    ]
    return "\r\n".join((*lines, "Content-Length: 0", "", "")).encode()


def flow(host: str = "198.51.100.1") -> Flow:
    return Flow("udp", host, 5060)


def guard(calls: Calls | None = None, most_sources: int = 100, **rules: object) -> Guard:
    return Guard(GuardRules(**rules), calls or Calls(), most_sources)  # type: ignore[arg-type]


def test_without_rules_everybody_but_scanners_passes() -> None:
    asked = guard()
    assert {asked.judge(message(m), flow(), 0) for m in ("INVITE", "REGISTER") for _ in range(1000)} == {PASS}
    assert asked.judge(b"\x00\xff no SIP at all", flow(), 0) is PASS  # to be refused where it is parsed


@pytest.mark.parametrize("kind", SCANNERS)
@pytest.mark.parametrize("header", ["User-Agent: {}", "USER-AGENT :{}/1.2", "user-agent:\r\n  {} x"])
def test_scanners_are_not_heard_however_they_write_it(kind: str, header: str) -> None:
    asked = guard(unlimited=("198.51.100.0/24",))
    assert asked.judge(message("REGISTER", "new", header.format(kind.upper())), flow(), 0) is DROP
    assert asked.counters.scanners == 1


def test_only_the_head_is_looked_at_and_only_that_header() -> None:
    asked = guard(scanners=("evil*bot",))
    assert asked.judge(message("MESSAGE") + b"\r\nUser-Agent: sipvicious\r\n", flow(), 0) is PASS
    assert asked.judge(message("INVITE", "x", "Subject: sipvicious"), flow(), 0) is PASS
    assert asked.judge(message("INVITE", "x", "User-Agent: linphone"), flow(), 0) is PASS
    assert asked.judge(message("INVITE", "x", "User-Agent: Evil 3.1 Bot/2"), flow(), 0) is DROP


def test_strangers_hear_nothing() -> None:
    asked = guard(allow=("192.0.2.0/24", "2001:db8::/32"))
    assert asked.judge(message(), flow("192.0.2.7"), 0) is PASS
    assert asked.judge(message(), flow("::ffff:192.0.2.7"), 0) is PASS
    assert asked.judge(message(), flow("2001:db8::1"), 0) is PASS
    strangers = ["192.0.3.7", "2001:db9::1", "no-address"]
    assert [asked.judge(message(), flow(host), 0) for host in strangers] == [DROP] * 3
    assert asked.allows("192.0.2.7", 0) and not asked.allows("192.0.3.7", 0)
    assert asked.counters.strangers == 4


def test_503_then_silence_then_heard_again() -> None:
    asked = guard(per_s=10, silence_s=30)
    verdicts = [asked.judge(message(), flow(), 0) for _ in range(100)]
    assert verdicts == [PASS] * 40 + [REFUSE] * 39 + [DROP] * 21
    counted = asked.counters
    assert (counted.refused, counted.limited, counted.silenced, counted.silences) == (39, 1, 20, 1)
    assert asked.judge(message(), flow(), 30 * SECOND_NS - 1) is DROP
    later = [asked.judge(message(), flow(), 31 * SECOND_NS) for _ in range(11)]
    assert later == [PASS] * 10 + [REFUSE]  # what a second brings: nothing was saved up in silence
    assert asked.judge(message(), flow("198.51.100.2"), 0) is PASS  # another source


def test_the_time_to_wait_is_when_there_is_a_token_again() -> None:
    asked = guard(per_s=2, silence_s=0)
    for _ in range(8):
        asked.judge(message(), flow(), 0)
    assert [asked.judge(message(), flow(), 0) for _ in range(3)] == [REFUSE] * 3
    assert asked.retry_s == 2  # 3 are missing and one is wanted
    assert asked.judge(message(), flow(), asked.retry_s * SECOND_NS) is PASS


def test_only_invites_are_answered_beyond_the_rate() -> None:
    asked = guard(per_s=1)
    methods = ("REGISTER", "OPTIONS", "SUBSCRIBE", "BYE", "SIP/2.0")
    assert {asked.judge(message(m), flow(), 0) for m in methods[:4]} == {PASS}
    assert [asked.judge(message(m), flow(), 0) for m in methods[:3]] == [DROP] * 3
    assert asked.judge(b"\xff" * 9000, flow(), SECOND_NS // 2) is DROP  # garbage costs as much


@pytest.mark.parametrize("line", ["Call-ID: {}", "i:{}", "CALL-ID \t:\r\n {}  "])
def test_nothing_of_a_call_that_lives_is_dropped(line: str) -> None:
    calls = Calls(lives=Standing.LIVES, over=Standing.OVER)
    asked = guard(calls, allow=("192.0.2.0/24",), per_s=1)
    for method in ("INVITE", "ACK", "BYE", "INFO", "CANCEL", "OPTIONS", "SIP/2.0"):
        sent = message(method, "lives", "User-Agent: friendly-scanner", line=line)
        assert [asked.judge(sent, flow("203.0.113.9"), 0) for _ in range(50)] == [PASS] * 50
    late = [asked.judge(message(m, "over", line=line), flow(), 0) for m in ("ACK", "BYE", "SIP/2.0")]
    assert late == [PASS] * 3
    assert asked.judge(message("INVITE", "over", line=line), flow(), 0) is DROP  # begins again


def test_the_ack_of_a_refusal_costs_nothing() -> None:
    asked = guard(per_s=1)
    assert [asked.judge(message("ACK"), flow(), 0) for _ in range(50)] == [DROP] * 50
    assert asked.judge(message(), flow(), 0) is PASS
    assert asked.poll(0) == []


def test_networks_without_a_limit() -> None:
    asked = guard(per_s=1, unlimited=("198.51.100.0/24",))
    assert {asked.judge(message(), flow(), 0) for _ in range(1000)} == {PASS}
    assert asked.sources == 0


def test_an_ipv6_caller_is_its_network() -> None:
    asked = guard(per_s=1)
    for host in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"):
        assert asked.judge(message("OPTIONS"), flow(host), 0) is PASS
    assert asked.judge(message("OPTIONS"), flow("2001:db8::5"), 0) is DROP
    assert asked.judge(message("OPTIONS"), flow("2001:db8:0:1::1"), 0) is PASS


def test_forged_addresses_do_not_make_us_forget_who_is_silent() -> None:
    asked = guard(per_s=1, silence_s=60, most_sources=50)
    for _ in range(9):
        asked.judge(message(), flow("203.0.113.1"), 0)
    assert asked.counters.silences == 1
    forged = [asked.judge(message(), flow(f"10.0.{n // 250}.{n % 250}"), SECOND_NS) for n in range(1000)]
    assert forged == [PASS] * (49 + 4) + [DROP] * (1000 - 53)  # their own buckets, then one for all others
    assert (asked.sources, asked.counters.crowded) == (50, 951)
    assert asked.judge(message(), flow("203.0.113.1"), 2 * SECOND_NS) is DROP
    assert asked.judge(message(), flow("10.9.9.9"), 3 * SECOND_NS) is PASS  # slowly, others are still heard
    asked.judge(message(), flow("10.8.8.8"), 2 * MINUTE_NS)  # who was not heard for a minute makes room
    assert asked.sources == 50 and asked.counters.crowded == 952


def test_one_line_a_source_and_minute() -> None:
    asked = guard(allow=("192.0.2.0/24",))
    told: list[Note] = []
    for n in range(250):
        now_ns = n * SECOND_NS
        due_ns = asked.next_deadline()
        if due_ns is not None and due_ns <= now_ns:
            told += asked.poll(now_ns)
        for _ in range(4):
            asked.judge(message(), flow(), now_ns)
    told += asked.poll(400 * SECOND_NS)
    assert told == [Note("198.51.100.1", "stranger", n) for n in (1, 239, 240, 240, 240)] + [
        Note("198.51.100.1", "stranger", 40)
    ]
    assert asked.poll(500 * SECOND_NS) == [] and asked.next_deadline() is None


def test_many_sources_do_not_fill_the_disk() -> None:
    asked = guard(allow=("192.0.2.0/24",))
    rng = random.Random(3)
    for _ in range(10_000):
        asked.judge(message(), flow(f"10.{rng.randrange(250)}.{rng.randrange(250)}.1"), SECOND_NS)
    lines = asked.poll(SECOND_NS) + asked.poll(SECOND_NS + MINUTE_NS)
    assert len(asked.poll(SECOND_NS + 3 * MINUTE_NS)) == 0
    assert len({line.source for line in lines}) == MOST_TOLD
    assert sum(line.messages for line in lines) + asked.counters.untold == asked.counters.strangers == 10_000


@pytest.mark.parametrize("seed", range(20))
def test_no_octets_break_it(seed: int) -> None:
    rng = random.Random(seed)
    asked = guard(per_s=50, allow=("198.51.100.0/24",))
    whole = message("INVITE", "a", "User-Agent: sipcli/v1.8")
    for n in range(200):
        octets = bytearray(whole)
        for _ in range(rng.randrange(1, 30)):
            octets[rng.randrange(len(octets))] = rng.randrange(256)
        verdict = asked.judge(bytes(octets[: rng.randrange(len(octets) + 1)]), flow(), n)
        assert isinstance(verdict, Verdict)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"allow": ("192.0.2.0/33",)}, "'192.0.2.0/33' is no address or network: give such as 192.0.2.0/24"),
        ({"unlimited": ("carrier",)}, "'carrier' is no address"),
        ({"scanners": ("*a*",)}, r"'\*a\*': expected 3 to 64 letters"),
        ({"scanners": ("böse-bot",)}, "expected ASCII"),
        ({"per_s": -1}, "must not be negative"),
    ],
)
def test_rules_that_are_none(rules: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        guard(**rules)
