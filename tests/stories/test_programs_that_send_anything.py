"""schemathesis over the OpenAPI document, against a real gateway with a live call: nothing is answered with 5xx,
and everything as the document says."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from gateway.api.tokens import mint
from gateway.api.v1.operations import SCOPES
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.webrtc_caller import HZ, calling

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not here"),
]

WITHOUT_END = "follow_events"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)
SECRET = "a secret of the tests, at least 32 bytes long"
WISH = GatewayWish(
    calls=1, settings={"webrtc_calls": "2", "api_requests_per_s": "0", "redis": "auto", "jwt_secret": SECRET}
)


async def send_anything(url: str, folder: Path, call: str, *options: str) -> str:
    """A run of schemathesis that finds nothing; gives what it says."""
    config = folder / "schemathesis.toml"
    config.write_text(f'[parameters]\n"path.call" = "{call}"\n' if call else "")
    excluded = [f"--exclude-operation-id={name}" for name in (WITHOUT_END,)]
    command = [
        sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run", f"{url}/v1/openapi.json",
        f"--checks={CHECKS}", "--generation-database=none", "--request-timeout=5", "--no-color", "--seed=1",
        f"--header=Authorization: Bearer {mint(SECRET, 'anybody', 3_600, ' '.join(SCOPES))}", *excluded, *options,
    ]  # fmt: skip
    running = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said[-6_000:]
    return said


async def with_a_call(folder: Path, *options: str) -> None:
    """All operations with a call that lives, and its end with calls that do not; then the gateway is as well as
    before."""
    with GatewayUnderTest.start(WISH) as gateway:
        headers = {"Authorization": f"Bearer {mint(SECRET, 'program', 3_600, ' '.join(SCOPES))}"}
        async with calling(gateway.http, np.zeros(HZ, np.int16), token=mint(SECRET, "anna", 3_600)) as caller:
            await caller.message("hello")
            async with aiohttp.ClientSession(gateway.http, headers=headers) as http:
                async with http.get("/v1/calls") as answer:
                    (call,) = (await answer.json())["calls"]
                await send_anything(
                    gateway.http, folder, call["id"], "--exclude-operation-id=hang_up", *options
                )
                async with http.get("/metrics") as answer:
                    assert "microturn_v1_broken_total 0.0" in await answer.text()
                async with http.post(f"/v1/calls/{call['id']}/text", json={"text": "still there"}) as answer:
                    assert answer.status == 204, await answer.text()
            await caller.message("caption")


def test_nothing_that_a_program_sends_is_answered_with_5xx(tmp_path: Path) -> None:
    asyncio.run(with_a_call(tmp_path, "--max-examples=2", "--phases=examples,fuzzing"))


@pytest.mark.long
def test_nothing_that_a_program_sends_for_minutes_is_answered_with_5xx(tmp_path: Path) -> None:
    asyncio.run(with_a_call(tmp_path, "--max-examples=100"))
