"""A worker's hold on one model server: attach, lease, publish, be rung, until the server is gone.

It knows slots, generations and doorbells, and nothing of calls. `media/leases.py` has the conversation.
Its one rule: everything returns at once; what cannot be done now is refused, and the caller is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from media.chunk import Chunk, Reply
from media.leases import (
    MAX_BYTES,
    PROTOCOL,
    Attached,
    BadMessage,
    CaughtUp,
    Hello,
    Lease,
    Leased,
    Leave,
    Message,
    Refused,
    Release,
    decode,
    encode,
)
from media.slots import SlotTable, TableMismatch

log = structlog.get_logger()

CannotAttach = (OSError, BadMessage, TableMismatch)


@dataclass(slots=True)
class RowCounters:
    """Of all model servers that one worker was attached to."""

    rings_full: int = 0
    rows_stale: int = 0
    rows_torn: int = 0


class Attachment:
    """One worker's mapping of one slot table, for as long as its model server lives."""

    def __init__(
        self,
        worker: str,
        path: Path,
        counters: RowCounters,
        *,
        replied: Callable[[Attachment, list[tuple[int, Reply]]], None],
        told: Callable[[Attachment, CaughtUp | Leave], None],
    ) -> None:
        """`told` gets what the server says that nobody has asked for."""
        self.worker, self.path, self.counters = worker, path, counters
        self.epoch = 0
        self.engine = ""
        self._replied, self._told = replied, told
        self._table: SlotTable | None = None
        self._socket: socket.socket | None = None
        self._to_server = self._to_worker = -1
        self._leases: dict[str, asyncio.Future[Leased | Refused]] = {}
        self._mine: dict[int, str] = {}

    @property
    def table(self) -> SlotTable | None:
        """The table that is mapped now; None before `open` and when the server is gone."""
        return self._table

    async def lease(self, wish: Lease, past: bytes = b"", timeout_s: float = 1.0) -> Leased | Refused:
        """A slot for a call. Refused, too, when the server is gone and when it does not answer in time.

        `past` has the turns that the call had with another server, packed (`media.turn_log`).
        """
        call = wish.call
        if self._socket is None:
            return Refused(call, "the model server is gone", 2)
        answer: asyncio.Future[Leased | Refused] = asyncio.get_running_loop().create_future()
        self._leases[call] = answer
        try:
            _send(self._socket, replace(wish, log=len(past)), past)
            leased = await asyncio.wait_for(answer, timeout_s)
        except (OSError, TimeoutError) as wrong:
            return Refused(call, f"the model server does not answer: {wrong or 'time is up'}", 2)
        finally:
            self._leases.pop(call, None)
        if isinstance(leased, Leased) and self._table is not None:
            self._table.outbound.empty(leased.slot)
            self._mine[leased.slot] = call
        return leased

    def release(self, call: str, slot: int, generation: int) -> None:
        """The call is over; what it left in its slot is the server's business."""
        if self._mine.get(slot) != call or self._socket is None:
            return
        del self._mine[slot]
        try:
            self._socket.send(encode(Release(call, slot, generation)))
        except OSError as wrong:  # the server frees the slots of a worker that is gone
            log.warning("slot not released", call=call, slot=slot, reason=str(wrong))

    def pictures_wanted(self, slot: int) -> int:
        """By the model, a chunk of that slot; 0 while there is none."""
        return int(self._table.pictures[slot]) if self._table is not None else 0

    def publish(self, slot: int, chunk: Chunk) -> bool:
        """A chunk into its slot, for the server's next tick; False, and counted, when a full ring drops it."""
        if self._table is None:
            return False
        taken = self._table.put_chunk(slot, chunk)
        self.counters.rings_full += not taken
        return taken

    def is_damaged(self, slot: int) -> bool:
        """Whether somebody has written over the counts of its rings: then nothing comes or goes until they are
        emptied, which is done for a new tenant alone."""
        table = self._table
        return table is not None and not (table.inbound.is_sound(slot) and table.outbound.is_sound(slot))

    async def open(self) -> None:
        """Attach. One of `CannotAttach` when nobody answers there, or one that we do not understand."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        descriptors: list[int] = []
        try:
            connection.connect(str(self.path))
            connection.send(encode(Hello(self.worker, os.getpid())))
            async with asyncio.timeout(2.0):
                packet, descriptors = await _receive_descriptors(loop, connection)
            message = decode(packet)
            if not isinstance(message, Attached) or len(descriptors) != 3:
                raise BadMessage(f"expected Attached with 3 descriptors, got {message}")
            if message.protocol != PROTOCOL:
                raise BadMessage(f"it speaks protocol {message.protocol}, we speak {PROTOCOL}")
            self._table = SlotTable.attach(descriptors[0])
        except (OSError, ValueError):
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            raise
        self._socket, self.epoch, self.engine = connection, message.epoch, message.engine
        self._to_server, self._to_worker = descriptors[1:]
        loop.add_reader(self._to_worker, self._rung)
        log.debug("attached", epoch=f"{self.epoch:014x}", engine=message.engine, slots=self._table.slots)

    async def listen(self) -> None:
        """What the server says, until the end of file: it is gone, and nothing is mapped any more."""
        try:
            await self._hear(asyncio.get_running_loop())
        finally:
            self.close()

    async def _hear(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._socket is not None
        while True:
            try:
                packet = await loop.sock_recv(self._socket, MAX_BYTES)
            except ConnectionError:
                return
            if not packet:
                return
            try:
                message: Message = decode(packet)
            except BadMessage as wrong:
                log.error("model server speaks nonsense", reason=str(wrong))
                return
            if isinstance(message, CaughtUp | Leave):
                self._told(self, message)
            elif isinstance(message, Leased | Refused):
                answer = self._leases.get(message.call)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                elif isinstance(message, Leased):  # answered after our patience: give it back
                    self._mine[message.slot] = message.call
                    self.release(message.call, message.slot, message.generation)

    def close(self) -> None:
        """Hang up: the server frees all slots that are ours."""
        if self._socket is None or self._table is None:
            return
        asyncio.get_running_loop().remove_reader(self._to_worker)
        self._socket.close()
        self._table.close()
        os.close(self._to_server)
        os.close(self._to_worker)
        self._socket = self._table = None
        self._mine.clear()
        for answer in self._leases.values():
            if not answer.done():
                answer.set_exception(ConnectionError("it is gone"))

    def _rung(self) -> None:
        """Take every reply of our slots; a slot of another worker is none of our business."""
        table = self._table
        assert table is not None
        try:
            os.eventfd_read(self._to_worker)
        except BlockingIOError:
            return
        for _ in range(table.rows):
            mine = np.fromiter(self._mine, np.intp, len(self._mine))
            ready = mine[table.outbound.head[mine] != table.outbound.tail[mine]]
            if not len(ready):
                return
            rows = table.outbound.gather(ready)
            self.counters.rows_stale += rows.stale
            self.counters.rows_torn += rows.torn
            replies = list(zip((int(s) for s in rows.slots), table.replies(rows), strict=True))
            table.outbound.advance(ready)
            self._replied(self, replies)


def _send(connection: socket.socket, wish: Lease, past: bytes) -> None:
    """The wish, and the log as a descriptor, which the server reads in its own time."""
    if not past:
        connection.send(encode(wish))
        return
    fd = os.memfd_create("microturn-log", os.MFD_CLOEXEC)
    try:
        os.write(fd, past)
        socket.send_fds(connection, [encode(wish)], [fd])
    finally:
        os.close(fd)


async def _receive_descriptors(
    loop: asyncio.AbstractEventLoop, connection: socket.socket
) -> tuple[bytes, list[int]]:
    """One packet with its descriptors; `OSError` at the end of file."""
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    packet, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 3)
    if not packet:
        raise ConnectionError("the model server closed the connection")
    return packet, descriptors
