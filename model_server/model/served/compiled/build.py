"""Source to library, for this machine's CPU. Kept beside the source in `__pycache__`, where that can be written;
whoever cannot compiles anew, which takes 1.5 s."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "layer.c", FOLDER / "lanes.h")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC")
PATIENCE_S = 60


class CannotCompile(Exception):
    """It says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """Of this process. `CannotCompile` without a compiler, or where what it makes is of no use."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise CannotCompile(f"no C compiler: none of {', '.join(COMPILERS)} is on PATH")
    kept = FOLDER / "__pycache__" / f"layer-{_fingerprint(compiler)}.so"
    try:
        if kept.is_file():
            return ctypes.CDLL(str(kept))
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            os.replace(_compiled(compiler, Path(folder)), kept)
        return ctypes.CDLL(str(kept))
    except OSError:  # nobody may write here, or what is here cannot be loaded
        return _made_for_now(compiler)


def _made_for_now(compiler: str) -> ctypes.CDLL:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return ctypes.CDLL(str(_compiled(compiler, Path(folder))))
    except OSError as why:
        raise CannotCompile(f"what {compiler} makes cannot be kept or loaded: {why}") from why


def _compiled(compiler: str, folder: Path) -> Path:
    made = folder / "layer.so"
    command = [compiler, *FLAGS, str(SOURCES[0]), "-o", str(made), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise CannotCompile(f"{compiler} took more than {PATIENCE_S} s") from None
    if done.returncode:
        raise CannotCompile(f"{compiler}: {done.stderr.strip()[:400]}")
    return made


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on."""
    parts = [source.read_bytes() for source in SOURCES]
    parts += [" ".join((str(Path(compiler).resolve()), *FLAGS)).encode(), _cpu().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cpu() -> str:
    """What this CPU can do, as the kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
