"""A rank beside rank 0: it does what it is told until rank 0 is gone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import structlog

from model_server.ranks.engine import EngineOptions, do, engine_of
from model_server.ranks.leader import NOTICE
from model_server.ranks.memory import RankMemory
from model_server.ranks.plan import read

log = structlog.get_logger()


def follow(memory: RankMemory, connection: socket.socket, options: EngineOptions, leader: int) -> None:
    """Returns when rank 0 has closed its connection. What the engine raises comes out of here."""
    collectives = options.collectives_of(memory)
    engine = engine_of(options, memory.rank, memory.ranks, collectives)
    connection.send(NOTICE.pack(memory.rank))
    collectives.connect()
    urgency = _urgency_of(0)
    while notice := connection.recv(NOTICE.size):
        (number,) = NOTICE.unpack(notice)
        assert number == memory.given, (number, memory.given)
        memory.live()
        if (wanted := _urgency_of(leader)) != urgency:
            urgency = _take(wanted)
        do(engine, read(memory.plan))
        memory.finish(number)
    log.info("rank 0 is gone: this rank ends", rank=memory.rank)


@dataclass(frozen=True, slots=True)
class _Urgency:
    policy: int
    priority: int
    nice: int


def _urgency_of(process: int) -> _Urgency:
    """0 is this one."""
    policy, parameters = os.sched_getscheduler(process), os.sched_getparam(process)
    return _Urgency(policy, parameters.sched_priority, os.getpriority(os.PRIO_PROCESS, process))


def _take(wanted: _Urgency) -> _Urgency:
    """Be scheduled as rank 0 is, which waits for us and may ask for priority after we have started."""
    try:
        os.sched_setscheduler(0, wanted.policy, os.sched_param(wanted.priority))
        os.setpriority(os.PRIO_PROCESS, 0, wanted.nice)
        log.info("scheduled as rank 0 is", policy=wanted.policy, nice=wanted.nice)
    except OSError as refused:
        log.warning("not scheduled as rank 0 is", reason=str(refused), hint="grant CAP_SYS_NICE")
    return wanted
