"""What `gateway/sip/pj` leans on of pjmedia's C interface to pull frames: fails when an upgrade moves it."""

from __future__ import annotations

import ctypes
import json

import pjsua2 as pj
import pytest

from gateway.sip.pj import endpoint, stream


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_the_library_shows_the_functions_that_pull(rate_hz: int) -> None:
    stream.Puller(endpoint.library_path(), rate_hz)


def test_a_library_without_them_is_refused() -> None:
    with pytest.raises(AttributeError, match="pjmedia_port_get_frame"):
        stream.Puller("libc.so.6", 8_000)


def test_a_frame_is_laid_out_as_in_c() -> None:
    """pjmedia/frame.h: enum, void *, size_t, pj_timestamp (8 octets), pj_uint32_t."""
    frame = stream._Frame
    offsets = [getattr(frame, name).offset for name, _ in frame._fields_]
    assert offsets == [0, 8, 16, 24, 32] and ctypes.sizeof(frame) == 40


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
    puller = stream.Puller(endpoint.library_path(), 8_000)

    def tell(_: int, at: int) -> None:
        told = (ctypes.c_uint32 * words)(*range(100, 100 + words))
        ctypes.memmove(at, told, ctypes.sizeof(told))

    puller._get_state = tell
    for _ in range(2):
        state = puller.state(0)
        assert state == (100 + size, (100 + words - 3, 100 + words - 2, 100 + words - 1))


def test_another_layout_is_refused() -> None:
    puller = stream.Puller(endpoint.library_path(), 8_000)
    puller._get_state = lambda stream, at: ctypes.memset(at, 0, 4 * 14)
    with pytest.raises(RuntimeError, match="14 words, expected one of"):
        puller.state(0)
