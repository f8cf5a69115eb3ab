# SPDX-License-Identifier: GPL-3.0-or-later
"""Codecs and SRTP of a trunk, in what passes the edge."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sip.header import BadMessage, find
from gateway.sip.message import Request, parse
from gateway.sip.sdp_policy import Policy, limit_codecs
from gateway.sip.sdp_screen import prefers_wideband
from tests.support.sip_router import request

HEAD = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
OFFER = HEAD + (
    b"m=audio 4000 RTP/AVP 9 0 8 97 101\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    b"a=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=30\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
    b"a=ptime:20\r\na=sendrecv\r\n"
)
CRYPTO = b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n"


def offered(body: bytes) -> Request:
    message = parse(request(body=body))
    assert isinstance(message, Request)
    return message


def test_what_is_left_has_the_order_of_the_trunk_and_its_keys() -> None:
    assert limit_codecs(OFFER, ("PCMA", "PCMU")) == HEAD + (
        b"m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
        b"a=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n"
    )


def test_a_narrowband_trunk_goes_to_a_narrowband_worker() -> None:
    assert prefers_wideband(OFFER)
    passed = Policy(("PCMU", "G722")).of_peer(offered(OFFER))
    assert not prefers_wideband(passed.body)
    assert find(passed.headers, b"content-length") == b"%d" % len(passed.body)


def test_nothing_in_common_is_488_and_says_what_would_do() -> None:
    with pytest.raises(BadMessage) as refused:
        Policy(("G722",)).of_peer(offered(HEAD + b"m=audio 4000 RTP/AVP 0 8\r\n"))
    assert refused.value.status == 488 and b"G722" in refused.value.extra[0].value


def test_other_media_and_lines_that_are_off_stay() -> None:
    more = b"m=video 5000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\nm=audio 0 RTP/AVP 18\r\n"
    limited = limit_codecs(OFFER + more, ("PCMU",))
    assert limited is not None and limited.endswith(more)


def test_srtp_of_a_trunk() -> None:
    plain, secure = offered(OFFER), offered(OFFER.replace(b"RTP/AVP", b"RTP/SAVP") + CRYPTO)
    either = offered(OFFER + CRYPTO)
    assert Policy(srtp=2).of_peer(secure) is secure and Policy(srtp=1).of_peer(plain) is plain
    assert CRYPTO not in Policy(srtp=0).of_peer(either).body
    for policy, message in (
        (0, secure),
        (2, plain),
        (2, either),
        (2, offered(secure.body.replace(CRYPTO, b""))),
    ):
        with pytest.raises(BadMessage) as refused:
            Policy(srtp=policy).of_peer(message)
        assert refused.value.status == 488


@given(
    st.lists(
        st.one_of(
            st.sampled_from(OFFER.split(b"\r\n")),
            st.binary(max_size=30).map(lambda octets: b"m=audio " + octets),
        )
    )
)
def test_no_description_raises_anything_but_a_refusal(lines: list[bytes]) -> None:
    body = b"\r\n".join(lines)
    limited = limit_codecs(body, ("PCMU",))
    assert limited is None or limit_codecs(limited, ("PCMU",)) == limited
    message = offered(OFFER)
    for policy in (Policy(("PCMA",), 2), Policy(("G722",), 0)):
        with contextlib.suppress(BadMessage):
            policy.of_peer(dataclasses.replace(message, body=body))


def test_no_policy_touches_nothing() -> None:
    message = offered(OFFER)
    assert Policy().of_peer(message) is message
    assert Policy(("PCMU",)).of_worker(HEAD) == HEAD
