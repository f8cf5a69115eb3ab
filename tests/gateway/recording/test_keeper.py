"""What becomes of recordings whose calls are over: finished, uploaded to a store that checks, deleted in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from structlog.testing import capture_logs

from gateway.recording.finish import NEW
from gateway.recording.keeper import (
    LAST_RETRY_S,
    MOST_TRIES,
    Keeper,
    alone,
    backlog,
    delete_of,
    read_counters,
)
from gateway.recording.keys import Keyring
from gateway.recording.s3 import Bucket
from gateway.recording.sigv4 import Signer
from tests.gateway.recording.s3_server import S3Server, serving
from tests.gateway.recording.test_finish import SECRET, recorded, tones

USER, STORE_SECRET, REGION = "AKID", "a secret of the store", "eu-central-1"
DAY_S = 86_400.0


class Clock:
    now_s = 1_700_000_100.0

    def __call__(self) -> float:
        return self.now_s


def keeping(folder: Path, story: Callable[[Keeper, S3Server, Clock], Awaitable[None]], *, secret: str = "",
            keep_days: int = 0) -> None:  # fmt: skip
    async def run() -> None:
        server, clock = S3Server(USER, STORE_SECRET, REGION), Clock()
        async with serving(server), aiohttp.ClientSession() as session:
            signer = Signer(USER, secret or STORE_SECRET, REGION)
            bucket = Bucket(f"{server.url}/bucket/calls and so on", signer, session)
            await story(Keeper(folder, "wav", Keyring(SECRET), keep_days, bucket, clock), server, clock)

    asyncio.run(run())


def test_a_recording_goes_to_the_store_and_from_here(tmp_path: Path) -> None:
    recorded(tmp_path, tones(0.4), None)

    async def story(keeper: Keeper, server: S3Server, clock: Clock) -> None:
        await keeper.look()
        ((name, held),) = server.objects.items()
        assert name.startswith("/bucket/calls and so on/2023") and name.endswith("-t-1.wav")
        assert held.endswith(tones(0.4)[-100:].tobytes())
        assert not list((tmp_path / "done").iterdir()) and not list((tmp_path / "live").iterdir())
        counters = read_counters(tmp_path)
        assert (counters.finished, counters.uploaded, counters.uploaded_bytes) == (1, 1, len(held))

    keeping(tmp_path, story)


def test_what_the_store_refuses_loses_or_cuts_is_kept_and_tried_again_later_and_later(tmp_path: Path) -> None:
    recorded(tmp_path, tones(0.4), None)

    async def story(keeper: Keeper, server: S3Server, clock: Clock) -> None:
        server.faults = [503, 0, 200]  # refused, no answer, and an object that is not what was sent
        for tries, wait_s in enumerate((2, 4, 8), 1):
            await keeper.look()
            assert server.puts == tries and keeper.counters.upload_tries_failed == tries
            assert len(list((tmp_path / "done").iterdir())) == 1
            clock.now_s += wait_s - 0.1
            await keeper.look()
            assert server.puts == tries
            clock.now_s += 0.1
        await keeper.look()
        assert keeper.counters.uploaded == 1 and not list((tmp_path / "done").iterdir())

    keeping(tmp_path, story)


def test_a_store_that_never_takes_it_is_asked_a_bounded_number_of_times(tmp_path: Path) -> None:
    recorded(tmp_path, tones(0.4), None)

    async def story(keeper: Keeper, server: S3Server, clock: Clock) -> None:
        with capture_logs() as logs:
            for _ in range(MOST_TRIES + 5):
                await keeper.look()
                clock.now_s += LAST_RETRY_S
        assert server.puts == 0 and keeper.counters.upload_tries_failed == MOST_TRIES
        assert keeper.counters.uploads_given_up == 1
        told = [entry for entry in logs if entry["log_level"] == "error"]
        assert len(told) == 2 and "SignatureDoesNotMatch" in told[0]["event"]

    keeping(tmp_path, story, secret="another secret")


def test_what_is_not_done_yet_is_shown(tmp_path: Path) -> None:
    names = ("recordings_unfinished", "recordings_to_upload", "recordings_to_upload_oldest_seconds")

    def seen(*, uploads: bool = True) -> tuple[float, ...]:
        told = backlog(tmp_path, uploads=uploads, unix_s=1_000.0)
        return tuple(told[name] for name in names)

    assert seen() == (0, 0, 0), "no call was recorded yet"
    recorded(tmp_path, tones(0.4), None)
    (tmp_path / "done").mkdir(exist_ok=True)
    for name, at_s in (("a.wav", 700.0), ("b.ogg", 900.0), ("c.wav.new", 10.0)):
        (tmp_path / "done" / name).touch()
        os.utime(tmp_path / "done" / name, (at_s, at_s))
    assert NEW == ".new" and seen() == (1, 2, 300)
    assert seen(uploads=False) == (1, 0, 0), "they stay here for good"


def test_recordings_are_deleted_when_their_time_is_over_and_not_before(tmp_path: Path) -> None:
    recorded(tmp_path, tones(0.4), None)

    async def story() -> None:
        clock = Clock()
        keeper = Keeper(tmp_path, "wav", Keyring(), 7, None, clock)
        await keeper.look()
        (path,) = (tmp_path / "done").iterdir()
        clock.now_s = path.stat().st_mtime + 7 * DAY_S - 1
        await keeper.look()
        assert path.exists()
        clock.now_s += 2
        with capture_logs() as logs:
            await keeper.look()
        assert not path.exists() and "its time is over" in logs[0]["event"]
        assert keeper.counters.expired == 1 and keeper.counters.expired_not_uploaded == 0

    asyncio.run(story())


def test_a_part_that_cannot_be_finished_stays_and_is_counted_and_others_go_on(tmp_path: Path) -> None:
    from gateway.recording.keys import key_of_environment

    locked = recorded(tmp_path, tones(0.4), key_of_environment(SECRET))
    locked = locked.rename(locked.with_name("0-locked.part"))
    broken = tmp_path / "live" / "1-broken.part"
    broken.write_bytes(os.urandom(50))
    recorded(tmp_path, np.flip(tones(0.4)), None)

    async def story() -> None:
        keeper = Keeper(tmp_path, "wav", Keyring(), 7)
        await keeper.look()
        assert (keeper.counters.unfinished, keeper.counters.finished) == (2, 1)
        assert locked.exists() and broken.exists()
        # counters go on in the next keeper
        assert Keeper(tmp_path, "wav", Keyring(), 7).counters.finished == 1

    asyncio.run(story())


def test_a_folder_has_one_keeper(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(ValueError, match="has a keeper already"),
        alone(tmp_path, patience_s=0.0),
    ):
        pass


def test_who_is_forgotten_has_no_recordings_any_more_and_others_keep_theirs(tmp_path: Path) -> None:
    part = recorded(tmp_path, tones(0.4), None)
    for name in ("live/2-t-11.part", "done/3-t-1.wav.mtr"):
        (tmp_path / name).write_bytes(b"")
    assert delete_of(tmp_path, {"t-1", "t-2"}) == 2
    assert not part.exists() and [path.name for path in tmp_path.glob("*/*")] == ["2-t-11.part"]
