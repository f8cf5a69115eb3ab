"""SIP programs that send sound back: what a phone line costs without chunks and without a model."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtests import report
from loadtests.peers.peer import Peer, Running, program
from loadtests.ports import free_port

HERE = Path(__file__).parent
ASTERISK_ROOT = Path(os.environ.get("ASTERISK_ROOT") or "/")
LISTENS_S = 15.0
_ASTERISK = {
    "asterisk.conf": "[directories]\nastetcdir => {folder}\nastmoddir => {modules}\n"
    "astvarlibdir => /var/lib/asterisk\nastdbdir => {folder}\n"
    "astkeydir => {folder}\nastdatadir => /usr/share/asterisk\nastspooldir => {folder}\n"
    "astrundir => {folder}\nastlogdir => {folder}\nastsbindir => /usr/sbin\n",
    "modules.conf": "[modules]\nautoload=yes\nnoload => chan_iax2.so\nnoload => res_http_websocket.so\n"
    "noload => res_ari.so\nnoload => cdr_csv.so\n",
    "logger.conf": "[logfiles]\nmessages => warning,error\n",
    "rtp.conf": "[general]\nrtpstart={rtp}\nrtpend={rtp_end}\nicesupport=no\n",
    "pjsip.conf": "[wire]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{port}\n\n"
    "[anonymous]\ntype=endpoint\ntransport=wire\ncontext=inside\ndisallow=all\nallow=ulaw,alaw\ndirect_media=no\n",
    "extensions.conf": "[inside]\nexten => _.,1,Answer()\n same => n,Set(JITTERBUFFER(adaptive)=default)\n"
    " same => n,Echo()\n same => n,Hangup()\n",
}
RTP_PORTS = 2_000


def _listens(port: int) -> None:
    """Until somebody has that UDP port."""
    deadline_s = time.monotonic() + LISTENS_S
    while time.monotonic() < deadline_s:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port}")


@contextlib.contextmanager
def _pjsua2(folder: Path) -> Iterator[Running]:
    port = free_port(2)
    with program([sys.executable, str(HERE / "pjsua_echo.py"), f"{port}"], folder, ready="ready") as (pid, _):
        yield Running(f"127.0.0.1:{port}", pid)


def _no_library() -> str:
    return "" if importlib.util.find_spec("pjsua2") else "pjsua2: make pjsip, or the wheel pjsua2-python"


@contextlib.contextmanager
def _sipp(folder: Path) -> Iterator[Running]:
    port, media = free_port(2), free_port(4)
    command = [
        "sipp",
        "-sn",
        "uas",
        "-i",
        "127.0.0.1",
        "-p",
        f"{port}",
        "-mi",
        "127.0.0.1",
        "-mp",
        f"{media}",
    ]
    with program([*command, "-rtp_echo", "-nostdin", "-rtcheck", "loose"], folder) as (pid, _):
        _listens(port)
        yield Running(f"127.0.0.1:{port}", pid)


@contextlib.contextmanager
def _asterisk(folder: Path) -> Iterator[Running]:
    port, rtp = free_port(2), free_port(RTP_PORTS)
    inside = Path("/tmp") / folder.name
    place = ASTERISK_ROOT / inside.relative_to("/")
    place.mkdir(parents=True, exist_ok=True)
    modules = next((ASTERISK_ROOT / "usr/lib").glob("*/asterisk/modules"))
    names = {"folder": inside, "modules": "/" + str(modules.relative_to(ASTERISK_ROOT)), "port": port}
    for name, text in _ASTERISK.items():
        (place / name).write_text(text.format(**names, rtp=rtp, rtp_end=rtp + RTP_PORTS))
    asterisk = ["/usr/sbin/asterisk", "-f", "-C", f"{inside}/asterisk.conf"]
    command = asterisk if Path("/") == ASTERISK_ROOT else ["chroot", str(ASTERISK_ROOT), *asterisk]
    try:
        with program(command, folder) as (pid, _):
            _listens(port)
            time.sleep(2.0)  # it listens before its dial plan is read
            yield Running(f"127.0.0.1:{port}", pid)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _needs(path: str, package: str) -> str:
    return "" if shutil.which(path) or Path(path).exists() else f"apt-get install {package}"


def _package(name: str) -> str:
    asked = subprocess.run(
        ["dpkg-query", "--showformat=${Version}", "--show", name], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "of another source"


PHONES = (
    Peer(
        "pjsua2", "sip", "the library of our SIP workers by itself: jitter buffer, its bridge, and back; no chunks",
        _no_library, _pjsua2, report.pjsua2_build,
    ),
    Peer(
        "sipp", "sip", "-rtp_echo: packets go back as they came; sound is not looked at",
        partial(_needs, "sipp", "sip-tester"), _sipp, partial(_package, "sip-tester"),
    ),
    Peer(
        "asterisk", "sip", "adaptive jitter buffer and the application Echo: frames go back as they came",
        lambda: "" if (ASTERISK_ROOT / "usr/sbin/asterisk").exists() else "asterisk, or ASTERISK_ROOT",
        _asterisk, lambda: "of Debian sid" if Path("/") != ASTERISK_ROOT else _package("asterisk"),
    ),
)  # fmt: skip
