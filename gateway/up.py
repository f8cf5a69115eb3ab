"""`microturn up`: the processes of this machine, started, kept alive and ended together.

The gateway, a model server of each engine that is ours to start, and, where no setting names another, a state
server; with it the background workers. It takes no calls and knows none.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog

from gateway.config import GatewaySettings, load
from gateway.engines import choose
from gateway.model_servers import ModelServers
from gateway.operator import Operator, Outcome, Tell
from gateway.state import embedded
from gateway.supervise import Child, command
from gateway.tasks import Tasks
from gateway.upgrade import Upgrade, UpgradeFailed

log = structlog.get_logger()

STOP_S: Final = 8.0
"""A gateway that takes longer to end is killed."""
MODEL_SERVER: Final = (sys.executable, "-m", "model_server")
"""Directly: by way of our own command it would load all of that first."""
MODEL_FLAGS: Final = ("engine", "weights", "persona")
"""Of the model server alone."""


def slots_said(settings: GatewaySettings) -> int | None:
    """None where the operator has not said how many."""
    return settings.slots if "slots" in settings.model_fields_set else None


async def run_all(settings: GatewaySettings, flags: dict[str, Any]) -> int:
    """Keep the model servers and the gateway alive until Ctrl-C or SIGTERM; the exit status. `flags` are those of
    the command, which the gateway gets too."""
    stop, at_once = asyncio.Event(), asyncio.Event()

    def heed(name: int) -> None:
        if name == signal.SIGINT or stop.is_set():
            at_once.set()
        stop.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, heed, name)
    state = embedded_state(settings)
    flags = flags | ({"redis": embedded.make_room(settings.run_dir)} if state is not None else {})
    given = [
        f"--{k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None and k not in MODEL_FLAGS
    ]
    here = [sys.executable, "-m", "gateway"]
    models = start_models(settings)
    tasks = Tasks(lambda wrong: log.error("operator's line broken", exc_info=wrong))
    operator = Operator(settings.run_dir, lambda name, tell: _upgrade(models, name, flags, tell), tasks)
    gateway = Child("gateway", command([*here, "gateway", *given], kept=True))
    workers = _background_workers(settings, flags, log_level=settings.log_level)
    serving = [each.serving for each in models.values()]
    children = [*([state] if state is not None else []), *serving, gateway, *workers]
    keepers = [asyncio.create_task(child.keep()) for child in children]
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *keepers], return_when=asyncio.FIRST_COMPLETED)
    await _end(gateway, settings.drain_s, at_once)
    tasks.cancel()
    operator.close()
    for each in models.values():
        each.servers.close()
    await asyncio.gather(*(child.stop(3.0) for child in serving))
    await asyncio.gather(*(worker.stop(3.0) for worker in workers))
    if state is not None:
        await state.stop(3.0)
        embedded.clean_up(settings.run_dir)
    for task in (*keepers, stopped):
        task.cancel()
    return 0


@dataclass(frozen=True, slots=True)
class _Model:
    """The model server of one engine, with all that may take its place."""

    servers: ModelServers
    serving: Child


def start_models(settings: GatewaySettings) -> dict[str, _Model]:
    """One for each engine that is ours to start, by name; the usual one, "", first."""
    usual = settings.spare_model_server == "on" or (
        settings.spare_model_server == "auto" and settings.engine != "moshi"
    )
    spares = {"": usual, **{name: each.spare for name, each in settings.engines.items() if each.engine}}
    sockets = settings.engine_sockets(settings.model_socket)
    models = {}
    for name, with_spare in spares.items():
        argv = [*MODEL_SERVER, *model_flags(settings, name)]
        servers = ModelServers(argv, sockets[name], with_spare=with_spare)
        models[name] = _Model(servers, Child(f"model-server{'-' * bool(name)}{name}", servers.start))
    return models


async def _upgrade(models: dict[str, _Model], name: str, flags: dict[str, Any], tell: Tell) -> Outcome:
    """Of that engine, with the flags that `up` was started with, and what file and code are now."""
    try:
        settings = load(**flags)
        if name not in models:
            there = ", ".join(each for each in models if each) or "none beside the usual one"
            raise UpgradeFailed(
                f"engine = {name!r} is not among those that microturn up has started ({there})"
            )
        if name and (name not in settings.engines or settings.engines[name].engine is None):
            raise UpgradeFailed(f"engines.{name} is no engine to be started any more: restart microturn up")
        servers, serving = models[name].servers, models[name].serving
        if settings.engine_sockets(settings.model_socket)[name] != servers.path:
            raise UpgradeFailed(f"run_dir is now {settings.run_dir}: it stays as it is in a live upgrade")
        argv = [*MODEL_SERVER, *model_flags(settings, name)]
        done = await Upgrade(servers, serving, argv, tell).run()
    except (UpgradeFailed, ValueError, OSError) as wrong:
        log.error("live upgrade failed: the model server goes on", reason=str(wrong))
        return Outcome(False, f"{wrong}. The model server goes on as it was")
    log.info("live upgrade done", pid=serving.pid, **({"engine": name} if name else {}), **asdict(done))
    how = "the old one died, and the new one serves" if done.inherited else "the new model server serves"
    return Outcome(
        True, f"{how}: loaded in {done.load_s} s, {done.calls} calls moved in {done.move_s} s", asdict(done)
    )


async def _end(gateway: Child, drain_s: int, at_once: asyncio.Event) -> None:
    """Live calls may end first, unless somebody is in a hurry."""
    draining = asyncio.create_task(gateway.stop(drain_s + STOP_S)) if not at_once.is_set() else None
    hurry = asyncio.create_task(at_once.wait())
    await asyncio.wait([work for work in (draining, hurry) if work], return_when=asyncio.FIRST_COMPLETED)
    if draining is None or not draining.done():
        await gateway.stop(STOP_S, signal.SIGINT)
    hurry.cancel()
    if draining is not None:
        draining.cancel()


def embedded_state(settings: GatewaySettings) -> Child | None:
    """A server for the state of calls, unless a setting names one or wants none."""
    if settings.redis != "auto":
        return None
    program = embedded.find_server()
    if program is None:
        log.warning("the state of calls is not kept", reason=embedded.MISSING)
        return None
    return Child("state-server", command(embedded.command_line(program, settings.run_dir), quiet=True))


def _background_workers(settings: GatewaySettings, flags: dict[str, Any], log_level: str) -> list[Child]:
    """For tasks that the model hands off; without a state server there is no queue of them."""
    redis = flags.get("redis") or settings.redis
    if redis in ("auto", "off"):
        return []
    argv = [sys.executable, "-m", "gateway", "worker", f"--redis={redis}", f"--log-level={log_level}"]
    return [
        Child(f"worker-{number}", command(argv, kept=True)) for number in range(settings.background_workers)
    ]


def model_flags(settings: GatewaySettings, name: str = "") -> list[str]:
    """Of the model server of the usual engine, or of a further one that is ours to start."""
    further = settings.engines.get(name)
    engine, why = choose(settings.engine if further is None else further.engine or "auto")
    log.info("engine", engine=engine, why=why, **({"of": name} if name else {}))
    own: list[str] = []
    persona, weights, slots = settings.persona, settings.weights, slots_said(settings)
    if further is not None:
        persona, weights, slots = further.persona, further.weights, further.slots
        own = [f"--checkpoint={further.checkpoint}"] if further.checkpoint else []
        own += [f"--ranks={further.ranks}"] if further.ranks else []
    if slots is None and engine != "moshi":  # whose rows are memory of its device: it takes what there is
        slots = settings.slots
    return [
        f"--engine={engine}",
        *([f"--persona={persona}"] if persona else []),
        *([f"--weights={weights}"] if engine == "moshi" else []),
        *own,
        f"--socket={settings.engine_sockets(settings.model_socket)[name]}",
        *([f"--slots={slots}"] if slots is not None else []),
        f"--log-level={settings.log_level}",
        f"--log-format={settings.log_format}",
        # an engine that computes must not run before everything else; echo only keeps time
        *(["--realtime-priority"] if settings.realtime and engine == "echo" else []),
    ]
