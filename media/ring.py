"""One direction of the slot table: a bounded ring of rows a slot, with one writer and one reader.

Drawn at the head of `media/slots.py`, which gives it its arrays. Each cell has one writer, so there is no lock;
what orders reader and writer is each row's sequence number, and the order in which `put` and `gather` touch it.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from media.chunk import MAX_EVENTS_BYTES, MAX_TEXT_BYTES, PCM, QUARTERS, Chunk, Flags, VideoFrame

TORN = 2**64 - 1
"""Sequence number of a row that is being written."""

META = np.dtype(
    [
        ("stamp_ns", "<u8"),  # captured_ns of a chunk, stepped_ns of a reply
        ("video_first", "<u8"),  # frame number of the first video frame
        ("generation", "<u4"),
        ("turn", "<u4"),
        ("flags", "<u4"),
        ("concealed", "<u2", (QUARTERS,)),  # samples of each 50 ms
        ("lost", "<u4"),
        ("dropped", "<u4"),
        ("played", "<u4"),  # of a reply: its part of the step that made it, us
        ("text_bytes", "<u2"),
        ("events_bytes", "<u2"),
        ("video_frames", "<u4"),
    ]
)


def fence_of_this_machine() -> Callable[[], object]:
    """x86 keeps stores in order and Python calls are opaque to the compiler; elsewhere fence for real."""
    if platform.machine() in ("x86_64", "AMD64"):
        return lambda: None
    fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
    return lambda: fence(5)  # memory_order_seq_cst


fence = fence_of_this_machine()


def encode_text(text: str, events: tuple[str, ...]) -> tuple[bytes, bytes, Flags]:
    """UTF-8 of both within their bounds; text is cut at a character, events at an event, and it is said."""
    flags = Flags.NONE
    text_b = text.encode()
    if len(text_b) > MAX_TEXT_BYTES:
        text_b = text_b[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
        flags = Flags.TEXT_CUT
    events_b = b""
    for event in events:
        longer = events_b + event.replace("\n", " ").encode() + b"\n"
        if len(longer) > MAX_EVENTS_BYTES:
            flags = Flags.TEXT_CUT
            break
        events_b = longer
    return text_b, events_b, flags


def decode_text(text: bytes, events: bytes) -> tuple[str, tuple[str, ...]]:
    """What `encode_text` wrote."""
    told = events.decode(errors="replace").rstrip("\n")
    return text.decode(errors="replace"), tuple(told.split("\n")) if told else ()


def meta_of(
    chunk: Chunk, flags: Flags, text_bytes: int, events_bytes: int, video: tuple[int, int] = (0, 0)
) -> tuple[Any, ...]:
    """META of a chunk with these flags and sizes; `video`: number of its first frame, and how many it has."""
    return (
        chunk.captured_ns, video[0], chunk.generation, chunk.turn, flags, chunk.concealed_quarters,
        chunk.lost_packets, chunk.dropped_samples, chunk.played_samples, text_bytes, events_bytes, video[1],
    )  # fmt: skip


def chunk_of(
    meta: Any, pcm: PCM, text: str = "", events: tuple[str, ...] = (), video: tuple[VideoFrame, ...] = ()
) -> Chunk:
    """The chunk that this META is of."""
    return Chunk(
        generation=int(meta["generation"]),
        turn=int(meta["turn"]),
        captured_ns=int(meta["stamp_ns"]),
        pcm=pcm,
        concealed_quarters=tuple(meta["concealed"].tolist()),
        lost_packets=int(meta["lost"]),
        dropped_samples=int(meta["dropped"]),
        played_samples=int(meta["played"]),
        text=text,
        events=events,
        video=video,
        flags=Flags(int(meta["flags"])),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows taken at once from one ring: B of them, ready for a batch."""

    slots: npt.NDArray[np.intp]
    """[B]"""
    meta: npt.NDArray[Any]
    """META [B]"""
    pcm: npt.NDArray[np.int16]
    """int16 [B, 3200]"""
    torn: int
    """Rows that were dropped because their sequence number did not match."""
    stale: int
    """Rows that were dropped because they belong to an earlier tenant."""


class Ring:
    """One direction of the table. Either side holds one and uses its half of the calls."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], generation: npt.NDArray[np.uint32]) -> None:
        self.head: npt.NDArray[np.uint64] = arrays["head"]
        self.tail: npt.NDArray[np.uint64] = arrays["tail"]
        self.seq: npt.NDArray[np.uint64] = arrays["seq"]
        self.meta = arrays["meta"]
        self.pcm: npt.NDArray[np.int16] = arrays["pcm"]
        self.text: npt.NDArray[np.uint8] = arrays["text"]
        self.events: npt.NDArray[np.uint8] = arrays["events"]
        self._generation = generation
        self._rows = self.seq.shape[1]

    def put(
        self, slot: int, meta: tuple[Any, ...], pcm: npt.NDArray[np.int16], text: bytes, events: bytes
    ) -> bool:
        """Publish one row; False when the ring is full (the newest row is refused)."""
        if self.is_full(slot):
            return False
        head = int(self.head[slot])
        row = head % self._rows
        self.seq[slot, row] = TORN
        fence()
        self.meta[slot, row] = meta
        self.pcm[slot, row] = pcm
        if text:
            self.text[slot, row, : len(text)] = np.frombuffer(text, np.uint8)
        if events:
            self.events[slot, row, : len(events)] = np.frombuffer(events, np.uint8)
        fence()
        self.seq[slot, row] = head + 1
        fence()
        self.head[slot] = head + 1
        return True

    def put_many(
        self,
        slots: npt.NDArray[np.intp],
        meta: npt.NDArray[Any],
        pcm: npt.NDArray[np.int16],
        said: Mapping[int, tuple[bytes, bytes]],
    ) -> npt.NDArray[np.bool_]:
        """Publish one row in each of `slots` (all different), in the order that `put` keeps.

        `meta` is META [B], `pcm` int16 [B, 3200], `said` text and events of the few rows b that have
        any. Returns bool [B]: False where the ring was full and the row was refused.
        """
        heads = self.head[slots]
        room: npt.NDArray[np.bool_] = heads - self.tail[slots] < self._rows
        kept = np.flatnonzero(room)
        if len(kept) < len(slots):
            slots, heads, meta, pcm = slots[room], heads[room], meta[room], pcm[room]
        rows = (heads % np.uint64(self._rows)).astype(np.intp)
        self.seq[slots, rows] = TORN
        fence()
        self.meta[slots, rows] = meta
        self.pcm[slots, rows] = pcm
        if said:
            for slot, row, b in zip(slots, rows, kept, strict=True):
                text, events = said.get(int(b), (b"", b""))
                self.text[slot, row, : len(text)] = np.frombuffer(text, np.uint8)
                self.events[slot, row, : len(events)] = np.frombuffer(events, np.uint8)
        fence()
        self.seq[slots, rows] = heads + np.uint64(1)
        fence()
        self.head[slots] = heads + np.uint64(1)
        return room

    def is_full(self, slot: int) -> bool:
        """Whether `put` would refuse."""
        waiting = int(self.head[slot]) - int(self.tail[slot])
        return waiting >= int(self._rows)

    def is_sound(self, slot: int) -> bool:
        """Whether its counts can be: no more rows wait than there are. Else somebody has written over them."""
        waiting = int(self.head[slot]) - int(self.tail[slot])
        return 0 <= waiting <= int(self._rows)

    def ready(self) -> npt.NDArray[np.intp]:
        """Slots with at least one row to take: one compare over all slots."""
        return np.flatnonzero(self.head != self.tail)

    def gather(self, slots: npt.NDArray[np.intp]) -> Rows:
        """Take the oldest row of each of `slots` (each must be ready), straight into a batch."""
        fence()
        tails = self.tail[slots]
        rows = (tails % np.uint64(self._rows)).astype(np.intp)
        before = self.seq[slots, rows]
        meta = self.meta[slots, rows]
        pcm = self.pcm[slots, rows]
        fence()
        whole = (before == tails + np.uint64(1)) & (self.seq[slots, rows] == before)
        fresh = meta["generation"] == self._generation[slots]
        keep = whole & fresh
        return Rows(
            slots=slots[keep],
            meta=meta[keep],
            pcm=pcm[keep] if not keep.all() else pcm,
            torn=int(np.count_nonzero(~whole)),
            stale=int(np.count_nonzero(whole & ~fresh)),
        )

    def texts(self, slot: int) -> tuple[str, tuple[str, ...]]:
        """Text and events of the slot's oldest row; call it between `gather` and `advance`."""
        row = int(self.tail[slot]) % self._rows
        meta = self.meta[slot, row]
        text_bytes, events_bytes = int(meta["text_bytes"]), int(meta["events_bytes"])
        if not text_bytes and not events_bytes:
            return "", ()
        text, events = self.text[slot, row, :text_bytes], self.events[slot, row, :events_bytes]
        return decode_text(text.tobytes(), events.tobytes())

    def advance(self, slots: npt.NDArray[np.intp]) -> None:
        """Give the rows that `gather` took back to the writer."""
        self.tail[slots] += np.uint64(1)

    def empty(self, slot: int) -> None:
        """Reader's side of a new lease: whatever the earlier tenant left is skipped."""
        self.tail[slot] = self.head[slot]
