"""Settings of recordings and announcements: `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from gateway.recording.announcements import DISCLOSURE, read_announcement
from gateway.recording.keys import Keyring, key_of_environment
from gateway.recording.options import AnnouncementOptions, RecordingOptions

LEAST_S3_SECRET: Final = 8


class RecordingSettings(BaseSettings):
    """What an operator may choose of them."""

    recording_dir: str = Field(
        "", description="folder of recordings; empty records nothing, whatever rules allow"
    )
    recording_format: Literal["wav", "opus"] = Field(
        "wav", description="what recordings become when their call is over: WAV, or Opus in Ogg"
    )
    recording_encryption: Literal["on", "off"] = Field("on", description="AES-256-GCM at rest")
    recording_key: SecretStr = Field(
        SecretStr(""), description="its key: base64 of 32 random bytes (openssl rand -base64 32)"
    )
    recording_kms_command: str = Field(
        "",
        description="in place of recording_key: a command that prints a key as JSON (key_id, key: base64), with a "
        "key id as its argument that key",
    )
    recording_keep_days: int = Field(
        30, ge=0, le=36_500, description="recordings here are deleted after so many days; 0 is never"
    )
    recording_consent: str = Field(
        "",
        description="WAV or FLAC that callers hear first in calls that are recorded; what is recorded begins at "
        "its end",
    )
    recording_s3_url: str = Field(
        "", description="where recordings go when they are done: https://HOST/BUCKET/PREFIX (S3, path style)"
    )
    recording_s3_region: str = Field("us-east-1", description="its region, as requests are signed for it")
    recording_s3_user: str = Field("", description="access key id")
    recording_s3_secret: SecretStr = Field(SecretStr(""), description="secret access key")
    disclosure: str = Field(
        "auto",
        description="whether callers are told first that they talk to a machine: auto is on for lines that listen "
        "beyond this machine; on, off, or a WAV or FLAC file of yours",
    )

    def check_recording(self) -> None:
        """What can be known without asking anyone; `ValueError` in words for the operator."""
        self._has_a_key()
        self._has_s3()
        for name in ("recording_consent", "disclosure"):
            file = getattr(self, name)
            if file and (name != "disclosure" or file not in ("auto", "on", "off")):
                try:
                    read_announcement(Path(file), 8_000)
                except ValueError as wrong:
                    raise ValueError(f"{name}: {wrong}") from None

    def _has_a_key(self) -> None:
        key = self.recording_key.get_secret_value()
        if key:
            key_of_environment(key)
        if key and self.recording_kms_command:
            raise ValueError(
                "recording_key and recording_kms_command: set one of them, where new keys come from"
            )
        if (
            self.recording_dir
            and self.recording_encryption == "on"
            and not (key or self.recording_kms_command)
        ):
            raise ValueError(
                "recording_dir without a key: set MICROTURN_RECORDING_KEY to the output of openssl rand -base64 32 "
                "(and keep it: without it no recording can be read), or recording_kms_command, or "
                'recording_encryption = "off" where the disk itself is encrypted'
            )

    def _has_s3(self) -> None:
        if not self.recording_s3_url:
            return
        url = urlsplit(self.recording_s3_url)
        if url.scheme not in ("http", "https") or not url.hostname or not url.path.strip("/") or url.query:
            raise ValueError(
                f"recording_s3_url = {self.recording_s3_url!r}: expected https://HOST/BUCKET or "
                "https://HOST/BUCKET/PREFIX"
            )
        if not self.recording_dir:
            raise ValueError("recording_s3_url without recording_dir: recordings are written there first")
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", self.recording_s3_region):
            raise ValueError(
                f"recording_s3_region = {self.recording_s3_region!r}: expected such as eu-central-1"
            )
        if not self.recording_s3_user or len(self.recording_s3_secret.get_secret_value()) < LEAST_S3_SECRET:
            raise ValueError(
                "recording_s3_url needs recording_s3_user and recording_s3_secret (MICROTURN_RECORDING_S3_SECRET): "
                "the access key of somebody who may put and look at objects there"
            )

    @property
    def keyring(self) -> Keyring:
        """How keys of recordings are found again."""
        return Keyring(self.recording_key.get_secret_value(), self.recording_kms_command)

    @property
    def live_folder(self) -> Path:
        """Of recordings that are being made."""
        return Path(self.recording_dir) / "live"

    @property
    def done_folder(self) -> Path:
        """Of those that are over."""
        return Path(self.recording_dir) / "done"

    def recording_options(self) -> RecordingOptions | None:
        """For workers; makes the folders and asks the KMS. `ValueError` in words for the operator."""
        if not self.recording_dir:
            return None
        for folder in (self.live_folder, self.done_folder):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as wrong:
                raise ValueError(f"recording_dir = {self.recording_dir!r} cannot be made ({wrong})") from None
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ValueError(f"recording_dir = {self.recording_dir!r}: {folder} cannot be written to")
        key = self.keyring.newest() if self.recording_encryption == "on" else None
        if key is None:
            return RecordingOptions(str(self.live_folder))
        return RecordingOptions(str(self.live_folder), key.id, base64.b64encode(key.secret).decode())

    def announcements(self, *hosts: str) -> AnnouncementOptions:
        """For workers whose media are received on these addresses."""
        beyond = not all(ipaddress.ip_address(host).is_loopback for host in hosts if host)
        told = {"auto": str(DISCLOSURE) if beyond else "", "on": str(DISCLOSURE), "off": ""}
        return AnnouncementOptions(told.get(self.disclosure, self.disclosure), self.recording_consent)
