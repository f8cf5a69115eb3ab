"""What a worker's recordings are written by: one thread, a bounded queue, a frame for each file every `EVERY_S`.

The thread of the calls only appends to the queue. What the disk does not take in time is dropped block by
block, the newest first, and counted; its place in the recording is silence, so nothing behind it moves. A file
that could not be written to is cut back to its last whole frame and tried again with what comes next.

Its one rule: when a frame has been written and synced, neither the death of this process nor a power cut takes it
back. Both lose at most the turn under way (0.2 s), `EVERY_S`, and what writing takes.

A file that is being written is locked (flock): the keeper (`keeper.py`) takes it when the lock is gone, however
it went.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from gateway.recording.container import SALT_BYTES, Header, Writer
from gateway.recording.keys import Key
from media.chunk import PCM
from media.tape import Block

log = structlog.get_logger()

EVERY_S: Final = 0.6
MOST_BYTES: Final = 64 << 20
"""Sound in the queue, in all: 20 s of 100 narrowband calls."""
ENDING: Final = ".part"


_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""int syncfs(int fd), of Linux: since 5.8 it tells of data that could not be written."""


@dataclass(slots=True)
class WriterCounters:
    """Since the start of this process; the thread's own but for one."""

    recordings_begun: int = 0
    recordings_ended: int = 0
    recordings_failed: int = 0
    """Whose file could not be made."""
    recordings_samples_refused: int = 0
    """Silence now, since the queue was full; counted by the thread of the calls."""
    recordings_samples_dropped: int = 0
    """Silence now, since the disk refused them."""
    recordings_write_errors: int = 0
    recordings_bytes_written: int = 0
    recordings_cpu_us: int = 0
    """Of the thread."""
    recordings_syncs: int = 0
    recordings_sync_errors: int = 0
    """The disk says that it has not kept what it took."""
    recordings_syncs_slow: int = 0
    """A round took more than `EVERY_S`: a power cut would have lost more than a second."""


class Recording:
    """One file. The thread's own but for `name` and `header`."""

    __slots__ = ("blocks", "fd", "header", "length", "name", "path", "size", "writer")

    def __init__(self, name: str, path: Path, header: Header) -> None:
        self.name, self.path, self.header = name, path, header
        self.fd = -1
        self.writer: Writer | None = None
        self.size = 0
        """Bytes on disk, whole frames."""
        self.length = 0
        """Samples, with what was silence."""
        self.blocks: list[Block] = []


class RecordingWriter:
    """Of one worker. `open`, `put`, `close` and `stop` are for one thread, which waits for none of them but the
    last."""

    def __init__(
        self, folder: Path, key: Key | None, *, most_bytes: int = MOST_BYTES,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:  # fmt: skip
        self.counters = WriterCounters()
        self._folder, self._key, self._most, self._now_ms = folder, key, most_bytes, now_ms
        self._queue: deque[tuple[Recording, Block | int | None]] = deque()  # bounded by `put`
        self._put_bytes = self._taken_bytes = 0
        self._files: dict[Recording, None] = {}
        self._unsynced: dict[Recording, None] = {}
        self._made = False
        """A file, since the last sync."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting_bytes(self) -> int:
        """Sound in the queue."""
        return self._put_bytes - self._taken_bytes

    # -- of the calls

    def open(self, call: str, rate_hz: int) -> Recording:
        """A new one, named by when it begins and by the call's name outside."""
        now_ms = self._now_ms()
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ms / 1000))
        name = f"{moment}-{now_ms % 1000:03d}-{call}"
        recording = Recording(name, self._folder / (name + ENDING), Header(call, rate_hz, now_ms))
        self._queue.append((recording, None))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
            self._thread.start()
        return recording

    def put(self, recording: Recording, block: Block) -> bool:
        """The next piece of it; False, and counted, when the queue is full."""
        size = block.pcm.nbytes
        if self.waiting_bytes + size > self._most:
            self.counters.recordings_samples_refused += len(block.pcm)
            return False
        self._put_bytes += size
        self._queue.append((recording, block))
        return True

    def close(self, recording: Recording, length: int) -> None:
        """It is over after so many samples."""
        self._queue.append((recording, length))

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    # -- the thread

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.write()
        self.write()
        for recording in list(self._files):
            self._shut(recording)

    def write(self) -> None:
        """All that waits, to disk. The thread's, or a test's without one."""
        began_ns = time.thread_time_ns()
        ended: list[Recording] = []
        for _ in range(len(self._queue)):
            recording, what = self._queue.popleft()
            if what is None:
                self._make(recording)
            elif isinstance(what, Block):
                self._taken_bytes += what.pcm.nbytes
                if recording in self._files:
                    recording.blocks.append(what)
                else:  # its file could not be made
                    self.counters.recordings_samples_dropped += len(what.pcm)
            else:
                recording.length = what
                ended.append(recording)
        began = time.monotonic()
        for recording in self._files:
            self._flush(recording)
        for recording in ended:
            self._end(recording)
        self._sync()
        for recording in ended:
            self._shut(recording)
        self.counters.recordings_syncs_slow += time.monotonic() - began > EVERY_S
        self.counters.recordings_cpu_us += (time.thread_time_ns() - began_ns) // 1_000

    def _make(self, recording: Recording) -> None:
        try:
            recording.writer = Writer.begin(recording.header, self._key, secrets.token_bytes(SALT_BYTES))
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            recording.fd = os.open(recording.path, flags, 0o600)
            fcntl.flock(recording.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._append(recording, recording.writer.head)
        except OSError as wrong:
            log.error("no recording", file=recording.name, reason=str(wrong))
            self.counters.recordings_failed += 1
            self._shut(recording)
            return
        self._files[recording] = None
        self._made = True
        self.counters.recordings_begun += 1

    def _flush(self, recording: Recording) -> None:
        blocks, recording.blocks = recording.blocks, []
        if not blocks or recording.writer is None:
            return
        try:
            for place, pcm in joined(blocks):
                recording.length = place + len(pcm)
                self._append(recording, recording.writer.frame(place, pcm.tobytes()))
                recording.writer.written()
        except OSError as wrong:
            lost = sum(len(block.pcm) for block in blocks)
            self._refused(recording, lost, wrong)

    def _append(self, recording: Recording, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(recording.fd, data[written:], recording.size + written)
        recording.size += len(data)
        self.counters.recordings_bytes_written += len(data)
        self._unsynced[recording] = None

    def _sync(self) -> None:
        """All that was written since the last time. Of one file its data; of more their whole filesystem at once,
        since each fdatasync waits for a commit of its own (16 files on ext4: 100 ms and 200 us of CPU each; syncfs:
        8 ms and 30 us)."""
        written, self._unsynced = list(self._unsynced), {}
        if not written:
            return
        self.counters.recordings_syncs += 1
        try:
            if self._made:
                sync_folder(self._folder)
            if len(written) > 1 and _syncfs is not None:
                if _syncfs(written[0].fd):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            else:
                for recording in written:
                    os.fdatasync(recording.fd)
        except OSError as wrong:
            if not self.counters.recordings_sync_errors:
                log.error("recordings are not synced", folder=str(self._folder), reason=str(wrong))
            self.counters.recordings_sync_errors += 1
        self._made = False

    def _refused(self, recording: Recording, samples: int, wrong: OSError) -> None:
        """Nothing half-written stays."""
        counters = self.counters
        if not counters.recordings_write_errors:
            log.error("recordings are not written", folder=str(self._folder), reason=str(wrong))
        counters.recordings_write_errors += 1
        counters.recordings_samples_dropped += samples
        with contextlib.suppress(OSError):
            os.ftruncate(recording.fd, recording.size)

    def _end(self, recording: Recording) -> None:
        if recording not in self._files:
            return
        assert recording.writer is not None
        try:
            self._append(recording, recording.writer.end(recording.length))
        except OSError as wrong:
            self._refused(recording, 0, wrong)
        self.counters.recordings_ended += 1

    def _shut(self, recording: Recording) -> None:
        self._files.pop(recording, None)
        self._unsynced.pop(recording, None)
        recording.writer = None
        if recording.fd >= 0:
            os.close(recording.fd)
            recording.fd = -1


def joined(blocks: list[Block]) -> list[tuple[int, PCM]]:
    """Blocks that follow each other in one piece: its place, int16 [n, 2]."""
    pieces: list[tuple[int, list[PCM]]] = []
    end = -1
    for block in blocks:
        if block.at == end:
            pieces[-1][1].append(block.pcm)
        else:
            pieces.append((block.at, [block.pcm]))
        end = block.at + len(block.pcm)
    return [(at, np.concatenate(parts) if len(parts) > 1 else parts[0]) for at, parts in pieces]


def sync_folder(folder: Path) -> None:
    """What was made or renamed in it stays."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
