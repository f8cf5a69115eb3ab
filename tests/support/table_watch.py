"""Looks over the workers' and the engine's shoulders: what is written into the slots, without taking it.

It attaches to the model server as one more worker that never leases a slot, and reads rows that others own. A row
stays where it is for as many turns as a ring has rows (0.8 s), so it looks every 50 ms and misses none. Arrays that
others write meanwhile are copied before `nonzero`, which raises when they change under it.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from media.chunk import PCM, VideoFrame
from media.leases import MAX_BYTES, Attached, Hello, decode, encode
from media.ring import TORN, Ring
from media.slots import SlotTable

LOOK_S = 0.05


class TableWatch:
    """`heard`: event lines of chunks; `said`: text lines of replies; both in order. A context manager.

    `frames`: (slot, frame) of every picture that was seen in a chunk, with pixels of its own; the last 100.
    `sound`: (slot, samples) of every chunk in order; the last 30 s of one call. `concealed`: of those same chunks,
    what each 50 ms has of samples that were made up.
    """

    def __init__(self, model_socket: Path) -> None:
        self._path = model_socket
        self._seen: set[tuple[str, int, int]] = set()
        self.heard: list[str] = []
        self.said: list[str] = []
        self.frames: deque[tuple[int, VideoFrame]] = deque(maxlen=100)
        self.sound: deque[tuple[int, PCM]] = deque(maxlen=150)
        self.concealed: deque[list[int]] = deque(maxlen=150)

    def __enter__(self) -> TableWatch:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(5.0)
        self._socket.connect(str(self._path))
        self._socket.send(encode(Hello("watch", os.getpid())))
        packet, self._descriptors, _, _ = socket.recv_fds(self._socket, MAX_BYTES, 3)
        assert isinstance(decode(packet), Attached), packet
        self._table = SlotTable.attach(self._descriptors[0])
        self.look()
        self.frames.clear()
        self.sound.clear()
        self.concealed.clear()
        self.heard, self.said = [], []  # what earlier calls left in their rows
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._table.close()
        for descriptor in self._descriptors[1:]:
            os.close(descriptor)

    def look_until(
        self, holds: Callable[[TableWatch], bool], busy: Callable[[], object], timeout_s: float
    ) -> bool:
        """Look, and be `busy` in between (at most 0.5 s at a time), until it holds. False when it never did."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            self.look()
            if holds(self):
                return True
            busy()
            time.sleep(LOOK_S)
        return False

    def look(self) -> None:
        """Take note of every row that was not seen before."""
        self.heard += self._news("in", self._table.inbound, "events")
        self.said += self._news("out", self._table.outbound, "text")
        self._listen()
        self._see()

    def _listen(self) -> None:
        ring = self._table.inbound
        found: list[tuple[int, int, PCM, list[int]]] = []
        for slot, row in zip(*ring.seq.copy().nonzero(), strict=True):
            number = int(ring.seq[slot, row])
            key = ("sound", int(slot), number)
            if number == TORN or key in self._seen:
                continue
            samples, concealed = ring.pcm[slot, row].copy(), ring.meta["concealed"][slot, row].tolist()
            if int(ring.seq[slot, row]) == number:
                self._seen.add(key)
                found.append((number, int(slot), samples, concealed))
        found.sort(key=lambda entry: entry[:2])
        self.sound += [(slot, samples) for _, slot, samples, _ in found]
        self.concealed += [concealed for *_, concealed in found]

    def _see(self) -> None:
        ring = self._table.inbound
        found: list[tuple[int, int, VideoFrame]] = []
        for slot, row in zip(*ring.meta["video_frames"].copy().nonzero(), strict=True):
            number = int(ring.seq[slot, row])
            key = ("video", int(slot), number)
            if key in self._seen or number % ring.seq.shape[1] != (int(row) + 1) % ring.seq.shape[1]:
                continue
            self._seen.add(key)
            meta = ring.meta[slot, row]
            views = self._table.frames(int(slot), int(meta["video_first"]), int(meta["video_frames"]))
            copies = [copy for view in views if (copy := view.copied()) is not None]
            found += [(number, int(slot), copy) for copy in copies]
        self.frames += [(slot, frame) for _, slot, frame in sorted(found, key=lambda entry: entry[:2])]

    def _news(self, direction: str, ring: Ring, what: str) -> list[str]:
        rows = ring.seq.shape[1]
        cells, size = getattr(ring, what), f"{what}_bytes"
        found: list[tuple[int, str]] = []
        for slot, row in zip(*ring.meta[size].copy().nonzero(), strict=True):
            number = int(ring.seq[slot, row])
            key = (direction, int(slot), number)
            if key in self._seen or number % rows != (int(row) + 1) % rows:
                continue
            self._seen.add(key)
            length = int(ring.meta[slot, row][size])
            text = cells[slot, row, :length].tobytes().decode()
            found += [(number, line) for line in text.splitlines()]
        return [line for _, line in sorted(found, key=lambda pair: pair[0])]
