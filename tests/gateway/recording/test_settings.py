"""What an operator may set of recordings, and what stops the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import load
from gateway.recording.announcements import DISCLOSURE, read_announcement
from gateway.recording.finish import finish
from gateway.recording.keys import Keyring, key_of_environment
from tests.gateway.recording.test_finish import SECRET, recorded, tones

S3 = {"recording_s3_url": "https://s3.example.net/bucket", "recording_s3_user": "AKID",
      "recording_s3_secret": "long enough"}  # fmt: skip


@pytest.mark.parametrize(
    "given, told",
    [
        ({"recording_dir": "/tmp/x"}, "recording_dir without a key: .*openssl rand -base64 32"),
        ({"recording_key": "c2hvcnQ="}, "recording_key has 5 bytes"),
        ({"recording_key": SECRET, "recording_kms_command": "kms"}, "set one of them"),
        ({"recording_key": SECRET, "recording_dir": "/x", **S3, "recording_s3_url": "s3://bucket"}, "https://HOST"),
        ({**S3}, "recording_s3_url without recording_dir"),
        ({"recording_key": SECRET, "recording_dir": "/x", **S3, "recording_s3_secret": "short"}, "access key"),
        ({"disclosure": "/nowhere.wav"}, "disclosure: /nowhere.wav cannot be read"),
        ({"recording_consent": __file__}, "recording_consent: .* cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_stops_the_start_and_says_what_to_do(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        load(**given)
    assert "c2hvcnQ=" not in str(refused.value)


def test_workers_get_the_key_and_nothing_shows_it(tmp_path: Path) -> None:
    settings = load(recording_dir=str(tmp_path / "calls"), recording_key=SECRET)
    options = settings.recording_options()
    assert options is not None and options.make_key() == key_of_environment(SECRET)
    assert SECRET not in repr(options) + repr(settings)
    assert (tmp_path / "calls/live").stat().st_mode & 0o777 == 0o700
    off = load(recording_dir=str(tmp_path / "calls"), recording_encryption="off").recording_options()
    assert off is not None and off.make_key() is None


def test_callers_are_told_what_they_talk_to_on_lines_that_others_reach() -> None:
    settings = load()
    assert settings.announcements("0.0.0.0").disclosure == str(DISCLOSURE)
    assert settings.announcements("127.0.0.1").disclosure == ""
    assert load(disclosure="off").announcements("0.0.0.0").disclosure == ""
    assert load(disclosure="on").announcements("127.0.0.1").disclosure == str(DISCLOSURE)
    told = read_announcement(DISCLOSURE, 8_000)
    assert 1.5 < len(told) / 8_000 < 6.0 and abs(told).max() > 3_000


def test_the_command_decrypts_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = recorded(tmp_path, tones(0.4), key_of_environment(SECRET))
    done = finish(part, tmp_path / "done", "wav", Keyring(SECRET))
    assert done is not None and done.path is not None
    ran = CliRunner().invoke(app, ["recordings", "decrypt", str(done.path)])
    assert ran.exit_code == 2 and "is not here: set MICROTURN_RECORDING_KEY" in ran.output
    monkeypatch.setenv("MICROTURN_RECORDING_KEY", SECRET)
    ran = CliRunner().invoke(app, ["recordings", "decrypt", str(done.path)])
    assert ran.exit_code == 0, ran.output
    assert done.path.with_suffix("").read_bytes().startswith(b"RIFF")
    again = CliRunner().invoke(app, ["recordings", "decrypt", str(done.path)])
    assert again.exit_code == 2  # nothing is written over
