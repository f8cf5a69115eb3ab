"""The rules of docs/architecture.md that a program can check. Each message says what to do instead."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("media", "gateway", "model_server", "kernels", "loadtests")
OURS = {"media", "gateway", "model_server", "turn_kernels", "loadtests", "tests"}

MAY_IMPORT_OF_OURS = {
    "media": {"media"},
    "gateway": {"gateway", "media"},
    "model_server": {"model_server", "media", "turn_kernels"},
    "kernels": {"turn_kernels"},
    "loadtests": {"loadtests", "gateway", "media"},
}
MODEL_SERVER_MAY_USE = {
    "media.timebase",
    "media.turn_log",
    "media.chunk",
    "media.ring",
    "media.slots",
    "media.leases",
    "media.heap",
    "media.log_lines",
    "media.resample",
}
MEDIA_MAY_USE = {"numpy", "soxr"}
KERNELS_MAY_USE = {"torch", "triton"}
NOT_IN_MEDIA = {"socket", "asyncio", "threading", "time", "select", "selectors", "subprocess", "signal"}
MEDIA_WRITES_IN = "media/log_lines.py"
"""Both sides of the slots log, and neither may import the other."""
NOT_IN_MODEL_SERVER = {
    "redis",
    "pjsua2",
    "aiortc",
    "aiohttp",
    "httpx",
    "requests",
    "prometheus_client",
    "http",
}
ONE_PLACE = {
    "pjsua2": ("gateway/sip/pj/", "loadtests/peers/"),
    "aiortc": ("gateway/webrtc/", "loadtests/"),
    "aioice": ("gateway/webrtc/", "loadtests/"),
    "jwt": ("gateway/api/tokens.py", "gateway/sip/stir/", "loadtests/hostile/"),
    "redis": ("gateway/state/", "gateway/background/", "loadtests/"),
    "sglang": ("model_server/engine/sglang",),
    "moshi": ("model_server/engine/moshi",),
    "sentencepiece": ("model_server/engine/moshi",),
    "huggingface_hub": ("model_server/engine/moshi",),
    "av": (
        "gateway/webrtc/video.py",
        "gateway/webrtc/still.py",
        "gateway/caller/codec.py",
        "gateway/recording/finish.py",
        "loadtests/",
    ),
    "cryptography": ("gateway/recording/", "gateway/sip/stir/", "gateway/sip/tls.py", "gateway/webrtc/"),
    "aiohttp": (
        "gateway/http.py",
        "gateway/api/",
        "gateway/background/chat.py",
        "gateway/realtime/socket.py",
        "gateway/events/courier.py",
        "gateway/recording/",
        "gateway/safety/moderation.py",
        "gateway/sip/stir/fetch.py",
        "loadtests/",
    ),
    "mcp": ("gateway/background/mcp_tools.py",),
    "pesq": ("gateway/probe/score.py",),
    "re2": ("gateway/safety/policy.py",),
    "opentelemetry": ("gateway/tracing/export.py",),
    "yaml": ("gateway/safety/policy_file.py", "loadtests/chart/helm.py"),
    "prometheus_client": ("gateway/metrics.py",),
    "triton": ("kernels/",),
    "typer": ("gateway/cli.py",),
}
ENVIRONMENT_ONLY_IN = ("gateway/config.py", "model_server/config.py", "loadtests/")


REFUSES_BEFORE = ("gateway/webrtc/video.py",)
"""A `SimpleQueue` takes no size: these count what is in theirs, and refuse what would be too much."""


@cache
def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Read once for all rules."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def complain(found: list[str], instead: str) -> None:
    assert not found, "\n".join([*found, instead])


def test_the_modules_are_there_to_be_checked() -> None:
    assert len(modules()) > 30


def test_imports_point_one_way() -> None:
    found = []
    for path in modules():
        package = path.relative_to(ROOT).parts[0]
        for line, name in imports(path):
            top = name.split(".")[0]
            if top in OURS and top not in MAY_IMPORT_OF_OURS[package]:
                found.append(f"{name_of(path)}:{line} imports {name}")
    complain(found, "gateway -> media <- model_server -> turn_kernels: move what both need into media")


def test_the_model_server_takes_only_the_contract_from_media() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in (ROOT / "model_server").rglob("*.py")
        for line, name in imports(path)
        if name.startswith("media.") and ".".join(name.split(".")[:2]) not in MODEL_SERVER_MAY_USE
    ]
    complain(found, f"it may use {sorted(MODEL_SERVER_MAY_USE)}: legs and playout belong to the workers")


def test_media_has_no_io_no_clock_and_few_libraries() -> None:
    found = []
    for path in (ROOT / "media").rglob("*.py"):
        for line, name in imports(path):
            top = name.split(".")[0]
            foreign = top not in sys.stdlib_module_names and top not in MEDIA_MAY_USE | OURS
            if foreign or (top in NOT_IN_MEDIA and name_of(path) != MEDIA_WRITES_IN):
                found.append(f"{name_of(path)}:{line} imports {name}")
    complain(found, "media is sans-IO: take bytes, samples and now_ns as arguments, give values back")


def test_the_model_server_knows_no_network() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in (ROOT / "model_server").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] in NOT_IN_MODEL_SERVER
    ]
    complain(found, "it talks through slots and its control socket; what it counts is asked for there")


def test_the_gateway_never_loads_torch() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in (ROOT / "gateway").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] in {"torch", "triton"}
    ]
    complain(found, "tensors live in model_server; the gateway has numpy arrays")


def test_workers_collect_garbage_in_one_place() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in (ROOT / "gateway").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] == "gc" and name_of(path) != "gateway/worker_process.py"
    ]
    complain(found, "pjsua2's objects die in one thread and outside of callbacks: `Garbage.sweep` sees to it")


@pytest.mark.parametrize("library", sorted(ONE_PLACE))
def test_one_foreign_library_has_one_place(library: str) -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in modules()
        for line, name in imports(path)
        if name.split(".")[0] == library and not name_of(path).startswith(ONE_PLACE[library])
    ]
    complain(found, f"{library} is used in {', '.join(ONE_PLACE[library])}: call what is there")


def test_the_environment_is_read_in_config_only() -> None:
    found = []
    for path in modules():
        if name_of(path).startswith(ENVIRONMENT_ONLY_IN):
            continue
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                found.append(f"{name_of(path)}:{node.lineno} reads the environment")
    complain(found, "add a field to the settings of that process")


def test_every_queue_has_a_bound() -> None:
    found = []
    for path in modules():
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name_of(path) in REFUSES_BEFORE and called == "SimpleQueue":
                continue
            if called in {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"} and not (
                node.args or node.keywords
            ):
                found.append(f"{name_of(path)}:{node.lineno} makes a queue without a size")
    complain(found, "give it maxsize, and say at its constructor what happens when it is full")


def test_kernels_know_tensors_only() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in (ROOT / "kernels").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | KERNELS_MAY_USE | OURS
    ]
    complain(found, f"beside the standard library kernels use {sorted(KERNELS_MAY_USE)}")


def test_kernels_is_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow the package of that name"


def test_no_file_owns_everything() -> None:
    found = [
        f"{name_of(path)}: {lines} lines"
        for path in modules()
        if not name_of(path).startswith("loadtests/") and (lines := len(path.read_text().splitlines())) > 600
    ]
    complain(found, "one noun a file: split off the organ that has grown in it")
