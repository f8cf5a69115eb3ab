"""SIP workers as the main process sees them: what they say goes to the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from gateway import control
from gateway.sip.admission import Admit, Later, Refusal
from gateway.sip.edge import Edge
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.header import Header
from gateway.sip.load import WorkerAddress
from gateway.sip.message import Request
from gateway.sip.switchboard import Switchboard
from gateway.sip.trunks import Person, Trunk


class Telephones:
    """The edge, and which of the workers behind it have a model server; a `gateway.fleet.Kind`."""

    def __init__(
        self,
        settings: EdgeSettings,
        invite_spacing_ns: int,
        trunks: Mapping[str, Trunk] | None = None,
        targets: Mapping[str, str] | None = None,
        srtp: int = 0,
        rtp_source: Literal["learn", "lock", "sdp"] = "learn",
        persons: Mapping[str, Person] | None = None,
    ) -> None:
        """`trunks` and `targets` are those of calls that we place, and of callers whom we hand to a person;
        `persons` those who may join one."""
        self.edge = Edge(settings, admit=self._admit)
        self._sends: dict[str, Callable[[bytes], object]] = {}
        self.switchboard = Switchboard(
            self.edge,
            trunks or {},
            targets or {},
            self._sends.get,
            srtp,
            rtp_source=rtp_source,
            persons=persons,
        )
        """What may be asked of calls."""
        self.switchboard.has_engine = lambda engine: self.has_engine(engine) and not self.draining
        self.draining = False
        self.further: Admit = lambda request: None
        """Asked about a new call that would be taken here: caps of tenant and trunk."""
        self._retry_after_s = settings.retry_after_s
        self._spacing_ns = invite_spacing_ns
        self.attached: dict[str, set[str]] = {}
        """Worker -> engines that have a model server there; "" is the usual one."""

    @property
    def is_ready(self) -> bool:
        """Whether a worker is there with the usual engine's model server behind it; it may be full."""
        return self.has_engine("")

    def has_engine(self, engine: str) -> bool:
        """Whether a worker is there with that engine's model server behind it."""
        return any(engine in engines for engines in self.attached.values())

    def drain(self) -> None:
        """Take no new calls."""
        self.draining = True
        self.edge.drain()

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Callable[[bytes], object]) -> int:
        """A worker reports; gives the number of its calls that live on."""
        if not isinstance(ready, control.Ready):
            raise ValueError(f"unexpected {ready}")
        wideband = ready.rate_hz > 8_000
        address = WorkerAddress(
            ready.worker, "127.0.0.1", ready.sip_port, ready.capacity, self._spacing_ns, wideband=wideband
        )
        self.edge.add_worker(address)
        self.attached[ready.worker] = {*ready.engines, *([""] if ready.attached else [])}
        self._sends[ready.worker] = send
        for call_id in ready.calls:
            self.edge.adopt_call(ready.worker, call_id, sound6=call_id in ready.sound6)
        return len(ready.calls)

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """What it says after that; `ValueError` when it makes no sense."""
        match message:
            case control.CallEnded(call_id):
                self.edge.call_ended(call_id)
                self.switchboard.over(call_id)
            case control.Answered() | control.Progress() | control.TransferAsked() | control.JoinAsked():
                self.switchboard.hear(worker, message)
            case control.Measured():
                pass  # the state of calls has it, where that is kept
            case control.Attachable(attached, engine):
                (self.attached[worker].add if attached else self.attached[worker].discard)(engine)
            case _:
                raise ValueError(f"unexpected {message}")

    def lose(self, worker: str) -> int:
        """It is gone, with so many calls."""
        self.attached.pop(worker, None)
        self._sends.pop(worker, None)
        self.switchboard.lose(worker)
        return len(self.edge.remove_worker(worker))

    def _admit(self, request: Request) -> Refusal | Later | None:
        """New calls need a model server: without any they are refused here, before a worker is bothered. Whether
        there is one of the call's own engine is asked behind the rules, which name it."""
        if any(self.attached.values()) and not self.draining:
            return self.further(request)
        retry = Header.make(b"Retry-After", str(self._retry_after_s).encode())
        return Refusal(503, "Service Unavailable", (retry,))
