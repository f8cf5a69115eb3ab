"""Kamailio as a small exchange: it registers who knows the password, and puts calls through between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.ports import free_port

needs_kamailio = pytest.mark.skipif(
    not shutil.which("kamailio"), reason="kamailio is not installed: apt-get install kamailio"
)
PASSWORD = "a-secret-of-the-exchange"
_MODULES = ("tm", "sl", "rr", "pv", "maxfwd", "textops", "siputils", "usrloc", "registrar", "auth", "xlog")
_CONFIG = """\
debug=2
log_stderror=yes
fork=no
children=2
tcp_children=2
auto_aliases=no
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/"
{modules}
modparam("usrloc", "db_mode", 0)
modparam("registrar", "max_expires", {most_s})
modparam("registrar", "min_expires", 10)
modparam("registrar", "default_expires", 120)
modparam("auth", "qop", "auth")
modparam("rr", "enable_full_lr", 1)

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) t_relay(); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        if (is_method("ACK") && t_check_trans()) {{ t_relay(); exit; }}
        sl_send_reply("404", "Not Here");
        exit;
    }}
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("$td", "{password}", "0")) {{ www_challenge("$td", "1"); exit; }}
        consume_credentials();
        if (!save("location")) sl_reply_error();
        exit;
    }}
    if (is_method("INVITE")) {{
        if (!pv_proxy_authenticate("$fd", "{password}", "0")) {{ proxy_challenge("$fd", "1"); exit; }}
        consume_credentials();
        record_route();
    }}
    if (!lookup("location")) {{ sl_send_reply("404", "Not Registered"); exit; }}
    t_relay();
}}
"""


class Kamailio:
    """One, on UDP and TCP at `port` of 127.0.0.1."""

    def __init__(self, folder: Path, port: int, most_s: int = 3600) -> None:
        """`most_s` is the longest registration that it grants."""
        self.port = port
        modules = "\n".join(f'loadmodule "{name}.so"' for name in _MODULES)
        config = folder / "kamailio.cfg"
        config.write_text(_CONFIG.format(port=port, modules=modules, password=PASSWORD, most_s=most_s))
        self._log = (folder / "kamailio.log").open("wb")
        self.process = subprocess.Popen(
            ["kamailio", "-f", str(config), "-DD", "-E", "-w", str(folder), "-Y", str(folder),
             "-m", "16", "-M", "4"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.log = folder / "kamailio.log"

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, port: int = 0, most_s: int = 3600) -> Iterator[Kamailio]:
        """Ready; gone when the block is left. RuntimeError with its last lines when it does not come up."""
        exchange = cls(folder, port or free_port(), most_s)
        try:
            exchange._wait()
            yield exchange
        finally:
            exchange.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                exchange.process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(exchange.process.pid, signal.SIGKILL)  # its children are in its group
            exchange.process.wait()
            exchange._log.close()

    def _wait(self) -> None:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError("kamailio does not come up:\n" + self.log.read_text(errors="replace")[-3000:])
