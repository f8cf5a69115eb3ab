"""A log that cannot be written costs lines, and no more."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from media.log_lines import LogLines

PROGRAM = """
import structlog
from {package}.log import set_up_logging
set_up_logging({process} format="json")
log = structlog.get_logger()
log.info("first")
print(flush=True)
input()
log.info("nobody reads this")
log.error("nor this", exc_info=ValueError("x"))
print("alive")
"""
PROGRAMS = {"gateway": '"worker",', "model_server": ""}


class Failing(io.StringIO):
    """As a disk that is full for a while."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_lines_that_were_lost_are_told_by_the_next_one_that_is_not() -> None:
    stream = Failing()
    lines = LogLines(stream)
    assert lines.write("a\n") == 2 and lines.tell_lost(None, "", {}) == {}
    stream.full = True
    lines.write("b\n")
    lines.write("c\n")
    stream.full = False
    assert lines.tell_lost(None, "", {"event": "d"}) == {"event": "d", "lines_lost": 2}
    lines.write("d\n")
    assert lines.tell_lost(None, "", {}) == {} and stream.getvalue() == "a\nd\n"


def test_a_closed_stream_is_no_error() -> None:
    stream = io.StringIO()
    stream.close()
    assert LogLines(stream).write("a\n") == 2


@pytest.mark.parametrize("package", PROGRAMS)
def test_a_process_goes_on_when_nobody_reads_its_log_any_more(package: str) -> None:
    with started(package, subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        assert json.loads(process.stderr.readline())["event"] == "first"
        process.stdout.readline()
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "alive\n"


def test_a_reader_that_stands_still_is_not_waited_for_and_lines_stay_whole() -> None:
    reading, writing = os.pipe()
    with open(reading) as reader, open(writing, "w") as stream:
        lines, told = LogLines(stream), 0
        long, short = "l" * 3000 + "\n", "s\n"
        while not lines.tell_lost(None, "", {}):
            told += lines.write(long) == len(long)
        assert 10 < told < 64, "a pipe of 64 kB was filled"
        for _ in range(4):
            assert lines.write(short) == 2
        assert lines.tell_lost(None, "", {}) == {"lines_lost": 5}
        os.set_blocking(reading, False)
        held = reader.read()
        lines.write(short)
        assert lines.tell_lost(None, "", {}) == {}
        held += reader.read()
    *whole, torn, last = held.splitlines()
    assert last == "s" and len(torn) <= 3000 and set(whole) == {long.strip()} and len(whole) == told - 1


@pytest.mark.parametrize("package", PROGRAMS)
def test_a_process_goes_on_when_nobody_reads_on(package: str) -> None:
    """As under a pager that is at its first page."""
    program = PROGRAM.format(package=package, process=PROGRAMS[package])
    program = program.replace('log.error("nor this"', 'for _ in range(3000): log.error("nor this"')
    with started(package, subprocess.PIPE, program) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "\nalive\n"


@pytest.mark.parametrize("package", PROGRAMS)
def test_a_process_goes_on_when_its_log_is_on_a_full_disk(package: str) -> None:
    with Path("/dev/full").open("w") as full, started(package, full) as process:
        assert process.communicate("\n")[0] == "\nalive\n"


def started(package: str, stderr: int | TextIO, program: str = "") -> subprocess.Popen[str]:
    """A process that logs, waits for a line, and logs on."""
    program = program or PROGRAM.format(package=package, process=PROGRAMS[package])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=stderr, text=True
    )
