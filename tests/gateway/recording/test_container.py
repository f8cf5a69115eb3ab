"""Recordings on disk: cut off anywhere they are read up to the last whole frame; changed anywhere they say so."""

from __future__ import annotations

import io
import os

import pytest

from gateway.recording.container import Broken, Header, Reader, Writer, read_header
from gateway.recording.keys import Key, Keyring, key_of_command, key_of_environment, read_key

KEY = Key("k1", bytes(range(100, 132)))
SALT = bytes(range(16))
HEADER = Header("call", 8_000, 1_700_000_000_000)
SOUND = [os.urandom(400) for _ in range(5)]


def made(key: Key | None) -> bytes:
    writer = Writer.begin(HEADER, key, SALT)
    out = writer.head
    for at, sound in enumerate(SOUND):
        out += writer.frame(at * 100, sound)
        writer.written()
    return out + writer.end(500)


def read(data: bytes, key: Key | None) -> tuple[list[bytes], bool]:
    reader = Reader(io.BytesIO(data), key)
    return [frame.data for frame in reader if frame.data], reader.is_complete


@pytest.mark.parametrize("key", [KEY, None])
def test_a_file_that_was_cut_off_anywhere_is_read_up_to_its_last_whole_frame(key: Key | None) -> None:
    data = made(key)
    head = len(Writer.begin(HEADER, key, SALT).head)
    seen = set()
    for length in range(head, len(data), 7):
        sounds, complete = read(data[:length], key)
        assert sounds == SOUND[: len(sounds)] and not complete
        seen.add(len(sounds))
    assert seen == {0, 1, 2, 3, 4, 5}
    assert read(data, key) == (SOUND, True)


@pytest.mark.parametrize("key", [KEY, None])
def test_it_goes_on_behind_its_last_whole_frame(key: Key | None) -> None:
    data = made(key)[:1500]
    reader = Reader(io.BytesIO(data), key)
    whole = [frame.data for frame in reader]
    writer = Writer.go_on(reader)
    data = data[: reader.whole_bytes] + writer.frame(700, b"more")
    writer.written()
    data += writer.end(701)
    assert read(data, key) == ([*whole, b"more"], True)


def test_without_the_key_nothing_of_it_can_be_read_and_nothing_can_be_changed() -> None:
    data = made(KEY)
    assert not any(sound[:16] in data for sound in SOUND)
    assert read_header(io.BytesIO(data))[0].key_id == "k1"
    with pytest.raises(Broken, match="needs the key 'k1'"):
        Reader(io.BytesIO(data), Key("k2", KEY.secret))
    with pytest.raises(Broken, match="does not open"):
        list(Reader(io.BytesIO(data), Key("k1", bytes(reversed(KEY.secret)))))
    head = len(Writer.begin(HEADER, KEY, SALT).head)
    for at in range(head + 600, len(data), 97):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        sounds, complete = read(changed, KEY)
        assert sounds == SOUND[: len(sounds)] and not complete
    frames = [data[head + n * 437 : head + (n + 1) * 437] for n in range(5)]  # 12 + 9 + 400 + 16
    swapped = data[:head] + frames[0] + frames[2] + frames[1]
    assert read(swapped, KEY) == (SOUND[:1], False)


def test_a_frame_that_did_not_get_to_the_disk_is_not_missed_and_its_number_is_not_used_again() -> None:
    writer = Writer.begin(HEADER, KEY, SALT)
    first = writer.frame(0, b"one")
    writer.written()
    lost = writer.frame(1, b"two")
    again = writer.frame(1, b"two")
    writer.written()
    assert lost[4:12] != again[4:12] and lost[12:] != again[12:]
    assert read(writer.head + first + again + writer.end(2), KEY) == ([b"one", b"two"], True)


def test_what_is_no_recording_is_told() -> None:
    for data in (b"", b"RIFF....WAVE", made(KEY)[:30], b"MTREC\x01\r\n\xff\xff\xff\xff"):
        with pytest.raises(Broken):
            Reader(io.BytesIO(data), KEY)


@pytest.mark.parametrize(
    "text, why",
    [
        ("secret", "no base64"),
        ("c2hvcnQ=", "5 bytes"),
        ("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", "weak"),
        ("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZSAxMjM=", "weak"),
        ("AAECAwQFBgcAAQIDBAUGBwABAgMEBQYHAAECAwQFBgc=", "weak"),
    ],
)
def test_weak_keys_are_refused_with_what_to_do(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"recording_key .*{why}.*openssl rand -base64 32"):
        read_key(text, "recording_key")


def test_a_key_comes_from_a_command_and_is_found_again_by_its_id(tmp_path) -> None:  # type: ignore[no-untyped-def]
    program = tmp_path / "kms"
    secret = "hGUNxVVHBBlxbQJ6H5k7rpGsmzdMBNBcs7ZQsBIiwxE="
    program.write_text(
        f'#!/bin/sh\necho "{{\\"key_id\\": \\"${{1:-blob-7}}\\", \\"key\\": \\"{secret}\\"}}"\n'
    )
    program.chmod(0o755)
    keyring = Keyring(command=str(program))
    key = keyring.newest()
    assert key is not None and key.id == "blob-7"
    assert keyring.find("blob-7") == key and secret not in repr(keyring) + repr(key)
    program.write_text("#!/bin/sh\necho no such key >&2\nexit 3\n")
    with pytest.raises(ValueError, match="status 3: no such key"):
        key_of_command(str(program))
    program.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(ValueError, match="printed no"):
        key_of_command(str(program))
    own = key_of_environment(secret)
    assert Keyring(secret).find(own.id) == own
    with pytest.raises(ValueError, match="is not here"):
        Keyring(secret).find("env-0000")
