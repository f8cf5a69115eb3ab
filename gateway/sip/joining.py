"""A person who joins a caller and the model: one more call of the caller's worker, without a slot and turns.

    dial      the person's phone rings, the caller goes on with the model
    answered  where the caller's call may be recorded, the person hears that first, alone
    joined    from the next tick of the metronome on `media.conference` mixes the three
    left      the person hangs up, or is hung up: the model speaks to the caller again
    over      the caller's call ends, and the person's with it

What comes of it is told twice: of the person's call as of any call of ours, of the caller's call as `joined`,
`left` or `join-failed`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from gateway import control
from gateway.figures import LineSums, mos_of
from gateway.sip.pj import Endpoint, SipCall
from gateway.sip.session import Counters, Session
from gateway.state.keys import name_of_telephone_call
from gateway.state.records import Figures
from media.chunk import PCM
from media.conference import Conference, LaneCounters
from media.keys import Presses
from media.timebase import FRAME_MS, NS_PER_S, samples_of

if TYPE_CHECKING:
    from gateway.sip.pj.pjmedia import Pjmedia

log = structlog.get_logger()

ASK_S: Final = 5.0
"""The main process says within milliseconds whether somebody is called as the model wishes."""
ALONE: Final = "left-alone"
"""Why the person's call ended, in its record: the caller's had."""


def headers_of(session: Session, reference: str, words: bool) -> list[tuple[str, str]]:
    """For whoever gets a caller: the name of the transcript, and, with `words`, its end."""
    headers = [("X-Microturn-Call", reference)]
    if words and (said := session.said()):
        headers.append(("X-Microturn-Said", quote(said, safe=" :,.!?")))
    return headers


Told = control.Progress | control.CallEnded | control.Answered | control.JoinAsked | control.Announced


class Guest:
    """The person's call, from its INVITE to its end."""

    def __init__(self, call: SipCall, session: Session, asked: control.Dial, reader: Pjmedia) -> None:
        """`reader` is that of the clock's thread."""
        self.call, self.session, self.asked, self._reader = call, session, asked, reader
        self.name = call.sip_call_id
        self.conference: Conference | None = None
        """Once the person has joined."""
        self._announcement: deque[bytes] = deque()  # bounded: a file of ours
        self._silence = bytes(2 * samples_of(FRAME_MS, session.leg.intake.rate_hz))
        self.cause = ""
        """Why we ended it; empty when the person did."""
        self.gave_up: tuple[int, str] | None = None
        self.rang = False
        self.heard_at_ns = time.monotonic_ns()
        self.line_sums = LineSums()
        self.wrong: Exception | None = None
        """What went wrong in a tick, a bug of ours."""
        self._presses = Presses()
        self._packets, self._was_held = 0, False

    def announce(self, pcm: PCM) -> None:
        """This is heard first, int16 at the worker's rate: rounded up to whole frames, with silence."""
        size, sound = len(self._silence), pcm.tobytes()
        sound += bytes(-len(sound) % size)
        self._announcement.extend(sound[at : at + size] for at in range(0, len(sound), size))

    @property
    def is_announcing(self) -> bool:
        """It has not been heard to its end."""
        return bool(self._announcement)

    def begin(self, rate_hz: int) -> None:
        """The three are on one line from the next tick on."""
        session = self.session
        session.leg.playout.only_listens = self.asked.model == "listens"
        self.conference = session.join(rate_hz)
        session.leg.receive_event("joined")

    def end(self) -> None:
        """Nobody ticks any more: there are two again."""
        self.session.part()
        self.session.leg.playout.only_listens = False
        self.session.leg.receive_event("left")

    def tick(self) -> None:
        """20 ms of the three, in the clock's thread."""
        conference, caller, person, reader = self.conference, self.session.call, self.call, self._reader
        assert conference is not None, "nobody has joined"
        try:
            conference.tick(
                caller.look(reader), partial(caller.next_frame, reader),
                person.look(reader), partial(person.next_frame, reader),
            )  # fmt: skip
        except Exception as wrong:
            conference.close()  # nobody hears its last frame again and again
            self.wrong = wrong
            raise

    def hear(self) -> bytes:
        """The next 20 ms for the person's ear, in the clock's thread."""
        if self._announcement:
            return self._announcement.popleft()
        conference = self.conference
        return conference.for_person() if conference is not None else self._silence

    def hear_key(self, digit: str, timestamp_ms: int | None, duration_ms: int) -> bool:
        """The person has pressed a key, as `Session.hear_key` has it: the model is told whose it was. False while
        he has not joined, and of a press that is known."""
        heard = digit if timestamp_ms is None else self._presses.receive(digit, timestamp_ms, duration_ms)
        if heard is None or self.conference is None:
            return False
        self.session.leg.receive_event(f"person-dtmf {heard}")
        return True

    def hang_up(self, cause: str) -> None:
        """From our side."""
        self.cause = self.cause or cause
        self.call.hang_up()

    def figures(self) -> Figures:
        """Of its line."""
        sums = self.line_sums
        sent = sums.packets + sums.lost
        lane = self.conference.person.counters if self.conference is not None else LaneCounters()
        concealed_ms = FRAME_MS * lane.made_up
        return Figures(
            codec=sums.codec or self.call.codec, packets=sums.packets, lost_packets=sums.lost,
            loss=round(sums.lost / sent, 5) if sent else 0.0, jitter_ms=round(sums.jitter_ms, 2),
            jitter_max_ms=round(sums.jitter_max_ms, 2), delay_ms=round(sums.delay_ms, 1),
            round_trip_ms=round(sums.round_trip_ms, 1), concealed_ms=concealed_ms,
            dropped_ms=FRAME_MS * lane.left_out,
            mos=mos_of(sums, concealed_ms, FRAME_MS * (lane.heard + lane.made_up)),
        )  # fmt: skip

    def silent_ns(self, now_ns: int) -> int:
        """How long no packet has come, on hold or not; what the line is like is noted."""
        heard = self.call.heard() if self.call.connected and not self.call.over else None
        if heard is None:
            return 0
        sums = self.line_sums
        sums.codec, sums.packets, sums.lost = heard.codec, heard.packets, heard.lost
        if not self.call.held:
            sums.note(heard.jitter_ms, 0.0, heard.round_trip_ms)
        if heard.packets != self._packets or self.call.held != self._was_held:
            self.heard_at_ns = now_ns
        self._packets, self._was_held = heard.packets, self.call.held
        return now_ns - self.heard_at_ns


class Joining:
    """Of one worker. `tell` is the line to the main process."""

    def __init__(
        self,
        endpoint: Endpoint,
        counters: Counters,
        tell: Callable[[Told], object],
        words: bool,
        consent: PCM | None = None,
    ) -> None:
        """`words`: the person is sent the end of the conversation, too. `consent` is what tells that a call is
        recorded, int16 at the worker's rate."""
        self._endpoint, self._counters, self._tell, self._words = endpoint, counters, tell, words
        self._consent = consent
        self._guests: dict[SipCall, Guest] = {}
        self._asked: dict[Session, int] = {}
        """Whose model has asked for somebody, and the number of that."""
        self._last = 0

    def __len__(self) -> int:
        return len(self._guests)

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._guests.values())

    def find(self, call_id: str) -> Guest | None:
        """By the Call-ID of the person's call."""
        return next((guest for guest in self if guest.name == call_id), None)

    # -- what is asked

    def ask(self, session: Session, target: str) -> None:
        """The model's wish; the main process knows whom that is."""
        if session.guest is not None or session in self._asked or session.referring or session.is_over:
            session.leg.receive_event("join failed 491")
            return
        self._last = self._asked[session] = self._last + 1
        asyncio.get_running_loop().call_later(ASK_S, self._unanswered, session, self._last)
        self._tell(control.JoinAsked(session.call.sip_call_id, target))

    def refused(self, session: Session | None, status: int) -> None:
        """The main process calls nobody."""
        if session is not None and self._asked.pop(session, 0):
            session.leg.receive_event(f"join failed {status}")

    def _unanswered(self, session: Session, number: int) -> None:
        if self._asked.get(session) == number:
            self.refused(session, 503)

    def dial(self, asked: control.Dial, session: Session | None, has_room: bool) -> None:
        """Call the person, who is to join `session`."""
        told = self._why_not(session, has_room)
        if told is not None:
            self._answer(asked.id, *told)
            return
        assert session is not None
        try:
            account = self._endpoint.dialling_account(
                asked.srtp, asked.session_expires_s, sound6=asked.sound6
            )
        except ValueError as wrong:
            self._answer(asked.id, 503, str(wrong))
            return
        call = SipCall(self._endpoint, account=account)
        call.rtp_source, call.sound6 = asked.rtp_source, asked.sound6
        if not call.place(asked.uri, headers_of(session, name_of_telephone_call(session.name), self._words)):
            self._endpoint.bury(call)
            self._answer(asked.id, 500, "the library does not call")
            return
        self._asked.pop(session, None)
        guest = session.guest = self._guests[call] = Guest(call, session, asked, self._endpoint.clock_reader)
        call.pull = guest.hear
        self._counters.calls_placed += 1
        self._answer(asked.id, 200, call=guest.name)
        loop = asyncio.get_running_loop()
        loop.call_later(asked.ring_s, self._no_ringing, guest)
        loop.call_later(asked.answer_s, self._give_up, guest, "no answer")

    @staticmethod
    def _why_not(session: Session | None, has_room: bool) -> tuple[int, str] | None:
        if session is None or session.is_over:
            return 404, "no such call"
        if session.guest is not None:
            return 409, "somebody has joined, or is being called"
        if session.referring or session.child is not None or not session.call.connected:
            return 409, "not now: a transfer is under way, or nobody has answered"
        return None if has_room else (503, "no room")

    def leave(self, session: Session | None, cause: str = "api") -> tuple[int, str]:
        """The person is to go, or is not called any more; HTTP's status, and why not."""
        if session is None:
            return 404, "no such call"
        if session.guest is None:
            return 409, "nobody has joined"
        session.guest.hang_up(cause)
        return 200, ""

    def _no_ringing(self, guest: Guest) -> None:
        if not guest.rang:
            self._give_up(guest, "no ringing")

    def _give_up(self, guest: Guest, reason: str) -> None:
        if not (guest.call.over or guest.call.connected or guest.gave_up):
            guest.gave_up = (408, reason)
            guest.hang_up("no-answer")

    # -- what becomes of the person's call; each says whether it was one

    def key(self, call: SipCall, digit: str, timestamp_ms: int | None, duration_ms: int) -> bool:
        """A telephone event, or INFO, as `CallEvents.key` has it."""
        guest = self._guests.get(call)
        if guest is not None:
            self._counters.keys_heard += guest.hear_key(digit, timestamp_ms, duration_ms)
        return guest is not None

    def ringing(self, call: SipCall, status: int) -> bool:
        """Somebody is being called."""
        guest = self._guests.get(call)
        if guest is not None and not guest.rang:
            guest.rang = True
            self._progress(guest.name, "ringing", status)
        return guest is not None

    def connected(self, call: SipCall) -> bool:
        """The person has answered."""
        guest = self._guests.get(call)
        if guest is None:
            return False
        if guest.session.is_over:
            asyncio.get_running_loop().call_soon(guest.hang_up, ALONE)
            return True
        self._counters.placed_answered += 1
        guest.heard_at_ns = time.monotonic_ns()
        recording = guest.session.recording
        if self._consent is not None and recording is not None and recording.allowed:
            guest.announce(self._consent)
        call.resume_media()
        self._progress(guest.name, "answered", 200, "OK")
        if guest.asked.most_s:
            asyncio.get_running_loop().call_later(guest.asked.most_s, self._spent, guest)
        if guest.is_announcing:
            self._await_announcement(guest)
        else:
            self._begin(guest)
        return True

    def _await_announcement(self, guest: Guest) -> None:
        """The clock's thread takes it, while nobody holds."""
        if guest.call not in self._guests or guest.session.is_over:
            return
        if guest.is_announcing:
            asyncio.get_running_loop().call_later(FRAME_MS / 1_000, self._await_announcement, guest)
            return
        self._tell(control.Announced(guest.name, False, True))
        self._begin(guest)

    def _begin(self, guest: Guest) -> None:
        """The person is there."""
        self._counters.persons_joined += 1
        guest.begin(self._endpoint.rate_hz)
        self._endpoint.metronome.do_before(guest.tick)
        log.info("joined", call=guest.session.name, by=guest.name)
        self._tell_caller(guest, "joined", 200, "OK")

    def ended(self, call: SipCall) -> bool:
        """The person's call is over; or it never was one."""
        guest = self._guests.pop(call, None)
        if guest is None:
            return False
        session = guest.session
        session.guest = None
        status, reason = guest.gave_up or call.final
        if guest.conference is not None:
            self._endpoint.metronome.do_no_more(guest.tick)
            guest.end()
            self._tell_caller(guest, "left", status, reason)
        else:
            if call.connected:  # and has gone before the announcement was over
                status, reason = 487, "gone before the announcement was over"
            self._counters.placed_failed += not call.connected
            self._counters.joins_failed += 1
            log.info("not joined", call=session.name, status=status)
            if guest.asked.by_model:
                session.leg.receive_event(f"join failed {status}")
            if not call.connected:
                self._progress(guest.name, "failed", status, reason)
            self._tell_caller(guest, "join-failed", status, reason)
        cause = guest.cause or "caller"
        self._tell(control.CallEnded(guest.name, cause, guest.figures()))
        return True

    def caller_left(self, session: Session) -> None:
        """The caller's call is over."""
        self._asked.pop(session, None)
        if session.guest is not None:  # outside of the library's callback
            asyncio.get_running_loop().call_soon(session.guest.hang_up, ALONE)

    def _spent(self, guest: Guest) -> None:
        if guest.call in self._guests:
            guest.hang_up("limit")

    # -- once a second

    def look_after(self, now_ns: int, rtp_timeout_s: float, hold_timeout_s: float) -> None:
        """Silence of the person's line, and what went wrong."""
        for guest in list(self):
            silent_ns = guest.silent_ns(now_ns)
            guest.call.lock_source(silent_ns)
            patience_s = hold_timeout_s if guest.call.held else rtp_timeout_s
            ear = guest.call.ear
            if (wrong := guest.wrong or (ear.wrong if ear is not None else None)) is not None:
                log.error("a conference is broken", call=guest.session.name, exc_info=wrong)
                self._counters.calls_broken += 1
                guest.hang_up("error")
            elif silent_ns > patience_s * NS_PER_S:
                self._counters.rtp_timeouts += 1
                guest.hang_up("no-rtp")

    # -- inside

    def _tell_caller(self, guest: Guest, kind: control.ProgressKind, status: int, reason: str) -> None:
        if not guest.session.is_over:
            self._progress(guest.asked.joins, kind, status, reason, guest.name)

    def _progress(
        self, call_id: str, kind: control.ProgressKind, status: int, reason: str = "", other: str = ""
    ) -> None:
        self._tell(control.Progress(call_id, kind, status, reason[:120], other))

    def _answer(self, number: int, status: int, reason: str = "", call: str = "") -> None:
        self._tell(control.Answered(number, status, reason=reason, call=call))
