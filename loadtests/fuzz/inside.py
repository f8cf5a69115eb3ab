"""What our own processes say to each other and what lies on disk: a broken one of them is refused, in words."""

from __future__ import annotations

import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

from loadtests.fuzz.target import Take, Target

POLICY = b"""lookahead: 1
rules:
  - name: card
    phrases: [card number]
    then: replace
    say: "I cannot say that."
  - name: seven
    pattern: '\\bseven\\b'
    then: cut
"""


def _value_error() -> tuple[type[Exception], ...]:
    return (ValueError,)


def _lease() -> Take:
    from media.leases import decode, encode

    return lambda data: encode(decode(data))


def _turn_log() -> Take:
    from media.turn_log import unpack

    return lambda data: unpack(data, 7)


def _turn_logs() -> tuple[bytes, ...]:
    """Turns, as a gateway keeps them."""
    import numpy as np

    from media.chunk import Chunk
    from media.timebase import TURN_SAMPLES
    from media.turn_log import TurnLog

    log = TurnLog()
    for turn in range(1):
        log.add(Chunk(1, turn, turn, np.zeros(TURN_SAMPLES, np.int16), text="hello"))
    return (log.pack(),)


def _reply() -> Take:
    from media.ring import decode_text

    return lambda data: decode_text(data[::2], data[1::2])


def _state_address() -> Take:
    from gateway.state.address import parse

    return lambda data: str(parse(data.decode("utf-8", "replace")))


def _records() -> Take:
    from functools import partial

    import msgspec

    from gateway.state.records import Cdr, Heard, Leg, Line, Session, Task, decode, encode

    kinds: tuple[Any, ...] = (Session, Leg, Line, Task, Heard, Cdr)
    readers = [partial(decode, what) for what in kinds]

    def take(data: bytes) -> None:
        for read in readers:
            try:
                kept = read(data)
            except msgspec.DecodeError:
                continue
            assert read(encode(kept)) == kept

    return take


def _kept_records() -> tuple[bytes, ...]:
    from gateway.state.records import Cdr, Session, encode

    session = Session(call="c", door="sip", node="n", worker="w", began_ms=1)
    return (encode(session), encode(Cdr(call="c", door="sip", node="n", began_ms=1, ended_ms=2)))


def _recording() -> Take:
    """A file as it is, and one whose header is what is given, with a right sum over it."""
    from gateway.recording.container import MAGIC, Broken, Reader
    from gateway.recording.keys import Key

    key = Key("k", bytes(range(32)))

    def take(data: bytes) -> None:
        told, _, frames = data.partition(b"\n")
        head = MAGIC + len(told).to_bytes(4, "little") + told + zlib.crc32(told).to_bytes(4, "little")
        for file in (data, head + frames):
            for given in (None, key):
                try:
                    for frame in Reader(io.BytesIO(file), given):
                        assert len(frame.data) <= len(data)
                except Broken:
                    continue

    return take


def _recordings() -> tuple[bytes, ...]:
    """Open and encrypted."""
    from gateway.recording.container import MAGIC, Header, Writer
    from gateway.recording.keys import Key

    made = []
    for key in (None, Key("k", bytes(range(32)))):
        writer = Writer.begin(Header("c", 8_000, 1), key, bytes(16))
        frames = writer.frame(0, bytes(320))
        writer.written()
        frames += writer.end(160)
        made += [writer.head + frames, writer.head[len(MAGIC) + 4 : -4] + b"\n" + frames]
    return tuple(made)


def _policy() -> Take:
    from gateway.safety.policy_file import read_policy

    file = Path(tempfile.mkdtemp(prefix="fuzz-")) / "policy.yaml"

    def take(data: bytes) -> None:
        file.write_bytes(data)
        read_policy(file)

    return take


INSIDE = (
    Target(
        "lease",
        _lease,
        _value_error,
        (b'{"is": "CaughtUp", "slot": 1, "generation": 2}', b'{"is": "StatsRequest"}'),
    ),
    Target("turn-log", _turn_log, _value_error, make_seeds=_turn_logs),
    Target("reply-text", _reply, seeds=(b"h\ne\nl\nl\no\n",)),
    Target(
        "state-address",
        _state_address,
        _value_error,
        (b"redis://h:6379/0", b"sentinel://a:1,[::1]:2/m", b"unix:///x"),
    ),
    Target("state-records", _records, make_seeds=_kept_records),
    Target("recording", _recording, make_seeds=_recordings),
    Target("safety-policy", _policy, _value_error, (POLICY,)),
)
