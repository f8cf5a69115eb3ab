"""The spool on disk: what was taken is there after any death, in order, within its bound."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.events.spool import Spool
from tests.gateway.events.support import rest, spool_at

WRITER = """
import sys
from pathlib import Path
from gateway.events.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 20, ("crm",))
for number in range(1_000_000):
    assert spool.append(b"%d" % number)
    print(number, flush=True)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.log"))


def test_readers_get_everything_in_order_across_restarts(tmp_path: Path) -> None:
    dice = random.Random(1)
    spool = spool_at(tmp_path, 1 << 20, "crm", "log")
    written: list[bytes] = []
    got: dict[str, list[bytes]] = {"crm": [], "log": []}
    for step in range(600):
        payload = dice.randbytes(dice.randrange(3_000))
        assert spool.append(payload)
        written.append(payload)
        for reader, mine in got.items():
            while dice.random() < 0.5 and (record := spool.read(reader)) is not None:
                mine.append(record.payload)
                spool.advance(reader, record.after)
        if step % 97 == 0:
            spool.sync()
        if step % 150 == 149:
            spool.close()
            spool = spool_at(tmp_path, 1 << 20, "crm", "log")
    for reader, mine in got.items():
        mine += rest(spool, reader)
        assert mine == written
    assert not spool.counters.lost and names(tmp_path) == names(tmp_path)[-1:]  # what all have read is gone
    spool.close()


def test_a_writer_that_is_killed_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    spool_at(tmp_path).close()  # its reader is known from now on
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    told = [writer.stdout.readline() for _ in range(200)]
    os.kill(writer.pid, signal.SIGKILL)
    told += writer.stdout.readlines()
    writer.wait()
    spool = spool_at(tmp_path)
    found = [int(payload) for payload in rest(spool)]
    assert found == list(range(len(found))) and len(found) >= len(
        [line for line in told if line.endswith("\n")]
    )
    spool.close()


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_end_is_cut_off_and_written_over(tmp_path: Path, cut: int) -> None:
    spool = spool_at(tmp_path)
    spool.append(b"whole")
    spool.append(b"torn in two")
    spool.close()
    path = tmp_path / "00000001.log"
    os.truncate(path, path.stat().st_size - cut)
    spool = spool_at(tmp_path)
    spool.append(b"next")
    assert rest(spool) == [b"whole", b"next"]
    spool.close()


def test_a_damaged_record_ends_its_segment_and_no_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 16, ("crm",))
    payloads = [b"%4d" % number * 250 for number in range(12)]  # four a segment
    for payload in payloads:
        spool.append(payload)
    assert len(names(tmp_path)) >= 3
    with (tmp_path / "00000001.log").open("r+b") as file:
        file.seek(2_500)
        file.write(b"\xff")
    assert rest(spool) == [*payloads[:2], *payloads[4:]] and spool.counters.damaged == 1
    spool.close()


def test_when_it_is_full_details_are_refused_first_and_then_the_oldest_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 16, ("crm",))
    taken = refused = 0
    for _ in range(100):
        taken += spool.append(b"x" * 1_000, detail=True)
    refused = spool.counters.refused_detail
    assert taken + refused == 100 and refused and spool.size_bytes <= 0.75 * (1 << 16)
    for number in range(200):
        assert spool.append(b"%d" % number + b"y" * 1_000)
        assert spool.size_bytes <= 1 << 16
    left = rest(spool)
    assert len(left) + spool.counters.lost == taken + 200 and left[-1].startswith(b"199")
    numbers = [int(payload.rstrip(b"y")) for payload in left]
    assert numbers == list(range(numbers[0], 200))
    spool.close()


def test_a_new_reader_begins_with_what_comes_and_one_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.append(b"before")
    spool.close()
    spool = spool_at(tmp_path, 1 << 20, "crm", "late")
    spool.append(b"after")
    assert rest(spool, "late") == [b"after"] and rest(spool) == [b"before", b"after"]
    spool.close()
    spool = spool_at(tmp_path, 1 << 20, "late")
    assert not (tmp_path / "crm.place").exists() and rest(spool, "late") == []
    spool.close()


def test_a_disk_that_takes_nothing_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    file = spool._writing
    with open("/dev/full", "r+b", buffering=0) as full:
        spool._writing = full  # type: ignore[assignment]
        assert not spool.append(b"lost") and spool.counters.refused_error == 1
        spool._writing = file
    assert spool.append(b"kept") and rest(spool) == [b"kept"]
    spool.close()


def test_what_waits_is_written_over_and_nobody_loses_his_place(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, 1 << 20, "crm", "log")
    for number in range(9):
        assert spool.append(b"event %d of anna" % number)
    for _ in range(4):  # one has some of them
        record = spool.read("crm")
        assert record is not None
        spool.advance("crm", record.after)
    sealed = spool.seal()
    assert len(sealed) == 1 and not spool.seal()[1:]
    assert spool.append(b"event 9 of anna")
    changed = spool.change(sealed[0], lambda payload: b"*".ljust(len(payload)) if b"5" in payload else None)
    assert changed == 1 and not spool.change(99, lambda payload: payload)
    spool.swap(sealed[0])
    spool.sync()
    spool.close()
    assert not list(tmp_path.glob("*.changed")) and b"event 5" not in b"".join(
        path.read_bytes() for path in tmp_path.glob("*.log")
    )
    (tmp_path / "00000001.changed").write_bytes(b"of one that was killed")
    spool = spool_at(tmp_path, 1 << 20, "crm", "log")
    left = [payload.strip() for payload in rest(spool)]
    assert left == [b"event 4 of anna", b"*", *(b"event %d of anna" % number for number in range(6, 10))]
    assert len(rest(spool, "log")) == 10 and not spool.counters.damaged
    assert not (tmp_path / "00000001.changed").exists()
    spool.close()


def test_a_segment_that_everybody_has_got_meanwhile_stays_away(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    assert spool.append(b"anna")
    (sealed,) = spool.seal()
    assert spool.change(sealed, lambda payload: b"****") == 1
    assert spool.append(b"bert")
    assert rest(spool) == [b"anna", b"bert"]
    spool.swap(sealed)
    assert names(tmp_path) == ["00000002.log"] and not list(tmp_path.glob("*.changed"))
    spool.close()
