"""What `gateway/sip/pj` leans on of pjmedia's C interface and pjsua2's layouts: fails when an upgrade moves it."""

from __future__ import annotations

import ctypes
import json

import pjsua2 as pj
import pytest

from gateway.sip.pj import endpoint, pjmedia


def library() -> pjmedia.Pjmedia:
    return pjmedia.Pjmedia(endpoint.library_path())


def test_the_library_shows_the_functions() -> None:
    library()


def test_a_library_without_them_is_refused() -> None:
    with pytest.raises(AttributeError, match="pjmedia_port_get_frame"):
        pjmedia.Pjmedia("libc.so.6")


def test_whether_it_has_ipv6_is_asked_without_an_account_which_would_abort_it() -> None:
    assert pjmedia.has_ipv6(endpoint.library_path()) in (True, False)
    with pytest.raises(AttributeError, match="pj_sockaddr_parse"):
        pjmedia.has_ipv6("libc.so.6")


def test_a_frame_is_laid_out_as_in_c() -> None:
    """pjmedia/frame.h: enum, void *, size_t, pj_timestamp (8 octets), pj_uint32_t."""
    frame = pjmedia.Frame
    offsets = [getattr(frame, name).offset for name, _ in frame._fields_]
    assert offsets == [0, 8, 16, 24, 32] and ctypes.sizeof(frame) == 40


def test_what_a_new_stream_is_told_with_is_laid_out_as_in_c() -> None:
    """pjsua2/call.hpp: void *stream, unsigned streamIdx, bool destroyPort, void *pPort."""
    pjmedia.check_created_param(pj.OnStreamCreatedParam())


@pytest.mark.parametrize("name", ["_STREAM_INDEX_AT", "_DESTROY_PORT_AT"])
def test_another_layout_of_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pjmedia, name, 0)
    with pytest.raises(RuntimeError, match="laid out otherwise than in 2.15 and 2.17"):
        pjmedia.check_created_param(pj.OnStreamCreatedParam())


def test_the_store_discards_nothing_by_itself() -> None:
    media = pj.EpConfig().medConfig
    media.jbMax = 1234
    endpoint._discard_nothing(media)
    told = pj.JsonDocument()
    told.writeObject(media)
    found = json.loads(told.saveString())["MediaConfig"]
    assert (found["jbDiscardAlgo"], found["jbMax"]) == (0, 1234)


@pytest.mark.parametrize(("words", "size"), [(15, 6), (16, 7)])
def test_the_state_of_the_store_is_read_in_the_layout_of_this_library(words: int, size: int) -> None:
    """jbuf.h of 2.15.1 and of 2.17: the size, and at the end what was lost, discarded and asked for in vain."""
    media = library()

    def tell(_: int, at: int) -> None:
        told = (ctypes.c_uint32 * words)(*range(100, 100 + words))
        ctypes.memmove(at, told, ctypes.sizeof(told))

    media._get_state = tell
    for _ in range(2):
        state = media.state(0)
        assert state == (100 + size, (100 + words - 3, 100 + words - 2, 100 + words - 1))


def test_another_layout_of_the_state_is_refused() -> None:
    media = library()
    media._get_state = lambda stream, at: ctypes.memset(at, 0, 4 * 14)
    with pytest.raises(RuntimeError, match="14 words, expected one of"):
        media.state(0)
