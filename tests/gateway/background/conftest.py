"""A real server for each test that asks for one."""

from __future__ import annotations

from tests.gateway.state.conftest import folder, program, server  # noqa: F401
