"""One conversation of a SIP worker: its leg, the call of the library that carries it, and what the model does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.background.conversation import Conversation, Tell
from gateway.figures import LineSums
from gateway.recording.call import ACTION, CallRecording
from gateway.sip.pj import SipCall
from gateway.turns import Pulls
from media.chunk import PCM, Chunk, Reply, VideoFrame
from media.chunker import Chunker, Line
from media.conference import Conference
from media.keys import DIGITS, MOST_DIGITS, Mouth, Presses
from media.leg import SLEPT_FRAMES, Leg
from media.timebase import FRAME_MS, FRAME_NS, NS_PER_MS

if TYPE_CHECKING:
    from gateway.sip.joining import Guest

log = structlog.get_logger()

KEY_NS = 240 * NS_PER_MS
"""A key takes so long on its way out: 200 ms of events or 100 of tones, and a pause."""
MOST_SAID_BYTES = 480
"""Of the conversation, in a header of a REFER."""


@dataclass(slots=True)
class Counters:
    """Of this process's calls, since its start."""

    calls_answered: int = 0
    calls_refused: int = 0
    calls_ended: int = 0
    calls_broken: int = 0
    calls_transferred: int = 0
    transfers_failed: int = 0
    rtp_timeouts: int = 0
    calls_placed: int = 0
    placed_answered: int = 0
    placed_failed: int = 0
    handed_over: int = 0
    handovers_failed: int = 0
    keys_heard: int = 0
    keys_pressed: int = 0
    keys_unsent: int = 0
    persons_joined: int = 0
    joins_failed: int = 0


class Session:
    """One conversation: its leg, and the call of the library that carries it. `turns.Call`.

    While a transfer is pending, `child` is the call to its target; when that is answered, it becomes `call`.
    """

    def __init__(
        self,
        call: SipCall,
        rate_hz: int,
        counters: Counters,
        persona: str = "",
        tell: Tell = lambda message: None,
        ask_transfer: Callable[[Session, str], None] = lambda session, target: None,
        dtmf_out: str = "auto",
        ask_join: Callable[[Session, str], None] = lambda session, target: None,
        engine: str = "",
    ) -> None:
        """`tell` is the line to the main process, `ask_transfer` and `ask_join` what the model's wish comes to."""
        self.call, self.persona, self.engine = call, persona, engine
        self.placed = False
        """We called."""
        self.referring = 0
        """Which handover is under way, counted from 1; 0 is none."""
        self.refer_accepted = False
        """The peer has taken our REFER."""
        self.hung_up = False
        """By us."""
        self.rang = False
        """Whom we call was heard to be called."""
        self.gave_up: tuple[int, str] | None = None
        """Status and reason, where we gave a call of ours up."""
        self.guest: Guest | None = None
        """The person who has joined, or is being called for it."""
        self._conference: Conference | None = None
        self._joined_line = Line(0.0, 0, 0)
        self._line_before: Line | None = None
        """Packets that were lost or late while a person had joined: `media.conference` made up for them."""
        self._ask_transfer, self._ask_join, self._dtmf_out = ask_transfer, ask_join, dtmf_out
        self._presses = Presses()
        self._going_out: deque[tuple[int, str]] = deque(maxlen=4 * MOST_DIGITS)
        """Keys that the peer has not got yet, and when it will have."""
        self.child: SipCall | None = None
        self.name = call.sip_call_id
        """The SIP Call-ID of its first call: a lease goes by it."""
        self.leg = Leg(Chunker(rate_hz, self))
        self.mouth = Mouth(self.leg.playout.pull, rate_hz)
        self.recording: CallRecording | None = None
        self.conversation = Conversation(self.name, self.leg, tell)
        self.heard_at_ns = time.monotonic_ns()
        self.cause = ""
        """Why we ended it; empty when the other end did."""
        self.line_sums = LineSums()
        self._counters = counters
        self._packets, self._was_held = 0, False

    @property
    def is_over(self) -> bool:
        """Hung up, by whomever."""
        return self.call.over

    def drain(self) -> None:
        """See what waits for the leg; raises what went wrong in its ear, which ends the call."""
        if self.call.ear is not None and self.call.ear.wrong is not None:
            raise self.call.ear.wrong
        self.leg.intake.look()

    def look(self) -> int | None:
        """`media.chunker.Store`: of the call that carries it now."""
        if self._conference is not None:
            return self._look_at(self._conference)
        return None if self.call.over else self.call.look()

    def line(self) -> Line:
        """`media.chunker.Store`."""
        if self._conference is not None and not self._conference.is_closed:  # which is on our clock
            return self._joined_line
        line, before = self.call.line(), self._line_before
        if before is None:
            return line
        lost, late = line.lost_packets - before.lost_packets, line.late_packets - before.late_packets
        return Line(line.jitter_ms, lost, late)

    def pull(self) -> PCM | None:
        """`media.chunker.Store`, after `look` has found something."""
        if self._conference is not None:
            if self._conference.waiting_ms or not self._conference.is_closed:
                return self._conference.pull()
            self._conference = None
        assert self.call.stream is not None, "no stream"
        return self.call.stream.pull()

    # -- a person who has joined

    def join(self, rate_hz: int) -> Conference:
        """From now on the caller's line is the conference's: what waits in it goes along."""
        line, waiting, former = self.line(), self.call.look() or 0, self._conference
        self._joined_line = Line(0.0, line.lost_packets, line.late_packets)
        frames: list[PCM | None] = []
        while former is not None and former.waiting_ms:  # of somebody who has just left
            frames.append(former.pull())
        frames += [self.call.next_frame() for _ in range(waiting // FRAME_MS)]
        self._conference = Conference(rate_hz, frames)
        return self._conference

    def part(self) -> None:
        """The line is the caller's alone again; what waits in the conference is heard before it."""
        if self._conference is not None:
            self._conference.close()
            line, joined = self.call.line(), self._joined_line
            lost, late = line.lost_packets - joined.lost_packets, line.late_packets - joined.late_packets
            self._line_before = Line(0.0, lost, late)

    def _look_at(self, conference: Conference) -> int | None:
        if not conference.is_closed:
            return conference.waiting_ms
        behind = None if self.call.over else self.call.look()
        if not conference.waiting_ms:
            self._conference = None
            return behind
        return conference.waiting_ms + (behind or 0)

    def pulls(self) -> Pulls | None:
        """Of the library's clock thread; None until our announcements are over."""
        ear = self.call.ear
        if self.recording is not None and self.recording.is_announcing:
            return None
        return Pulls(ear.first_pull_ns, ear.last_pull_ns) if ear is not None and ear.pulls else None

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        """A telephone sees nothing."""
        return ()

    def turned(self, chunk: Chunk) -> None:
        """The chunk was published; nobody at a telephone watches the turns."""
        self.conversation.turned()
        if self.recording is not None:
            self.recording.poll()

    def hear(self) -> bytes:
        """The next 20 ms for the caller's ear, in the library's clock thread."""
        sound, tape, ear = self.mouth.pull(), self.leg.tape, self.call.ear
        if tape is not None and ear is not None:
            frame = self.leg.playout.next_frame - 1
            due = (ear.last_pull_ns - ear.first_pull_ns) // FRAME_NS
            tape.hear(frame if due - frame < SLEPT_FRAMES else due, sound)  # as `Leg.catch_up` will have it
        conference = self._conference
        return sound if conference is None else conference.for_caller(sound)

    def first_pull_ns(self) -> int:
        """Of its ear; 0 is not yet."""
        return self.call.ear.first_pull_ns if self.call.ear is not None else 0

    def replied(self, reply: Reply, taken: bool) -> None:
        """The model's actions; its text is for those who can read."""
        for event in self.conversation.replied(reply, taken):
            action, _, value = event.partition(" ")
            if action == "hangup":
                self.hang_up("model")
            elif action == "dtmf" and value:
                self.press(value)
            elif action == "transfer":
                self._ask_transfer(self, value)
            elif action == "join":
                self._ask_join(self, value)
            elif action == ACTION and self.recording is not None:
                self.recording.act(value)
            else:
                log.warning("unknown action", call=self.name, bytes=len(event))

    def withhold(self, turn: int, since: int) -> None:
        """`safety.screen.Screened`."""
        self.conversation.withhold(turn, since)

    def fail(self, wrong: Exception) -> None:
        """A bug of ours in this call's turn: hang up."""
        log.error("call broken", call=self.name, exc_info=wrong)
        self._counters.calls_broken += 1
        self.hang_up("error")

    def hang_up(self, cause: str = "") -> None:
        """From our side, and whom we are about to call, too."""
        self.hung_up = True
        self.cause = self.cause or cause
        if self.child is not None:
            self.child.hang_up()
        self.call.hang_up()

    def press(self, digits: str) -> bool:
        """Keys towards the peer; False, and an event for the model, when nobody is there to hear them: on hold,
        while the target of a transfer still rings, or where too many wait."""
        digits = digits.upper()
        if DIGITS.fullmatch(digits) and self._pressed(digits):
            self._counters.keys_pressed += len(digits)
            due_ns = max(time.monotonic_ns(), self._going_out[-1][0] if self._going_out else 0)
            self._going_out.extend((due_ns + at * KEY_NS, digit) for at, digit in enumerate(digits, 1))
            return True
        return self._unsent(digits)

    def stop_pressing(self) -> None:
        """The peer holds: keys that are on their way are gone, and the model is told."""
        now_ns = time.monotonic_ns()
        left = "".join(digit for due_ns, digit in self._going_out if due_ns > now_ns)
        self._going_out.clear()
        self.mouth.stop()
        if left:
            self._unsent(left)

    def _unsent(self, digits: str) -> bool:
        log.info("keys not sent", call=self.name)
        self._counters.keys_unsent += 1
        self.leg.receive_event(f"dtmf-failed {digits[:MOST_DIGITS]}")
        return False

    def _pressed(self, digits: str) -> bool:
        if self.call.held or not (self.call.connected or not self.call.is_ours):
            return False
        if self._dtmf_out == "inband":
            return self.mouth.press(digits)
        return self.call.send_digits(digits, self._dtmf_out)

    def hear_key(self, digit: str, timestamp_ms: int | None, duration_ms: int) -> None:
        """A telephone event of the peer, or its INFO (without a time stamp)."""
        self.leg.tones = None  # it sends events: what its keys sound like is the same press again
        heard = digit if timestamp_ms is None else self._presses.receive(digit, timestamp_ms, duration_ms)
        if heard is not None:
            self._counters.keys_heard += 1
            self.leg.receive_event(f"dtmf {heard}")

    def said(self) -> str:
        """The end of the conversation, for a person who takes the caller over."""
        return self.conversation.newest(MOST_SAID_BYTES)

    def move(self, child: SipCall) -> None:
        """The conversation goes on in `child`: with its ear, in the turn that is under way."""
        child.take_over(self.call)
        self.call, self.child = child, None
        self.leg.hold(child.held or not child.connected)
        self.heard_at_ns, self._packets = time.monotonic_ns(), 0

    def check_stream(self, now_ns: int) -> int:
        """How long, in ns, no packet has come, on hold or not; what the line is like is noted."""
        heard = self.call.heard() if self.call.connected and not self.call.over else None
        if heard is None:
            return 0
        packets = heard.packets
        sums = self.line_sums
        sums.codec, sums.packets, sums.lost = heard.codec, packets, heard.lost
        if not self.leg.held:
            sums.note(heard.jitter_ms, heard.delay_ms, heard.round_trip_ms)
        if packets != self._packets or self.leg.held != self._was_held:
            self.heard_at_ns = now_ns
        self._packets, self._was_held = packets, self.leg.held
        return now_ns - self.heard_at_ns
