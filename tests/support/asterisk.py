"""Asterisk as a small exchange: we register at it, it puts calls through, and transfers callers as we ask it to.

`asterisk` of this machine, or of a Debian tree elsewhere, which `MICROTURN_ASTERISK_ROOT` names (chroot, as root):

    debootstrap --variant=minbase --include=asterisk sid /srv/sid && export MICROTURN_ASTERISK_ROOT=/srv/sid
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.ports import free_port

ROOT = Path(os.environ.get("MICROTURN_ASTERISK_ROOT") or "/")
needs_asterisk = pytest.mark.skipif(
    not (ROOT / "usr/sbin/asterisk").exists(),
    reason="asterisk is not installed: Debian 12 has no package of it",
)
PASSWORD = "a-secret-of-the-exchange"
READY_S = 20.0
_FILES = {
    "asterisk.conf": """\
[directories]
astetcdir => {folder}
astmoddir => {modules}
astvarlibdir => /var/lib/asterisk
astdbdir => {folder}
astkeydir => {folder}
astdatadir => /usr/share/asterisk
astspooldir => {folder}
astrundir => {folder}
astlogdir => {folder}
astsbindir => /usr/sbin
""",
    "modules.conf": """\
[modules]
autoload=yes
noload => chan_sip.so
noload => chan_iax2.so
noload => res_http_websocket.so
noload => res_ari.so
noload => cdr_csv.so
""",
    "logger.conf": "[logfiles]\nmessages => notice,warning,error\n",
    "rtp.conf": "[general]\nrtpstart={rtp}\nrtpend={rtp_end}\nicesupport=no\n",
    "pjsip.conf": """\
[global]
type=global
endpoint_identifier_order=auth_username,username,anonymous

[wire]
type=transport
protocol=udp
bind=127.0.0.1:{port}

[side](!)
type=endpoint
transport=wire
disallow=all
allow=ulaw,alaw
direct_media=no
moh_passthrough=yes
dtmf_mode=rfc4733

[model](side)
context=inside
auth=model
aors=model

[model]
type=auth
auth_type=userpass
username=model
password={password}

[model]
type=aor
max_contacts=1
remove_existing=yes

[person](side)
context=inside
aors=person

[person]
type=aor
contact=sip:person@127.0.0.1:{person}

[anonymous](side)
context=outside
{tls}""",
    "extensions.conf": """\
[outside]
exten => _5X.,1,Dial(PJSIP/${{EXTEN}}@model,20)
exten => _6X.,1,Dial(PJSIP/${{EXTEN}}@secure,20)

[inside]
exten => person,1,Dial(PJSIP/person,20)
exten => busy,1,Busy(1)
""",
}


_TLS = """
[wire-tls]
type=transport
protocol=tls
bind=127.0.0.1:{port}
cert_file={folder}/cert.pem
priv_key_file={folder}/key.pem
method=tlsv1_2

[secure](side)
transport=wire-tls
context=inside
media_encryption=sdes
auth=secure
aors=secure

[secure]
type=auth
auth_type=userpass
username=secure
password={password}

[secure]
type=aor
max_contacts=1
remove_existing=yes
"""


class Asterisk:
    """One, on UDP at `port` of 127.0.0.1. Who calls it with 5.. gets `model`, who registers; `model` may call
    `person`, who is at the port that was given. With a certificate `secure` does the same with 6.., by TLS at
    `tls_port`, with SRTP."""

    def __init__(self, folder: Path, port: int, person: int, certificate: Path | None = None) -> None:
        """`certificate` is a folder with cert.pem and key.pem."""
        self.port, self._folder, self.tls_port = port, folder, free_port() if certificate is not None else 0
        inside = Path("/") / folder.relative_to(ROOT)
        modules = next((ROOT / "usr/lib").glob("*/asterisk/modules"), ROOT / "usr/lib/asterisk/modules")
        told = {
            "folder": inside, "modules": Path("/") / modules.relative_to(ROOT), "port": port, "person": person,
            "password": PASSWORD, "rtp": 58_000, "rtp_end": 58_200, "tls": "",
        }  # fmt: skip
        if certificate is not None:
            told["tls"] = _TLS.format(port=self.tls_port, folder=inside, password=PASSWORD)
            for name in ("cert.pem", "key.pem"):
                shutil.copy(certificate / name, folder / name)
        for name, text in _FILES.items():
            (folder / name).write_text(text.format(**told))
        self.log = folder / "asterisk.out"
        self._out = self.log.open("wb")
        enter = [] if Path("/") == ROOT else ["chroot", str(ROOT)]
        self.process = subprocess.Popen(
            [*enter, "/usr/sbin/asterisk", "-f", "-C", str(inside / "asterisk.conf")],
            stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    @classmethod
    @contextlib.contextmanager
    def start(cls, person: int, certificate: Path | None = None) -> Iterator[Asterisk]:
        """Ready; gone when the block is left. RuntimeError with its last lines when it does not come up."""
        folder = Path(tempfile.mkdtemp(prefix="mt-asterisk-", dir=ROOT / "tmp"))
        exchange = cls(folder, free_port(), person, certificate)
        try:
            exchange._wait()
            yield exchange
        finally:
            exchange.process.terminate()
            try:
                exchange.process.wait(5)
            except subprocess.TimeoutExpired:
                exchange.process.kill()
                exchange.process.wait()
            exchange._out.close()
            shutil.rmtree(folder, ignore_errors=True)

    def ask(self, command: str) -> str:
        """What its console says."""
        enter = [] if Path("/") == ROOT else ["chroot", str(ROOT)]
        config = Path("/") / self._folder.relative_to(ROOT) / "asterisk.conf"
        asked = subprocess.run(
            [*enter, "/usr/sbin/asterisk", "-C", str(config), "-rx", command],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        return asked.stdout + asked.stderr

    def _wait(self) -> None:
        deadline_s = time.monotonic() + READY_S
        while "fully booted" not in self.ask("core waitfullybooted"):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"asterisk does not come up:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.2)
