"""The slot table: shared memory between the workers of a node and its model server.

A sealed memfd, created by the model server and mapped by every worker. A slot is a row of it, leased to one
call at a time; the lease's *generation* travels in every row, so that what an earlier tenant left is known
for what it is. Each slot has two bounded rings of `rows` rows: `inbound` (worker writes chunks) and
`outbound` (model server writes replies), and a ring of video frames beside the inbound one.

Layout, version 4. Everything is little-endian and every array starts on a page (4,096 bytes); S slots,
R rows a ring, V video frames a slot of W x H pixels (RGB24, 3 bytes each, no padding):

    array             type            written by     meaning
    ----------------  --------------  -------------  -------------------------------------------------
    superblock        u64[16]         server, once   magic (written last), version, S, R, V, groups,
                                                     epoch (a random name of this table), total bytes,
                                                     W, H, and six zeros
    generation        u32[S]          server         tenant now; 0 = never leased; moves on at each lease
    group             u32[S]          server         phase group of the tenant
    pictures          u32[S]          server         pictures a chunk that the model looks at, 0 to 2, for the
                                                     tenant; may change at any time
    in.head           u64[S]          worker         rows ever published
    in.tail           u64[S]          server         rows ever taken
    in.seq            u64[S,R]        worker         row number + 1 once whole, `TORN` while being written
    in.meta           META[S,R]       worker         see `META`
    in.pcm            i16[S,R,3200]   worker
    in.text           u8[S,R,1024]    worker         UTF-8
    in.events         u8[S,R,512]     worker         UTF-8, one event a line
    video.seq         u64[S,V]        worker         frame number + 1 once whole, `TORN` while being written
    video.ns          u64[S,V]        worker         when it was captured
    video.rgb         u8[S,V,H,W,3]   worker         never touched, so never backed, on a voice call
    out.*             as in.*         server/worker  the mirror: the server writes head, the worker tail

A slot's life, and who may move it:

    free --lease (server: generation + 1, rings emptied)--> leased --release (worker asks, or its control
    socket closes)--> resting --`REST_NS` later (server)--> free

Publishing (`Ring.put`): seq = TORN, payload, seq = row + 1, fence, head + 1. Taking (`Ring.gather`): head,
fence, payload, seq checked before and after, tail + 1. Each cell has one writer, so there is no lock. A
full ring refuses the newest row: only the reader may move the tail; the writer counts and goes on.

Video frames have no tail. Frame n of a slot is in cell n % V until frame n + V is written over it; a chunk's row
names its frames (`video_first`, `video_frames`). The reader gets views, not copies, and checks seq before and
after it has used the pixels.

The one rule: nobody waits here. What is not ready is absent; what is torn or stale is dropped and counted.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from media.chunk import (
    MAX_EVENTS_BYTES,
    MAX_TEXT_BYTES,
    MAX_VIDEO_FRAMES,
    VIDEO_SIZE,
    Chunk,
    Flags,
    Reply,
    VideoFrame,
)
from media.ring import META, TORN, Ring, Rows, chunk_of, encode_text, fence, meta_of
from media.timebase import NS_PER_S, TURN_SAMPLES

MAGIC = 0x6D6963726F747572  # "microtur"
VERSION = 4
PAGE = 4096
REST_NS = 1 * NS_PER_S
"""A freed slot rests five turns: longer than any reply of its last tenant can be under way."""

MAX_SLOTS = 4096
MIN_VIDEO_SIDE, MAX_VIDEO_SIDE = 16, 1920
_SUPERBLOCK = 16
_EPOCH = 6
_F_ADD_SEALS, _SEAL_SHRINK, _SEAL_GROW = 1033, 2, 4  # linux/fcntl.h; the fcntl module of 3.11 lacks them


class TableMismatch(ValueError):
    """The memory that was handed over is not a slot table of this version."""


class SlotTable:
    """The mapped table. `create` in the model server, `attach` in a worker."""

    def __init__(
        self, fd: int, slots: int, rows: int, video: int, groups: int, video_size: tuple[int, int]
    ) -> None:
        self.fd, self.slots, self.rows, self.video_rows, self.groups = fd, slots, rows, video, groups
        self.video_size = video_size
        """Width and height of every video frame."""
        self.misfits = 0
        """Worker: frames of another size, left out of their chunks."""
        self.overwritten = 0
        """Model server: frames that were gone when their chunk was taken."""
        plan, self.size = _plan(slots, rows, video, video_size)
        self._map = mmap.mmap(fd, self.size, mmap.MAP_SHARED)
        view: dict[str, npt.NDArray[Any]] = {
            name: np.ndarray(shape, dtype, buffer=self._map, offset=offset)
            for name, (offset, dtype, shape) in plan.items()
        }
        self._superblock = view["superblock"]
        self.generation: npt.NDArray[np.uint32] = view["generation"]
        self.group: npt.NDArray[np.uint32] = view["group"]
        self.pictures: npt.NDArray[np.uint32] = view["pictures"]
        self.inbound = Ring(_half(view, "in."), self.generation)
        self.outbound = Ring(_half(view, "out."), self.generation)
        self._video_seq, self._video_ns, self._video = view["video.seq"], view["video.ns"], view["video.rgb"]

    @classmethod
    def create(
        cls,
        slots: int,
        rows: int = 4,
        video: int = 4,
        groups: int = 4,
        video_size: tuple[int, int] = VIDEO_SIZE,
    ) -> SlotTable:
        """A fresh sealed table. `ValueError` when a size is out of its range."""
        width, height = video_size
        for name, value, low, high in (
            ("slots", slots, 1, MAX_SLOTS),
            ("rows", rows, 2, 64),
            ("video", video, MAX_VIDEO_FRAMES, 64),
            ("groups", groups, 1, 10),
            ("video width", width, MIN_VIDEO_SIDE, MAX_VIDEO_SIDE),
            ("video height", height, MIN_VIDEO_SIDE, MAX_VIDEO_SIDE),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} = {value}: give a number from {low} to {high}")
        fd = os.memfd_create("microturn-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _plan(slots, rows, video, video_size)[1])
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)  # no peer can make us fault
        table = cls(fd, slots, rows, video, groups, video_size)
        epoch = int.from_bytes(os.urandom(7), "little")
        table._superblock[1:10] = (VERSION, slots, rows, video, groups, epoch, table.size, width, height)
        table.pictures[:] = MAX_VIDEO_FRAMES
        fence()
        table._superblock[0] = MAGIC
        return table

    @classmethod
    def attach(cls, fd: int) -> SlotTable:
        """Map a table that somebody else created; `TableMismatch` names what is wrong with it."""
        size = os.fstat(fd).st_size
        if size < PAGE:
            raise TableMismatch(f"{size} bytes are no slot table: the first page is missing")
        with mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as head:
            magic, version, slots, rows, video, groups, _, told, width, height = (
                int(x) for x in np.frombuffer(bytes(head[:80]), "<u8")
            )
        if magic != MAGIC:
            raise TableMismatch(f"magic is {magic:#x}, expected {MAGIC:#x}: this is no slot table")
        if version != VERSION:
            raise TableMismatch(
                f"slot table has layout version {version}, this process knows {VERSION}: "
                "run the same release of microturn on both sides"
            )
        bounded = 1 <= slots <= MAX_SLOTS and 2 <= rows <= 64 and MAX_VIDEO_FRAMES <= video <= 64
        bounded = bounded and 1 <= groups <= 10
        bounded = bounded and all(MIN_VIDEO_SIDE <= side <= MAX_VIDEO_SIDE for side in (width, height))
        if not bounded or _plan(slots, rows, video, (width, height))[1] != size or told != size:
            raise TableMismatch(f"slot table of {slots} x {rows} rows does not fit its {size} bytes")
        return cls(fd, slots, rows, video, groups, (width, height))

    @property
    def epoch(self) -> int:
        """Random name of this table: another after each restart of the model server."""
        return int(self._superblock[_EPOCH])

    def put_chunk(self, slot: int, chunk: Chunk) -> bool:
        """Worker: publish a chunk; False when the model server is `rows` turns behind.

        Pixels are copied once, into the slot. Frames of another size than the table's are left out and counted.
        """
        if self.inbound.is_full(slot):
            return False  # before its video is written over frames that are still to be read
        text, events, flags = encode_text(chunk.text, chunk.events)
        first, frames = self._put_video(slot, chunk.video) if chunk.video else (0, 0)
        meta = meta_of(chunk, chunk.flags | flags, len(text), len(events), (first, frames))
        return self.inbound.put(slot, meta, chunk.pcm, text, events)

    def put_reply(self, slot: int, reply: Reply) -> bool:
        """Model server: publish a reply; False when the worker does not take them any more."""
        text, events, flags = encode_text(reply.text, reply.events)
        meta = (reply.stepped_ns, 0, reply.generation, reply.turn, reply.flags | flags)
        return self.outbound.put(
            slot, (*meta, 0, 0, 0, reply.engine_us, len(text), len(events), 0), reply.pcm, text, events
        )

    def put_replies(
        self,
        chunks: npt.NDArray[Any],
        slots: npt.NDArray[np.intp],
        stepped_ns: int,
        pcm: npt.NDArray[np.int16],
        said: Mapping[int, tuple[str, tuple[str, ...], Flags]],
        engine_us: int = 0,
    ) -> npt.NDArray[np.bool_]:
        """Model server: publish the replies of a whole batch, one a slot.

        `chunks` is the META [B] of the chunks that are answered: turn and generation are taken from it.
        `pcm` is int16 [B, 3200]; `said` has text, events and flags of the few rows b that have any; `engine_us` is
        each one's part of the step.
        Returns bool [B]: False where the worker does not take replies any more.
        """
        meta = np.zeros(len(slots), META)
        meta["stamp_ns"], meta["generation"], meta["turn"] = stepped_ns, chunks["generation"], chunks["turn"]
        meta["played"] = engine_us
        encoded = {}
        for b, (text, events, flags) in said.items():
            text_b, events_b, cut = encode_text(text, events)
            row = meta[b]
            row["flags"], row["text_bytes"], row["events_bytes"] = flags | cut, len(text_b), len(events_b)
            if text_b or events_b:
                encoded[b] = text_b, events_b
        return self.outbound.put_many(slots, meta, pcm, encoded)

    def chunks(self, rows: Rows) -> list[Chunk]:
        """Whole chunks of gathered inbound rows, texts and video included; before `advance`."""
        return [self._chunk(int(s), rows.meta[i], rows.pcm[i]) for i, s in enumerate(rows.slots)]

    def replies(self, rows: Rows) -> list[Reply]:
        """Whole replies of gathered outbound rows; before `advance`."""
        out = []
        for i, slot in enumerate(rows.slots):
            meta = rows.meta[i]
            text, events = self.outbound.texts(int(slot))
            stamp, turn = int(meta["stamp_ns"]), int(meta["turn"])
            flags = Flags(int(meta["flags"]))
            generation, engine_us = int(meta["generation"]), int(meta["played"])
            out.append(Reply(generation, turn, stamp, rows.pcm[i], text, events, flags, engine_us))
        return out

    def _chunk(self, slot: int, meta: Any, pcm: npt.NDArray[np.int16]) -> Chunk:
        text, events = self.inbound.texts(slot)
        video = self.frames(slot, int(meta["video_first"]), int(meta["video_frames"]))
        return chunk_of(meta, pcm, text, events, video)

    def frames(self, slot: int, first: int, count: int) -> tuple[VideoFrame, ...]:
        """Views of frames `first` and following, oldest first, without those that are overwritten already."""
        views = []
        for number in range(first, first + min(count, MAX_VIDEO_FRAMES)):
            row = number % self.video_rows
            check = _holds(self._video_seq[slot], row, number)
            captured_ns, rgb = int(self._video_ns[slot, row]), self._video[slot, row]
            rgb.flags.writeable = False
            if check():
                views.append(VideoFrame(captured_ns, rgb, check))
            else:
                self.overwritten += 1
        return tuple(views)

    def _put_video(self, slot: int, frames: tuple[VideoFrame, ...]) -> tuple[int, int]:
        """Write the frames behind the newest; old ones are overwritten, and their readers notice."""
        fitting = [frame for frame in frames if frame.rgb.shape == self._video.shape[2:]]
        self.misfits += len(frames) - len(fitting)
        newest = self._video_seq[slot]
        first = int(newest[newest != TORN].max(initial=np.uint64(0)))
        for number, frame in enumerate(fitting, first):
            row = number % self.video_rows
            newest[row] = TORN
            fence()
            self._video[slot, row] = frame.rgb
            self._video_ns[slot, row] = frame.captured_ns
            fence()
            newest[row] = number + 1
        return first, len(fitting)

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last array that looks into it."""
        os.close(self.fd)


def _holds(seq: npt.NDArray[np.uint64], row: int, number: int) -> Callable[[], bool]:
    """Whether the cell `row` of a slot's `video.seq` still has the frame `number`, asked when it is called."""

    def check() -> bool:
        fence()
        return int(seq[row]) == number + 1

    return check


def _half(view: dict[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in view.items() if name.startswith(prefix)}


def _plan(
    slots: int, rows: int, video: int, video_size: tuple[int, int]
) -> tuple[dict[str, tuple[int, Any, tuple[int, ...]]], int]:
    """Offset, type and shape of every array, and the bytes of all: the table at the head of this file."""
    ring: list[tuple[str, Any, tuple[int, ...]]] = [
        ("head", "<u8", (slots,)),
        ("tail", "<u8", (slots,)),
        ("seq", "<u8", (slots, rows)),
        ("meta", META, (slots, rows)),
        ("pcm", "<i2", (slots, rows, TURN_SAMPLES)),
        ("text", "u1", (slots, rows, MAX_TEXT_BYTES)),
        ("events", "u1", (slots, rows, MAX_EVENTS_BYTES)),
    ]
    arrays: list[tuple[str, Any, tuple[int, ...]]] = [
        ("superblock", "<u8", (_SUPERBLOCK,)),
        ("generation", "<u4", (slots,)),
        ("group", "<u4", (slots,)),
        ("pictures", "<u4", (slots,)),
        *((f"in.{name}", dtype, shape) for name, dtype, shape in ring),
        ("video.seq", "<u8", (slots, video)),
        ("video.ns", "<u8", (slots, video)),
        ("video.rgb", "u1", (slots, video, video_size[1], video_size[0], 3)),
        *((f"out.{name}", dtype, shape) for name, dtype, shape in ring),
    ]
    plan, offset = {}, 0
    for name, dtype, shape in arrays:
        plan[name] = (offset, dtype, shape)
        bytes_ = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offset += (bytes_ + PAGE - 1) // PAGE * PAGE
    return plan, offset
