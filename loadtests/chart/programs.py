"""Kamailio, Redis and coturn with the configurations that the chart renders for them; gone when the block is left.

Addresses, ports and folders are this machine's; nothing else of a configuration is another one. RuntimeError with
the last lines of a program that does not come up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.chart.helm import NAME, NAMESPACE, container, one

MODULES = Path("/usr/lib/x86_64-linux-gnu/kamailio/modules")
START_S, STOP_S = 15.0, 5.0
LOOK_S = 0.02
MOST_SHOWN = 2000


def missing(*programs: str) -> list[str]:
    """Of those, what is not on PATH."""
    return [name for name in programs if shutil.which(name) is None]


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program and whatever it starts; what it says is in `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, host: str = "127.0.0.1") -> None:
    """Until somebody accepts there."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 0.2):
            return
        time.sleep(LOOK_S)
    raise RuntimeError(f"nobody listens on {port}: {log.read_text(errors='replace')[-MOST_SHOWN:]}")


def status_of(port: int, path: str) -> int:
    """Of a page on loopback; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return 0


# -- Kamailio


def gateway_name(ordinal: int, port: int) -> str:
    """What the edge's list calls a gateway: a name that the DNS of a cluster knows."""
    return f"sip:{NAME}-{ordinal}.{NAME}-nodes.{NAMESPACE}.svc.cluster.local:{port}"


def write_edge(folder: Path, objects: tuple[dict[str, Any], ...]) -> Path:
    """Its two files. What lay in /etc/kamailio and /etc/kamailio-tls lies in `folder`."""
    data = one(objects, "ConfigMap", f"{NAME}-edge")["data"]
    config = folder / "kamailio.cfg"
    assert "/etc/kamailio/dispatcher.list" in data["kamailio.cfg"]
    text: str = data["kamailio.cfg"]
    config.write_text(
        text.replace("/etc/kamailio/", f"{folder}/").replace("/etc/kamailio-tls/", f"{folder}/")
    )
    (folder / "dispatcher.list").write_text(data["dispatcher.list"])
    return config


def listening(port: int, health: int, *, tls: int = 0) -> list[str]:
    """Arguments as the chart gives them, for a pod whose address is loopback."""
    told = {
        "UDP": f"udp:127.0.0.1:{port}",
        "TCP": f"tcp:127.0.0.1:{port}",
        "HEALTH": f"tcp:127.0.0.1:{health}",
    }
    if tls:
        told["TLS"] = f"tls:127.0.0.1:{tls}"
    return [word for name, value in told.items() for word in ("-A", f"LISTEN_{name}={value}")]


@contextlib.contextmanager
def kamailio(folder: Path, config: Path, port: int, health: int, *, tls: int = 0) -> Iterator[Path]:
    """Started, and not waited for; gives its log."""
    log = folder / "kamailio.log"
    command = [
        "kamailio",
        "-f",
        str(config),
        "-DD",
        "-E",
        "-m",
        "32",
        "-M",
        "8",
        "-w",
        str(folder),
        "-Y",
        str(folder),
    ]
    with running([*command, *listening(port, health, tls=tls)], log, folder):
        yield log


# -- Redis


@contextlib.contextmanager
def redis_server(
    folder: Path, objects: tuple[dict[str, Any], ...], port: int, password: str, *, tls: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """It takes commands on `port` of loopback. With `tls` there are tls.crt, tls.key and ca.crt in `folder`."""
    text = one(objects, "ConfigMap", f"{NAME}-redis")["data"]["redis.conf"]
    for old, new in (
        ("port 6379", f"port {port}"),
        ("/data", str(folder)),
        ("/etc/redis-tls", str(folder)),
    ):
        text = text.replace(old, new)
    (folder / "redis.conf").write_text(text)
    shell, flag, script = container(objects, "redis")["command"]
    script = script.replace("valkey-server", "redis-server").replace("/etc/redis", str(folder))
    log = folder / "redis.log"
    with running([shell, flag, script], log, folder, os.environ | {"REDIS_PASSWORD": password}) as process:
        wait_for_port(port, process, log)
        yield process


# -- coturn


@contextlib.contextmanager
def coturn(
    folder: Path, objects: tuple[dict[str, Any], ...], port: int, secret: str, address: str = "127.0.0.1"
) -> Iterator[Path]:
    """It takes TURN on UDP and TCP at `address`; gives its log."""
    text: str = one(objects, "ConfigMap", f"{NAME}-turn")["data"]["turnserver.conf"]
    text = text.replace("listening-port=3478", f"listening-port={port}").replace("/tmp/", f"{folder}/")
    (folder / "turnserver.conf").write_text(text)
    arguments = container(objects, "turn")["args"]
    assert arguments[:2] == ["-c", "/etc/turn/turnserver.conf"]
    told = [each.replace("$(POD_IP)", address).replace("$(TURN_SECRET)", secret) for each in arguments[2:]]
    log = folder / "turnserver.log"
    with running(["turnserver", "-c", str(folder / "turnserver.conf"), *told], log, folder) as process:
        wait_for_port(port, process, log, address)
        yield log
