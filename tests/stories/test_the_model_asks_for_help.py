"""A call hands work off and goes on: what comes back, and what does when parts of the way die meanwhile.

Real processes, a real Valkey or Redis, an endpoint over real HTTP. The echo engine passes a typed line on as a
question, and says what comes back.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gateway.background.records import MOST_STILL_BYTES
from gateway.state.records import Line, Task, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder, server  # noqa: F401
from tests.gateway.state.server import StateServer, first_program
from tests.support.camera import pictures, psnr_db, rgb_of
from tests.support.chat_server import ChatServer, call_tool, garbage, never, refuse, stream
from tests.support.chromium import Chromium, executable
from tests.support.raw_call import RawCall
from tests.support.webrtc_caller import HZ, Filmed, WebrtcCaller, calling

pytestmark = [pytest.mark.redis, pytest.mark.processes]


@pytest.fixture
def program() -> str:
    return first_program()


TONE = (3_000 * np.sin(2 * np.pi * 440 * np.arange(60 * HZ) / HZ)).astype(np.int16)
SENTENCES = ("Your parcel left on Monday. ", "It was in Lyon last night. ", "It comes on Wednesday.")


@contextlib.contextmanager
def up(redis: str, **settings: str) -> Iterator[GatewayUnderTest]:
    wish = GatewayWish(
        calls=2, settings={"webrtc_calls": "4", "redis": redis, **settings}, ready_timeout_s=60.0
    )
    with GatewayUnderTest.start(wish) as gateway:
        yield gateway


def endpoint(chat: ChatServer, **more: str) -> dict[str, str]:
    return {"background_url": chat.url, "background_model": "tiny", "background_key": "secret", **more}


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"never so: {what}"
        await asyncio.sleep(0.02)


def captions(caller: WebrtcCaller) -> list[str]:
    return [line for m in caller.of_type("caption") for line in m["text"].split("\n") if line]


def results(caller: WebrtcCaller) -> list[str]:
    """What the model was given, and so what the echo says."""
    return [line for line in captions(caller) if line.startswith("result ") or line == "failed"]


def states(caller: WebrtcCaller) -> list[str]:
    return [m["state"] for m in caller.of_type("task")]


def nothing_is_left(look: StateServer) -> bool:
    """No task waits or is worked at, and no news lie about."""
    with look.look() as redis:
        pending: Any = redis.xpending("microturn:{tasks}:queue", "workers")
        news: Any = sum(redis.xlen(name) for name in redis.scan_iter("microturn:{tasks}:news:*"))
        return not redis.xlen("microturn:{tasks}:queue") and not pending["pending"] and not news


def busy(look: StateServer) -> int:
    with look.look() as redis:
        pending: Any = redis.xpending("microturn:{tasks}:queue", "workers")
    return int(pending["pending"])


@pytest.fixture(scope="module")
def boxed() -> Iterator[GatewayUnderTest]:
    """Out of the box, with the state server that it brings."""
    with up("auto") as gateway:
        yield gateway


def test_out_of_the_box_a_sum_comes_back_as_text(boxed: GatewayUnderTest) -> None:
    """Nothing is set: an embedded state server and an embedded worker, without any model behind it."""

    async def story(gateway: GatewayUnderTest) -> None:
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate 3 plus 4")
            await until(lambda: results(caller) == ["result 3 + 4 is 7."], "the sum")
            assert states(caller) == ["asked", "running", "running", "done"]
            assert caller.of_type("task")[0]["request"] == "caller: 3 plus 4"
            assert caller.of_type("task")[2]["note"] == "calculator"
            caller.say(type="text", text="delegate where is my hat")
            await until(lambda: results(caller)[1:] == ["failed"], "nobody knows")
            assert "no rule" in caller.of_type("task")[-1]["note"]

    play(story(boxed))


def test_without_a_state_server_it_fails_at_once() -> None:
    async def story(gateway: GatewayUnderTest) -> None:
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate 3 plus 4")
            await until(lambda: results(caller) == ["failed"], "refused")
            assert states(caller) == ["asked", "failed"]

    with up("off") as gateway:
        play(story(gateway))


@pytest.mark.long
def test_the_call_goes_on_during_eight_seconds_of_work(server: StateServer) -> None:  # noqa: F811
    """The result comes piece by piece, each piece is given to the model while the next one is made."""

    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        chat.plan(stream(*SENTENCES, pause_s=2.7))
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate where is my parcel")
            asked_s = time.monotonic()
            typed = 0
            came: list[float] = []
            while "done" not in states(caller):
                assert time.monotonic() < asked_s + 30
                caller.say(type="text", text=f"still here {typed}")
                typed += 1
                await asyncio.sleep(0.5)
                while len(came) < len(results(caller)):
                    came.append(time.monotonic() - asked_s)
            await until(lambda: len(results(caller)) == 3, "all pieces")
            assert results(caller) == [f"result {sentence.strip()}" for sentence in SENTENCES]
            assert time.monotonic() - asked_s > 8.0 and len(came) >= 2 and came[1] - came[0] > 1.5, came
            talked = [line for line in captions(caller) if line.startswith("still here")]
            assert len(talked) >= typed // 2 >= 7
            # its own voice came back meanwhile; a turn that a busy machine missed is none that waited for a task
            level = np.sqrt(np.mean(caller.pcm()[-4 * HZ :].astype(float).reshape(-1, HZ // 5) ** 2, axis=1))
            assert np.mean(level > 500) > 0.5, level
        (asked,) = chat.requests
        assert chat.keys == ["Bearer secret"] and asked["model"] == "tiny" and asked["stream"]
        assert "where is my parcel" in asked["messages"][-1]["content"]
        assert {tool["function"]["name"] for tool in asked["tools"]} == {
            "calculate", "clock", "look_up_order",
        }  # fmt: skip

    with ChatServer.start() as chat, up(server.url, **endpoint(chat)) as gateway:
        play(story(gateway, chat))
        gateway.wait_for(lambda m: m["microturn_state_buffered"] == 0, 30.0)
    assert nothing_is_left(server)
    with server.look() as look:
        (transcript,) = look.scan_iter("microturn:*:transcript")
        (tasks,) = look.scan_iter("microturn:{b-*:tasks")
        rows: Any = look.xrange(transcript)
        kept: Any = look.hvals(tasks)
    lines = [decode(Line, fields[b"line"]) for _, fields in rows]
    assert lines[0].speaker == "caller" and lines[0].text.startswith("delegate where is my parcel")
    said = [line for line in lines if line.speaker == "model"]
    assert sum(line.played_samples == 3_200 for line in said) > len(said) // 2, said
    assert [line.turn for line in lines] == sorted(line.turn for line in lines)
    (task,) = [decode(Task, row) for row in kept]
    assert task.state == "done" and task.result == "".join(SENTENCES)


def pictures_asked_with(chat: ChatServer) -> list[bytes]:
    """JPEGs of the newest request."""
    parts = [m["content"] for m in chat.requests[-1]["messages"] if isinstance(m["content"], list)]
    urls = [part["image_url"]["url"] for content in parts for part in content if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


@pytest.mark.parametrize("in_a_chunk", ["2", pytest.param("0", marks=pytest.mark.long)])
@pytest.mark.long
def test_who_answers_looks_through_the_camera(server: StateServer, in_a_chunk: str) -> None:  # noqa: F811
    """The picture in the request is what the camera shows; of one that is off there is none.

    Where chunks carry no pictures none is decoded, but for this one.
    """

    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        camera = Filmed(pictures(640, 480, 15))
        async with calling(gateway.http, TONE, camera) as caller:
            await caller.message("hello")
            await until(lambda: camera.shot > 15, "it films")
            chat.plan(call_tool("look", "{}"), stream("A man in a helmet."))
            caller.say(type="text", text="delegate what do I wear")
            await until(lambda: results(caller) == ["result A man in a helmet."], "it was looked at")
            assert "look" in [m["note"] for m in caller.of_type("task")]
            assert "look" in {tool["function"]["name"] for tool in chat.requests[0]["tools"]}
            (jpeg,) = pictures_asked_with(chat)
            with av.open(io.BytesIO(jpeg), format="image2pipe") as container:
                shown = next(container.decode(video=0)).reformat(format="rgb24").to_ndarray()
            likeness = [psnr_db(shown, rgb_of(scene, 320, 240)) for scene in pictures(640, 480, 15)]
            assert shown.shape == (240, 320, 3) and max(likeness) > 27.0, likeness
            assert len(jpeg) <= MOST_STILL_BYTES
            camera.is_on = False
            await asyncio.sleep(1.0)
            chat.plan(call_tool("look", "{}"), stream("I see nothing."))
            caller.say(type="text", text="delegate and now")
            await until(lambda: results(caller)[1:] == ["result I see nothing."], "nothing to look at")
            assert not pictures_asked_with(chat)
            assert "camera is off" in chat.requests[-1]["messages"][-1]["content"]
        async with calling(gateway.http, TONE) as caller:  # no camera at all
            await caller.message("hello")
            chat.plan(stream("Seven."))
            caller.say(type="text", text="delegate 3 plus 4")
            await until(lambda: results(caller) == ["result Seven."], "answered")
            assert "look" not in {tool["function"]["name"] for tool in chat.requests[-1]["tools"]}

    with (
        ChatServer.start() as chat,
        up(server.url, video_frames_per_chunk=in_a_chunk, **endpoint(chat)) as gateway,
    ):
        play(story(gateway, chat))
        gateway.wait_for(lambda m: m["microturn_tasks_stills_total"] == 1, 10.0)
        assert gateway.metrics()["microturn_tasks_stills_missing_total"] == 1
    assert nothing_is_left(server)
    with server.look() as look:
        assert not list(look.scan_iter("microturn:{tasks}:still:*"))


def test_a_worker_is_killed_in_the_middle_and_another_goes_on(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        chat.plan(stream("Your parcel left on Monday. ", "It was", pause_s=1.5), stream("It comes soon."))
        chat.plan(stream(SENTENCES[0], *(40 * [""]), pause_s=0.5), stream(SENTENCES[1], SENTENCES[2]))
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate where is my parcel")
            await until(lambda: len(results(caller)) == 1, "the first piece")
            victims = [p for p in gateway.processes() if p.kind == "worker"]
            assert len(victims) == 2
            working = caller.of_type("task")[-1]
            for process in victims:  # whichever has it: the other is left, or comes back at once
                if connections_to(process.pid, chat):
                    os.kill(process.pid, signal.SIGKILL)
            await until(lambda: "done" in states(caller), "another finishes it")
            await until(lambda: len(results(caller)) == 3, "the rest")
            await asyncio.sleep(1.0)
            assert results(caller) == [f"result {sentence.strip()}" for sentence in SENTENCES]
            assert working["state"] == "running" and states(caller).count("done") == 1
            notes = [m["note"] for m in caller.of_type("task")]
            assert "taken over from another worker" in notes
        first, second = chat.requests
        assert second["messages"][-2] == {"role": "assistant", "content": SENTENCES[0].strip()}
        assert "broke off" in second["messages"][-1]["content"]

    with (
        ChatServer.start() as chat,
        up(server.url, background_workers="2", **endpoint(chat)) as gateway,
    ):
        play(story(gateway, chat))
    assert nothing_is_left(server)


def connections_to(pid: int, chat: ChatServer) -> bool:
    """Whether that process has a connection to the endpoint."""
    port = f"{int(chat.url.rpartition(':')[2].partition('/')[0]):04X}"
    inodes = {
        os.readlink(f"/proc/{pid}/fd/{name}")[8:-1]
        for name in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[9] in inodes and row[2].endswith(f":{port}") and row[3] == "01" for row in rows)


@pytest.mark.long
def test_redis_is_killed_in_the_middle(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        chat.plan(stream(*SENTENCES, pause_s=2.0), stream(*SENTENCES, pause_s=0.2))
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate where is my parcel")
            await until(lambda: len(results(caller)) == 1, "the first piece")
            server.kill()
            caller.say(type="text", text="delegate 1 plus 1")  # asked while nobody can be asked
            await asyncio.sleep(3.0)
            caller.say(type="text", text="still here")
            await until(lambda: "still here" in captions(caller), "the call goes on")
            assert len(results(caller)) == 1
            server.start()
            await until(lambda: states(caller).count("done") == 2, "both are done")
            await until(lambda: len(results(caller)) == 6, "all pieces")
            sentences = [f"result {sentence.strip()}" for sentence in SENTENCES]
            assert sorted(results(caller)) == sorted(2 * sentences)
        assert len(chat.requests) == 2

    with ChatServer.start() as chat, up(server.url, **endpoint(chat)) as gateway:
        play(story(gateway, chat))
    assert nothing_is_left(server)


def test_a_caller_that_hangs_up_leaves_no_orphan(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        chat.plan(stream("", *(120 * ["word "]), pause_s=0.5))
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            for number in range(3):
                caller.say(type="text", text=f"delegate question {number}")
                await asyncio.sleep(0.3)
            await until(lambda: len(chat.requests) == 3, "three at once")
            assert busy(server) == 3
            first = caller.of_type("task")[0]["task"]
            caller.say(type="withdraw", task=first)
            await until(lambda: states(caller).count("cancelled") == 1, "one is withdrawn")
            await until(lambda: busy(server) == 2, "and not worked at")
        hung_up_s = time.monotonic()
        (worker,) = [p for p in gateway.processes() if p.kind == "worker"]
        await until(lambda: not connections_to(worker.pid, chat), "the endpoint is left alone")
        assert time.monotonic() - hung_up_s < 5.0
        await until(lambda: nothing_is_left(server), "nothing is left")

    with ChatServer.start() as chat, up(server.url, **endpoint(chat)) as gateway:
        play(story(gateway, chat))
        gateway.wait_for(lambda m: m["microturn_tasks_cancelled_total"] == 3, 10.0)
        assert gateway.metrics()["microturn_tasks_open"] == 0


@pytest.mark.long
def test_an_endpoint_that_fails_in_every_way(server: StateServer) -> None:  # noqa: F811
    """500 three times, 500 once, garbage, and never a word: the model is told each time, and the call goes on."""

    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")

            async def ask(*plans: Any) -> tuple[str, str]:
                chat.plan(*plans)
                before, told = len(results(caller)), len(caller.of_type("task"))
                caller.say(type="text", text="delegate where is my parcel")
                await until(lambda: len(results(caller)) > before, "an answer of some kind")
                return results(caller)[-1], caller.of_type("task")[told:][-1]["note"]

            assert await ask(refuse(500)) == ("failed", "the endpoint answers 500, 3 times")
            assert (await ask(refuse(500), stream("On its way.")))[0] == "result On its way."
            assert (await ask(refuse(401)))[1] == "the endpoint answers 401, 1 time"
            told = await ask(garbage)
            assert told == ("failed", "the endpoint sends what is no chat completion, 3 times")
            told = await ask(never)
            assert told == ("failed", "the endpoint does not answer (SocketTimeoutError), 3 times")
            assert (await ask(stream("Slow.", pause_s=0.8)))[0] == "result Slow."

    with (
        ChatServer.start() as chat,
        up(server.url, background_answer_s="1.0", **endpoint(chat)) as gateway,
    ):
        play(story(gateway, chat))
    assert nothing_is_left(server)


def test_a_deadline_ends_what_nobody_finishes(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest) -> None:
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate 3 plus 4")  # and there is no worker at all
            await until(lambda: results(caller) == ["failed"], "told at the deadline")
            assert caller.of_type("task")[-1]["note"] == "out of time"
            with server.look() as look:
                await until(lambda: not look.xlen("microturn:{tasks}:queue"), "taken out of the queue")

    with up(server.url, background_workers="0", background_deadline_s="2") as gateway:
        play(story(gateway))


@pytest.mark.long
def test_the_main_process_is_killed_while_a_task_runs(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest, chat: ChatServer) -> None:
        chat.plan(stream(*SENTENCES, pause_s=2.0))
        async with calling(gateway.http, TONE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="delegate where is my parcel")
            await until(lambda: len(results(caller)) == 1, "the first piece")
            victim = gateway.only("gateway")
            os.kill(victim.pid, signal.SIGKILL)
            await until(lambda: len(results(caller)) == 3, "the rest, by its successor")
            await until(lambda: "done" in states(caller), "done")
            assert results(caller) == [f"result {sentence.strip()}" for sentence in SENTENCES]
            await asyncio.to_thread(gateway.successor, victim)

    with ChatServer.start() as chat, up(server.url, **endpoint(chat)) as gateway:
        play(story(gateway, chat))


def test_a_telephone_asks_by_its_keys(server: StateServer) -> None:  # noqa: F811
    """`*3*4#`; that the answer came into the call stands in its transcript."""

    def lines() -> list[Line]:
        with server.look() as look:
            rows: Any = [look.xrange(name) for name in look.scan_iter("microturn:*:transcript")]
        return [decode(Line, fields[b"line"]) for entries in rows for _, fields in entries]

    with up(server.url) as gateway, RawCall(gateway.uri) as call:
        call.talk(0.5)
        for key in "*3*4#":
            call.press(key)
        for _ in range(50):
            call.talk(0.4)
            if any("result" in line.text for line in lines()):
                break
        said = [line for line in lines() if line.speaker == "model"]
    assert [line.text for line in said if "result" in line.text] == ["result 3 + 4 is 7."]
    echoed = "\n".join(line.text for line in said).split("\n")
    assert echoed[:5] == ["dtmf *", "dtmf 3", "dtmf *", "dtmf 4", "dtmf #"]
    assert nothing_is_left(server)


@pytest.mark.browser
def test_the_page_shows_it(boxed: GatewayUnderTest) -> None:
    executable()
    with Chromium.start() as chromium:
        page = chromium.open(boxed.http + "/")
        page.get_by_role("button", name="Call", exact=True).click()
        page.wait_for_selector("body[data-state=live]", timeout=15_000)
        page.get_by_label("Type to the model").fill("delegate 3 plus 4")
        page.keyboard.press("Enter")
        task = page.locator("#tasks .task[data-state=done]")
        task.wait_for(timeout=10_000)
        assert task.inner_text().split("\n")[0].startswith("Done")
        assert "caller: 3 plus 4" in task.inner_text() and "3 + 4 is 7." in task.inner_text()
        assert not task.get_by_role("button", name="Withdraw").is_visible()
        page.get_by_role("button", name="Hang up", exact=True).click()
        page.wait_for_selector("body[data-state=idle]")
        assert not chromium.complaints
