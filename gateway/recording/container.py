"""A recording as it lies on disk: a header, then frames, of which every one is whole, proved and in its place.

    "MTREC" 1 CR LF | length of the header, u32 | header, JSON | CRC-32 of it, u32
    frame: length of what follows the number, u32 | number, u64 | sealed(kind, u8 | place, u64 | bytes)

All numbers are little-endian; those of frames ascend, and one is never used twice, not even where a frame did
not get to the disk. With the cipher `aes-256-gcm` a frame is sealed with the file's own key (`keys.py`) and its
number as the nonce; associated data are the SHA-256 of all before the first frame and the number of the frame
before: frames can neither be changed, left out nor exchanged. With the cipher `none` a CRC-32 over these and
the bytes stands behind them. A file that was cut off anywhere is read up to its last whole frame; only one that
ends with the frame `END` is complete, and says so.

Of content `pcm` bytes are int16 pairs (caller, model), and place is the sample they begin at: what lies between two
frames is silence. Of any other content bytes simply follow each other.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.reading import read_json
from gateway.recording.keys import Key

MAGIC: Final = b"MTREC\x01\r\n"
MOST_HEADER: Final = 16_384
MOST_FRAME: Final = 1 << 24
DATA, END = 0, 1
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_LENGTH: Final = struct.Struct("<IQ")
_FAR: Final = 1 << 32
"""A writer that goes on behind another leaves out so many numbers: some of them the other may have used."""
_PREFIX: Final = struct.Struct("<BQ")
SALT_BYTES: Final = 16
Content = Literal["pcm", "wav", "opus"]


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a recording is. Nothing in it says who called."""

    call: str
    rate_hz: int
    began_ms: int
    """Unix, of its first sample."""
    content: Content = "pcm"
    cipher: Literal["aes-256-gcm", "none"] = "none"
    key_id: str = ""
    salt: str = ""
    """Hex, of the file's key."""


class Broken(ValueError):
    """It is no recording, or not one that this key opens."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: int
    place: int
    data: bytes


class Seal(Protocol):
    """How a frame is closed and opened again; None when it is not what was closed."""

    def close(self, number: int, before: int, plain: bytes) -> bytes: ...
    def open(self, number: int, before: int, sealed: bytes) -> bytes | None: ...


class _Gcm:
    def __init__(self, key: bytes, head: bytes) -> None:
        self._aead, self._head = AESGCM(key), hashlib.sha256(head).digest()

    def close(self, number: int, before: int, plain: bytes) -> bytes:
        return self._aead.encrypt(number.to_bytes(12, "little"), plain, self._head + _U64.pack(before))

    def open(self, number: int, before: int, sealed: bytes) -> bytes | None:
        try:
            nonce = number.to_bytes(12, "little")
            return self._aead.decrypt(nonce, sealed, self._head + _U64.pack(before))
        except InvalidTag:
            return None


class _Checked:
    def __init__(self, head: bytes) -> None:
        self._head = hashlib.sha256(head).digest()

    def close(self, number: int, before: int, plain: bytes) -> bytes:
        beside = self._head + _U64.pack(number) + _U64.pack(before)
        return plain + _U32.pack(zlib.crc32(plain, zlib.crc32(beside)))

    def open(self, number: int, before: int, sealed: bytes) -> bytes | None:
        plain = sealed[: -_U32.size]
        return plain if sealed == self.close(number, before, plain) else None


def _seal(header: Header, head: bytes, key: Key | None) -> Seal:
    if header.cipher == "none":
        return _Checked(head)
    if key is None or key.id != header.key_id:
        raise Broken(f"it needs the key {header.key_id[:64]!r}")
    try:
        salt = bytes.fromhex(header.salt)
    except ValueError:
        raise Broken("its header has a salt that is no hex") from None
    return _Gcm(key.of_file(salt), head)


class Writer:
    """Frames for one file, as bytes to be appended; it knows no file."""

    def __init__(self, header: Header, head: bytes, seal: Seal, number: int = 1, before: int = 0) -> None:
        self.header, self.head = header, head
        """What the file begins with."""
        self._seal, self._number, self._before = seal, number, before

    @classmethod
    def begin(cls, header: Header, key: Key | None, salt: bytes) -> Writer:
        """`salt` is random, `SALT_BYTES` of it; without a key nothing is encrypted."""
        if key is not None:
            header = msgspec.structs.replace(header, cipher="aes-256-gcm", key_id=key.id, salt=salt.hex())
        told = msgspec.json.encode(header)
        head = MAGIC + _U32.pack(len(told)) + told + _U32.pack(zlib.crc32(told))
        return cls(header, head, _seal(header, head, key))

    @classmethod
    def go_on(cls, reader: Reader) -> Writer:
        """Behind the last whole frame of a file that was cut off; after `reader` has read all of them."""
        return cls(reader.header, reader.head, reader.seal, reader.number + _FAR, reader.number)

    def frame(self, place: int, data: bytes) -> bytes:
        """The next one; `written` follows when it is in the file."""
        return self._next(DATA, place, data)

    def end(self, place: int) -> bytes:
        """The last one; `place` is the length of it all."""
        return self._next(END, place, b"")

    def written(self) -> None:
        """The newest frame is in the file: the next one follows it."""
        self._before = self._number - 1

    def _next(self, kind: int, place: int, data: bytes) -> bytes:
        sealed = self._seal.close(self._number, self._before, _PREFIX.pack(kind, place) + data)
        number, self._number = self._number, self._number + 1
        return _LENGTH.pack(len(sealed), number) + sealed


class Reader:
    """A file's frames, up to the last whole one. `Broken` when it is no recording or the key is not its own."""

    def __init__(self, file: BinaryIO, key: Key | None = None) -> None:
        self.header, self.head = read_header(file)
        self.seal = _seal(self.header, self.head, key)
        self.number = 0
        """Of the frame that was read last."""
        self.whole_bytes = len(self.head)
        """Of the file, up to the last frame that was read."""
        self.is_complete = False
        self._file = file

    def __iter__(self) -> Iterator[Frame]:
        while not self.is_complete:
            told = self._file.read(_LENGTH.size)
            size, number = _LENGTH.unpack(told) if len(told) == _LENGTH.size else (0, 0)
            sealed = self._file.read(size) if 0 < size <= MOST_FRAME and number > self.number else b""
            if not size or len(sealed) != size:
                return
            plain = self.seal.open(number, self.number, sealed)
            if plain is None or len(plain) < _PREFIX.size:
                if self.number == 0 and self.header.cipher != "none":
                    raise Broken("its first frame does not open: the key is another one, or it was changed")
                return
            self.number = number
            self.whole_bytes += _LENGTH.size + size
            kind, place = _PREFIX.unpack_from(plain)
            self.is_complete = kind == END
            yield Frame(kind, place, plain[_PREFIX.size :])


def read_header(file: BinaryIO) -> tuple[Header, bytes]:
    """And its bytes; `Broken` when there is none."""
    start = file.read(len(MAGIC) + _U32.size)
    if len(start) < len(MAGIC) + _U32.size or not start.startswith(MAGIC):
        raise Broken("it is no recording of microturn")
    (size,) = _U32.unpack_from(start, len(MAGIC))
    rest = file.read(size + _U32.size) if size <= MOST_HEADER else b""
    told = rest[:size]
    if len(rest) != size + _U32.size or rest[size:] != _U32.pack(zlib.crc32(told)):
        raise Broken("its header is not whole")
    try:
        return read_json(told, Header), start + rest
    except msgspec.DecodeError as wrong:
        raise Broken(f"its header is not understood: {wrong}") from None


def pack(header: Header, key: Key | None, salt: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A complete file around some bytes, piece by piece."""
    writer = Writer.begin(header, key, salt)
    yield writer.head
    place = 0
    for some in pieces:
        yield writer.frame(place, some)
        writer.written()
        place += len(some)
    yield writer.end(place)
