"""One endpoint of the library that calls itself: both ends of a call are ours, in one process of its own, since a
mistake here is a crash.

    python -m tests.support.calls_to_itself sound RATE_HZ CODEC PTIME_MS    what each end hears, as one JSON line
    python -m tests.support.calls_to_itself churn ROUNDS                    prints `survived`
    python -m tests.support.calls_to_itself joined ROUNDS                   prints `survived`
    python -m tests.support.calls_to_itself broken                          prints `alone`
    python -m tests.support.calls_to_itself woken                           prints how often, as one JSON line
    python -m tests.support.calls_to_itself closed PAIRS                    how long it took, as one JSON line

`sound`: the end that is called is told a packet time and a codec, so it packs and resamples; the one that calls
is told 20 ms. Each says a tone of its own.

`churn`: calls begin, are held and end under the clock that serves them, while a third thread keeps the interpreter
busy, so that the clock waits for it in the middle of most pushes.

`joined`: the same, while the clock pulls what all ends get, as it does where a person has joined a caller.

`broken`: work before the ears raises, and is done no more; one end's ear raises; its session is told to end, and
the other end is served as before.

`woken`: a call is set up and ended by somebody who polls only when the library's socket is readable.

`closed`: the library is taken down, with both ends of so many calls up.
"""

from __future__ import annotations

import gc
import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pjsua2 as pj

from gateway.sip.options import EndpointOptions
from gateway.sip.pj import Endpoint, SipCall
from gateway.sip.session import Counters, Session
from media.chunk import PCM
from media.keys import Presses
from media.timebase import FRAME_MS, samples_of

CALLED_HZ, CALLER_HZ = 600.0, 400.0
PAIRS = 2
"""The published wheel takes four calls."""
DIGITS = "5#"
SETTLE_S, LISTEN_S, WAIT_S = 0.3, 0.8, 5.0
SOCKETS_S = 0.1
"""Between rounds: the published wheel has 64 handles, keeps closed ones for 500 ms, and aborts beyond."""


class Tone:
    """An ear's playout: a tone that never ends."""

    def __init__(self, rate_hz: int, tone_hz: float) -> None:
        self._samples, self._step = samples_of(FRAME_MS, rate_hz), 2 * np.pi * tone_hz / rate_hz
        self._at = 0

    def pull(self) -> bytes:
        """20 ms, int16."""
        phase = self._step * (self._at + np.arange(self._samples))
        self._at += self._samples
        return bytes((8000 * np.sin(phase)).astype(np.int16).tobytes())


class Caller(SipCall):
    """Offers one codec and a packet time of its own."""

    codec, ptime_ms = "PCMU", FRAME_MS

    def onCallSdpCreated(self, prm: object) -> None:  # noqa: N802
        sdp = prm.sdp  # type: ignore[attr-defined]
        number = {"PCMU": 0, "PCMA": 8, "G722": 9}[self.codec]
        lines = [line for line in sdp.wholeSdp.splitlines() if not line.startswith(("a=rtpmap:", "a=ptime:"))]
        audio = next(i for i, line in enumerate(lines) if line.startswith("m=audio"))
        lines[audio] = re.sub(r"(RTP/AVP) .*", rf"\1 {number} 101", lines[audio])
        more = [f"a=rtpmap:{number} {self.codec}/8000", "a=rtpmap:101 telephone-event/8000"]
        sdp.wholeSdp = "\r\n".join([*lines, *more, f"a=ptime:{self.ptime_ms}", ""])


class Line:
    """Both ends' events, and the endpoint. `CallEvents`."""

    def __init__(self, rate_hz: int) -> None:
        gc.disable()
        options = EndpointOptions(rate_hz, max_calls=2 * PAIRS, rtp_host="127.0.0.1", rtp_port=0, rtp_ports=0)
        self.endpoint = Endpoint(options, self)
        self.endpoint.start()
        self.called: list[SipCall] = []
        self.callers: list[SipCall] = []
        self.digits = ""
        self.pulled = 0
        """By the clock's thread."""
        self._presses = Presses()

    def incoming(self, call: SipCall) -> None:
        """Answered at once."""
        self.called.append(call)
        call.pull = Tone(self.endpoint.rate_hz, CALLED_HZ).pull
        call.answer_with(200)

    def connected(self, call: SipCall) -> None:
        """Of the end that calls."""
        call.pull = Tone(self.endpoint.rate_hz, CALLER_HZ).pull
        call.resume_media()

    def ended(self, call: SipCall) -> None:
        """Forgotten by the endpoint's `sweep`."""
        self.endpoint.bury(call)
        for calls in (self.called, self.callers):
            if call in calls:
                calls.remove(call)

    def key(self, call: SipCall, digit: str, timestamp_ms: int | None, duration_ms: int) -> None:
        """RFC 4733; of either end."""
        self.digits += self._presses.receive(digit, timestamp_ms or 0, duration_ms) or ""

    def ringing(self, call: SipCall, status: int) -> None: ...
    def referred(self, call: SipCall, status: int, reason: str, final: bool) -> None: ...
    def media_changed(self, call: SipCall) -> None: ...
    def transfer(self, call: SipCall) -> SipCall | None: ...

    def dial(self, codec: str, ptime_ms: int) -> SipCall:
        """One call more."""
        call = Caller(self.endpoint)
        call.codec, call.ptime_ms = codec, ptime_ms
        self.callers.append(call)
        op = pj.CallOpParam(True)
        op.opt.audioCount, op.opt.videoCount = 1, 0
        if hasattr(op.opt, "textCount"):
            op.opt.textCount = 0
        call.makeCall(f"sip:itself@127.0.0.1:{self.endpoint.sip_port}", op)
        return call

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """What SIP has to say."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.endpoint.poll()
            self.endpoint.sweep()
            time.sleep(0.002)

    def heard_by_all(self) -> bool:
        """Every end has a stream, and has fetched something for it."""
        ears = [call.ear for call in (*self.callers, *self.called)]
        return len(ears) == 2 * len(self.callers) and all(ear is not None and ear.pulls > 1 for ear in ears)


def listen(line: Line, call: SipCall) -> list[PCM | None]:
    """Frames of `LISTEN_S`, pulled at the pace of turns."""
    frames: list[PCM | None] = []
    end = time.monotonic() + LISTEN_S
    while time.monotonic() < end:
        line.run(0.2)
        waiting_ms = call.look()
        assert waiting_ms is not None and call.stream is not None
        frames += [call.stream.pull() for _ in range(waiting_ms // FRAME_MS)]
    return frames


def purity(frames: list[PCM | None], rate_hz: int, tone_hz: float) -> float:
    """Of the middle 0.4 s: how much of the power is the tone's; 0 when something is missing."""
    middle = frames[len(frames) // 2 - 10 : len(frames) // 2 + 10]
    heard = [frame for frame in middle if frame is not None]
    if len(heard) < 20 or {len(frame) for frame in heard} != {samples_of(FRAME_MS, rate_hz)}:
        return 0.0
    pcm = np.concatenate(heard) * np.hanning(len(heard) * len(heard[0]))
    power = np.abs(np.fft.rfft(pcm)) ** 2
    bin_ = round(tone_hz * len(pcm) / rate_hz)
    return float(power[bin_ - 2 : bin_ + 3].sum() / power.sum())


def sound(rate_hz: int, codec: str, ptime_ms: int) -> None:
    """One call, both ways."""
    line = Line(rate_hz)
    caller = line.dial(codec, ptime_ms)
    line.run(WAIT_S, until=line.heard_by_all)
    line.run(SETTLE_S)
    called = line.called[0]
    for call in (caller, called):  # what waits is old
        for _ in range((call.look() or 0) // FRAME_MS):
            assert call.stream is not None
            call.stream.pull()
    before = caller.heard()
    began = time.monotonic()
    to_caller = listen(line, caller)
    seconds = time.monotonic() - began
    received = caller.heard()
    to_called = listen(line, called)
    called.send_digits(DIGITS)
    line.run(WAIT_S, until=lambda: len(line.digits) >= len(DIGITS))
    assert before is not None and received is not None
    told = {
        "codec": codec,
        "caller_hears": purity(to_caller, rate_hz, CALLED_HZ),
        "called_hears": purity(to_called, rate_hz, CALLER_HZ),
        "digits": line.digits,
        "packet_ms": 1000 * seconds / max(1, received.packets - before.packets),
    }
    print(json.dumps(told), flush=True)


def joined(line: Line) -> Callable[[], None]:
    """Pulls whatever waits at any end, in the clock's thread; counts it."""
    reader = line.endpoint.clock_reader

    def pull() -> None:
        for call in (*line.callers, *line.called):
            for _ in range((call.look(reader) or 0) // FRAME_MS):
                line.pulled += call.next_frame(reader) is not None

    return pull


def churn(rounds: int, *, is_joined: bool = False) -> None:
    """Ends of all kinds, in turn."""
    line = Line(8000)
    if is_joined:
        line.endpoint.metronome.do_before(joined(line))
    sys.setswitchinterval(0.0005)
    threading.Thread(target=keep_busy, daemon=True).start()
    ends = (by_caller, by_called, after_hold, at_once, untold)
    for number in range(rounds):
        for _ in range(PAIRS):
            line.dial("PCMU", (20, 10, 40)[number % 3])
        if ends[number % len(ends)] is not at_once:
            line.run(WAIT_S, until=line.heard_by_all)
            assert line.heard_by_all(), "not connected"
        ends[number % len(ends)](line)
        line.run(WAIT_S, until=lambda: not line.callers and not line.called)
        assert not line.callers and not line.called, "did not end"
        line.run(SOCKETS_S)
    assert not line.endpoint.metronome.served, "streams are left"
    assert not is_joined or line.pulled > rounds, f"{line.pulled} frames were pulled"
    print("survived", flush=True)


def by_caller(line: Line) -> None:
    """BYE to the other end: told by `onStreamDestroyed`."""
    for call in list(line.callers):
        call.hang_up()


def by_called(line: Line) -> None:
    """The other way round."""
    for call in list(line.called):
        call.hang_up()


def after_hold(line: Line) -> None:
    """A re-INVITE destroys the stream and makes another."""
    for call in list(line.callers):
        call.setHold(pj.CallOpParam(True))
    line.run(WAIT_S, until=lambda: all(call.held for call in line.called))
    assert all(call.held for call in line.called), "not held"
    by_caller(line)


def at_once(line: Line) -> None:
    """Before or while media comes up."""
    line.run(0.02)
    by_caller(line)


def untold(line: Line) -> None:
    """As if the library hung up by itself: the stream is destroyed while the clock serves it."""
    for call in list(line.callers):
        pj.Call.hangup(call, pj.CallOpParam(True))


def woken() -> None:
    """`Endpoint.sip_socket` is the one that SIP comes to."""
    line = Line(8000)
    counts = {"woken": 0, "in_vain": 0}

    def poll_when_woken(until: Callable[[], bool]) -> None:
        while not until() and not counts["in_vain"]:
            readable, _, _ = select.select([line.endpoint.sip_socket], [], [], WAIT_S)
            counts["woken" if readable else "in_vain"] += 1
            line.endpoint.poll()
            line.endpoint.sweep()

    caller = line.dial("PCMU", FRAME_MS)
    poll_when_woken(lambda: caller.connected and all(call.connected for call in line.called))
    connected = caller.connected and bool(line.called)
    caller.hang_up()
    poll_when_woken(lambda: not line.callers and not line.called)
    print(json.dumps({"connected": connected, **counts}), flush=True)


def closed(pairs: int) -> None:
    """As a worker that is told to stop does it."""
    line = Line(8000)
    for _ in range(pairs):
        line.dial("PCMU", FRAME_MS)
    line.run(WAIT_S, until=line.heard_by_all)
    assert line.heard_by_all(), "not connected"
    began_s = time.monotonic()
    line.endpoint.close()
    left = len(line.callers) + len(line.called)
    print(json.dumps({"seconds": time.monotonic() - began_s, "left": left}), flush=True)


def broken() -> None:
    """Bugs of ours: before the ears, and in one of them."""
    line, times = Line(8000), 0

    def wrong() -> None:
        nonlocal times
        times += 1
        raise ZeroDivisionError

    line.endpoint.metronome.do_before(wrong)
    line.dial("PCMU", 20)
    line.run(WAIT_S, until=line.heard_by_all)
    bad, good = line.callers[0], line.called[0]
    assert bad.ear is not None and good.ear is not None, "not connected"
    assert times == 1, "it is done again and again"
    session = Session(bad, 8000, Counters())
    session.drain()
    bad.ear.pull = lambda: bytes(1 // 0)
    line.run(WAIT_S, until=lambda: bad.ear is not None and bad.ear.wrong is not None)
    served, pulls = line.endpoint.metronome.served, good.ear.pulls
    line.run(WAIT_S, until=lambda: good.ear is not None and good.ear.pulls > pulls + 5)
    assert served == 1 and good.ear.pulls > pulls + 5 and good.ear.wrong is None, (
        "the other end is served no more"
    )
    try:
        session.drain()
    except ZeroDivisionError:
        print("alone", flush=True)


def keep_busy() -> None:
    """So that the clock thread waits for the interpreter."""
    while True:
        sum(range(200))


if __name__ == "__main__":
    if sys.argv[1] in ("churn", "joined"):
        churn(int(sys.argv[2]), is_joined=sys.argv[1] == "joined")
    elif sys.argv[1] == "broken":
        broken()
    elif sys.argv[1] == "woken":
        woken()
    elif sys.argv[1] == "closed":
        closed(int(sys.argv[2]))
    else:
        sound(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)
