"""A telephone call as an adapter of tau2-bench (sierra-research/tau2-bench, `tau2.voice.audio_native.adapter`).

    DiscreteTimeAudioNativeAgent(tools, policy, tick_duration_ms=200, adapter=adapter_of("sip:100@host:5060"), ...)

Its `DiscreteTimeAdapter` hands over 200 ms of the user's mu-law and wants 200 ms of the agent's: one of our turns.
What does not fit:

- Its clock is audio: between two ticks nothing happens. A call's clock goes on: a late tick is late speech, and is
  counted (`line.py`).
- System prompt and tools are given at the start. Here the number that is called says what the model is to be; both
  are kept in the adapter, not given.
- Tool calls, their results and the agent's transcript do not go over a telephone line: there are no calls, results
  are refused with a warning and counted, `proportional_transcript` is empty.
- The agent's sound is there only while it speaks. A line is never still: a tick without sound above -49 dBFS is
  handed over as none.

tau2 is imported here alone, and when asked for. It is no dependency; its package wants Python 3.12, its adapters
run on 3.11.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from loadtests.tau.call import TickCall
from loadtests.tau.line import TICK_MS, sounds

CONNECT_S, TICK_TIMEOUT_S = 20.0, 30.0
QUIET_TICKS = 3
"""After 0.6 s of silence what follows is another utterance."""


def adapter_of(uri: str, longest_s: float = 1_800.0) -> Any:
    """A `DiscreteTimeAdapter` for calls of that URI. ImportError, saying what to do, where there is no tau2."""
    return _class()(uri, longest_s)


def _class() -> type[Any]:
    try:
        adapters = importlib.import_module("tau2.voice.audio_native.adapter")
    except ImportError as wrong:
        raise ImportError(
            f"tau2 cannot be imported ({wrong}): put the folder src of sierra-research/tau2-bench into PYTHONPATH, "
            "and install what its voice adapters import (pydantic, loguru, litellm, pandas, deepdiff, addict, toml)"
        ) from wrong
    results = importlib.import_module("tau2.voice.audio_native.tick_result")
    loops = importlib.import_module("tau2.voice.audio_native.async_loop")
    base: type[Any] = adapters.DiscreteTimeAdapter

    class TelephoneAdapter(base):  # type: ignore[misc]
        """One call at a time: connected is called and answered."""

        def __init__(self, uri: str, longest_s: float) -> None:
            super().__init__(TICK_MS)
            self.call: TickCall | None = None
            self.refused_tool_results = 0
            self.kept_prompt, self.kept_tools = "", 0
            self._uri, self._longest_s = uri, longest_s
            self._loop = loops.BackgroundAsyncLoop()
            self._utterance, self._quiet, self._ticks = 0, QUIET_TICKS, 0

        def connect(
            self, system_prompt: str, tools: list[Any], vad_config: Any, modality: str = "audio"
        ) -> None:
            """RuntimeError when nobody answers. What detects voices elsewhere has no part here."""
            if modality != "audio":
                raise ValueError(f"modality {modality}: a telephone has sound alone, expected audio")
            self.kept_prompt, self.kept_tools = system_prompt, len(tools)
            self.call = TickCall(self._uri, self._longest_s)
            self._loop.start()
            try:
                self._loop.run_coroutine(self.call.__aenter__(), timeout=CONNECT_S)
            except (OSError, ValueError, TimeoutError) as wrong:
                self.call = None
                self._loop.stop()
                raise RuntimeError(f"no call to {self._uri}: {wrong}") from wrong

        def disconnect(self) -> None:
            """Hang up."""
            if self.call is not None:
                self._loop.run_coroutine(self.call.__aexit__(None, None, None), timeout=CONNECT_S)
                self._loop.stop()
                self.call = None
            self.clear_buffers()

        @property
        def is_connected(self) -> bool:
            return self.call is not None

        def run_tick(self, user_audio: bytes, tick_number: int | None = None) -> Any:
            """One turn of the call. RuntimeError when it is over."""
            if self.call is None:
                raise RuntimeError("run_tick before connect: no call is up")
            number = self._ticks if tick_number is None else tick_number
            self._ticks = number + 1
            return self._loop.run_coroutine(self._async_run_tick(user_audio, number), timeout=TICK_TIMEOUT_S)

        async def _async_run_tick(self, user_audio: bytes, tick_number: int) -> Any:
            """As that of the base, but that a tick ends by the call's clock and not by a sleep of its own, which
            would fall behind by a packet every few seconds, and that it never brings more than a tick's sound."""
            await self._flush_pending_tool_results()
            per_second = self.audio_format.bytes_per_second
            result = results.TickResult(
                tick_number=tick_number,
                audio_sent_bytes=len(user_audio),
                audio_sent_duration_ms=len(user_audio) * 1000 / per_second,
                user_audio_data=user_audio,
                cumulative_user_audio_at_tick_start_ms=self._cumulative_user_audio_ms,
                bytes_per_tick=self.bytes_per_tick,
                bytes_per_second=per_second,
            )
            await self._execute_tick(user_audio, tick_number, result, asyncio.get_running_loop().time())
            result.tick_sim_duration_ms = result.audio_sent_duration_ms
            self._cumulative_user_audio_ms += round(result.audio_sent_duration_ms)
            return result

        async def _execute_tick(
            self, user_audio: bytes, tick_number: int, result: Any, tick_start: float
        ) -> None:
            assert self.call is not None
            try:
                heard = await self.call.tick(user_audio)
            except (ConnectionError, EOFError) as over:
                raise RuntimeError(str(over)) from over
            if sounds(heard):
                self._utterance += self._quiet >= QUIET_TICKS
                self._quiet = 0
                result.agent_audio_chunks.append((heard, f"utterance-{self._utterance}"))
            else:
                self._quiet += 1

        async def _flush_pending_tool_results(self) -> None:
            self.refused_tool_results += len(self._pending_tool_results)
            if self._pending_tool_results:
                adapters.logger.warning(
                    f"{len(self._pending_tool_results)} tool results not given to the model: a telephone line "
                    "carries none"
                )
            self._pending_tool_results.clear()

    return TelephoneAdapter
