"""What rank 0 tells the others: a call begins, a step, a call ends. Written once, into memory that all have mapped.

Arrays are copied beside what names them (pickle protocol 5, its buffers apart), and read in place: a step of 64
calls is one copy of 0.4 MB. Who writes and who reads are one program, started by one process; nobody else has the
descriptor.
"""

from __future__ import annotations

import dataclasses
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from media.chunk import Chunk
from model_server.batch import Batch

_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Open:
    """A new sequence in a slot."""

    slot: int
    persona: str


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of some calls."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Close:
    """The sequence of a slot is over."""

    slot: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """For measuring: see `DigitsEngine.repeat`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Warm:
    """Before any call: see `Engine.warm`."""

    calls: int


@dataclass(frozen=True, slots=True)
class Age:
    """For measuring: see `DigitsEngine.age`."""

    slot: int
    positions: int


Plan = Open | Step | Close | Repeat | Warm | Age


def write(plan: Plan, memory: memoryview) -> int:
    """Bytes that it took; `ValueError` when it does not fit."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(plan, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    at = _COUNT.size + _LENGTH.size * len(parts)
    ends = []
    for part in parts:
        at = -(-at // _ALIGNMENT) * _ALIGNMENT + part.nbytes
        ends.append(at)
    if at > len(memory):
        raise ValueError(f"a plan of {at} bytes: expected at most {len(memory)}")
    _COUNT.pack_into(memory, 0, len(parts))
    for index, (part, end) in enumerate(zip(parts, ends, strict=True)):
        _LENGTH.pack_into(memory, _COUNT.size + index * _LENGTH.size, part.nbytes)
        memory[end - part.nbytes : end] = part
    return at


def read(memory: memoryview) -> Plan:
    """The plan that was written there; its arrays are views, read only, valid until the next one is written."""
    (count,) = _COUNT.unpack_from(memory, 0)
    at = _COUNT.size + _LENGTH.size * count
    parts = []
    for index in range(count):
        (length,) = _LENGTH.unpack_from(memory, _COUNT.size + index * _LENGTH.size)
        begin = -(-at // _ALIGNMENT) * _ALIGNMENT
        at = begin + length
        parts.append(memory[begin:at].toreadonly())
    plan: Plan = pickle.loads(parts[0], buffers=parts[1:])
    return plan


def held_still(batch: Batch) -> Batch:
    """The batch with pictures of its own: views into the slot table could change between one rank and the next.

    A picture that was written over meanwhile is left out.
    """
    return dataclasses.replace(
        batch,
        chunks={b: _with_pictures(chunk) for b, chunk in batch.chunks.items()},
        earlier={slot: tuple(map(_with_pictures, older)) for slot, older in batch.earlier.items()},
    )


def without_pictures(batch: Batch) -> Batch:
    """What is left of a batch that is too large to be told: the first thing that overload sheds."""
    chunks: Mapping[int, Chunk] = {
        b: dataclasses.replace(chunk, video=()) for b, chunk in batch.chunks.items()
    }
    earlier = {
        slot: tuple(dataclasses.replace(chunk, video=()) for chunk in older)
        for slot, older in batch.earlier.items()
    }
    return dataclasses.replace(batch, chunks=chunks, earlier=earlier)


def _with_pictures(chunk: Chunk) -> Chunk:
    if not chunk.video:
        return chunk
    video = tuple(copy for frame in chunk.video if (copy := frame.copied()) is not None)
    return dataclasses.replace(chunk, video=video)
