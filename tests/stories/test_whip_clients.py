"""Programs that are neither ours nor browsers call by WHIP (RFC 9725)."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.api.tokens import mint
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.chunk import PCM
from tests.support.camera import pictures, psnr_db, rgb_of
from tests.support.chromium import speech, write_camera, write_voice
from tests.support.echo import Window, match
from tests.support.libdatachannel_caller import LibdatachannelCaller
from tests.support.netns import GATEWAY, laid_out
from tests.support.table_watch import TableWatch

pytestmark = pytest.mark.processes

SECRET = "a secret of the tests, at least 32 bytes long"
SPOKEN_S = 6.0
RATE_HZ = 48_000
FRAME_SAMPLES = 960
SETTLED_MS = 2_000
FRAMERATE = 15
MODEL_HZ = 16_000
WIDTH, HEIGHT = 640, 480
needs_ffmpeg_with_whip = pytest.mark.skipif(
    "whip" not in av.formats_available, reason="this PyAV's FFmpeg has no WHIP muxer: it needs FFmpeg 8"
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[GatewayUnderTest]:
    """Callers need a token."""
    with GatewayUnderTest.start(
        GatewayWish(calls=1, settings={"webrtc_calls": "2", "jwt_secret": SECRET})
    ) as started:
        yield started


def certificate(folder: Path, kind: str) -> tuple[Path, Path]:
    """PEM files: a certificate with such a key, and the key.

    FFmpeg makes its own when none is given; built with GnuTLS before March 2026, as PyAV's is, on P-224, which
    OpenSSL refuses. RFC 8827 6.5 asks for P-256; GStreamer's senders have RSA.
    """
    key = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else rsa.generate_private_key(65537, 2048)
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a sender")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


class FfmpegSender:
    """FFmpeg's WHIP muxer with H.264 and Opus: a program that speaks and shows, and does not listen."""

    def __init__(self, url: str, options: dict[str, str]) -> None:
        self._output = av.open(url, "w", format="whip", options=options)
        self._sound = self._output.add_stream("libopus", rate=RATE_HZ, options={"b": "48000"})
        self._sound.layout = "stereo"
        self._picture = self._output.add_stream(
            "libx264",
            rate=FRAMERATE,
            options={"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"},
        )
        self._picture.width, self._picture.height, self._picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._picture.codec_context.gop_size = FRAMERATE

    def connect(self) -> None:
        """Offer, answer and handshake; an error of PyAV's when the gateway refuses."""
        self._output.start_encoding()

    def speak(self, pcm: PCM, number: int) -> None:
        """20 ms, the numbered one."""
        frame = av.AudioFrame.from_ndarray(np.repeat(pcm, 2)[None, :], format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, number * FRAME_SAMPLES, Fraction(1, RATE_HZ)
        self._output.mux(self._sound.encode(frame))

    def show(self, picture: av.VideoFrame, number: int) -> None:
        """One picture, the numbered one."""
        frame = av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, FRAMERATE)
        self._output.mux(self._picture.encode(frame))

    def close(self) -> None:
        """DELETE, if there is a call."""
        self._output.close()


@dataclass(frozen=True, slots=True)
class Film:
    """What is sent: speech, and a clip at `FRAMERATE`."""

    pcm: PCM
    pictures: tuple[av.VideoFrame, ...]

    def play(self, sender: FfmpegSender, watch: TableWatch) -> None:
        """In its own time; what arrives is watched meanwhile."""
        began_s, shown = time.monotonic(), 0
        blocks = self.pcm[: len(self.pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        for number, block in enumerate(blocks):
            due_s = number * FRAME_SAMPLES / RATE_HZ
            watch.look()
            time.sleep(max(0.0, began_s + due_s - time.monotonic()))
            sender.speak(block, number)
            if shown / FRAMERATE <= due_s:
                sender.show(self.pictures[shown % len(self.pictures)], shown)
                shown += 1


@pytest.fixture(scope="module")
def film() -> Film:
    return film_of(SPOKEN_S)


def film_of(seconds: float) -> Film:
    return Film(speech(seconds), pictures(WIDTH, HEIGHT, int(seconds * FRAMERATE)))


def summary(windows: list[Window]) -> list[tuple[int, int, float]]:
    """When, how late, how well."""
    return [(round(w.at_ms), round(w.lag_ms), round(w.score, 2)) for w in windows]


def check_sound(film: Film, watch: TableWatch, from_s: float = 0.0) -> None:
    """From there on it is in the slots, in order; a machine that stalls costs windows, and never the order."""
    slots = {slot for slot, _ in watch.sound}
    assert len(slots) == 1
    arrived = np.concatenate([samples for _, samples in watch.sound])
    said = soxr.resample(film.pcm.astype(np.float32), RATE_HZ, MODEL_HZ).astype(np.int16)
    windows = [window for window in match(said, arrived, MODEL_HZ) if window.at_ms >= 1000 * from_s]
    found = [window for window in windows if window.score > 0.8]
    assert len(windows) >= 10 and len(found) >= 0.6 * len(windows), summary(windows)
    check_lag(found)


def check_lag(found: list[Window]) -> None:
    """Constant once the first two seconds have settled; a machine that stalls costs a frame."""
    lags_ms = np.array([window.lag_ms for window in found if window.at_ms >= SETTLED_MS])
    assert len(lags_ms) >= 5 and np.max(np.abs(lags_ms - np.median(lags_ms))) < 60.0, summary(found)


def check_pictures(film: Film, watch: TableWatch) -> None:
    """The clip in the model's size, in its order."""
    source = [rgb_of(picture, 320, 240) for picture in film.pictures]
    seen = [frame.rgb for _, frame in watch.frames]
    assert len(seen) >= SPOKEN_S / 0.2 * 0.6  # of a chunk at least one, mostly
    likeness = np.array(
        [[psnr_db(one, other) for other in source] for one in seen[:: max(1, len(seen) // 12)]]
    )
    best = likeness.argmax(axis=1)
    assert likeness.max(axis=1).min() > 25.0, likeness.max(axis=1)
    assert all(a < b for a, b in itertools.pairwise(best)), best


@needs_ffmpeg_with_whip
@pytest.mark.parametrize(
    ("role", "key"), [("passive", "rsa"), pytest.param("active", "ecdsa", marks=pytest.mark.long)]
)
def test_ffmpeg_speaks_and_shows(
    guarded: GatewayUnderTest, film: Film, tmp_path: Path, role: str, key: str
) -> None:
    files = certificate(tmp_path, key)
    options = {"cert_file": str(files[0]), "key_file": str(files[1])}
    options["authorization"] = mint(SECRET, "encoder", 60)
    if role == "active":
        options["whip_flags"] = "dtls_active"
    made = guarded.metrics()["microturn_webrtc_calls_made_total"]
    with TableWatch(guarded.run_dir / "model.sock") as watch:
        sender = FfmpegSender(f"{guarded.http}/whip", options)
        sender.connect()
        film.play(sender, watch)
        watch.look_until(lambda w: False, lambda: None, 0.6)  # what is still under way
        sender.close()
    check_sound(film, watch)
    check_pictures(film, watch)
    guarded.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
    assert guarded.metrics()["microturn_webrtc_calls_made_total"] == made + 1


@needs_ffmpeg_with_whip
def test_ffmpeg_without_a_token_is_refused(guarded: GatewayUnderTest) -> None:
    offers = guarded.metrics()["microturn_webrtc_offers_total"]
    sender = FfmpegSender(f"{guarded.http}/whip", {})
    with pytest.raises(av.FFmpegError), contextlib.closing(sender):
        sender.connect()
    assert guarded.metrics()["microturn_webrtc_offers_total"] == offers


def test_libdatachannel_talks_and_hears_itself(guarded: GatewayUnderTest, film: Film) -> None:
    said = soxr.resample(film.pcm.astype(np.float32), RATE_HZ, MODEL_HZ).astype(np.int16)
    token = mint(SECRET, "libdatachannel", 60)
    with LibdatachannelCaller.calling(f"{guarded.http}/whip", token) as caller:
        caller.wait_for("state", lambda state: state == "connected")
        assert caller.channel_message("hello")["engine"] == "echo"
        caller.speak(said)
        caller.say(type="text", text="Grüße von anderswo")
        assert caller.channel_message("caption")["text"] == "Grüße von anderswo"
        caller.speak(np.zeros(MODEL_HZ, np.int16))
        windows = match(said, caller.heard(), MODEL_HZ)
        sequences = [packet.sequence for packet in caller.packets]
        assert caller.hang_up() == 200
    found = [window for window in windows if window.score > 0.7]
    assert len(windows) >= 10 and len(found) >= 0.6 * len(windows), summary(windows)
    check_lag(found)
    steps = np.diff(sequences) % 65536
    assert np.all(steps == 1), np.flatnonzero(steps != 1)
    guarded.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)


def test_libdatachannel_with_a_forged_token_is_refused(guarded: GatewayUnderTest) -> None:
    forged = mint("another secret, which is long enough too", "libdatachannel", 60)
    with LibdatachannelCaller.calling(f"{guarded.http}/whip", forged) as caller:
        assert caller.wait_for("refused") == 401


GSTREAMER_LATE_S = 4.5
GSTREAMER_SOUND = (
    "filesrc location={file} ! wavparse ! audioconvert ! audioresample ! queue ! opusenc ! "
    "rtpopuspay pt=100 ssrc=1 ! queue ! application/x-rtp,media=audio,encoding-name=OPUS,payload=100"
)
GSTREAMER_PICTURES = (
    "filesrc location={file} ! y4mdec ! queue ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=15 "
    "target-bitrate=1000000 ! rtpvp8pay pt=96 ssrc=2 ! queue ! "
    "application/x-rtp,media=video,encoding-name=VP8,payload=96"
)


def test_gstreamer_speaks_and_shows(tmp_path: Path) -> None:
    """webrtcbin: libnice, an RSA certificate, trickled candidates, and a voice that is bundle-only.

    It sends at once what it had read of the files before it was connected, a second or two, and that is heard late.
    Its voice ends with its pictures.
    """
    spoken_s = GSTREAMER_LATE_S + 4.5
    film = Film(speech(spoken_s), film_of(spoken_s + 2.0).pictures)
    program = shutil.which("whip-client")
    if program is None:
        pytest.skip("whip-client is not on PATH: github.com/meetecho/simple-whip-client")
    voice = write_voice(tmp_path / "voice.wav", film.pcm)
    camera = write_camera(tmp_path / "camera.y4m", frames=len(film.pictures))
    settings = {"webrtc_calls": "2", "webrtc_host": GATEWAY, "http_host": GATEWAY, "jwt_secret": SECRET}
    with (
        laid_out() as net,
        net.servers.entered(),
        GatewayUnderTest.start(GatewayWish(calls=1, settings=settings)) as gateway,
        TableWatch(gateway.run_dir / "model.sock") as watch,
    ):
        command = [program, "--url", f"{gateway.http}/whip", "--token", mint(SECRET, "gstreamer", 60)]
        command += ["--audio", GSTREAMER_SOUND.format(file=voice)]
        command += ["--video", GSTREAMER_PICTURES.format(file=camera)]
        with net.caller.entered(), (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            watch.look_until(lambda w: len(w.sound) >= spoken_s / 0.2, lambda: None, 20.0)
            told = (tmp_path / "log").read_text(errors="replace")
            if "libsoup2 symbols detected" in told:
                pytest.skip(
                    "this whip-client cannot run: its libraries need libsoup 2 and 3 (Debian 12's do)"
                )
            assert process.poll() is None, told[-2000:]
            process.send_signal(signal.SIGINT)
            process.wait(5.0)
        finally:
            process.kill()
            process.wait()
        gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
        assert gateway.metrics()["microturn_webrtc_trickles_total"] >= 1
    check_sound(film, watch, from_s=GSTREAMER_LATE_S)
    check_pictures(film, watch)
