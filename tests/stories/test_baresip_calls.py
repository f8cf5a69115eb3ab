"""baresip, a phone that is not ours, speaks a WAV file to us and records what it hears: itself, a turn later."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.caller.signals import numbered_tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = [pytest.mark.processes, pytest.mark.sip]

RATE_HZ = 8000
CALL_S = 6
MODULES = Path("/usr/lib/baresip/modules")
CONFIG = """\
module_path {modules}
module g711.so
module aufile.so
module sndfile.so
module_app account.so
module_app menu.so
sip_listen 127.0.0.1:0
audio_source aufile,{folder}/said.wav
audio_player aufile,{folder}/unused.wav
audio_srate 8000
audio_channels 1
audio_level no
snd_path {folder}
"""


@pytest.mark.skipif(
    not shutil.which("baresip") or not MODULES.is_dir(),
    reason="baresip is not installed: apt-get install baresip",
)
def test_baresip_hears_itself_one_turn_later(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    said = numbered_tones(CALL_S, RATE_HZ, seed=21)
    soundfile.write(tmp_path / "said.wav", said, RATE_HZ, subtype="PCM_16")
    (tmp_path / "config").write_text(CONFIG.format(modules=MODULES, folder=tmp_path))
    (tmp_path / "accounts").write_text("<sip:phone@127.0.0.1>;regint=0;audio_codecs=pcmu\n")
    (tmp_path / "contacts").touch()
    done = subprocess.run(
        [
            "baresip",
            "-f",
            str(tmp_path),
            "-e",
            f"d{gateway.uri.replace('sip:', 'sip:echo@')}",
            "-t",
            str(CALL_S),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    told = done.stdout.decode(errors="replace")[-2000:] + done.stderr.decode(errors="replace")[-500:]
    recordings = list(tmp_path.glob("dump-*-dec.wav"))
    assert len(recordings) == 1, told
    heard, rate_hz = soundfile.read(recordings[0], dtype="int16")
    assert rate_hz == RATE_HZ
    assert best_match(said[RATE_HZ : 2 * RATE_HZ], heard) > 0.9, (
        "a second of what was said was not heard again"
    )
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)


@pytest.mark.skipif(
    not shutil.which("baresip") or not MODULES.is_dir() or not shutil.which("openssl"),
    reason="baresip or openssl is not installed: apt-get install baresip openssl",
)
def test_baresip_calls_over_tls(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    soundfile.write(
        tmp_path / "said.wav", numbered_tones(CALL_S, RATE_HZ, seed=21), RATE_HZ, subtype="PCM_16"
    )
    config = CONFIG.format(modules=MODULES, folder=tmp_path) + f"sip_cafile {tmp_path}/cert.pem\n"
    (tmp_path / "config").write_text(config)
    (tmp_path / "accounts").write_text("<sip:phone@127.0.0.1;transport=tls>;regint=0;audio_codecs=pcmu\n")
    (tmp_path / "contacts").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    tls = {
        "sip_tls_port": port,
        "sip_tls_cert": f"{tmp_path}/cert.pem",
        "sip_tls_key": f"{tmp_path}/key.pem",
    }
    with GatewayUnderTest.start(GatewayWish(calls=4, rtp_port=44_000, settings=tls)) as gateway:
        done = subprocess.run(
            ["baresip", "-f", str(tmp_path), "-e", f"dsip:echo@127.0.0.1:{port}", "-t", "3"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        told = done.stdout.decode(errors="replace")[-2000:]
        assert "Call established" in told and "incoming rtp" in told, told
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)  # its BYE came as well
        metrics = gateway.metrics()
        assert metrics["microturn_edge_calls_answered_total"] == 1
        assert metrics["microturn_edge_tcp_connections_total"] == 1  # and nothing by UDP
        assert metrics["microturn_edge_tls_failed_total"] == 0


def best_match(template: np.ndarray, heard: np.ndarray) -> float:
    """The best normalised correlation, 0 to 1."""
    a, b = template.astype(np.float64), heard.astype(np.float64)
    size = 1 << (a.size + b.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)[: b.size - a.size + 1]
    power = np.concatenate(([0.0], np.cumsum(b**2)))
    energy = power[a.size :] - power[: -a.size]
    return float(np.max(product / np.sqrt(np.maximum(energy, 1.0) * float(a @ a))))
