"""What the gateway's main process and its workers say to each other: one JSON object a packet.

A unix SOCK_SEQPACKET connection that the worker opens and, after a restart of the main process, opens again:
`Ready` and `WebrtcReady` name the calls that live on, so that the main process knows again where requests
for them belong.

    SIP worker      Ready, CallEnded, Attachable, Report, Answered, Progress, TransferAsked
                    JoinAsked                                <-  Dial, HangUp, Refer, Leave, JoinRefused, Drain
    WebRTC worker   WebrtcReady, CallEnded, Attachable, Report, Answered
                    Still                                    <-  Offer, Candidates, IceRestart, HangUp, Drain, Look
    both            Said, Delegated, Withdrawn               <-  TaskNews
                    RecordingTold, Announced, Measured
                    PolicyMet
                    Done                                     <-  Command

Each of Offer, Attend, Candidates, IceRestart, HangUp, Dial, Refer and Leave is answered by one `Answered` of the
same id, which the main process chose (0: nobody waits for it), each Command by one `Done`.
A browser call's name is the main process's as well; its media and its resume token are the worker's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec

from gateway.background.records import Reads, Spoken, State
from gateway.state.records import Figures

MAX_BYTES = 65_536


class Ready(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: I take calls."""

    worker: str
    pid: int
    sip_port: int
    capacity: int
    rate_hz: int
    library: str
    attached: bool
    calls: list[str]
    sound6: list[str] = []
    """Of these, those whose sound is IPv6."""
    engines: list[str] = []
    """Further engines whose model server is there; `attached` is of the usual one."""


class WebrtcReady(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """WebRTC worker: I take calls."""

    worker: str
    pid: int
    capacity: int
    attached: bool
    calls: list[str]
    udp_port: int
    tcp_port: int
    """0 when there is no ICE over TCP."""
    ufrags: dict[str, str] = {}
    """Of the calls that live on: our ICE user fragment in use, which names the ICE session (RFC 9725 4.3)."""
    engines: list[str] = []
    """As in `Ready`."""


class Answered(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """WebRTC worker: what became of the request with this id; the status is HTTP's.

    Offer: 201 with the answer in `sdp`, `call` (of a resumed call: its old name) and `resume`; else 400
    (malformed), 404 (nothing to resume), 406 (no codec in common), 422 (no audio), 503 (full, no model).
    Candidates: 204 or 404. IceRestart: 200 with our fragment (RFC 8840 4.4) in `sdp`, 400 or 404.
    HangUp: 200 or 404. `reason` is for a person to read.
    """

    id: int
    status: int
    sdp: str = ""
    reason: str = ""
    call: str = ""
    resume: str = ""
    """`<worker>.<call>.<secret>`, from which the main process reads the worker alone."""
    retry_after_s: int = 0


class TurnNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Turns whose reply was not heard, seen when turn `turn` was cut."""

    turn: int
    at_ms: int
    """Unix ms."""
    missed: int
    is_late: bool
    """A reply came, too late."""


class CallNotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the trace of a call is made of (`gateway/turn_notes.py`)."""

    media_ms: int
    """Unix ms when its ear was first served; 0 is never."""
    turns: tuple[TurnNote, ...] = ()


class CallEnded(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: this call (SIP Call-ID, or a browser call's name) is over, and cannot be resumed."""

    call_id: str
    cause: str = ""
    """See `state.records.Cdr.cause`."""
    figures: Figures | None = None
    notes: CallNotes | None = None
    """Where traces are taken."""


class Measured(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker, once in a while: what it would say of a call if it ended now."""

    call_id: str
    figures: Figures


class Attachable(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: whether a model server is there for new calls."""

    attached: bool
    engine: str = ""
    """Of which engine; empty is the usual one."""


class Report(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker, once a second: counters that only grow, and gauges of now."""

    counters: dict[str, int]
    gauges: dict[str, float]


class Drain(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: hang up what lives and leave, now."""


class Offer(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: a browser's offer. `call` is its name if it becomes a new call."""

    id: int
    sdp: str
    call: str
    resume: str = ""
    """The token that an earlier `Answered` gave: go on with that call, with this offer's transports."""
    persona: str = ""
    """Of a new call; empty is the model server's own."""
    recording: bool = False
    """Whether it may be recorded."""
    tenant: str = ""
    turn: int = 0
    context: str = ""
    """Of a call that goes on here, its gateway being dead: its next turn, and what was said before."""
    engine: str = ""
    """That answers a new call; empty is the usual one."""


class Attend(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: a client of `/v1/realtime`, whose connection comes with this message (SCM_RIGHTS). `Answered`: 201 when
    the call has a slot, then the worker answers the request itself; else 503, and the client is the main's
    again."""

    id: int
    call: str
    head: str
    """Of its HTTP request, as far as a WebSocket needs it (RFC 6455 section 4.2.1), with the empty line."""
    persona: str = ""
    recording: bool = False
    tenant: str = ""
    engine: str = ""


class Candidates(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: trickled candidates of the browser (RFC 8840 4.2), each as after `a=candidate:`."""

    id: int
    call: str
    ufrag: str
    pwd: str
    candidates: list[str]
    complete: bool = False
    """`a=end-of-candidates` was there."""


class IceRestart(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: the browser's new ICE credentials (RFC 8445 9), with the candidates that it has so far."""

    id: int
    call: str
    ufrag: str
    pwd: str
    candidates: list[str]


class HangUp(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: the browser has deleted its call, or somebody wants a telephone call to end."""

    id: int
    call: str


class Dial(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: call somebody. `Answered`: 200 with the Call-ID in `call`, 503 without room or model; what becomes of
    it is told by `Progress`, its end by `CallEnded`."""

    id: int
    uri: str
    """A ticket of the edge, which knows whom it is for (`gateway/sip/tickets.py`)."""
    persona: str = ""
    srtp: int = 0
    """0 off, 1 optional, 2 required."""
    session_expires_s: int = 0
    """Session timer (RFC 4028); 0 is none of ours."""
    ring_s: float = 20.0
    answer_s: float = 60.0
    recording: bool = False
    """Whether it may be recorded."""
    rtp_source: Literal["learn", "lock", "sdp"] = "learn"
    """Whom its RTP may come from."""
    most_s: float = 0.0
    """It is ended so long after its answer; 0 is never."""
    tenant: str = ""
    joins: str = ""
    """Call-ID of a call of this worker's: who answers joins its caller and the model, and has no model of its own.
    `Answered`: 404 no such call, 409 not now."""
    model: Literal["speaks", "listens"] = "speaks"
    """What it does while the person is there."""
    by_model: bool = False
    """The model wanted it, and is told if it fails."""
    sound6: bool = False
    """Sound is offered over IPv6."""
    engine: str = ""
    """That answers; empty is the usual one."""


class Refer(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: ask the peer to call somebody else (RFC 3515). `Answered`: 200 the REFER is on its way, 404 no such
    call, 409 not now. With an empty `uri` the model is told that there is no such target."""

    id: int
    call: str
    uri: str
    reference: str = ""
    """Name of the call's transcript for whoever gets the caller."""


class Leave(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: whoever has joined that call, or is called for it, is hung up. `Answered`: 200, 404 no such call, 409
    nobody has joined."""

    id: int
    call: str


class JoinAsked(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """SIP worker: the model wants one of the configured persons to join. A `Dial` or a `JoinRefused` follows."""

    call_id: str
    target: str


class JoinRefused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: nobody is called as the model wished; the status is HTTP's."""

    call: str
    status: int


ProgressKind = Literal[
    "ringing", "answered", "failed", "transferred", "transfer-failed", "joined", "left", "join-failed"
]


class Progress(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """SIP worker: of a call that it began (`ringing`, `answered`, `failed`), or that is handed to somebody
    (`transferred`, `transfer-failed`), or that a person joins (`joined`, `left`, `join-failed`)."""

    call_id: str
    kind: ProgressKind
    status: int = 0
    reason: str = ""
    other: str = ""
    """Call-ID of the person's call."""


class TransferAsked(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """SIP worker: the model wants the caller handed to one of the configured targets. A `Refer` with id 0
    follows."""

    call_id: str
    target: str


class Said(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: lines of a call's transcript, in order of turns."""

    call: str
    lines: tuple[Spoken, ...]


class Delegated(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: the model hands work off. Told again until a `TaskNews` confirms it."""

    call: str
    task: str
    """Its name, unlike all others of the call; the same when it is told again."""
    turn: int
    request: str
    lines: tuple[Spoken, ...] = ()
    """The conversation before it, its newest lines."""
    reads: Reads = "text"
    camera: bool = False
    """The caller has shown a camera: a picture of it may be asked for."""


class Withdrawn(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: nobody wants that task any more; without a task, none of the call's."""

    call: str
    task: str = ""


class TaskNews(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: what became of a task. Numbered 1, 2, 3 ... by who works at it; 0 is the main process's own word."""

    call: str
    task: str
    state: State
    number: int = 0
    text: str = ""
    """A piece of the result."""
    note: str = ""
    left_ms: int = 0
    """Until its deadline, where that is told."""


class Look(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: whoever works at that task asks what the camera shows. Answered by one `Still` of the same number."""

    call: str
    task: str
    number: int


class Still(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """WebRTC worker: a JPEG of at most `records.MOST_STILL_BYTES`, or in words why there is none."""

    call: str
    task: str
    number: int
    jpeg: bytes = b""
    reason: str = ""


class RecordingTold(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: of a call that may be recorded: `allowed` once, and again after a restart of the main process; then
    what becomes of its recording, whoever asked for it."""

    call_id: str
    kind: Literal["allowed", "began", "paused", "resumed", "ended"]
    file: str = ""
    """Name of the recording, without its folder and ending; a call may have several, one after another."""
    at_ms: int = 0
    """Place in that file."""
    by: Literal["rule", "api", "model", "end"] = "rule"


class Announced(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: the caller has heard our announcements to their end."""

    call_id: str
    disclosure: bool
    """That it talks to a machine."""
    consent: bool
    """That it is recorded."""


class PolicyMet(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: what the model said in that turn met a rule of the policy, and what was done about it."""

    call_id: str
    rule: str
    did: Literal["report", "cut", "replace", "hang-up"]
    turn: int


Do = Literal[
    "hang-up", "text", "digits", "record", "mute-caller", "mute-model", "unmute-caller", "unmute-model", "cut"
]


class Command(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: what somebody beside the two wants of a call that lives (`gateway/intercom.py`)."""

    id: int
    call: str
    do: Do
    value: str = ""
    """The text, the digits, or of the recording `start`, `stop`, `pause` (silence from now on), `resume`; of
    `hang-up` the cause, if it is not the API; of `cut` a name for what is wrong with what the model says."""


class Done(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: what became of a `Command`: 204; 403 no rule allows it; 404 gone; 409 not now, or never of such
    a call, and why."""

    id: int
    status: int
    code: str = ""
    """For programs."""
    reason: str = ""


TaskMessage = Said | Delegated | Withdrawn | Still
SipMessage = Progress | TransferAsked | JoinAsked
RecordingMessage = RecordingTold | Announced | PolicyMet
WorkerMessage = (
    Ready
    | WebrtcReady
    | Answered
    | CallEnded
    | Measured
    | Attachable
    | Report
    | TaskMessage
    | SipMessage
    | Done
    | RecordingMessage
)
WebrtcRequest = Offer | Attend | Candidates | IceRestart | HangUp
SipRequest = Dial | HangUp | Refer | Leave
MainMessage = Drain | WebrtcRequest | SipRequest | JoinRefused | TaskNews | Look | Command

encode = msgspec.json.encode
decode_worker = msgspec.json.Decoder(WorkerMessage).decode
decode_main = msgspec.json.Decoder(MainMessage).decode


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, whose directory is made for this user alone.

    `ValueError` when a live process listens there already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ValueError(f"{path} is in use: stop the other gateway, or give this one another run_dir")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(64)
    return listener


def connect(path: Path) -> socket.socket:
    """A connection to `path`; `OSError` when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


async def packets(connection: socket.socket) -> AsyncIterator[bytes]:
    """Every packet until the other side is gone."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while packet := await loop.sock_recv(connection, MAX_BYTES):
            yield packet
