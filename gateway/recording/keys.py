"""The key that recordings are encrypted with: from the environment, or from a command that asks a KMS.

A file has a key of its own, derived from this one and the file's salt (HKDF-SHA256, RFC 5869), so no nonce is ever
used twice with one key. Its header names the key by its id; the key itself is never written.

The command prints one line of JSON: `{"key_id": "...", "key": "BASE64 of 32 bytes"}`. Without an argument that is a
data key for new recordings; with a key id as its argument it is that key again. What the id is, is the command's
choice: with AWS KMS the encrypted data key itself (`CiphertextBlob`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import shlex
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
MOST_ID: Final = 4096
COMMAND_S: Final = 10.0
_LEAST_DIFFERENT: Final = 16
"""Of 32 random bytes fewer are different once in 10^16; of typed ones and patterns they nearly always are."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of ours."""

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= MOST_ID or not self.id.isprintable():
            raise ValueError(f"key_id has {len(self.id)} characters: expected 1 to {MOST_ID} printable ones")

    def of_file(self, salt: bytes) -> bytes:
        """The key of one file, 32 bytes."""
        return HKDF(hashes.SHA256(), KEY_BYTES, salt, b"microturn recording").derive(self.secret)


def read_key(text: str, where: str) -> bytes:
    """32 random bytes from their base64; `ValueError` in words for the operator for what is weak."""
    advice = "give the output of: openssl rand -base64 32"
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where} is no base64: {advice}") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(f"{where} has {len(secret)} bytes, expected {KEY_BYTES}: {advice}")
    different = len(Counter(secret))
    if different < _LEAST_DIFFERENT or all(32 <= byte < 127 for byte in secret):
        raise ValueError(f"{where} is weak (a text or a pattern, {different} different bytes): {advice}")
    return secret


def key_of_environment(text: str) -> Key:
    """Its id is a hash that tells keys apart and nothing else."""
    secret = read_key(text, "recording_key")
    return Key("env-" + hashlib.sha256(b"microturn key id" + secret).hexdigest()[:16], secret)


def key_of_command(command: str, key_id: str = "") -> Key:
    """Ask the KMS: for a new data key, or for the one of that id. `ValueError` in words for the operator."""
    where = f"recording_kms_command = {command!r}"
    try:
        done = subprocess.run(
            [*shlex.split(command), *([key_id] if key_id else [])],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
    except (OSError, ValueError) as wrong:
        raise ValueError(f"{where} cannot be run ({wrong}): give a program and its arguments") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{where} took more than {COMMAND_S:.0f} s: it is to print a key and end") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(
            f"{where} ended with status {done.returncode}: {(said or ['it said nothing'])[-1][:200]}"
        )
    try:
        told = json.loads(done.stdout)
        key = Key(str(told["key_id"]), read_key(str(told["key"]), f"{where}: key"))
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f'{where} printed no {{"key_id": "...", "key": "BASE64"}}') from None
    if key_id and key.id != key_id:
        raise ValueError(f"{where} gave the key {key.id[:64]!r} where {key_id[:64]!r} was asked for")
    return key


@dataclass(frozen=True, slots=True)
class Keyring:
    """How keys of files are found again."""

    environment: str = field(default="", repr=False)
    command: str = ""

    def newest(self) -> Key | None:
        """For new recordings; None where none is set. `ValueError` for a weak one."""
        if self.command:
            return key_of_command(self.command)
        return key_of_environment(self.environment) if self.environment else None

    def find(self, key_id: str) -> Key:
        """Of an existing one. `ValueError` in words for the operator."""
        if self.environment:
            key = key_of_environment(self.environment)
            if key.id == key_id:
                return key
        if self.command and not key_id.startswith("env-"):
            return key_of_command(self.command, key_id)
        raise ValueError(
            f"the key {key_id[:64]!r} is not here: set MICROTURN_RECORDING_KEY, or recording_kms_command, "
            "to what it was when the recording was made"
        )
