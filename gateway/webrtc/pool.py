"""Which WebRTC workers live, which browser call is whose, and the requests that are out to them.

The main process's side of a browser call. It knows no SDP beyond the ICE credentials, no media and no socket:
a worker is a name and a `send`. Everything that is known here of a live call is told anew by its worker after
a restart (`WebrtcReady`), but for the browser's own credentials, without which a PATCH with `If-Match: *`
counts as an ICE restart, as it nearly always is.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
import structlog

from gateway import control
from gateway.api.sdpfrag import Fragment, credentials_of, ufrag_of
from gateway.config import GatewaySettings
from gateway.recording.options import RecordingOptions
from gateway.webrtc.options import WebrtcOptions

log = structlog.get_logger()

ANSWER_S: Final = 5.0
"""A worker answers an offer within milliseconds; one that takes so long is stuck."""
MOST_REQUESTS: Final = 128
"""Out to one worker at once. More are refused: it does not keep up."""
RETRY_S: Final = 2
BROWSER: Final = "b-"
REALTIME: Final = "r-"
"""How names of calls begin, by their door."""
_RESUME: Final = re.compile(r"([a-z0-9-]{1,32})\.(b-[0-9a-f]{16})\.[A-Za-z0-9_=-]{16,128}")

Send = Callable[[bytes], object]
Hand = Callable[[str, bytes, int], None]
"""To the worker of that name, a message and a descriptor; `OSError` when it cannot be sent."""


@dataclass(slots=True)
class PoolCounters:
    """Of the requests about browser calls, since the start of the main process."""

    offers: int = 0
    attended: int = 0
    """Clients of `/v1/realtime` that asked for a call."""
    calls_made: int = 0
    calls_resumed: int = 0
    calls_adopted: int = 0
    calls_hung_up: int = 0
    ice_restarts: int = 0
    trickles: int = 0
    offers_refused: int = 0
    """By a worker: nothing was offered that it could answer, what was to be resumed is gone, or it is full."""
    refused_full: int = 0
    refused_not_ready: int = 0
    answers_timed_out: int = 0
    answers_too_late: int = 0


@dataclass(slots=True)
class BrowserCall:
    """A call that lives in a worker."""

    name: str
    etag: str
    """Our ICE user fragment, which names the ICE session (RFC 9725 section 4.3)."""
    credentials: tuple[str, str] = ("", "")
    """The browser's; empty when a worker told us of the call after a restart."""


@dataclass(frozen=True, slots=True)
class WentOn:
    """Of a call that began at another gateway."""

    turn: int
    """Its next one."""
    context: str
    """What was said before, for the model."""


@dataclass(frozen=True, slots=True)
class _Request:
    """Out to a worker."""

    message: control.WebrtcRequest
    answer: asyncio.Future[control.Answered]


@dataclass(slots=True, eq=False)
class Place:
    """One worker, whether it is there or not."""

    name: str
    capacity: int
    send: Send | None = None
    attached: set[str] = field(default_factory=set)
    """Engines that have a model server there; "" is the usual one."""
    calls: dict[str, BrowserCall] = field(default_factory=dict)
    out: dict[int, _Request] = field(default_factory=dict)
    offered: set[str] = field(default_factory=set)
    """New calls that it was asked to take; for a moment after its answer, in `calls` as well."""

    @property
    def room(self) -> int:
        """Calls of the usual engine that it would take now."""
        return self.room_for("")

    def room_for(self, engine: str) -> int:
        """Calls of that engine."""
        if not self.send or engine not in self.attached:
            return 0
        return self.capacity - len(self.calls.keys() | self.offered)


class WebrtcPool:
    """Every WebRTC worker of this gateway; see `gateway.fleet.Kind` for who calls what."""

    def __init__(self, workers: Sequence[WebrtcOptions], answer_s: float = ANSWER_S) -> None:
        self.counters = PoolCounters()
        self.places = {o.name: Place(o.name, o.max_calls) for o in workers}
        self.draining = False
        self.hand: Hand | None = None
        """How connections get to workers; None where none are handed over."""
        self._answer_s = answer_s
        self._last_id = 0

    @property
    def is_ready(self) -> bool:
        """Whether a worker is there with the usual engine's model server behind it; it may be full."""
        return self.has_engine("")

    def has_engine(self, engine: str) -> bool:
        """Whether a worker is there with that engine's model server behind it."""
        return any(place.send is not None and engine in place.attached for place in self.places.values())

    def is_full(self, engine: str = "") -> bool:
        """Whether that engine is there, and yet no worker has room."""
        return self.has_engine(engine) and all(p.room_for(engine) <= 0 for p in self.places.values())

    @property
    def room(self) -> int:
        """Calls of the usual engine that would be taken now."""
        return self.room_for("")

    def room_for(self, engine: str) -> int:
        """Calls of that engine."""
        return sum(max(0, place.room_for(engine)) for place in self.places.values())

    @property
    def live(self) -> int:
        """Calls of all workers."""
        return sum(len(place.calls) for place in self.places.values())

    # -- of the workers

    def welcome(self, ready: msgspec.Struct, send: Send) -> int:
        """A worker reports; gives the number of its calls that live on. `ValueError` when it is none of ours."""
        if not isinstance(ready, control.WebrtcReady) or ready.worker not in self.places:
            raise ValueError(f"unexpected {ready}")
        place = self.places[ready.worker]
        if place.send is not None:
            raise ValueError(f"{ready.worker!r} is here already")
        place.attached = {*ready.engines, *([""] if ready.attached else [])}
        place.send, place.capacity = send, ready.capacity
        place.calls = {name: BrowserCall(name, ready.ufrags.get(name, "")) for name in ready.calls}
        self.counters.calls_adopted += len(place.calls)
        return len(place.calls)

    def hear(self, worker: str, message: msgspec.Struct) -> None:
        """What it says after that; `ValueError` when it makes no sense."""
        place = self.places[worker]
        match message:
            case control.Answered():
                self._answered(place, message)
            case control.CallEnded(call_id):
                place.calls.pop(call_id, None)
            case control.Measured():
                pass  # the state of calls has it, where that is kept
            case control.Attachable(attached, engine):
                (place.attached.add if attached else place.attached.discard)(engine)
            case _:
                raise ValueError(f"unexpected {message}")

    def lose(self, worker: str) -> int:
        """It is gone, with so many calls; who waits for its answer gets one."""
        place = self.places[worker]
        lost = len(place.calls)
        place.send, place.attached, place.calls = None, set(), {}
        for number, asked in place.out.items():
            if not asked.answer.done():
                asked.answer.set_result(_unavailable("the process with this call is gone", number))
        return lost

    # -- of the clients

    async def offer(
        self,
        sdp: str,
        resume: str = "",
        persona: str = "",
        went_on: WentOn | None = None,
        call: str = "",
        recording: bool = False,
        tenant: str = "",
        engine: str = "",
    ) -> tuple[str, control.Answered]:
        """The worker that was asked ("" when none could be), and its answer.

        A call that is not resumed is named `call`, by itself anything, and may have begun elsewhere; `recording` is
        whether it may be recorded, `engine` what answers it. `ValueError` when `resume` is no token of ours.
        """
        self.counters.offers += 1
        if self.draining and not resume:
            return "", self._not_ready("no more calls are taken: it is about to stop")
        place = self._place_of(resume) if resume else self._emptiest(engine)
        if isinstance(place, control.Answered):
            return "", place
        request = control.Offer(0, sdp, call or new_name(), resume, persona, recording, tenant, engine=engine)
        if went_on is not None:
            request = msgspec.structs.replace(request, turn=went_on.turn, context=went_on.context)
        if not resume:
            place.offered.add(request.call)
        try:
            return place.name, await self._ask(place, request)
        finally:
            place.offered.discard(request.call)

    async def attend(self, request: control.Attend, descriptor: int) -> control.Answered:
        """The worker's answer to a client whose connection is handed to it; 201: it has the client."""
        self.counters.attended += 1
        if self.draining:
            return self._not_ready("no more calls are taken: it is about to stop")
        place, hand = self._emptiest(request.engine), self.hand
        if isinstance(place, control.Answered) or hand is None:
            return place if isinstance(place, control.Answered) else self._not_ready("no worker takes any")
        name = place.name
        place.offered.add(request.call)
        try:
            return await self._ask(place, request, lambda packet: hand(name, packet, descriptor))
        finally:
            place.offered.discard(request.call)

    def has(self, call: str) -> bool:
        """Whether it lives in one of our workers."""
        return any(call in place.calls for place in self.places.values())

    def find(self, worker: str, call: str) -> BrowserCall | Literal["gone", "away"]:
        """The call of a URL: live, gone for good, or in a worker that may be back in a moment."""
        place = self.places.get(worker)
        if place is None:
            return "gone"
        if place.send is None:
            return "away"
        return place.calls.get(call, "gone")

    async def patch(
        self, worker: str, call: BrowserCall, fragment: Fragment, *, any_session: bool
    ) -> control.Answered:
        """Candidates when the credentials are the browser's known ones, else an ICE restart (RFC 9725 4.3.3).

        `any_session` (`If-Match: *`) decides where they are not known.
        """
        mine, candidates = (fragment.ufrag, fragment.pwd), list(fragment.candidates)
        restarts = mine != call.credentials and (any_session or call.credentials != ("", ""))
        request = (
            control.IceRestart(0, call.name, *mine, candidates)
            if restarts
            else control.Candidates(0, call.name, *mine, candidates, fragment.complete)
        )
        return await self._ask(self.places[worker], request)

    async def hang_up(self, worker: str, call: BrowserCall) -> control.Answered:
        """End it; it is gone from here when its worker has said so."""
        return await self._ask(self.places[worker], control.HangUp(0, call.name))

    # -- inside

    def _emptiest(self, engine: str) -> Place | control.Answered:
        if not self.has_engine(engine):
            which = f" of engine {engine}" if engine else ""
            return self._not_ready(f"no model server{which} is there, or no worker yet")
        place = max(self.places.values(), key=lambda p: p.room_for(engine))
        if place.room_for(engine) <= 0:
            self.counters.refused_full += 1
            return _unavailable(f"all {sum(p.capacity for p in self.places.values())} places are taken")
        return place

    def _place_of(self, resume: str) -> Place | control.Answered:
        found = _RESUME.fullmatch(resume)
        if not found:
            raise ValueError("Microturn-Resume has no token that a call was given")
        place = self.places.get(found[1])
        if place is None:
            return control.Answered(0, 404, reason="that call is gone")
        if place.send is None:
            return self._not_ready("the process with this call is away")
        return place

    def _not_ready(self, reason: str) -> control.Answered:
        self.counters.refused_not_ready += 1
        return _unavailable(reason)

    async def _ask(
        self, place: Place, request: control.WebrtcRequest, send: Send | None = None
    ) -> control.Answered:
        """One request to a worker, by `send` if it is given. The answer is 503 or 504 when none came."""
        if place.send is None or len(place.out) >= MOST_REQUESTS:
            return _unavailable("the process with this call does not keep up")
        self._last_id = number = self._last_id + 1
        packet = control.encode(msgspec.structs.replace(request, id=number))
        if len(packet) > control.MAX_BYTES:
            return control.Answered(0, 413, reason="it is too long when its special characters are escaped")
        answer: asyncio.Future[control.Answered] = asyncio.get_running_loop().create_future()
        place.out[number] = _Request(request, answer)
        try:
            (send or place.send)(packet)
            return await asyncio.wait_for(answer, self._answer_s)
        except TimeoutError:
            self.counters.answers_timed_out += 1
            log.error("worker does not answer", worker=place.name, request=type(request).__name__)
            return control.Answered(0, 504, reason="the process with this call does not answer")
        except OSError as wrong:
            return _unavailable(f"the process with this call cannot be asked: {wrong.strerror}")
        finally:
            del place.out[number]

    def _answered(self, place: Place, answered: control.Answered) -> None:
        """Note what it changes at once: `CallEnded` may be the very next message."""
        asked = place.out.get(answered.id)
        if asked is not None and not asked.answer.done():
            self._note(place, asked.message, answered)
            asked.answer.set_result(answered)
        elif answered.id:  # else nobody wanted to know
            self.counters.answers_too_late += 1
            unknown = answered.call and answered.call not in place.calls
            if answered.status in (200, 201) and unknown and place.send is not None:
                self._give_back(place.send, answered.call)

    def _note(self, place: Place, asked: control.WebrtcRequest, answered: control.Answered) -> None:
        counters, calls = self.counters, place.calls
        match asked, answered.status:
            case control.Offer(), 200 | 201:
                counters.calls_resumed += answered.call in calls
                counters.calls_made += answered.call not in calls
                etag = ufrag_of(answered.sdp)
                calls[answered.call] = BrowserCall(answered.call, etag, credentials_of(asked.sdp))
            case control.Attend(), 201:
                counters.calls_made += 1
                calls[answered.call] = BrowserCall(answered.call, "")
            case ((control.Offer() | control.Attend()), _):
                counters.offers_refused += 1
            case control.IceRestart(), 200 if asked.call in calls:
                counters.ice_restarts += 1
                calls[asked.call].etag = ufrag_of(answered.sdp)
                calls[asked.call].credentials = (asked.ufrag, asked.pwd)
            case control.Candidates(), 204 if asked.call in calls:
                counters.trickles += 1
                calls[asked.call].credentials = (asked.ufrag, asked.pwd)
            case control.HangUp(), 200:
                counters.calls_hung_up += 1
                calls.pop(asked.call, None)

    def _give_back(self, send: Send, call: str) -> None:
        """A call that came after its client was told that it did not: nobody would ever use it."""
        try:
            send(control.encode(control.HangUp(0, call)))
        except OSError as wrong:
            log.warning("call not given back", call=call, reason=str(wrong))


def new_name(kind: str = BROWSER) -> str:
    """Of a call."""
    return f"{kind}{secrets.token_hex(8)}"


def _unavailable(reason: str, number: int = 0) -> control.Answered:
    return control.Answered(number, 503, reason=reason, retry_after_s=RETRY_S)


def plan_webrtc(settings: GatewaySettings, recording: RecordingOptions | None = None) -> list[WebrtcOptions]:
    """Options of every WebRTC worker: calls shared out evenly, a UDP and a TCP port each."""
    workers = min(settings.webrtc_workers, settings.webrtc_calls)
    safety = settings.safety_options(settings.persona)
    return [
        WebrtcOptions(
            name=f"web-{index}",
            control=str(settings.worker_socket),
            model=str(settings.model_socket),
            engines=settings.further_sockets,
            recording=recording,
            traces=bool(settings.traces_endpoint),
            announcements=settings.announcements(settings.webrtc_host),
            safety=safety,
            host=settings.webrtc_host,
            public_host=settings.webrtc_public_host or settings.webrtc_host,
            udp_port=settings.webrtc_udp_port and settings.webrtc_udp_port + index,
            tcp_port=settings.webrtc_tcp_port and settings.webrtc_tcp_port + index,
            max_calls=settings.webrtc_calls // workers + (index < settings.webrtc_calls % workers),
            video=settings.video == "on",
            video_frames_per_chunk=settings.video_frames_per_chunk if settings.video == "on" else 0,
            red=settings.red == "on",
            resume_s=settings.resume_s,
            realtime=settings.realtime,
            realtime_api=settings.realtime_api == "on",
            realtime_buffer_s=settings.realtime_buffer_s,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        for index in range(workers)
    ]
