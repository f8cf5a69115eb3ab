"""The model server as a process, and workers that come, go and come again."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from media.chunk import Chunk, VideoFrame
from media.leases import Lease, Refused, Release, Stats, StatsRequest, encode
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES, tick_at_or_after
from model_server import loop as server_module
from model_server.batch import Batch, Results
from model_server.config import load
from model_server.engine import LOST_STATUS, EngineLost
from model_server.engine.echo import EchoEngine
from tests.support.table_watch import TableWatch

pytestmark = pytest.mark.processes


def assert_echoed(replies, generation: int, first: int, turns: int) -> None:
    """Each reply has its own turn's samples and text. On a machine that stalls a turn may be lost, not changed."""
    for reply in replies:
        assert reply.generation == generation
        assert np.array_equal(reply.pcm, np.full(TURN_SAMPLES, reply.turn + 1, np.int16))
        assert reply.text.split("\n")[-1] == f"turn {reply.turn}"
    got = [reply.turn for reply in replies]
    assert got == sorted(set(got)) and set(got) <= set(range(first, first + turns))
    assert len(got) >= turns - 2, got


def test_a_call_is_echoed_turn_by_turn(start_server, attach):
    server = start_server()
    assert server.said == f"ready {server.path}\n"
    worker = attach(server)
    leased = worker.lease("a")
    assert_echoed(worker.talk(leased, 8), leased.generation, 0, 8)
    stats = worker.ask(StatsRequest())
    assert isinstance(stats, Stats)
    assert stats.fields["counters"]["turns_total"] >= 6
    assert stats.fields["gauges"]["slots_leased"] == 1
    assert server.end(signal.SIGTERM) == 0
    assert not server.path.exists()


def test_without_whoever_kept_it_a_call_goes_on_and_then_it_ends(start_server, attach):
    server = start_server("--kept")
    worker = attach(server)
    leased = worker.lease("a")
    server.lose_keeper()
    turns = server_module.ALONE_NS // TURN_NS + 5
    assert_echoed(worker.talk(leased, turns), leased.generation, 0, turns)
    worker.close()
    begun_ns = time.monotonic_ns()
    assert server.await_end() == 0 and not server.path.exists()
    assert time.monotonic_ns() - begun_ns > server_module.ALONE_NS - TURN_NS, (
        "its worker might have come back"
    )


def test_pictures_reach_the_engine_in_the_size_that_was_asked_for(start_server, attach):
    server = start_server("--video-size", "64x48", "--video", "16")
    worker = attach(server)
    leased = worker.lease("a")
    assert worker.table.video_size == (64, 48)
    sent = np.random.default_rng(4).integers(0, 256, (8, 48, 64, 3), np.uint8)
    with TableWatch(server.path) as watch:
        tick_ns = tick_at_or_after(time.monotonic_ns() + 60 * NS_PER_MS, leased.group, worker.table.groups)
        for turn in range(4):
            time.sleep(max(0, tick_ns + turn * TURN_NS - 20 * NS_PER_MS - time.monotonic_ns()) / NS_PER_S)
            video = tuple(VideoFrame(n, sent[n]) for n in (2 * turn, 2 * turn + 1))
            silence = np.zeros(TURN_SAMPLES, np.int16)
            assert worker.table.put_chunk(
                leased.slot, Chunk(leased.generation, turn, 5, silence, video=video)
            )
            watch.look()
        assert watch.look_until(lambda _: _video(worker, "video_frames_total") == 8, lambda: None, 10)
    assert [slot for slot, _ in watch.frames] == [leased.slot] * 8
    assert [frame.captured_ns for _, frame in watch.frames] == list(range(8))
    assert all(np.array_equal(frame.rgb, sent[n]) for n, (_, frame) in enumerate(watch.frames))
    assert (
        _video(worker, "video_frames_missed_total") == _video(worker, "video_frames_overwritten_total") == 0
    )


def _video(worker, name: str) -> int:
    stats = worker.ask(StatsRequest())
    assert isinstance(stats, Stats)
    return stats.fields["counters"][name]


def test_a_worker_that_hangs_up_frees_its_slots_and_not_the_others(start_server, attach):
    server = start_server(slots=2)
    first, second = attach(server, "one"), attach(server, "two")
    old, kept = first.lease("a"), second.lease("b")
    assert isinstance(second.ask(Lease("c")), Refused)
    first.close()
    new = second.lease_when_rested("c")
    assert (new.slot, new.generation) == (old.slot, old.generation + 1)
    assert_echoed(second.talk(kept, 4), kept.generation, 0, 4)
    assert_echoed(second.talk(new, 4), new.generation, 0, 4)


def test_a_released_slot_is_leased_again(start_server, attach):
    worker = attach(start_server(slots=1))
    old = worker.lease("a")
    worker.sock.send(encode(Release("a", old.slot, old.generation)))
    assert worker.lease_when_rested("b").generation == old.generation + 1


def test_a_call_goes_on_after_the_server_was_killed(start_server, attach):
    server = start_server()
    worker = attach(server)
    leased = worker.lease("a")
    assert_echoed(worker.talk(leased, 3), leased.generation, 0, 3)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert worker.sock.recv(10) == b""  # the news comes by end of file
    again = attach(start_server())
    assert again.attached.epoch != worker.attached.epoch
    goes_on = again.lease("a", floor=leased.generation)
    assert goes_on.generation > leased.generation
    assert_echoed(again.talk(goes_on, 3, first=17), goes_on.generation, 17, 3)


def test_rubbish_on_the_socket_ends_only_its_sender(start_server, attach):
    server = start_server()
    good, bad = attach(server), attach(server)
    bad.sock.send(b"rubbish")
    assert bad.sock.recv(10) == b""
    assert good.lease("a")


def test_a_second_server_on_the_same_socket_does_not_start(start_server, attach):
    server = start_server()
    second = subprocess.run(
        [sys.executable, "-m", "model_server", "--socket", str(server.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=20,
        text=True,
    )
    assert second.returncode == 2 and second.stdout == ""
    assert "another model server answers there" in second.stderr
    assert attach(server).lease("a")


def _attached(attach, path: Path):
    """None while nobody listens there yet."""
    try:
        return attach(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


class Fragile(EchoEngine):
    """Breaks at the first text of a call; calibration's does no harm."""

    def __init__(self, wrong: Exception) -> None:
        super().__init__()
        self.wrong = wrong

    def step(self, batch: Batch) -> Results:
        if any(chunk.text.startswith("turn ") for chunk in batch.chunks.values()):
            raise self.wrong
        return super().step(batch)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [(RuntimeError("device lost"), 1), (EngineLost("process 7 was killed"), LOST_STATUS)],
)
def test_an_engine_that_raises_ends_the_server(tmp_path, attach, monkeypatch, wrong, expected):
    monkeypatch.setattr(server_module, "make_engine", lambda *_, **__: Fragile(wrong))
    config = load(socket=tmp_path / "s", slots=4)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(server_module.run(config)))
    thread.start()
    until = time.monotonic() + 20
    while (worker := _attached(attach, config.socket)) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    worker.talk(worker.lease("a"), 1)
    thread.join(20)
    assert status == [expected]
    assert worker.sock.recv(10) == b"" and not config.socket.exists()


@pytest.fixture
def digits() -> Iterator[Path]:
    """A small random network as a checkpoint."""
    pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")
    from tests.model_server.engine.conftest import random_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        yield random_checkpoint(Path(folder))


def test_the_model_answers_through_the_table(start_server, attach, digits):
    server = start_server("--engine", "digits", "--checkpoint", str(digits), "--groups", "1")
    worker = attach(server)
    assert worker.attached.engine == "digits"
    refused = worker.ask(Lease("b", persona="sing"))
    assert isinstance(refused, Refused) and "persona = 'sing': expected one of" in refused.reason
    replies = worker.talk(worker.lease_when_rested("a"), 8)
    turns = [reply.turn for reply in replies]
    assert turns and turns == sorted(set(turns)) and any(reply.pcm.any() for reply in replies)
    assert server.end(signal.SIGTERM) == 0


def test_the_model_without_its_weights_does_not_start(tmp_path):
    command = [sys.executable, "-m", "model_server", "--engine", "digits", "--socket", str(tmp_path / "s")]
    done = subprocess.run(
        [*command, "--checkpoint", str(tmp_path / "none")],
        cwd=Path(__file__).parents[2], capture_output=True, timeout=20, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "or take --engine echo" in done.stderr
