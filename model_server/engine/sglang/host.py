"""SGLang in this process: its engine, streaming sessions, and turns with a deadline.

Its scheduler is a process of its own; this one has its front, an event loop that runs only while we wait for it.
What SGLang refuses and what it does not answer in time look the same from here: no answer, a reason in the log.

A process of SGLang's that ended, and a scheduler that says nothing for `Limits.stuck_s`, end this process, too, by
`EngineLost` out of whatever the main thread does: there is one way to be without SGLang, and it is to start again.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import signal
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch

from model_server.config import set_environment
from model_server.engine import EngineLost
from model_server.engine.sglang.asking import Answer, Lost, answer_of, hears, refused, request, speaks
from model_server.engine.sglang.folder import ARCHITECTURE
from model_server.engine.sglang.limits import Limits
from model_server.engine.sglang.trunk import INKLING, OWN
from model_server.engine.sglang.turn_item import TurnItem
from model_server.engine.sglang.watch import Watch
from model_server.model.published import ARCHITECTURE as INKLING_ARCHITECTURE

PACKAGE = "model_server.engine.sglang"
NO_LIMIT = 10**9
"""Of a session's letters: SGLang stores it and looks at it nowhere."""

log = structlog.get_logger()


def environment(trunk: str = OWN) -> dict[str, str]:
    """What SGLang, here and in its processes, reads of the environment to find our model."""
    models, architecture = ("inkling", INKLING_ARCHITECTURE) if trunk == INKLING else ("models", ARCHITECTURE)
    found = {
        "SGLANG_EXTERNAL_MODEL_PACKAGE": f"{PACKAGE}.{models}",
        "SGLANG_EXTERNAL_MM_MODEL_ARCH": architecture,
        "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": f"{PACKAGE}.processors",
        "HF_HUB_OFFLINE": "1",
    }
    return found if torch.cuda.is_available() else {**found, "SGLANG_USE_CPU_ENGINE": "1"}


OWN_ARGUMENTS = dict(
    device="cpu",
    dtype="float32",
    attention_backend="torch_native",
    disable_cuda_graph=True,
    mem_fraction_static=0.2,
)
"""Attention and graphs are off or at their plainest: the model computes by itself, on the CPU."""
INKLING_ARGUMENTS = dict(
    device="cuda",
    dtype="bfloat16",
    disable_prefill_cuda_graph=True,
    mem_fraction_static=0.85,
)
"""SGLang chooses FA4 or triton, and the rest that its Inkling needs, by itself. What requests bring is read on the
host, so `extend` is in no graph; decoding is."""


def arguments(folder: Path, limits: Limits, trunk: str = OWN) -> dict[str, Any]:
    """Of `sglang.Engine`, and of its HTTP server with dashes for underscores.

    Without overlap: a turn of one call needs the token before.
    """
    return dict(
        **(INKLING_ARGUMENTS if trunk == INKLING else OWN_ARGUMENTS),
        model_path=str(folder),
        sampling_backend="pytorch",
        disable_overlap_schedule=True,
        enable_multimodal=True,
        enable_streaming_session=True,
        skip_tokenizer_init=True,
        sleep_on_idle=True,
        chunked_prefill_size=-1,
        max_running_requests=limits.running_requests,
        max_total_tokens=limits.total_tokens,
        context_length=limits.context,
        log_level="error",
    )


class Host:
    """A running SGLang with our model."""

    def __init__(self, folder: Path, limits: Limits, trunk: str = OWN) -> None:
        """Takes some ten seconds. What is wrong ends this process, as SGLang does with its own."""
        set_environment(**environment(trunk))
        from model_server.engine.sglang.front import GatheringEngine

        self.limits, self.trunk = limits, trunk
        on_sigterm = signal.getsignal(signal.SIGTERM)
        self._engine = GatheringEngine(**arguments(folder, limits, trunk))
        self._names = itertools.count()
        self._lost, self._is_ending = "", False
        self._running: asyncio.Task[Any] | None = None
        self._heard_s = time.monotonic()
        self._silent_since_s: float | None = None
        self._is_in_main_thread = threading.current_thread() is threading.main_thread()
        if self._is_in_main_thread:  # else SGLang has taken no signals
            self._take_signals_back(on_sigterm)
        self._watch = Watch(self._engine.get_all_child_pids(), self._ended)
        self._is_closed = False
        atexit.register(self.close)  # before SGLang's own, which kills what is watched

    def close(self) -> None:
        """End SGLang's processes."""
        if not self._is_closed:
            self._is_closed = self._is_ending = True
            self._watch.stop()
            self._engine.shutdown()

    def open_sessions(self, count: int) -> list[str]:
        """New ones; empty strings for those that SGLang has not opened by the deadline of a turn."""
        if not count:
            return []
        opened: list[str] = self._run(self._open_sessions(count))
        return opened

    def close_sessions(self, sessions: Sequence[str]) -> None:
        """Give back their rows and tokens; at once, or when the request that runs in one is over."""
        if sessions:
            self._run(self._close_sessions(sessions))

    def turns(
        self, asked: Sequence[tuple[TurnItem, str]], seconds: float | None = None
    ) -> list[Answer | Lost | None]:
        """A turn of several sessions at once; None where there was no answer in time, or a refusal."""
        if not asked:
            return []
        answers: list[Answer | Lost | None] = self._run(
            self._turns(asked, self.limits.turn_s if seconds is None else seconds)
        )
        return answers

    def look(self) -> None:
        """Ask SGLang for a word if no call has of late; in idle moments. `EngineLost` when it is long silent."""
        if time.monotonic() - self._heard_s > self.limits.turn_s:
            self.close_sessions([session for session in self.open_sessions(1) if session])

    def _take_signals_back(self, on_sigterm: Any) -> None:
        """SGLang takes SIGTERM to be for its own event loop, which runs only while we wait for turns; and SIGQUIT,
        which its processes send when they fail, as an order to kill us without a word."""
        self._run(self._take_loop())
        signal.signal(signal.SIGTERM, on_sigterm)
        signal.signal(signal.SIGQUIT, self._failed)

    def _ended(self, how: str) -> None:
        """In the watch's thread. The main one may sleep, or wait for turns."""
        self._lost = self._lost or f"SGLang's process {how}"
        if self._is_in_main_thread:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGQUIT)
        else:
            self._wait_no_longer()

    def _failed(self, *_: Any) -> None:
        """SIGQUIT, from a process of SGLang's or from the watch."""
        self._lost = self._lost or "a process of SGLang's failed, see above"
        if not self._wait_no_longer() and not self._is_ending:
            self._is_ending = True
            raise EngineLost(self._lost)

    def _wait_no_longer(self) -> bool:
        """False when nobody waits for SGLang now."""
        running = self._running
        if running is not None:
            self._engine.loop.call_soon_threadsafe(running.cancel)
        return running is not None

    def _heard(self, is_there: bool) -> None:
        """Whether SGLang said anything to what was asked now: what is silent for long is dead."""
        now_s = time.monotonic()
        if is_there:
            self._heard_s, self._silent_since_s = now_s, None
        elif self._silent_since_s is None:
            self._silent_since_s = now_s
        elif now_s - self._silent_since_s > self.limits.stuck_s:
            silent_s = now_s - self._silent_since_s
            raise EngineLost(f"SGLang has said nothing for {silent_s:.1f} s")

    async def _turns(
        self, asked: Sequence[tuple[TurnItem, str]], seconds: float
    ) -> list[Answer | Lost | None]:
        until_s = time.monotonic() + seconds
        if self.trunk == OWN:
            said = await self._outputs([request(*one) for one in asked], until_s)
            found = [each if isinstance(each, str) else answer_of(each) for each in said]
        else:
            found = await self._in_two(asked, until_s)
        for answer, (item, session) in zip(found, asked, strict=True):
            if isinstance(answer, str):
                reason = answer or f"no answer in {seconds:.1f} s"
                about = dict(session=session, row=item.header.row, turn=item.header.turn)
                log.error("a turn without an answer: its session is given up", reason=reason, **about)
        return [None if isinstance(answer, str) else answer for answer in found]

    async def _in_two(
        self, asked: Sequence[tuple[TurnItem, str]], until_s: float
    ) -> list[Answer | Lost | str]:
        """Turns as two requests, one after the other; those of all calls together each time."""
        heard = await self._outputs([hears(*one) for one in asked], until_s)
        found: list[Answer | Lost | str] = [
            each if isinstance(each, str) else refused(each) or answer_of(each) for each in heard
        ]
        wishes = {
            b: wish
            for b, (one, each) in enumerate(zip(asked, heard, strict=True))
            if not isinstance(each, str) and not refused(each) and (wish := speaks(*one, each))
        }
        said = await self._outputs(list(wishes.values()), until_s)
        for b, each in zip(wishes, said, strict=True):
            first = heard[b]
            assert not isinstance(first, str)
            found[b] = each if isinstance(each, str) else answer_of(each, first)
        return found

    async def _outputs(
        self, wishes: Sequence[dict[str, Any]], until_s: float
    ) -> list[Mapping[str, Any] | str]:
        """What SGLang says to requests that are sent as one message, or why it says nothing: empty, it was late."""
        if not wishes:
            return []
        front = self._engine.tokenizer_manager
        names = [f"turn-{next(self._names)}" for _ in wishes]
        with front.together(len(wishes)) as together:
            tasks = [
                asyncio.ensure_future(self._engine.async_generate(**wish, rid=name))
                for name, wish in zip(names, wishes, strict=True)
            ]
            for task in tasks:
                task.add_done_callback(together.over)
            done, _ = await asyncio.wait(tasks, timeout=max(0.0, until_s - time.monotonic()))
        self._heard(bool(done))
        found: list[Mapping[str, Any] | str] = []
        for name, task in zip(names, tasks, strict=True):
            if not task.done():
                front.abort_request(rid=name)
                task.cancel()
                found.append("")
            elif error := task.exception():
                found.append(f"{type(error).__name__}: {error}")
            else:
                found.append(task.result())
        await asyncio.gather(*(task for task in tasks if task.cancelling()), return_exceptions=True)
        return found

    async def _take_loop(self) -> None:
        """SGLang takes the loop that runs, and the signals with it. uvloop gives them back only while it runs."""
        self._engine.tokenizer_manager.auto_create_handle_loop()
        for number in (signal.SIGTERM, signal.SIGQUIT):
            self._engine.loop.remove_signal_handler(number)

    async def _open_sessions(self, count: int) -> list[str]:
        from sglang.srt.managers.io_struct import OpenSessionReqInput

        front = self._engine.tokenizer_manager
        tasks = []
        for _ in range(count):
            name = f"call-{next(self._names)}"
            wish = OpenSessionReqInput(
                capacity_of_str_len=NO_LIMIT, session_id=name, streaming=True, timeout=self.limits.idle_s
            )
            tasks.append(asyncio.ensure_future(front.open_session(wish, None)))
        done, late = await asyncio.wait(tasks, timeout=self.limits.turn_s)
        self._heard(bool(done))
        for task in late:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        if wrong := [name for name in found if not isinstance(name, str)]:
            is_late = isinstance(wrong[0], asyncio.CancelledError)
            reason = f"no answer in {self.limits.turn_s:.1f} s" if is_late else repr(wrong[0])
            log.error("sessions that were not opened", count=len(wrong), reason=reason)
        return [name if isinstance(name, str) else "" for name in found]

    async def _close_sessions(self, sessions: Sequence[str]) -> None:
        from sglang.srt.managers.io_struct import CloseSessionReqInput

        for session in sessions:
            await self._engine.tokenizer_manager.close_session(CloseSessionReqInput(session_id=session), None)

    def _run(self, wanted: Coroutine[Any, Any, Any]) -> Any:
        """On SGLang's loop; what waits has a deadline of its own."""
        self._running = self._engine.loop.create_task(wanted)
        result = None
        try:
            result = self._engine.loop.run_until_complete(self._running)
        except asyncio.CancelledError:
            if not self._lost:
                raise
        finally:
            self._running = None
        if self._lost:
            self._is_ending = True
            raise EngineLost(self._lost)
        return result
