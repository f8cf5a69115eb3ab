"""A call of `/v1/realtime`: one leg, one slot and one WebSocket, from its admission to its end.

    waiting --the WebSocket is there--> live --hung up by either side, or the connection is gone--> over

It is not resumed: the protocol has no way to. `turns.Call`, `pacer.Paced`, `commands.Commanded`,
`safety.screen.Screened`. What the client says is dealt with in `desk.py`; this is what the call is for
everybody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from gateway.background.conversation import Conversation, Tell
from gateway.figures import LineSums
from gateway.realtime.desk import Desk
from gateway.realtime.responses import SILENT_RMS
from gateway.realtime.socket import Client
from gateway.realtime.sound import PCM_24
from gateway.recording.call import ACTION, CallRecording
from gateway.turns import Pulls
from gateway.webrtc.captions import Captions
from media.burst import Burst
from media.chunk import Chunk, Flags, Reply, VideoFrame
from media.leg import Leg
from media.playout import Playout

log = structlog.get_logger()

CAUSES: Final = {"hangup": "caller", "drain": "drain"}
"""Of the reasons that have one of their own."""


class RealtimeCall:
    """From its admission to its end."""

    away_since_ns: None = None
    """A client whose connection is gone does not come back."""

    def __init__(
        self,
        name: str,
        persona: str = "",
        engine: str = "",
        *,
        buffer_s: int,
        live: Callable[[RealtimeCall], None],
        ended: Callable[[RealtimeCall, str], None],
        tell: Tell = lambda message: None,
    ) -> None:
        """`tell` is the line to the main process; at most `buffer_s` of the client's sound wait."""
        self.name, self.persona, self.engine = name, persona, engine
        self.leg = Leg(Burst(PCM_24.rate_hz, buffer_s * 1_000))
        self.is_over = self.was_live = False
        self.offered_ns = time.monotonic_ns()
        self.cause = ""
        self.line_sums = LineSums("PCM")
        self.recording: CallRecording | None = None
        self._live, self._ended = live, ended
        self._captions = Captions()
        self._pulls = Pulls(0, 0)
        self._client: Client | None = None
        self._interruptions = 0
        self._cancelling = False
        self.desk = Desk(self, self._send, tell)
        self.conversation = Conversation(name, self.leg, self.desk.functions.tell, self.desk.show)

    # -- its client: `socket.Owner`

    def opened(self, client: Client) -> None:
        """It is there: turns begin."""
        if self.is_over:
            client.close()
            return
        self._client, self.was_live = client, True
        self.desk.open(self.conversation.engine)
        self._live(self)

    def receive(self, data: str | bytes) -> None:
        """One message; never raises for what is in it."""
        if self.is_over:
            return
        try:
            self.desk.receive(data)
        except Exception as wrong:  # the edge of a call
            self.fail(wrong)

    def closed(self, reason: str) -> None:
        """It is gone, and with it the call."""
        self._client = None
        self.end(reason)

    # -- its end

    def end(self, reason: str, cause: str = "") -> None:
        """For good; harmless when repeated. `reason` and `cause` as in `webrtc.call`."""
        if self.is_over:
            return
        self.is_over = True
        self.cause = cause or CAUSES.get(reason, "lost")
        self.desk.close(reason)
        self.conversation.end()
        if self._client is not None:
            self._client.close()
        self._ended(self, reason)

    def hang_up(self, cause: str = "") -> None:
        """From our side."""
        self.end("hangup", cause)

    def press(self, digits: str) -> bool:
        """A client has no use for any."""
        return False

    def fail(self, wrong: Exception) -> None:
        """A bug of ours: it ends this call alone."""
        log.error("call broken", call=self.name, exc_info=wrong)
        self.end("lost", "error")

    # -- its ear

    def first_pull_ns(self) -> int:
        """Of its ear; 0 is not yet."""
        return self._pulls.first_ns

    def speak(self, due_ns: int) -> None:
        """The next 20 ms to the client."""
        self._pulls = Pulls(self._pulls.first_ns or due_ns, due_ns)
        playout: Playout = self.leg.playout
        frame = playout.pull()
        if self.leg.tape is not None:
            self.leg.tape.hear(playout.next_frame - 1, frame)
        self.desk.responses.hear(frame, [spoken.text for spoken in self._captions.heard(playout.next_frame)])

    def cancel(self) -> None:
        """The client wants what the model says now to be heard no further."""
        if not self.desk.responses.speaks:
            self.desk.responses.stop("client_cancelled")
            return
        self._cancelling = True
        if self.leg.screen is not None:
            if not self.leg.screen.cut("client"):
                self.desk.responses.stop("client_cancelled")
                self._cancelling = False
            return
        self.leg.withholds = True
        self.leg.counters.cuts += 1
        self.leg.playout.withdraw(0)
        self.withhold(self.leg.turn, 0)

    # -- its turns

    def drain(self) -> None:
        """What comes in is in the leg at once."""

    def pulls(self) -> Pulls | None:
        """Once the client is there, and our announcements are over."""
        if self.recording is not None and self.recording.is_announcing:
            return None
        return self._pulls if self._pulls.first_ns else None

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        """None."""
        return ()

    async def still(self) -> tuple[bytes, str]:
        """None either."""
        return b"", "the caller has no camera"

    def turned(self, chunk: Chunk) -> None:
        """The chunk was published."""
        self.conversation.turned()
        if self.recording is not None:
            self.recording.poll()
        self.desk.turned(chunk)

    def replied(self, reply: Reply, taken: bool) -> None:
        """The model's text waits for its sound; its actions do not."""
        if reply.flags & Flags.FLUSH:
            self._flushed()
        if self._cancelling and self.leg.screen is None and _is_silent(reply):
            self._cancelling = self.leg.withholds = False
        if taken and reply.text and not self.leg.withholds:
            self._captions.say(reply.turn, self.leg.playout.frame_of(reply.turn), reply.text)
        for event in self.conversation.replied(reply, taken):
            action, _, value = event.partition(" ")
            self.desk.act(reply.turn, action, value)
            if action == ACTION and self.recording is not None:
                self.recording.act(value)
            if event == "hangup":
                self.end("hangup", "model")

    def withhold(self, turn: int, since: int) -> None:
        """`safety.screen.Screened`."""
        why = "client_cancelled" if self._cancelling else "content_filter"
        for cut in self._captions.cut(self.leg.playout.next_frame, since):
            self.desk.extend("cut", turn=cut.turn, heard_ms=cut.heard_ms, why=why)
        self.desk.responses.stop("client_cancelled" if self._cancelling else "content_filter")
        self.conversation.withhold(turn, since)
        if self.leg.screen is not None:
            self._cancelling = False

    def report(self, now_ns: int) -> None:
        """Once a second: how long its sound waits."""
        self.line_sums.note(0.0, float(self.leg.intake.waiting_ms), None)

    def counts(self) -> dict[str, int]:
        """Of its buffer, its responses and what was wrong."""
        return self.desk.counts()

    # -- inside

    def _flushed(self) -> None:
        """The model has fallen silent: for the caller, if that one speaks and something went unheard."""
        for cut in self._captions.cut(self.leg.playout.next_frame):
            self.desk.extend("cut", turn=cut.turn, heard_ms=cut.heard_ms)
        cuts, self._interruptions = self._interruptions, self.leg.counters.interruptions
        if self._interruptions > cuts and self.desk.is_spoken_to and self.desk.responses.speaks:
            self.desk.listening.yielded()
            self.desk.responses.stop("turn_detected")

    def _send(self, kind: str, **fields: Any) -> bool:
        return self._client is not None and self._client.send(kind, **fields)


def _is_silent(reply: Reply) -> bool:
    """It says nothing, or ends its line."""
    samples = reply.pcm.astype("float32")
    is_loud = float(samples @ samples) > SILENT_RMS**2 * len(samples)
    return "\n" in reply.text or not (reply.text or is_loud)
