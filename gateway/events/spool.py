"""Events on disk until every endpoint has them: a log of segments, and each endpoint's place in it.

    FOLDER/00000001.log   00000002.log ...   FOLDER/NAME.place

A record is its length and CRC-32 (two u32, little-endian) and its bytes. One process writes and reads. What
`append` has taken survives the death of the process at once, and that of the machine once `sync` is done.

Bound: `most_bytes` of segments. A detail (a piece of a transcript) is refused when three quarters are full, so that
what is said of a call's beginning and end has room; beyond the bound the oldest segment goes, and what an endpoint
had not got of it is lost to it and counted. A segment that everybody has read goes as well. A torn end, as a power
cut leaves it, is cut off; a record that was damaged later ends the reading of its segment, and is counted.

What was written can be written over by as many bytes, a whole segment at once (`seal`, `change`, `swap`).

No clock, no thread, no network. Everything but `sync` and `change` belongs to one thread.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec
import structlog

from gateway.reading import read_json

log = structlog.get_logger()

_HEAD: Final = struct.Struct("<II")
_SEGMENT: Final = re.compile(r"([0-9]{8})\.log")
_CHANGED: Final = ".changed"
MOST_RECORD_BYTES: Final = 65_536
SEGMENTS: Final = 16
"""That the bound is divided into."""
LEAST_SEGMENT_BYTES: Final = 4_096
DETAILS_UNTIL: Final = 0.75


class Place(NamedTuple):
    """Where a record begins."""

    segment: int
    offset: int


class Record(NamedTuple):
    """One, and where the next one begins."""

    payload: bytes
    after: Place


@dataclass(slots=True)
class SpoolCounters:
    """Since the start of this process."""

    written: int = 0
    refused_detail: int = 0
    """Details that had no room."""
    refused_error: int = 0
    """That could not be written: the disk is full, or away."""
    lost: int = 0
    """That went for want of room before an endpoint had got them, by endpoint."""
    redacted: int = 0
    """Of forgotten calls: who called and what was said was taken out while they waited."""
    damaged: int = 0
    """Segments that could not be read to their end."""


class Spool:
    """Opened with what an earlier process has left there. `OSError` when the folder is of no use."""

    def __init__(self, folder: Path, most_bytes: int, readers: tuple[str, ...]) -> None:
        self.counters = SpoolCounters()
        self._folder, self.most_bytes = folder, most_bytes
        self._segment_bytes = max(LEAST_SEGMENT_BYTES, most_bytes // SEGMENTS)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes = self._find()
        self._readable: dict[int, FileIO] = {}
        self._unsynced: deque[FileIO] = deque()  # segments that are whole
        self._failing = self._moved = False
        self._writing = self._open_last()
        self.places = {reader: self._place_of(reader) for reader in readers}
        """Each reader's next record; a reader that is new begins with what comes."""
        self._forget_others(readers)

    # -- writing

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return sum(self._sizes.values())

    @property
    def end(self) -> Place:
        """Where the next record will be."""
        newest = max(self._sizes)
        return Place(newest, self._sizes[newest])

    def append(self, payload: bytes, *, detail: bool = False) -> bool:
        """False when it was refused, which is counted."""
        size = _HEAD.size + len(payload)
        assert len(payload) <= MOST_RECORD_BYTES, f"an event of {len(payload)} bytes"
        if detail and self.size_bytes + size > DETAILS_UNTIL * self.most_bytes:
            self.counters.refused_detail += 1
            return False
        try:
            if self.end.offset + size > self._segment_bytes and self.end.offset:
                self._begin_segment(self.end.segment + 1)
            self._make_room(size)
            place = self.end
            self._writing.seek(place.offset)
            written = self._writing.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            if written != size:  # the next one is written over it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as wrong:
            self.counters.refused_error += 1
            if not self._failing:
                log.error("events are not kept: the spool cannot be written", reason=wrong.strerror)
            self._failing = True
            return False
        self._failing = False
        self._sizes[place.segment] += size
        self.counters.written += 1
        return True

    def sync(self) -> None:
        """What was appended until now survives a power cut; takes as long as the disk does. Any thread."""
        if self._unsynced or self._moved:
            self._moved = False
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(folder)
            os.close(folder)
        while self._unsynced:
            with self._unsynced.popleft() as file:
                os.fsync(file.fileno())
        os.fsync(self._writing.fileno())

    # -- reading

    def read(self, reader: str) -> Record | None:
        """Its next record; None when it has all."""
        place = self.places[reader]
        while True:
            if place.segment not in self._sizes:
                later = [segment for segment in self._sizes if segment > place.segment]
                if not later:
                    return None
                place = Place(min(later), 0)
            if place.offset < self._sizes[place.segment]:
                found = self._record(place)
                if found is not None:
                    self.places[reader] = place
                    return found
                self.counters.damaged += 1
                log.error("events lost: a segment of the spool is damaged", segment=place.segment)
            if place.segment == self.end.segment:
                return None
            place = Place(place.segment + 1, 0)
            self.places[reader] = place

    def waiting(self, reader: str) -> int:
        """Bytes that it has not got, with their heads."""
        place = self.places[reader]
        return sum(
            size - (place.offset if segment == place.segment else 0)
            for segment, size in self._sizes.items()
            if segment >= place.segment
        )

    def advance(self, reader: str, after: Place) -> None:
        """It has got everything before that place; a place that was lost meanwhile is passed over."""
        self.places[reader] = max(after, self.places[reader])
        self._note(reader)
        done = min(place.segment for place in self.places.values())
        for segment in [segment for segment in self._sizes if segment < min(done, self.end.segment)]:
            self._remove(segment)

    # -- taking back

    def seal(self) -> list[int]:
        """What is written from now on goes into another segment: those until now, which stay as they are. `OSError`
        when there cannot be another."""
        if self.end.offset:
            self._begin_segment(self.end.segment + 1)
        return sorted(segment for segment in self._sizes if segment < self.end.segment)

    def change(self, segment: int, change: Callable[[bytes], bytes | None]) -> int:
        """Show `change` each record of a sealed segment; what it gives, as long as that, is to be there instead.
        How many there are, in a copy that `swap` puts in its place. Any thread; `OSError` without room."""
        path, fresh = self._path(segment), list[tuple[int, bytes]]()
        try:
            with path.open("rb") as file:
                while (payload := _payload(file)) is not None:
                    if (other := change(payload)) is not None:
                        assert len(other) == len(payload), "places of readers would move"
                        fresh.append((file.tell() - len(payload) - _HEAD.size, other))
            if fresh:
                shutil.copy(path, path.with_suffix(_CHANGED))
        except FileNotFoundError:  # everybody has it
            return 0
        if not fresh:
            return 0
        with path.with_suffix(_CHANGED).open("r+b") as copy:
            for offset, payload in fresh:
                copy.seek(offset)
                copy.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            copy.flush()
            os.fsync(copy.fileno())
        return len(fresh)

    def swap(self, segment: int) -> None:
        """What `change` has made takes its place, where that is still there."""
        path = self._path(segment)
        if segment not in self._sizes:
            path.with_suffix(_CHANGED).unlink(missing_ok=True)
            return
        if file := self._readable.pop(segment, None):
            file.close()
        os.replace(path.with_suffix(_CHANGED), path)
        self._moved = True

    def close(self) -> None:
        """Nobody writes any more."""
        for file in (self._writing, *self._unsynced, *self._readable.values()):
            file.close()

    # -- inside

    def _find(self) -> dict[int, int]:
        """Segments with their sizes; a torn end is none."""
        found = {}
        for path in sorted(self._folder.iterdir()):
            if match := _SEGMENT.fullmatch(path.name):
                found[int(match[1])] = path.stat().st_size
            elif path.suffix == _CHANGED:  # of a process that was killed; it is asked for again
                path.unlink()
        if not found:
            (self._folder / "00000001.log").touch(mode=0o600)
            return {1: 0}
        return found

    def _open_last(self) -> FileIO:
        newest = max(self._sizes)
        file = self._path(newest).open("r+b", buffering=0)
        good = 0
        for length in _lengths(file, 0):
            good += _HEAD.size + length
        if good < self._sizes[newest]:
            log.warning("a torn event is cut off", bytes=self._sizes[newest] - good)
            file.truncate(good)
        self._sizes[newest] = good
        return file

    def _begin_segment(self, number: int) -> None:
        file = self._path(number).open("w+b", buffering=0)
        os.chmod(file.fileno(), 0o600)
        self._unsynced.append(self._writing)
        self._writing = file
        self._sizes[number] = 0

    def _make_room(self, size: int) -> None:
        while self.size_bytes + size > self.most_bytes and len(self._sizes) > 1:
            oldest = min(self._sizes)
            lost = {reader: self._left_in(oldest, place) for reader, place in self.places.items()}
            for reader, count in lost.items():
                if self.places[reader].segment <= oldest:
                    self.places[reader] = Place(oldest + 1, 0)
                    self._note(reader)
                self.counters.lost += count
            if any(lost.values()):
                log.error("the spool is full: the oldest events are lost", **lost)
            self._remove(oldest)

    def _left_in(self, segment: int, place: Place) -> int:
        """Records of it that a reader at that place has not got."""
        if place.segment > segment:
            return 0
        offset = place.offset if place.segment == segment else 0
        return sum(1 for _ in _lengths(self._reading(segment), offset))

    def _remove(self, segment: int) -> None:
        del self._sizes[segment]
        if file := self._readable.pop(segment, None):
            file.close()
        self._path(segment).unlink(missing_ok=True)

    def _record(self, place: Place) -> Record | None:
        file = self._reading(place.segment)
        file.seek(place.offset)
        payload = _payload(file)
        if payload is None:
            return None
        return Record(payload, Place(place.segment, place.offset + _HEAD.size + len(payload)))

    def _reading(self, segment: int) -> FileIO:
        file = self._readable.get(segment)
        if file is None:
            file = self._readable[segment] = self._path(segment).open("rb", buffering=0)
        return file

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08}.log"

    # -- places

    def _place_of(self, reader: str) -> Place:
        first = min(self._sizes)
        try:
            place = read_json((self._folder / f"{reader}.place").read_bytes(), Place)
        except FileNotFoundError:
            self.places = {reader: self.end}
            self._note(reader)
            return self.end
        except msgspec.DecodeError:
            log.error("an endpoint's place is not readable: it gets all that is there", endpoint=reader)
            return Place(first, 0)
        return max(min(place, self.end), Place(first, 0))

    def _note(self, reader: str) -> None:
        """In one piece: whoever reads it sees the old place or the new one."""
        path = self._folder / f"{reader}.place"
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(self.places[reader]))
            os.replace(fresh, path)
        except OSError as wrong:  # it will get some events again
            log.error("an endpoint's place is not kept", endpoint=reader, reason=wrong.strerror)

    def _forget_others(self, readers: tuple[str, ...]) -> None:
        for path in self._folder.glob("*.place"):
            if path.stem not in readers:
                path.unlink()


def _payload(file: IO[bytes]) -> bytes | None:
    """The record at the file's place; None when there is no whole one."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    if length > MOST_RECORD_BYTES:
        return None
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload) == crc else None


def _lengths(file: FileIO, offset: int) -> Iterator[int]:
    """Of each whole record from there on."""
    file.seek(offset)
    while (payload := _payload(file)) is not None:
        yield len(payload)
