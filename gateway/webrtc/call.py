"""A browser call: one leg and one slot, carried by one peer after another.

    connecting --media flows--> live --nothing heard, or the browser is gone--> away --heard, or resumed--> live
    any --hung up by either side, or away for too long--> over

While it is away its turns go on (the model hears silence and is told `away`), so that its sequence is there when
the browser is back. `turns.Call`, `pacer.Paced`, `peer.Owner`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog

from gateway.background.conversation import Conversation, Tell
from gateway.figures import LineSums
from gateway.recording.call import ACTION, CallRecording
from gateway.turns import Pulls
from gateway.webrtc.captions import Captions
from gateway.webrtc.channel import VERSION, Bye, Hello, Message, Subscribe, Text, Withdraw
from gateway.webrtc.peer import Peer, counts_of
from gateway.webrtc.sight import Sight
from gateway.webrtc.turn_log import TurnLog
from media.chunk import VIDEO_SIZE, Chunk, Flags, Reply, VideoFrame
from media.codecs.opus import OpusDecoder
from media.jitter import JitterBuffer
from media.leg import Leg
from media.timebase import MODEL_HZ, TURN_MS

log = structlog.get_logger()

STILL_S: Final = 3.0
"""A key frame of a weak line takes a second or two."""
STILL_POLL_S: Final = 0.02
CAUSES: Final = {"hangup": "caller", "timeout": "timeout", "drain": "drain"}
"""Of the reasons that have one of their own."""
AWAY = ("away", "back")
"""Events that tell the model."""
WEAK, GOOD = "line weak", "line good"
"""More of them, with the loss each way and the delay: docs/protocol.md."""


class BrowserCall:
    """From its offer to its end."""

    def __init__(
        self,
        name: str,
        persona: str = "",
        engine: str = "",
        *,
        live: Callable[[BrowserCall], None],
        ended: Callable[[BrowserCall, str], None],
        tell: Tell = lambda message: None,
    ) -> None:
        """`tell` is the line to the main process."""
        self.name, self.persona, self.engine = name, persona, engine
        self.secret = secrets.token_urlsafe(16)
        """What a browser must show to resume this call."""
        self.leg = Leg(JitterBuffer(OpusDecoder(MODEL_HZ), MODEL_HZ))
        self.peer: Peer | None = None
        self.is_over = False
        self.offered_ns = time.monotonic_ns()
        self.was_live = False
        self.away_since_ns: int | None = None
        self.is_weak = False
        self.cause = ""
        """Why it is over."""
        self.line_sums = LineSums("OPUS")
        self._packets_before = (0, 0)  # received and lost, of peers that are gone
        self.weak_times = 0
        self.video_size = VIDEO_SIZE
        self.conversation = Conversation(
            name, self.leg, tell, self._send, has_camera=lambda: self._camera() is not None
        )
        self.recording: CallRecording | None = None
        self._live, self._ended = live, ended
        self._captions = Captions()
        self._turn_log = TurnLog(self.leg)
        self._resumed = False
        self._speaks_our_protocol = False
        self._pulls = Pulls(0, 0)
        self._closing: set[asyncio.Task[None]] = set()
        self._counted: Counter[str] = Counter()
        """By peers that are gone."""

    # -- its peers

    def carry(self, peer: Peer) -> None:
        """From now on by this peer; the one before is let go."""
        before, self.peer = self.peer, peer
        if before is not None:
            self._packets_before = (self.line_sums.packets, self.line_sums.lost)
            self._counted.update(before.counts())
            self._let_go(before, "resumed by another connection")
        self._resumed = self.was_live

    def connected(self, peer: Peer) -> None:
        """Media flows."""
        if peer is not self.peer or self.is_over:
            return
        if not self.was_live:
            self.was_live = True
            self._live(self)
        self._come_back()

    def opened(self, peer: Peer) -> None:
        """The data channel is there."""
        if peer is self.peer:
            self._speaks_our_protocol = True
            self._send(
                "hello",
                version=VERSION,
                call=self.name,
                turn_ms=TURN_MS,
                engine=self.conversation.engine,
                resumed=self._resumed,
                **({"engine_name": self.engine} if self.engine else {}),
            )
            self.conversation.show_all()

    def told(self, peer: Peer, message: Message) -> None:
        """The browser said something on the data channel."""
        if peer is not self.peer or peer.channel is None:
            return
        match message:
            case Hello(version):
                if version != VERSION:
                    peer.channel.fault("version", f"version {version}: this gateway speaks {VERSION}")
            case Text(text):
                if text and not self.leg.receive_text(text):
                    peer.channel.fault("too-long", "this turn's text is full: send it again")
                elif text:
                    self.conversation.typed(text)
            case Subscribe(every_turns):
                self._turn_log.begin(every_turns > 0)
            case Withdraw(task):
                if task:
                    self.conversation.withdraw(task)
            case Bye():
                self.end("hangup")

    def away(self, peer: Peer) -> None:
        """Nothing is heard of the browser."""
        if peer is self.peer:
            self._go_away()

    def back(self, peer: Peer) -> None:
        """It is heard again, by the same connection."""
        if peer is self.peer:
            self._come_back()

    def closed(self, peer: Peer, reason: str) -> None:
        """The connection is over; the call is not, if its browser knows how to resume it."""
        if peer is not self.peer or self.is_over:
            return
        self._counted.update(peer.counts())
        self.peer = None
        if self.was_live and self._speaks_our_protocol:
            self._go_away()
        else:
            self.end(reason)

    def end(self, reason: str, cause: str = "") -> None:
        """For good; harmless when repeated. `reason` as in the protocol's `bye`, or a sentence for the log; `cause`
        as in its record, by itself that of the reason."""
        if self.is_over:
            return
        self.is_over = True
        self.cause = cause or CAUSES.get(reason, "lost")
        self.conversation.end()
        self._send("bye", reason=reason)
        if self.peer is not None:
            self._let_go(self.peer, reason)
        self._ended(self, reason)

    def first_pull_ns(self) -> int:
        """Of its ear; 0 is not yet."""
        return self._pulls.first_ns

    def hang_up(self, cause: str = "") -> None:
        """From our side."""
        self.end("hangup", cause)

    def press(self, digits: str) -> bool:
        """A browser has no use for any."""
        return False

    def fail(self, wrong: Exception) -> None:
        """A bug of ours: it ends this call alone."""
        log.error("call broken", call=self.name, exc_info=wrong)
        self.end("lost", "error")

    # -- its ear

    def speak(self, due_ns: int) -> None:
        """The next 20 ms to the browser; unheard while it is away or does not listen."""
        self._pulls = Pulls(self._pulls.first_ns or due_ns, due_ns)
        peer, playout = self.peer, self.leg.playout
        if peer is None or self.away_since_ns is not None or not peer.offer.audio.listens:
            playout.skip(1)
            if peer is not None:
                peer.look(due_ns)
        else:
            peer.speak(due_ns)
            self._turn_log.spoke(peer.voice.last_frame)
            if self.leg.tape is not None:
                self.leg.tape.hear(playout.next_frame - 1, peer.voice.last_frame)
        for spoken in self._captions.heard(playout.next_frame):
            self._send("caption", turn=spoken.turn, text=spoken.text)

    # -- its turns

    def drain(self) -> None:
        """Those that came in order wait for each other."""
        if self.peer is not None:
            self.peer.transport.flush()

    def pulls(self) -> Pulls | None:
        """Once media flows, and our announcements are over."""
        if self.recording is not None and self.recording.is_announcing:
            return None
        return self._pulls if self._pulls.first_ns else None

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        """What the camera saw in this turn."""
        if self.peer is None or self.peer.sight is None:
            return ()
        return self.peer.sight.take(now_ns, self.video_size, wanted)

    async def still(self, patience_s: float = STILL_S) -> tuple[bytes, str]:
        """What the camera shows next as a JPEG, or why there is none."""
        if self.away_since_ns is not None:
            return b"", "the caller's connection is away for the moment"
        sight = self._camera()
        if sight is None:
            return b"", "the caller shows no camera"
        sight.want_still()
        try:
            for _ in range(round(patience_s / STILL_POLL_S)):
                if jpeg := sight.take_still():
                    return jpeg, ""
                await asyncio.sleep(STILL_POLL_S)
        finally:
            sight.end_still()
        return b"", f"no picture came within {patience_s:g} s: the camera is off, or its line is too weak"

    def turned(self, chunk: Chunk) -> None:
        """The chunk was published; those who watch are told, some turns at a time."""
        self.conversation.turned()
        if self.recording is not None:
            self.recording.poll()
        channel = self.peer.channel if self.peer is not None else None
        if channel is None or not channel.every_turns or self.peer is None:
            return
        if not self._turn_log.goes_on_with(chunk):
            self._send("turns", **self._turn_log.take(self.peer))
        self._turn_log.add(chunk)
        if len(self._turn_log) >= channel.every_turns:
            self._send("turns", **self._turn_log.take(self.peer))

    def replied(self, reply: Reply, taken: bool) -> None:
        """The model's text waits for its sound; its actions do not."""
        if reply.flags & Flags.FLUSH:
            for cut in self._captions.cut(self.leg.playout.next_frame):
                self._send("cut", turn=cut.turn, heard_ms=cut.heard_ms)
        if taken and reply.text:
            self._captions.say(reply.turn, self.leg.playout.frame_of(reply.turn), reply.text)
        for event in self.conversation.replied(reply, taken):
            self._send("action", turn=reply.turn, action=event)
            action, _, value = event.partition(" ")
            if action == ACTION and self.recording is not None:
                self.recording.act(value)
            if event == "hangup":
                self.end("hangup", "model")

    def withhold(self, turn: int, since: int) -> None:
        """`safety.screen.Screened`."""
        heard_ms = {turn: 0}
        heard_ms |= {cut.turn: cut.heard_ms for cut in self._captions.cut(self.leg.playout.next_frame, since)}
        for each in sorted(heard_ms):
            self._send("cut", turn=each, heard_ms=heard_ms[each], why="safety")
        self.conversation.withhold(turn, since)

    def report(self, now_ns: int) -> None:
        """Once a second: RTCP, and what the line is like when that has changed."""
        if self.peer is not None and self.away_since_ns is None:
            self.peer.report(now_ns)
            intake, sums = self.leg.intake, self.line_sums
            heard = self.peer.heard()
            sums.packets, sums.lost = (a + b for a, b in zip(self._packets_before, heard, strict=True))
            sums.note(intake.jitter_ms, intake.delay_ms, self.peer.round_trip_ms)
            if self.peer.line.is_weak != self.is_weak:
                self._tell_of_line(self.peer)

    def counts(self) -> dict[str, int]:
        """Of its jitter buffer, and of all its peers."""
        intake = self.leg.intake
        counted = Counter(self._counted)
        counted.update(counts_of(intake.packets, "jitter_"))
        counted.update(counts_of(intake.account, "jitter_samples_"))
        if self.peer is not None:
            counted.update(self.peer.counts())
        counted["lines_weak"] = self.weak_times
        return dict(counted)

    # -- inside

    def _camera(self) -> Sight | None:
        """None before its first packet."""
        sight = self.peer.sight if self.peer is not None else None
        return sight if sight is not None and sight.source is not None else None

    def _tell_of_line(self, peer: Peer) -> None:
        """Once at each change, to the model and to the page."""
        self.is_weak = peer.line.is_weak
        self.weak_times += self.is_weak
        loss, sent = round(peer.line.inward.loss, 2), round(peer.line.outward.loss, 2)
        delay = round(self.leg.intake.delay_ms + (peer.round_trip_ms or 0.0) / 2)
        self.leg.receive_event(
            f"{WEAK if self.is_weak else GOOD} loss={loss} loss_sent={sent} delay_ms={delay}"
        )
        code = "weak-line" if self.is_weak else "good-line"
        self._send("notice", code=code, loss=loss, loss_sent=sent, delay_ms=delay)

    def _go_away(self) -> None:
        if self.away_since_ns is None and not self.is_over:
            self.away_since_ns = time.monotonic_ns()
            self.leg.hold(True, events=AWAY)

    def _come_back(self) -> None:
        if self.away_since_ns is not None:
            self.away_since_ns = None
            self.leg.hold(False, events=AWAY)

    def _send(self, kind: str, **fields: Any) -> None:
        if self.peer is not None and self.peer.channel is not None:
            self.peer.channel.send(kind, **fields)

    def _let_go(self, peer: Peer, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(peer.close(reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
