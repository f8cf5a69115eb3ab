"""The gateway's main process: SIP edge, browser calls, the workers behind both, health and metrics. No media.

When it dies, calls live on in their workers; when it is back, the workers report and it knows again which call
is whose (`control.Ready`, `control.WebrtcReady`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import ipaddress
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway import control
from gateway.background.office import Office
from gateway.cluster.member import Cluster
from gateway.config import GatewaySettings
from gateway.fleet import Fleet, Kind
from gateway.histogram import Histogram
from gateway.http import serve_http
from gateway.intercom import Intercom
from gateway.metrics import Metrics
from gateway.model_control import ask_model
from gateway.personas import called
from gateway.probe.desk import ProbeDesk
from gateway.recording.desk import RecordingDesk, RecordingEvent
from gateway.recording.keeper import backlog, read_counters
from gateway.safety.desk import SafetyDesk
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.pool import Library, ask_library, plan_workers
from gateway.sip.switchboard import Switchboard
from gateway.sip.tls import expiry_of, server_context
from gateway.sip.trunks import SRTP, registree
from gateway.state.keys import name_of_telephone_call
from gateway.supervise import Child, command
from gateway.tasks import Tasks
from gateway.telephones import Telephones
from gateway.webrtc.pool import WebrtcPool, plan_webrtc

if TYPE_CHECKING:
    from gateway.events.feed import Feed
    from gateway.events.office import EventOffice
    from gateway.state.doors import TelephoneDoor
    from gateway.state.sessions import Sessions
    from gateway.tracing.calls import CallTraces
    from gateway.tracing.export import Exporter

log = structlog.get_logger()

ADOPT_S = 0.3
"""After a restart, workers that live get so long to report before new ones are started in their place."""
DRAIN_POLL_S = 0.1
KEEPER_S = 3.0
"""What it is at is done again at the next start."""
POLL_S, PATIENCE_S = 0.02, 10.0
"""Of the wait for readiness; after so long it is said what is missing."""


class Gateway:
    """Everything that one main process owns."""

    def __init__(self, settings: GatewaySettings, library: Library) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._tasks = Tasks(self._broken)
        self._recording = settings.recording_options()
        self._certificates: dict[str, float] = {}
        self.recordings = RecordingDesk()
        """Which calls may be recorded, and are."""
        self._keeper = self._keep_recordings()
        self.telephones = Telephones(
            self._edge_settings(), library.invite_spacing_ns, settings.trunks, settings.transfers,
            SRTP.index(settings.srtp), settings.rtp_source, settings.joins,
        )  # fmt: skip
        self.telephones.switchboard.records = self._recording is not None
        self.telephones.switchboard.engines = settings.engine_personas
        self.pool: WebrtcPool | None = None
        self.fleet = Fleet(self.metrics, self._tasks.spawn)
        self.sessions = self._keep_sessions()
        if self.sessions is not None:
            self.telephones.switchboard.tenant_of = self.sessions.tenant_of
            self.telephones.switchboard.engine_of = self.sessions.engine_of
            self.recordings.announced.append(self.sessions.announced)
            self.recordings.watchers.append(self._note_recording)
        self.office = Office(settings, self.sessions)
        self.intercom = Intercom(self.sessions.place_of if self.sessions else self.telephones.edge.find)
        self.safety = SafetyDesk(
            self.intercom, self._tasks.spawn, settings.moderation_options(), settings.moderation_do
        )
        self.events = self._tell_events()
        self._exporter: Exporter | None = None
        self.traces = self._take_traces()
        self.switchboard.placing = self.placing
        self.draining = False
        self.http_port = 0
        door: Kind = self.office.door(self._telephone_door(), name_of_telephone_call)
        door = self.safety.door(door, name_of_telephone_call)
        door = self.intercom.door(self.recordings.door(door, name_of_telephone_call))
        door = self._traced(door, name_of_telephone_call)
        for sip in plan_workers(settings, library, self._recording):
            self.fleet.add(sip.name, "gateway.sip", sip, door)
        if settings.webrtc_calls:
            self.pool = self._browser_calls()
        self.cluster = Cluster(
            settings, self.telephones, self.pool, self.sessions,
            lambda: ask_model(settings.model_socket), self._tasks.spawn,
        )  # fmt: skip
        self.probes = self.cluster.desk.probes = self._place_probes()
        if self.events is not None:
            self.cluster.spend.reached = self.events.reached
        if self.traces is not None:
            self.cluster.desk.arrived = self.traces.arrived

    def _browser_calls(self) -> WebrtcPool:
        if importlib.util.find_spec("aiortc") is None:
            raise ValueError(
                "browser calls need aiortc, which is not installed: make setup, or webrtc_calls = 0"
            )
        workers = plan_webrtc(self.settings, self._recording)
        pool = WebrtcPool(workers)
        pool.hand = self.fleet.hand
        door: Kind = pool
        if self.sessions is not None:
            from gateway.state.doors import BrowserDoor

            door = BrowserDoor(
                pool, self.sessions, self.settings.persona, lambda call: self.cluster.desk.party_of(call)
            )
        door = self.intercom.door(self.recordings.door(self.safety.door(self.office.door(door))))
        door = self._traced(door, str)
        for web in workers:
            self.fleet.add(web.name, "gateway.webrtc", web, door)
        return pool

    def _place_probes(self) -> ProbeDesk | None:
        """None where no engine would answer them."""
        settings = self.settings
        if not settings.may_probe(settings.engines):
            return None
        return ProbeDesk(
            settings.probe_engine, settings.probe_codecs, settings.probe_every_s, settings.sip_calls,
            settings.run_dir, lambda: self._room if self.telephones.attached else 0, realtime=settings.realtime,
        )  # fmt: skip

    def _keep_recordings(self) -> Child | None:
        """Who finishes, uploads and deletes them; None where nothing is recorded."""
        if self._recording is None:
            allowing = [rule.recording for rule in self.settings.rules]
            if any((*allowing, *(trunk.recording for trunk in self.settings.trunks.values()))):
                log.warning(
                    "rules or trunks allow recording, but recording_dir is not set: nothing is recorded"
                )
            return None
        argv = [sys.executable, "-m", "gateway", "recordings", "keep"]
        return Child("recordings", command(argv, kept=True))

    def _note_recording(self, event: RecordingEvent) -> None:
        if event.kind == "began" and self.sessions is not None:
            self.sessions.recorded(event.call, event.file)

    def _keep_sessions(self) -> Sessions | None:
        """Who writes down what becomes of calls; None where no Redis is set."""
        address = self.settings.state_address
        if address is None:
            return None
        from gateway.state.sessions import open_sessions  # redis-py takes 0.15 s to load

        return open_sessions(self.settings, address, self._tasks.spawn)

    def _tell_events(self) -> EventOffice | None:
        if self.sessions is None:
            return None
        from gateway.events.office import EventOffice

        office = EventOffice(self.settings, self.sessions)
        self.switchboard.watchers.append(office.heard)
        self.recordings.watchers.append(office.recorded)
        self.safety.watchers.append(office.screened)
        return office

    def _take_traces(self) -> CallTraces | None:
        """None where no collector is set: then nothing of them is loaded."""
        if not self.settings.traces_endpoint or self.sessions is None:
            return None
        from gateway.tracing.calls import CallTraces
        from gateway.tracing.export import Exporter

        self._exporter = Exporter(self.settings.traces_endpoint, "microturn", self.settings.node_name)
        traces = CallTraces(self._exporter.put, time.time_ns)
        self.sessions.watchers.append(traces)
        self.switchboard.watchers.append(traces.heard)
        self.office.context_of = traces.context_of_task
        return traces

    def _traced(self, door: Kind, name_of: Callable[[str], str]) -> Kind:
        if self.traces is None:
            return door
        from gateway.tracing.door import TraceDoor

        return TraceDoor(door, self.traces, name_of)

    @property
    def switchboard(self) -> Switchboard:
        """Who makes telephone calls and hands callers on."""
        return self.telephones.switchboard

    def placing(self, call: str, tenant: str, traceparent: str = "") -> None:
        """A call of ours is on its way, of that tenant, wanted by a request with that trace context."""
        if self.traces is not None:
            self.traces.arrived(call, traceparent)
        if self.events is not None:
            self.events.placing(call, tenant)

    @property
    def feed(self) -> Feed | None:
        """Whom programs follow events by."""
        return self.events.feed if self.events is not None else None

    def _telephone_door(self) -> Kind:
        if self.sessions is None:
            return self.telephones
        from gateway.state.doors import TelephoneDoor

        door = TelephoneDoor(
            self.telephones, self.sessions, self.settings.persona,
            lambda call_id: self.cluster.desk.party_of_telephone(call_id),
            lambda call_id: self.cluster.desk.ruling_of_telephone(call_id),
            lambda wish: self.settings.trunks[wish.trunk].price_of(wish.to) or 0.0,
            self.settings.engine_personas,
        )  # fmt: skip
        self.telephones.edge.answered = lambda *answered: self._answered(door, *answered)
        self.telephones.switchboard.began = door.placed
        self.telephones.switchboard.watchers.append(door.happened)
        return door

    def _answered(self, door: TelephoneDoor, call_id: str, worker: str, request: str) -> None:
        """A worker has answered a caller: that is written down, unless it is a probe."""
        if self.probes is not None and self.probes.knows(called(request)):
            self.cluster.desk.party_of_telephone(call_id)
        else:
            door.answered(call_id, worker, request)

    @property
    def is_ready(self) -> bool:
        """Whether a new call would be taken, from a telephone and from a browser."""
        return not self.draining and self.telephones.is_ready and self._web_ready

    @property
    def _room(self) -> int:
        return 0 if self.draining else self.telephones.edge.room

    def engines_there(self) -> dict[str, bool]:
        """Of each further engine, whether a new call would be taken by telephones and by browsers, but for room."""
        pool = self.pool
        return {
            name: self.telephones.has_engine(name) and (pool is None or pool.has_engine(name))
            for name in self.settings.engines
        }

    def room_for(self, engine: str) -> int:
        """Calls of a further engine that there are workers for, from telephones and browsers together."""
        if self.draining:
            return 0
        telephones = self._room if self.telephones.has_engine(engine) else 0
        return telephones + (self.pool.room_for(engine) if self.pool is not None else 0)

    def _read_certificates(self) -> dict[str, float]:
        """When what is loaded now ends, Unix time."""
        settings, told = self.settings, {}
        if settings.http_tls_cert:
            told["certificate_expiry:http"] = expiry_of(Path(settings.http_tls_cert))
        if settings.sip_tls_port:
            told["certificate_expiry:sip"] = expiry_of(Path(settings.sip_tls_cert))
        return told

    @property
    def _web_ready(self) -> bool:
        return self.pool is None or self.pool.is_ready

    def gauges(self) -> dict[str, float]:
        """Of now, summed over the workers that are there."""
        ready = self.fleet.ready
        gauges = {"calls_live": 0.0, "workers_ready": float(len(ready)), "ready": float(self.is_ready)}
        gauges["places_free:telephone"] = float(self._room if self.telephones.is_ready else 0)
        gauges["guard_sources"] = float(self.telephones.edge.sources)
        registered, wanted = self.telephones.edge.registered
        gauges |= {"trunks_registered": float(registered), "trunks_to_register": float(wanted)}
        gauges |= {"engine_calls": 0.0} | {f"engine_calls:{name}": 0.0 for name in self.settings.engines}
        for member in ready:
            for name, value in member.gauges.items():
                gauges[name] = gauges.get(name, 0.0) + value
        if self.pool is not None:
            gauges.setdefault("browsers_away", 0.0)
            gauges["webrtc_calls_live"] = float(self.pool.live)
            gauges["places_free:browser"] = float(
                self.pool.room if self.pool.is_ready and not self.draining else 0
            )
        if self.sessions is not None:
            gauges |= self.sessions.store.gauges()
        if self.events is not None:
            gauges |= self.events.gauges()
        if self._keeper is not None:
            folder, uploads = Path(self.settings.recording_dir), bool(self.settings.recording_s3_url)
            gauges |= backlog(folder, uploads=uploads, unix_s=time.time())
        if self.probes is not None:
            gauges |= self.probes.gauges()
        return gauges | self._certificates | self.office.gauges() | self.cluster.gauges()

    def histograms(self) -> tuple[Histogram, ...]:
        """Of this process's own parts."""
        setup = self.telephones.edge.setup
        return (setup,) if self.sessions is None else (setup, self.sessions.store.round_trip)

    def counters(self) -> dict[str, Any]:
        """Of this process's own parts."""
        edge = self.telephones.edge
        parts: dict[str, Any] = {
            "edge": edge.counters,
            "guard": edge.guard_counters,
            "registrar": edge.registrar_counters,
            "commands": self.intercom.counters,
            **self.office.counters(),
            **self.safety.counters(),
        }
        if self._keeper is not None:
            parts["recordings_kept"] = read_counters(Path(self.settings.recording_dir))
        if self.pool is not None:
            parts["webrtc"] = self.pool.counters
        if self.events is not None:
            parts |= self.events.counters()
        if self.sessions is not None:
            parts["state"] = self.sessions.store.counters
            parts["cluster"] = self.cluster.counters
        parts["spend"] = self.cluster.spend.counters
        if self.probes is not None:
            parts["probe"] = self.probes.counters
        if self._exporter is not None:
            parts["traces"] = self._exporter.counters
        if self.cluster.verifier is not None:
            parts["stir"] = self.cluster.verifier.counters
        return parts

    async def run(self, stop: asyncio.Event, at_once: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set; then live calls have `drain_s` to end, unless `at_once` is set."""
        listener = control.listen(self.settings.worker_socket)
        adopting = self._inside_port() != 0
        if self._keeper is not None:
            self._tasks.spawn(self._keeper.keep())
        await self.telephones.edge.start()
        self._past.write_text(str(self.telephones.edge.inside_port))
        self._tasks.spawn(self.fleet.accept(listener))
        self._tasks.spawn(self.safety.run())
        if self.sessions is not None:
            self._tasks.spawn(self.sessions.store.run())
            self._tasks.spawn(self.office.run())
        if self.events is not None:
            self._tasks.spawn(self.events.run())
        async with serve_http(self, self.settings.http_tls()) as self.http_port:
            self._certificates = self._read_certificates()
            await asyncio.sleep(ADOPT_S if adopting else 0)
            self.fleet.start_missing()
            self._tasks.spawn(self._announce())
            self.cluster.url = self.settings.node_url or self._own_url()
            self._tasks.spawn(self.cluster.run())
            if self.probes is not None:
                self.probes.open(self.settings.probe_host, self.telephones.edge.address[1])
                self._tasks.spawn(self.probes.run())
            await stop.wait()
            self.drain()
            if self.probes is not None:
                self.probes.close()
            await self._let_calls_end(at_once)
            if self.sessions is not None:
                self.sessions.end_all()
            await self.fleet.stop()
            if self._keeper is not None:
                await self._keeper.stop(KEEPER_S)
            await self.office.close()
            if self.events is not None:
                await self.events.settle()
            self._past.unlink(missing_ok=True)
        await self.cluster.close()
        if self.sessions is not None:
            await self.sessions.store.close()
        self._tasks.cancel()
        if self.events is not None:
            self.events.close()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close)
        await self.telephones.edge.stop()
        listener.close()
        self.settings.worker_socket.unlink(missing_ok=True)

    def drain(self) -> None:
        """No new calls from now on; live ones go on."""
        self.draining = True
        self.telephones.drain()
        self.cluster.drain()
        if self.pool is not None:
            self.pool.draining = True

    async def _let_calls_end(self, at_once: asyncio.Event | None) -> None:
        """For `drain_s` at most; who still talks then is told goodbye by its worker. Not before `drain_least_s`."""
        if at_once is None or not (self.live or self.settings.drain_least_s):
            return
        log.info("draining: no new calls, live ones may end", calls=self.live, seconds=self.settings.drain_s)
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        while not at_once.is_set():
            gone_s = clock() - begun_s
            if gone_s >= (self.settings.drain_s if self.live else self.settings.drain_least_s):
                break
            await asyncio.sleep(DRAIN_POLL_S)
        log.info("drained", calls_left=self.live)

    @property
    def live(self) -> int:
        """Calls of all workers."""
        return sum(self.telephones.edge.loads.values()) + (self.pool.live if self.pool is not None else 0)

    def _own_url(self) -> str:
        """Where other gateways reach this one, if it listens on one address."""
        if ipaddress.ip_address(self.settings.http_host).is_unspecified:
            return ""
        scheme = "https" if self.settings.http_tls_cert else "http"
        return f"{scheme}://{self._http_host()}:{self.http_port}"

    async def _announce(self) -> None:
        """The line that people and programs wait for; the second address is the page's."""
        tried_s = 0.0
        while not self.is_ready:
            await asyncio.sleep(POLL_S)
            tried_s += POLL_S
            if tried_s >= PATIENCE_S:
                log.warning("not ready yet", telephones=self.telephones.is_ready, browsers=self._web_ready)
                tried_s = 0.0
        host, port = self.telephones.edge.address
        scheme = "https" if self.settings.http_tls_cert else "http"
        sys.stdout.write(f"ready sip:{host}:{port} {scheme}://{self._http_host()}:{self.http_port}\n")
        sys.stdout.flush()

    def _http_host(self) -> str:
        host = self.settings.http_host
        return f"[{host}]" if ":" in host else host

    def _edge_settings(self) -> EdgeSettings:
        settings = self.settings
        tls = None
        if settings.sip_tls_port:
            tls = server_context(Path(settings.sip_tls_cert), Path(settings.sip_tls_key))
        return EdgeSettings(
            host=settings.sip_host,
            port=settings.sip_port,
            public_host=settings.sip_public_host,
            inside_port=self._inside_port(),
            retry_after_s=settings.sip_retry_after_s,
            tls_port=settings.sip_tls_port,
            tls_context=tls,
            tls_client=settings.tls_client,
            refer_targets=settings.allowed_targets,
            rules=settings.make_guard_rules(),
            registrations={
                name: registree(name, trunk) for name, trunk in settings.trunks.items() if trunk.register_
            },
            sound6=bool(settings.rtp_host6),
        )

    def _inside_port(self) -> int:
        """Workers that live on have the edge's inside port in their dialogs: it must not change."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._past.read_text())
        return 0

    @property
    def _past(self) -> Path:
        return self.settings.run_dir / "edge.port"

    def _broken(self, wrong: BaseException) -> None:
        log.error("gateway broken", exc_info=wrong)
        signal.raise_signal(signal.SIGINT)


def run(settings: GatewaySettings) -> int:
    """The process; the exit status is 0 after a clean stop.

    SIGTERM drains; SIGINT, or a second SIGTERM, ends it at once.
    """
    import uvloop

    async def serve() -> None:
        stop, at_once = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def heed(name: int) -> None:
            if name == signal.SIGINT or stop.is_set():
                at_once.set()
            stop.set()

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, heed, name)
        await Gateway(settings, ask_library()).run(stop, at_once)

    uvloop.run(serve())
    return 0
