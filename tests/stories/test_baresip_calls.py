"""baresip, a phone that is not ours, speaks a WAV file to us and records what it hears: itself, a turn later."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.caller.signals import numbered_tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.ports import free_port

pytestmark = [pytest.mark.processes, pytest.mark.sip]

RATE_HZ = 8000
CALL_S = 4
REFUSED_S = 2
"""It hangs on until then."""
MODULES = Path("/usr/lib/baresip/modules")
CONFIG = """\
module_path {modules}
module g711.so
module aufile.so
module sndfile.so
module srtp.so
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
needs_baresip = pytest.mark.skipif(
    not shutil.which("baresip") or not MODULES.is_dir(),
    reason="baresip is not installed: apt-get install baresip",
)
needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="openssl is not installed: apt-get install openssl"
)


@dataclass(frozen=True, slots=True)
class Phone:
    """A baresip whose files are in `folder`; it says numbered tones."""

    folder: Path

    @property
    def said(self) -> np.ndarray:
        return numbered_tones(CALL_S, RATE_HZ, seed=21)

    def call(self, uri: str, account: str = "", seconds: int = CALL_S) -> str:
        """A call of so many `seconds` to `uri` as `<sip:phone@127.0.0.1{account}`; what baresip printed."""
        soundfile.write(self.folder / "said.wav", self.said, RATE_HZ, subtype="PCM_16")
        config = CONFIG.format(modules=MODULES, folder=self.folder)
        if (self.folder / "cert.pem").exists():
            config += f"sip_cafile {self.folder}/cert.pem\n"
        (self.folder / "config").write_text(config)
        account = account or ">"
        (self.folder / "accounts").write_text(f"<sip:phone@127.0.0.1{account};regint=0;audio_codecs=pcmu\n")
        (self.folder / "contacts").touch()
        done = subprocess.run(
            ["baresip", "-f", str(self.folder), "-e", f"d{uri}", "-t", str(seconds)],
            cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout.decode(errors="replace")[-2500:] + done.stderr.decode(errors="replace")[-500:]

    def check_echo(self, told: str) -> None:
        """Half a second of what was said was heard again, whole."""
        recordings = list(self.folder.glob("dump-*-dec.wav"))
        assert len(recordings) == 1, told
        heard, rate_hz = soundfile.read(recordings[0], dtype="int16")
        assert rate_hz == RATE_HZ
        half = RATE_HZ // 2  # a busy test machine may cost a frame here and there
        pieces = [self.said[half * at : half * (at + 1)] for at in range(2, 2 * (CALL_S - 2))]
        assert max(best_match(piece, heard) for piece in pieces) > 0.9, told


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate for 127.0.0.1, and a port that is free."""

    port: int
    settings: dict[str, str]


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    files = {"sip_tls_cert": f"{tmp_path}/cert.pem", "sip_tls_key": f"{tmp_path}/key.pem"}
    return Tls(port, {"sip_tls_port": str(port), **files})


@needs_baresip
def test_baresip_hears_itself_one_turn_later(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    phone.check_echo(phone.call(gateway.uri.replace("sip:", "sip:echo@")))
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)


@needs_baresip
@needs_openssl
@pytest.mark.parametrize("scheme", [pytest.param("sip", marks=pytest.mark.long), "sips"])
def test_baresip_calls_over_tls(tmp_path: Path, tls: Tls, scheme: str) -> None:
    phone = Phone(tmp_path)
    with GatewayUnderTest.start(GatewayWish(calls=4, rtp_port=44_000, settings=tls.settings)) as gateway:
        told = phone.call(f"{scheme}:echo@127.0.0.1:{tls.port}", ";transport=tls>")
        phone.check_echo(told)
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)  # its BYE came as well
        metrics = gateway.metrics()
        assert metrics["microturn_edge_calls_answered_total"] == 1, told
        assert metrics["microturn_edge_tcp_connections_total"] == 1  # and nothing by UDP
        assert metrics["microturn_edge_tls_failed_total"] == 0


@needs_baresip
@needs_openssl
def test_baresip_calls_over_tls_with_srtp(tmp_path: Path, tls: Tls) -> None:
    phone = Phone(tmp_path)
    settings = {**tls.settings, "srtp": "required"}
    uri = f"sip:echo@127.0.0.1:{tls.port}"
    with GatewayUnderTest.start(GatewayWish(calls=4, rtp_port=44_000, settings=settings)) as gateway:
        refused = phone.call(uri, ";transport=tls>", REFUSED_S)
        assert "488" in refused and "Call established" not in refused, "plain RTP where SRTP is required"
        told = phone.call(uri, ";transport=tls>;mediaenc=srtp-mand")
        assert "SRTP is Enabled" in told, told
        phone.check_echo(told)
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)


def best_match(template: np.ndarray, heard: np.ndarray) -> float:
    """The best normalised correlation, 0 to 1."""
    a, b = template.astype(np.float64), heard.astype(np.float64)
    size = 1 << (a.size + b.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)[: b.size - a.size + 1]
    power = np.concatenate(([0.0], np.cumsum(b**2)))
    energy = power[a.size :] - power[: -a.size]
    return float(np.max(product / np.sqrt(np.maximum(energy, 1.0) * float(a @ a))))
