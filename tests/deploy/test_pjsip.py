"""The pjsua2 build: its script without building, and the built wheel if it is in the cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

PJSIP = Path(__file__).resolve().parents[2] / "deploy" / "pjsip"
PROBE = Path(__file__).with_name("pjsip_probe.py")


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs build.sh with this interpreter; a variable given here wins over the caller's environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PJPROJECT_")}
    return subprocess.run(
        ["bash", str(PJSIP / "build.sh"), *arguments],
        env={**kept, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(folder: Path, name: str, text: str) -> None:
    """Puts a shell program in front of the real one of that name."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_a_doctored_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "pjproject.tar.xz"
    source.write_bytes(b"something else")
    result = build(PJPROJECT_SOURCE=str(source), MICROTURN_CACHE=str(tmp_path / "cache"))
    assert result.returncode != 0
    assert result.stdout == ""
    pinned = (PJSIP / "SHA256SUMS").read_text().split()[0]
    assert re.search(r"value: +[0-9a-f]{64}\n", result.stderr)
    assert re.search(rf"expected: +{pinned}\n", result.stderr)
    assert "set PJPROJECT_SHA256" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = build(PJPROJECT_SOURCE=str(tmp_path / "nowhere.tar"), MICROTURN_CACHE=str(tmp_path))
    assert result.returncode != 0
    assert "nowhere.tar is no file" in result.stderr


def test_a_wheel_in_the_cache_is_printed_at_once(tmp_path: Path) -> None:
    store = Path(build("--where", MICROTURN_CACHE=str(tmp_path)).stdout.strip())
    assert store.parent == tmp_path / "pjsip"
    store.mkdir(parents=True)
    wheel = store / "pjsua2-2.17-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    result = build(MICROTURN_CACHE=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(wheel)


def test_another_source_is_another_wheel(tmp_path: Path) -> None:
    def where(**environment: str) -> str:
        return build("--where", MICROTURN_CACHE=str(tmp_path), **environment).stdout.strip()

    assert where() == where()
    assert where() != where(PJPROJECT_SHA256="0" * 64)


def test_missing_packages_are_named_without_root(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "dpkg-query", 'case "$*" in *swig*) exit 1;; esac; echo "install ok installed"')
    program(programs, "id", "echo 1000")
    result = build(MICROTURN_CACHE=str(tmp_path / "cache"), PATH=f"{programs}:{os.environ['PATH']}")
    assert result.returncode != 0
    assert "apt-get install swig\n" in result.stderr


def test_no_mirror_is_written_down() -> None:
    for file in PJSIP.iterdir():
        assert not re.search(r"\w://\w", file.read_text()), (
            f"{file} names a host: derive it from apt's configuration"
        )


# --- the built wheel ---


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built pjsua2 in it."""
    store = Path(build("--where").stdout.strip())
    wheels = sorted(store.glob("pjsua2-*.whl"))
    if not wheels:
        pytest.skip(f"no built wheel in {store}: run deploy/pjsip/build.sh")
    folder = tmp_path_factory.mktemp("pjsua2")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(folder)
    return folder


def probe(library: Path, *arguments: str) -> dict[str, Any]:
    """What pjsip_probe.py says with this library."""
    result = subprocess.run(
        [sys.executable, str(PROBE), *arguments],
        env={**os.environ, "PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def promised() -> dict[str, int]:
    """The numbers in config_site.h."""
    found = re.findall(r"^#define\s+(\w+)\s+(\d+)", (PJSIP / "config_site.h").read_text(), re.MULTILINE)
    return {name: int(value) for name, value in found}


def test_the_wheel_keeps_the_limits_of_config_site(library: Path) -> None:
    limits = promised()
    assert probe(library, "limits") == {
        "calls": limits["PJSUA_MAX_CALLS"],
        "accounts": limits["PJSUA_MAX_ACC"],
        "conf_ports": limits["PJSUA_MAX_CONF_PORTS"],
    }


def test_the_wheel_has_opus_and_epoll_and_no_ilbc(library: Path) -> None:
    answer = probe(library, "codecs")
    names = {codec.split("/")[0].lower() for codec in answer["codecs"]}
    assert {"pcmu", "pcma", "g722", "opus"} <= names
    assert not names & {"ilbc", "gsm", "speex"}
    assert answer["epoll"]
    assert answer["version"].startswith("2.17")


@pytest.mark.parametrize(
    ("codec", "keying", "profile", "keys"),
    [
        ("PCMU/8000/1", "none", "RTP/AVP", []),
        ("opus/48000/2", "none", "RTP/AVP", []),
        ("PCMA/8000/1", "sdes", "RTP/SAVP", ["a=crypto"]),
        ("opus/48000/2", "dtls", "UDP/TLS/RTP/SAVP", ["a=fingerprint"]),
    ],
)
def test_a_call_of_the_library_to_itself(
    library: Path, codec: str, keying: str, profile: str, keys: list[str]
) -> None:
    answer = probe(library, "call", codec, keying)
    assert answer["codec"] == codec.split("/")[0]
    assert answer["media"].split()[2] == profile
    assert answer["keys"] == keys
    assert answer["packets"] >= 25


def test_a_call_of_the_library_to_itself_by_ipv6(library: Path) -> None:
    answer = probe(library, "call", "PCMU/8000/1", "sdes", "::1")
    assert (answer["address"], answer["keys"]) == ("c=IN IP6 ::1", ["a=crypto"])
    assert answer["packets"] >= 25
