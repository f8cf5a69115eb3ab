"""sipp and baresip call us; both are Debian's packages, and the tests are skipped where they are not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from loadtests.gateway_under_test import GatewayUnderTest

pytestmark = [pytest.mark.processes, pytest.mark.sip]


@pytest.mark.skipif(not shutil.which("sipp"), reason="sipp is not installed: apt-get install sip-tester")
@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_sipp_calls(gateway: GatewayUnderTest, tmp_path: Path, transport: str) -> None:
    target = gateway.uri.removeprefix("sip:")
    arguments = f"-sn uac {target} -i 127.0.0.1 -mi 127.0.0.1 -m 4 -r 4 -d 500 -t {transport} -timeout 20"
    done = subprocess.run(
        ["sipp", *arguments.split()],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
