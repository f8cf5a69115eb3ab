"""The slot table: what is published arrives whole, and what is not whole or not ours does not."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from media.chunk import VIDEO_SIZE, Chunk, Flags, Reply, VideoFrame
from media.ring import META, TORN
from media.slots import VERSION, SlotTable, TableMismatch
from media.timebase import TURN_SAMPLES

ROOT = Path(__file__).parents[2]


def pcm(value: int) -> np.ndarray:
    return np.full(TURN_SAMPLES, value, np.int16)


def chunk(turn: int, generation: int = 1, **more: object) -> Chunk:
    return Chunk(generation, turn, 1000 + turn, pcm(turn + 1), **more)  # type: ignore[arg-type]


def picture(value: int, size: tuple[int, int] = VIDEO_SIZE) -> VideoFrame:
    """Captured at `value`, every byte `value`."""
    return VideoFrame(value, np.full((size[1], size[0], 3), value, np.uint8))


@pytest.fixture
def table():
    table = SlotTable.create(8)
    table.generation[:] = 1
    yield table
    table.close()


def take(table: SlotTable) -> list[Chunk]:
    slots = table.inbound.ready()
    rows = table.inbound.gather(slots)
    chunks = table.chunks(rows)
    table.inbound.advance(slots)
    return chunks


def test_a_chunk_arrives_as_it_was_published(table):
    frames = (picture(1), picture(2))
    sent = chunk(
        7,
        concealed_quarters=(1, 0, 320, 800),
        lost_packets=2,
        dropped_samples=3,
        played_samples=4,
        text="grüß dich",
        events=("dtmf 5", "hold"),
        video=frames,
        flags=Flags.FIRST | Flags.HELD,
    )
    assert table.put_chunk(3, sent)
    (got,) = take(table)
    assert np.array_equal(got.pcm, sent.pcm)
    assert [(v.captured_ns, v.rgb.min(), v.rgb.max(), v.rgb.shape) for v in got.video] == [
        (1, 1, 1, (240, 320, 3)),
        (2, 2, 2, (240, 320, 3)),
    ]
    assert replace(got, pcm=sent.pcm, video=sent.video) == sent
    assert not len(table.inbound.ready())


def test_a_reply_arrives_as_it_was_published(table):
    sent = Reply(1, 4, 99, pcm(5), "yes", ("hangup",), Flags.FLUSH)
    assert table.put_reply(2, sent)
    ring = table.outbound
    slots = ring.ready()
    rows = ring.gather(slots)
    (got,) = table.replies(rows)
    ring.advance(slots)
    assert np.array_equal(got.pcm, sent.pcm) and replace(got, pcm=sent.pcm) == sent


def test_a_full_ring_refuses_the_newest_and_gives_the_rest_in_order(table):
    assert [table.put_chunk(0, chunk(turn)) for turn in range(5)] == [True] * 4 + [False]
    assert [take(table)[0].turn for _ in range(4)] == [0, 1, 2, 3]
    assert table.put_chunk(0, chunk(9))
    assert take(table)[0].turn == 9


def test_rings_go_on_past_their_end_many_times(table):
    for turn in range(30):
        assert table.put_chunk(1, chunk(turn))
        assert [(c.turn, int(c.pcm[0])) for c in take(table)] == [(turn, turn + 1)]


def test_a_torn_row_is_dropped_and_the_others_of_the_batch_stay(table):
    for slot in range(3):
        table.put_chunk(slot, chunk(slot))
    table.inbound.seq[1, 0] = TORN
    slots = table.inbound.ready()
    rows = table.inbound.gather(slots)
    assert rows.slots.tolist() == [0, 2] and (rows.torn, rows.stale) == (1, 0)
    assert rows.pcm[:, 0].tolist() == [1, 3]
    table.inbound.advance(slots)
    table.put_chunk(1, chunk(5))
    assert take(table)[0].turn == 5


def test_a_row_of_an_earlier_tenant_is_dropped(table):
    table.put_chunk(0, chunk(0, generation=1))
    table.generation[0] = 2
    table.put_chunk(0, chunk(0, generation=2))
    slots = table.inbound.ready()
    rows = table.inbound.gather(slots)
    assert len(rows.slots) == 0 and (rows.torn, rows.stale) == (0, 1)
    table.inbound.advance(slots)
    assert [c.generation for c in take(table)] == [2]


def test_an_emptied_ring_shows_nothing_of_before(table):
    for turn in range(4):
        table.put_chunk(0, chunk(turn))
    table.inbound.empty(0)
    assert not len(table.inbound.ready())
    assert table.put_chunk(0, chunk(8)) and take(table)[0].turn == 8


@pytest.mark.parametrize("text", ["ä" * 600, "a" + "€" * 400, "🎈" * 300])
def test_text_is_cut_at_a_character_and_says_so(table, text):
    table.put_chunk(0, chunk(0, text=text))
    (got,) = take(table)
    assert text.startswith(got.text) and 1020 <= len(got.text.encode()) <= 1024
    assert got.flags & Flags.TEXT_CUT


def test_events_are_cut_at_an_event_and_say_so(table):
    events = tuple(f"dtmf {n:03}" for n in range(100))
    table.put_chunk(0, chunk(0, events=events))
    (got,) = take(table)
    assert got.events == events[: len(got.events)] and len(got.events) == 512 // 9
    assert got.flags & Flags.TEXT_CUT


def test_an_event_never_becomes_two(table):
    table.put_chunk(0, chunk(0, events=("say a\nhangup", "b")))
    assert take(table)[0].events == ("say a hangup", "b")


def test_video_that_was_overwritten_is_left_out_and_counted(table):
    for turn in range(3):  # 6 frames into a ring of 4: the first two are gone
        table.put_chunk(0, chunk(turn, video=(picture(2 * turn), picture(2 * turn + 1))))
    seen = [[v.captured_ns for v in take(table)[0].video] for _ in range(3)]
    assert seen == [[], [2, 3], [4, 5]] and table.overwritten == 2


def test_a_frame_that_is_being_overwritten_is_left_out(table):
    table.put_chunk(0, chunk(0, video=(picture(1),)))
    table._video_seq[0, 0] = TORN
    assert take(table)[0].video == () and table.overwritten == 1


def test_a_frame_is_a_view_that_knows_when_it_was_overwritten(table):
    table.put_chunk(0, chunk(0, video=(picture(1), picture(2))))
    first, second = take(table)[0].video
    assert np.shares_memory(first.rgb, table._video) and not first.rgb.flags.writeable
    kept = first.copied()
    for n in (3, 4, 5):  # the third of them comes round to the cell of the first
        assert first.intact()
        table.put_chunk(0, chunk(n, video=(picture(n),)))
    assert not first.intact() and first.copied() is None
    assert second.intact() and second.rgb.max() == 2
    assert kept is not None and kept.intact() and kept.rgb.max() == 1
    assert not np.shares_memory(kept.rgb, table._video)


def test_a_full_ring_spares_the_frames_that_are_still_to_be_read():
    table = SlotTable.create(1, rows=2, video=2)
    table.generation[:] = 1
    for turn in range(3):
        assert table.put_chunk(0, chunk(turn, video=(picture(turn),))) == (turn < 2)
    assert [[v.rgb.max() for v in take(table)[0].video] for _ in range(2)] == [[0], [1]]
    table.close()


@pytest.mark.parametrize("size", [(640, 360), (33, 17)])
def test_the_table_decides_the_size_and_leaves_other_frames_out(size):
    created = SlotTable.create(2, video_size=size)
    created.generation[:] = 1
    attached = SlotTable.attach(os.dup(created.fd))
    assert attached.video_size == size
    assert attached.put_chunk(1, chunk(0, video=(picture(7), picture(8, size))))
    (frame,) = take(created)[0].video
    assert (frame.captured_ns, frame.rgb.shape) == (8, (size[1], size[0], 3))
    assert (frame.rgb == 8).all() and attached.misfits == 1
    created.close()
    attached.close()


def test_a_picture_that_is_none_names_what_is_expected():
    with pytest.raises(ValueError, match=r"give uint8 \[height, width, 3\]"):
        VideoFrame(0, np.zeros((240, 320), np.uint8))


def test_the_video_of_voice_calls_is_never_backed():
    table = SlotTable.create(64)
    table.generation[:] = 1
    for slot in range(64):
        table.put_chunk(slot, chunk(0))
    voice = os.fstat(table.fd).st_blocks * 512
    table.put_chunk(3, chunk(1, video=(picture(1),)))
    with_video = os.fstat(table.fd).st_blocks * 512
    table.close()
    pixels = 3 * VIDEO_SIZE[0] * VIDEO_SIZE[1]
    assert voice < 64 * 16_384 and pixels <= with_video - voice < pixels + 5 * 4096


def test_replies_of_a_batch_are_those_of_single_ones(table):
    slots = np.array([1, 4, 6])
    meta = np.zeros(3, META)
    meta["turn"], meta["generation"] = [10, 20, 30], 1
    samples = np.stack([pcm(1), pcm(2), pcm(3)])
    said = {1: ("hello", ("hangup",), Flags.FLUSH), 2: ("é" * 600, (), Flags.NONE)}
    for _ in range(9):
        assert table.put_replies(meta, slots, 77, samples, said).all()
        ready = table.outbound.ready()
        assert ready.tolist() == [1, 4, 6]
        got = table.replies(table.outbound.gather(ready))
        table.outbound.advance(ready)
    assert [(r.generation, r.turn, r.stepped_ns, int(r.pcm[9])) for r in got] == [
        (1, 10, 77, 1),
        (1, 20, 77, 2),
        (1, 30, 77, 3),
    ]
    assert (got[0].text, got[0].events, got[0].flags) == ("", (), Flags.NONE)
    assert (got[1].text, got[1].events, got[1].flags) == ("hello", ("hangup",), Flags.FLUSH)
    assert len(got[2].text) == 512 and got[2].flags == Flags.TEXT_CUT


def test_replies_of_a_batch_refuse_only_the_full_ring(table):
    for turn in range(4):
        table.put_reply(4, Reply(1, turn, 0))
    slots, meta = np.array([1, 4, 6]), np.zeros(3, META)
    meta["generation"], meta["turn"] = 1, [10, 20, 30]
    samples = np.stack([pcm(1), pcm(2), pcm(3)])
    said = {2: ("six", (), Flags.NONE)}
    assert table.put_replies(meta, slots, 0, samples, said).tolist() == [True, False, True]
    ready = table.outbound.ready()
    got = table.replies(table.outbound.gather(ready))
    assert [(r.turn, int(r.pcm[0]), r.text) for r in got] == [(10, 1, ""), (0, 0, ""), (30, 3, "six")]


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slots": 5000}, {"rows": 1}, {"video": 1}, {"groups": 0}])
def test_sizes_out_of_range_name_themselves(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        SlotTable.create(**{"slots": 4, **wrong})


@pytest.mark.parametrize("size", [(15, 240), (320, 1921), (0, 0)])
def test_a_video_size_out_of_range_names_itself(size):
    with pytest.raises(ValueError, match="video (width|height) = "):
        SlotTable.create(1, video_size=size)


def test_nobody_can_shrink_or_grow_the_table(table):
    for size in (0, 4096, 2 * table.size):
        with pytest.raises(PermissionError):
            os.ftruncate(table.fd, size)
    assert fcntl.fcntl(table.fd, 1034) & 6 == 6  # F_GET_SEALS: shrink and grow


def test_another_version_is_refused(table):
    table._superblock[1] = VERSION + 1
    with pytest.raises(TableMismatch, match=f"version {VERSION + 1}.*same release"):
        SlotTable.attach(table.fd)


@pytest.mark.parametrize("field", [2, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("value", [0, 2**63])
def test_a_superblock_that_does_not_add_up_is_refused(table, field, value):
    table._superblock[field] = value
    with pytest.raises(TableMismatch):
        SlotTable.attach(table.fd)


@pytest.mark.parametrize("content", [b"", b"x" * 100, os.urandom(4096), bytes(100_000)])
def test_garbage_is_refused(content):
    fd = os.memfd_create("garbage")
    try:
        os.write(fd, content)
        with pytest.raises(TableMismatch):
            SlotTable.attach(fd)
    finally:
        os.close(fd)


def test_each_table_has_its_own_epoch():
    tables = [SlotTable.create(1) for _ in range(8)]
    assert len({t.epoch for t in tables}) == 8
    for t in tables:
        t.close()


WRITER = """
import socket, sys, time
import numpy as np
from media.chunk import Chunk, VideoFrame
from media.ring import TORN
from media.slots import SlotTable
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
_, fds, _, _ = socket.recv_fds(sock, 100, 1)
table = SlotTable.attach(fds[0])
for slot in range(3):
    rgb = np.arange(240 * 320 * 3, dtype=np.uint32).reshape(240, 320, 3) * (slot + 3) >> 4
    video = VideoFrame(900 + slot, rgb.astype(np.uint8))
    pcm = np.full(3200, slot, np.int16)
    table.put_chunk(slot, Chunk(1, 40 + slot, 5, pcm, text=f"slot {slot}", video=(video,)))
if sys.argv[2] == "die":  # in the middle of a second row of slot 1
    head = int(table.inbound.head[1])
    table.inbound.seq[1, head % table.rows] = TORN
    table.inbound.pcm[1, head % table.rows, :1000] = 7
    sock.send(b"half")
    time.sleep(60)
sock.send(b"done")
"""


def _writer(path: Path, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), how], cwd=ROOT)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["live", "die"])
def test_another_process_writes_and_its_death_spares_what_was_whole(table, tmp_path, how):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        listener.settimeout(20)
        writer = _writer(tmp_path / "s", how)
        try:
            conn, _ = listener.accept()
            with conn:
                conn.settimeout(20)
                socket.send_fds(conn, [b"table"], [table.fd])
                assert conn.recv(10) == (b"half" if how == "die" else b"done")
                if how == "die":
                    writer.kill()
                    assert conn.recv(10) == b""  # end of file is the news
        finally:
            status = writer.wait(20)
    assert status == (-signal.SIGKILL if how == "die" else 0)
    chunks = take(table)
    for slot, took in enumerate(chunks):
        (frame,) = took.video
        rgb = np.arange(240 * 320 * 3, dtype=np.uint32).reshape(240, 320, 3) * (slot + 3) >> 4
        assert frame.captured_ns == 900 + slot and np.array_equal(frame.rgb, rgb.astype(np.uint8))
    assert [(c.turn, int(c.pcm[0]), c.text) for c in chunks] == [
        (40, 0, "slot 0"),
        (41, 1, "slot 1"),
        (42, 2, "slot 2"),
    ]
    assert table.put_chunk(1, chunk(50))  # the next writer of the slot goes over the torn row
    assert [c.turn for c in take(table)] == [50]
