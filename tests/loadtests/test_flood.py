"""The scanners of `loadtests flood`, against a socket that only listens; wrong plans."""

from __future__ import annotations

import json
import socket
from collections import Counter

import pytest

from gateway.sip.message import Request, parse
from loadtests import scanner
from loadtests.__main__ import main


def test_what_scanners_send_is_well_formed_and_of_five_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(2.0)
        target = f"127.0.0.1:{sink.getsockname()[1]}"
        assert (
            scanner.main(["--target", target, "--requests", "50", "--per-s", "5000", "--sources", "2"]) == 0
        )
        got = [sink.recvfrom(4096) for _ in range(50)]
    requests = [parse(data) for data, _ in got]
    assert all(isinstance(one, Request) for one in requests)
    assert len({one.call_id for one in requests}) == 50
    assert Counter(source[0] for _, source in got) == {
        "127.0.1.1": 20, "127.0.1.2": 20, "127.0.2.1": 5, "127.0.2.2": 5
    }  # fmt: skip
    assert Counter(data.split()[0] for data, _ in got) == {b"REGISTER": 20, b"INVITE": 30}
    told = json.loads(capsys.readouterr().out)
    assert told["sent"] == 50 and told["answers"] == {}


def test_nobody_else_is_scanned(capsys: pytest.CaptureFixture[str]) -> None:
    assert scanner.main(["--target", "192.0.2.1:5060"]) == 2
    assert "only loopback is called" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--calls", "0"], ["--requests", "0"], ["--per-s", "0"], ["--calls", "61"]]
)
def test_wrong_plans_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flood", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err
