"""Scenarios for sipp, a program that is not ours, written line by line, and how they went.

call = Scenario().invite(sdp()).expect(200, r"a=sendrecv").ack().say("BYE").expect(200)
call.run(tmp_path, gateway.port)
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

PCAPS = Path("/usr/share/sip-tester")
needs_sipp = pytest.mark.skipif(
    not shutil.which("sipp"), reason="sipp is not installed: apt-get install sip-tester"
)
TIMEOUT_S = 20
_WITHIN = (
    "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]\n[routes]\n"
    "From: sipp <sip:sipp@[local_ip]:[local_port]>;tag=s[call_number]\n"
    "To: <sip:bot@[remote_ip]:[remote_port]>{tag}\nCall-ID: [call_id]\nCSeq: {cseq} {method}\n"
    "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\nMax-Forwards: 70\n"
)


def sdp(
    formats: str = "0 101", direction: str = "sendrecv", *, address: str = "[media_ip]", session: str = "",
    version: int = 1, proto: str = "RTP/AVP", more: str = "",
) -> str:  # fmt: skip
    """An offer or answer of sipp; `session` is an attribute above the media line."""
    names = {"0": "PCMU", "8": "PCMA", "9": "G722", "3": "GSM", "101": "telephone-event"}
    lines = [
        "v=0", f"o=sipp 1 {version} IN IP[media_ip_type] [media_ip]", "s=-",
        f"c=IN IP[media_ip_type] {address}", "t=0 0", *([f"a={session}"] if session else []),
        f"m=audio [media_port] {proto} {formats}",
        *(f"a=rtpmap:{number} {names[number]}/8000" for number in formats.split()),
        *([f"a={direction}"] if direction else []), *([more] if more else []), "",
    ]  # fmt: skip
    return "\n".join(lines)


@dataclass(slots=True)
class Scenario:
    """What sipp says and waits for, in order. Each step gives the scenario back."""

    steps: list[str] = field(default_factory=list)
    cseq: int = 0
    is_up: bool = False
    """There was a 2xx."""

    def invite(self, body: str = "", *headers: str) -> Scenario:
        """The first INVITE, or another one within the call."""
        return self.say("INVITE", body, *headers)

    def say(self, method: str, body: str = "", *headers: str, kind: str = "application/sdp") -> Scenario:
        """A request: within the call once it is there."""
        is_first = not self.is_up
        self.cseq += method != "ACK"
        uri = "sip:bot@[remote_ip]:[remote_port]" if is_first else "[next_url]"
        tag = "[peer_tag_param]" if self.is_up or method == "ACK" else ""
        text = f"{method} {uri} SIP/2.0\n" + _WITHIN.format(tag=tag, cseq=self.cseq, method=method)
        return self._send(text, body, headers, kind, retransmits=method != "ACK")

    def ack(self, body: str = "") -> Scenario:
        """ACK of the 200 just received."""
        return self.say("ACK", body)

    def expect(self, status: int, *patterns: str, optional: bool = False) -> Scenario:
        """An answer, whose body or headers have all of these; provisional ones may come before a final one."""
        if status >= 200:
            for early in (100, 180, 183):
                self.steps.append(f'<recv response="{early}" optional="true"/>')
        self.is_up = self.is_up or 200 <= status < 300
        more = ' rrs="true"' if 200 <= status < 300 else ""
        if optional:
            more += ' optional="true"'
        self.steps.append(f'<recv response="{status}"{more}>{_checks(patterns)}</recv>')
        return self

    def hear(self, method: str, *patterns: str, optional: bool = False) -> Scenario:
        """A request of the gateway."""
        more = ' optional="true"' if optional else ""
        more += ' rrs="true"' if method == "INVITE" else ""
        check = _checks(patterns)
        if method == "INVITE":  # who calls, for requests of ours; sipp wants every variable used
            who = (
                '<ereg regexp=".*" search_in="hdr" header="From:" assign_to="peer"/><log message="[$peer]"/>'
            )
            check = check.replace("<action>", f"<action>{who}") if check else f"<action>{who}</action>"
        self.steps.append(f'<recv request="{method}"{more}>{check}</recv>')
        return self

    def reply(self, status: int, body: str = "", *headers: str) -> Scenario:
        """To the request just heard."""
        text = (
            f"SIP/2.0 {status} Said\n[last_Via:]\n[last_Record-Route:]\n[last_From:]\n"
            f"[last_To:]{'' if status == 100 else ';tag=s[call_number]'}\n[last_Call-ID:]\n[last_CSeq:]\n"
            "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\n"
        )
        return self._send(text, body, headers, "application/sdp", retransmits=False)

    def reply_within(self, status: int, body: str = "", *headers: str) -> Scenario:
        """The same within a call: its To has a tag."""
        text = (
            f"SIP/2.0 {status} Said\n[last_Via:]\n[last_From:]\n[last_To:]\n[last_Call-ID:]\n[last_CSeq:]\n"
            "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\n"
        )
        return self._send(text, body, headers, "application/sdp", retransmits=False)

    def hang_up(self) -> Scenario:
        """BYE of one that was called: the other way round than `say`."""
        text = (
            "BYE [next_url] SIP/2.0\nVia: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]\n[routes]\n"
            "From: <sip:sipp@[local_ip]:[local_port]>;tag=s[call_number]\n"
            "To: [$peer]\nCall-ID: [call_id]\nCSeq: 1 BYE\nMax-Forwards: 70\n"
        )
        return self._send(text, "", (), "", retransmits=True)

    def cancelled(self) -> Scenario:
        """The INVITE that rings is cancelled (RFC 3261 9.2)."""
        self.hear("CANCEL").reply_within(200)
        text = (
            "SIP/2.0 487 Request Terminated\n[last_Via:]\n[last_From:]\n[last_To:];tag=s[call_number]\n"
            "[last_Call-ID:]\nCSeq: [cseq] INVITE\n"
        )
        self._send(text, "", (), "", retransmits=True)
        return self.hear("ACK")

    def pause(self, ms: int) -> Scenario:
        """Nothing is said."""
        self.steps.append(f'<pause milliseconds="{ms}"/>')
        return self

    def play(self, pcap: str) -> Scenario:
        """RTP from one of the files that come with sipp; needs root."""
        self.steps.append(f'<nop><action><exec play_pcap_audio="{PCAPS / pcap}"/></action></nop>')
        return self

    def _send(
        self, text: str, body: str, headers: Sequence[str], kind: str, *, retransmits: bool
    ) -> Scenario:
        text += "".join(f"{header}\n" for header in headers)
        text += f"Content-Type: {kind}\n" if body else ""
        text += f"Content-Length: {'[len]' if body else 0}\n\n{body}"
        more = ' retrans="500"' if retransmits else ""
        self.steps.append(f"<send{more}><![CDATA[\n\n{text}\n\n]]></send>")
        return self

    def start(self, folder: Path, remote_port: int | None, *, port: int = 0, host: str = "127.0.0.1",
              transport: str = "u1", remote: str = "") -> Running:  # fmt: skip
        """In the background, from `host`, to `remote` or there; without a `remote_port` it waits to be called."""
        file = folder / f"scenario-{len(list(folder.glob('scenario-*.xml')))}.xml"
        steps = "\n".join(self.steps)
        file.write_text(f'<?xml version="1.0"?>\n<scenario name="{file.stem}">\n{steps}\n</scenario>\n')
        there = remote or host
        whom = (
            [f"[{there}]:{remote_port}" if ":" in there else f"{there}:{remote_port}"] if remote_port else []
        )
        media = "127.0.0.1" if ":" in host else host
        command = [
            "sipp", *whom, "-sf", str(file), "-i", host, "-mi", media, "-m", "1", "-t", transport,
            "-timeout", f"{TIMEOUT_S}", "-timeout_error", "-trace_err", "-trace_msg",
            "-error_file", str(file.with_suffix(".err")), "-nostdin",
            "-message_file", str(file.with_suffix(".msg")),
            *(["-p", str(port)] if port else []),
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running = Running(process, file)
        STARTED.append(running)
        return running

    def run(self, folder: Path, remote_port: int, **more: str | int) -> Running:
        """To its end; fails the test with what was said where it went otherwise."""
        running = self.start(folder, remote_port, **more)  # type: ignore[arg-type]
        running.finish()
        return running


@dataclass(frozen=True, slots=True)
class Running:
    """A sipp."""

    process: subprocess.Popen[bytes]
    file: Path

    def finish(self, timeout_s: float = TIMEOUT_S + 5) -> str:
        """Wait for it; what was said. AssertionError when a step went otherwise."""
        try:
            status = self.process.wait(timeout_s)
        finally:
            self.process.kill()
        assert status == 0, f"sipp: {status}\n{self.told('.err')}\n{self.told('.msg')[-6000:]}"
        return self.told(".msg")

    def told(self, kind: str) -> str:
        """Of its files."""
        file = self.file.with_suffix(kind)
        return file.read_text(errors="replace") if file.exists() else ""


STARTED: list[Running] = []
"""By tests that may have failed before they waited for them."""


def kill_started() -> None:
    """At the end of a test."""
    while STARTED:
        STARTED.pop().process.kill()


def may_play() -> bool:
    """Whether RTP can be played: sipp needs a raw socket for it."""
    return os.geteuid() == 0 and PCAPS.is_dir()


def _checks(patterns: Sequence[str]) -> str:
    """A pattern is looked for in the whole message; one that begins with `!` must not be there."""
    if not patterns:
        return ""
    actions = []
    for at, pattern in enumerate(patterns):
        check = 'check_it_inverse="true"' if pattern.startswith("!") else 'check_it="true"'
        regexp = quoteattr(pattern.removeprefix("!"))
        actions.append(f'<ereg regexp={regexp} search_in="msg" {check} assign_to="{at + 1}"/>')
    said = " ".join(f"[${at + 1}]" for at in range(len(patterns)))  # sipp wants every variable used
    return f'<action>{"".join(actions)}<log message="{said}"/></action>'
