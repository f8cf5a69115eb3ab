"""What a worker is told about recordings and announcements at its start. It comes by its standard input: the key is
on no command line, and one that a KMS gave is in no environment.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from gateway.recording.keys import Key


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """Where recordings are written, and with which key."""

    folder: str
    key_id: str = ""
    """Empty: they are not encrypted."""
    key: str = field(default="", repr=False)
    """Base64."""

    def make_key(self) -> Key | None:
        """As it is used."""
        return Key(self.key_id, base64.b64decode(self.key)) if self.key_id else None


@dataclass(frozen=True, slots=True)
class AnnouncementOptions:
    """Files that callers hear before anything else; empty is none."""

    disclosure: str = ""
    """That they talk to a machine."""
    consent: str = ""
    """That the call is recorded: in calls that are."""
