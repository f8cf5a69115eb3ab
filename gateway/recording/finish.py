"""A recording whose call is over: made whole if its writer died, then WAV or Opus, encrypted or not.

    live/NAME.part --> done/NAME.wav | NAME.ogg | NAME.wav.mtr | NAME.ogg.mtr

It is done again from the beginning whenever it was cut off: the part goes last. Nothing here knows which calls
live: a part whose lock can be had is over (`writer.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import av
import msgspec
import numpy as np

from gateway.recording.container import (
    DATA,
    MAGIC,
    MOST_HEADER,
    SALT_BYTES,
    Broken,
    Header,
    Reader,
    Writer,
    pack,
    read_header,
)
from gateway.recording.keys import Key, Keyring
from gateway.recording.writer import ENDING, sync_folder
from media.chunk import PCM

Format = Literal["wav", "opus"]
ENDINGS: Final[dict[str, str]] = {"wav": ".wav", "opus": ".ogg"}
SEALED: Final = ".mtr"
NEW: Final = ".new"
"""Not whole yet."""
OPUS_BIT_S: Final = 32_000
"""Of both sides together: speech at 16 kHz is transparent there (RFC 6716 2.1.1)."""
_SILENCE_SAMPLES: Final = 16_000
"""Made at once."""
_PIECE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a part."""

    path: Path | None
    """None where nothing had been recorded."""
    seconds: float
    repaired: bool
    """Its writer had died; what was written is there."""


def sound_of(reader: Reader) -> Iterator[PCM]:
    """int16 [n, 2], one after another, what lies between two frames made silence."""
    at = 0
    for frame in reader:
        while at < frame.place:
            some = min(_SILENCE_SAMPLES, frame.place - at)
            yield np.zeros((some, 2), np.int16)
            at += some
        if frame.kind == DATA and frame.data:
            pcm = np.frombuffer(frame.data, np.int16).reshape(-1, 2)
            yield pcm
            at += len(pcm)


def wav_header(rate_hz: int, data_bytes: int) -> bytes:
    """Of 16-bit stereo; what does not fit in its 32 bits is told as much as fits."""
    size = min(data_bytes, 0xFFFFFFFF - 36)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 2, rate_hz, 4 * rate_hz, 4, 16,
        b"data", size,
    )  # fmt: skip


def wav_pieces(reader: Reader, samples: int) -> Iterator[bytes]:
    """A recording of content `pcm` and of that length as WAV."""
    yield wav_header(reader.header.rate_hz, 4 * samples)
    for pcm in sound_of(reader):
        yield pcm.tobytes()


def opus_pieces(reader: Reader) -> Iterator[bytes]:
    """The same as Opus in Ogg, 14 MB an hour: it is made in memory, since an encrypted recording's sound is in no
    file of the disk, not even for a moment."""
    out = io.BytesIO()
    _write_opus(reader, out)
    out.seek(0)
    while some := out.read(_PIECE_BYTES):
        yield some


def _write_opus(reader: Reader, out: io.BytesIO) -> None:
    """Opus counts at 48 kHz; encoder delay is in the pre-skip of its header (RFC 7845 4.2), so both sides stay
    where they are. At complexity 0 and 60 ms a packet it takes 0.33 % of a core a call, at 10 and 20 ms 0.97 %."""
    rate_hz, samples = reader.header.rate_hz, 0
    with av.open(out, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate_hz, layout="stereo")
        stream.bit_rate = OPUS_BIT_S
        stream.options = {
            "application": "voip",
            "mapping_family": "0",
            "compression_level": "0",
            "frame_duration": "60",
        }
        resampler = av.AudioResampler("s16", "stereo", rate_hz, frame_size=rate_hz * 60 // 1000)
        for pcm in sound_of(reader):
            frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "s16", "stereo")
            frame.rate, frame.pts = rate_hz, samples
            samples += len(pcm)
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def is_over(file: BinaryIO) -> bool:
    """Whether nobody writes it any more; from now on nobody else takes it, as long as it is open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_torn(file: BinaryIO) -> bool:
    """Whether it is the beginning of a header and no more: its writer died over it."""
    file.seek(0)
    start = file.read(len(MAGIC) + MOST_HEADER)
    told = start[len(MAGIC) :]
    if not MAGIC.startswith(start[: len(MAGIC)]):
        return False
    return len(told) < 4 or len(told) < 8 + int.from_bytes(told[:4], "little") <= MOST_HEADER


def repair(file: BinaryIO, key: Key | None) -> tuple[Reader, int, bool]:
    """The part with its end, its samples, and whether it had no end. `Broken` where there is nothing to be read."""
    file.seek(0)
    reader = Reader(file, key)
    end = 0
    for frame in reader:
        end = max(end, frame.place + len(frame.data) // 4)
    was_cut = not reader.is_complete
    if was_cut:
        file.seek(reader.whole_bytes)
        file.truncate()
        file.write(Writer.go_on(reader).end(end))
        file.flush()
        os.fsync(file.fileno())
    file.seek(0)
    return Reader(file, key), end, was_cut


def key_of(file: BinaryIO, keyring: Keyring) -> Key | None:
    """The key that it needs. `Broken`, or `ValueError` where the key is not here."""
    file.seek(0)
    header, _ = read_header(file)
    return keyring.find(header.key_id) if header.cipher != "none" else None


def finish(part: Path, done: Path, form: Format, keyring: Keyring) -> Finished | None:
    """None while its call lives. `Broken`, or `ValueError` where its key is not here; OSError of the disk."""
    with part.open("r+b") as file:
        if not is_over(file) or not part.exists():
            return None
        if is_torn(file):
            return _nothing(part)
        key = key_of(file, keyring)
        reader, samples, repaired = repair(file, key)
        if not samples:
            return _nothing(part)
        header = reader.header
        pieces = opus_pieces(reader) if form == "opus" else wav_pieces(reader, samples)
        name = part.name.removesuffix(ENDING) + ENDINGS[form]
        if key is not None:
            name += SEALED
            header = msgspec.structs.replace(header, content=form)
            pieces = pack(header, key, secrets.token_bytes(SALT_BYTES), pieces)
        path, partial = done / name, done / (name + NEW)
        with open(partial, "wb", opener=_private) as out:
            out.writelines(pieces)
            out.flush()
            os.fsync(out.fileno())
        os.utime(partial, (header.began_ms / 1000,) * 2)
        partial.rename(path)
        sync_folder(done)
        part.unlink()
        sync_folder(part.parent)
    return Finished(path, samples / header.rate_hz, repaired)


def _nothing(part: Path) -> Finished:
    part.unlink()
    sync_folder(part.parent)
    return Finished(None, 0.0, repaired=False)


def plain_name(name: str) -> str:
    """Of a recording when it is decrypted. `ValueError` when it has no ending of ours."""
    if name.endswith(ENDING):
        return name.removesuffix(ENDING) + ENDINGS["wav"]
    if not name.endswith(SEALED):
        raise ValueError(
            f"{name}: a recording's name ends with {SEALED} or {ENDING}; else say where to with --out"
        )
    return name.removesuffix(SEALED)


def decrypt(path: Path, out: Path, keyring: Keyring) -> Header:
    """As WAV, or as it is inside; of a part that is still written all that is there. `ValueError` in words."""
    with path.open("rb") as file, contextlib.ExitStack() as undo:
        try:
            key = key_of(file, keyring)
            file.seek(0)
            reader = Reader(file, key)
            with open(out, "xb", opener=_private) as sound:
                undo.callback(out.unlink)
                if reader.header.content == "pcm":
                    samples = max((frame.place + len(frame.data) // 4 for frame in reader), default=0)
                    file.seek(0)
                    sound.writelines(wav_pieces(Reader(file, key), samples))
                else:
                    sound.writelines(frame.data for frame in reader)
                    if not reader.is_complete:
                        raise Broken("it was changed, or is not all there")
        except Broken as wrong:
            raise ValueError(f"{path}: {wrong}") from None
        undo.pop_all()
    return reader.header


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
