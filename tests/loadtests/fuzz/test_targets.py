"""Every parser of ours: what it begins with, what broke it once, and some thousand inputs more."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.fuzz import command
from loadtests.fuzz.seeds import BROKEN, broken, seeds
from loadtests.fuzz.target import Target
from loadtests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[3]
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="package atheris has no wheel for this machine"
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_seeds_what_broke_it_and_both_spoiled(target: Target) -> None:
    take, chance, tried = target.made(), random.Random(target.name), 0
    for _, seed in seeds(target):
        take(seed)
        for _ in range(10):
            spoiled = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(spoiled) + 1)
                spoiled[at : at + chance.choice((0, 1, 1, 8))] = chance.choice(
                    (b"", b"\xff", b"\0", b"\r\n", b"9" * 20, bytes(spoiled[:8]))
                )
            take(bytes(spoiled))
            tried += 1
    assert tried >= 10


def test_what_broke_a_target_belongs_to_one() -> None:
    kept = {folder.name for folder in BROKEN.iterdir()}
    assert kept and kept <= TARGETS.keys()
    assert all(list(broken(TARGETS[name])) for name in kept)


@needs_atheris
def test_libfuzzer_finds_nothing_in_any_target_in_two_thousand_tries(tmp_path: Path) -> None:
    plan = command.Plan(tuple(TARGETS), seconds=0, tries=2_000, jobs=1, corpus=None)
    found = list(command.fuzz(plan, broken=tmp_path))
    assert [one for one in found if one.broken] == []
    assert {one.target for one in found if one.tries >= 2_000} == TARGETS.keys()
    assert {one.target for one in found if not one.edges} == set()


@needs_atheris
def test_what_breaks_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a target that cannot take a byte of 7."""
    (tmp_path / "sitecustomize.py").write_text(
        "from loadtests.fuzz.targets import TARGETS\n"
        "from loadtests.fuzz.target import Target\n"
        "def prepare():\n"
        "    def take(data):\n"
        "        if b'seven' in data:\n"
        "            raise RuntimeError('seven was in it')\n"
        "    return take\n"
        "TARGETS['rtp'] = Target('rtp', prepare, seeds=(b'seven',))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setitem(TARGETS, "rtp", Target("rtp", lambda: len, seeds=(b"seven",)))
    plan = command.Plan(("rtp",), seconds=0, tries=100, jobs=1, corpus=None)
    (found,) = command.fuzz(plan, broken=tmp_path / "broken")
    assert "seven was in it" in found.why
    assert (tmp_path / "broken" / "rtp" / found.broken).read_bytes() == b"seven"


def test_an_operators_mistakes_are_told() -> None:
    for arguments, told in (
        (["--targets", "rtp,sofa"], "sofa: expected some of rtp, "),
        (["--seconds", "0"], "expected at least one above 0"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "loadtests", "fuzz", *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 2 and told in ended.stderr


def test_the_figures_say_what_broke() -> None:
    found = [command.Found("rtp", 10, 5, 2, "", ""), command.Found("red", 1, 0, 0, "abc", "Traceback")]
    told = command.figures(found)
    assert told["broken"] == ["red"] and told["tries"] == 11
    assert json.loads(json.dumps(told))["by_target"]["rtp"] == {"tries": 10, "edges": 5, "corpus": 2}
