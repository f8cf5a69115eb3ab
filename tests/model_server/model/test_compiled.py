"""The library is made once, kept, and made anew for another source; what cannot be made says why."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.served.compiled import build

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason=f"needs one of {build.COMPILERS}"
)
SOURCE = "long answer(void) { return 42; }\n"
Made = Callable[[], ctypes.CDLL]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "layer.c"
    path.write_text(SOURCE)
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "SOURCES", (path,))
    return path


def made() -> ctypes.CDLL:
    return build.library.__wrapped__()


def kept(source: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (source.parent / "__pycache__").iterdir()}


def test_it_is_made_once_and_kept(source: Path) -> None:
    assert made().answer() == 42
    first = kept(source)
    assert made().answer() == 42 and kept(source) == first and len(first) == 1


def test_another_source_is_another_library(source: Path) -> None:
    made()
    source.write_text(SOURCE.replace("42", "43"))
    assert made().answer() == 43 and len(kept(source)) == 2


def test_where_nobody_may_write_it_is_made_each_time(source: Path) -> None:
    (source.parent / "__pycache__").write_text("no folder")
    assert made().answer() == 42


def test_the_compiler_says_what_it_does_not_understand(source: Path) -> None:
    source.write_text("not C")
    with pytest.raises(build.CannotCompile, match="error"):
        made()
    assert not kept(source)


def test_without_a_compiler_it_says_what_was_looked_for(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build.CannotCompile, match="gcc"):
        made()


def test_what_cannot_be_loaded_is_as_good_as_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        build, "FLAGS", ("-c",)
    )  # no library comes of it, as where a file system forbids to run one
    with pytest.raises(build.CannotCompile, match="cannot be kept or loaded"):
        made()
