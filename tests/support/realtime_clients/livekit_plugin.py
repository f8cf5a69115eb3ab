"""LiveKit's plugin for OpenAI's Realtime protocol, as it comes, calls a gateway.

How it is run and what it tells: `report.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from livekit import rtc
from livekit.agents import llm
from livekit.plugins import openai
from report import FUNCTION, HZ, Report, arguments

PIECE_MS = 50


class Warnings(logging.Handler):
    """The plugin logs what it cannot make anything of, and goes on."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self._report.errors.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}".strip())


@llm.function_tool(raw_schema=FUNCTION)
async def work_out(raw_arguments: dict[str, object]) -> None:
    """Never run here: who has no `AgentSession` answers by itself, as `Conversation` does."""


class Conversation:
    """What an `AgentSession` does with a session: reads its generations, and answers its functions."""

    def __init__(self, session: llm.RealtimeSession[Any], report: Report) -> None:
        self.reading: set[asyncio.Task[None]] = set()
        self._session, self._report = session, report
        session.on("error", lambda error: report.errors.append(repr(error.error)))
        session.on("openai_server_event_received", lambda event: report.count(event["type"]))
        session.on("input_audio_transcription_completed", self._hear)
        session.on("generation_created", lambda generation: self._begin(self._read(generation)))

    def _hear(self, heard: llm.InputTranscriptionCompleted) -> None:
        if heard.is_final:
            self._report.heard.append(heard.transcript)

    def _begin(self, reading: Any) -> None:
        task = asyncio.create_task(reading)
        self.reading.add(task)
        task.add_done_callback(self.reading.discard)

    async def _read(self, generation: llm.GenerationCreatedEvent) -> None:
        self._begin(self._answer(generation))
        async for message in generation.message_stream:
            self._begin(self._words(message))
            async for frame in message.audio_stream:
                self._report.hear(bytes(frame.data), frame.sample_rate)

    async def _words(self, message: llm.MessageGeneration) -> None:
        async for text in message.text_stream:
            self._report.said.append(str(text))

    async def _answer(self, generation: llm.GenerationCreatedEvent) -> None:
        async for call in generation.function_stream:
            output = str(self._report.work_out(call.arguments))
            context = self._session.chat_ctx.copy()
            context.items.append(
                llm.FunctionCallOutput(name=call.name, call_id=call.call_id, output=output, is_error=False)
            )
            await self._session.update_chat_ctx(context)
            await self._session.generate_reply()


async def call(given: argparse.Namespace, report: Report) -> None:
    """From the first sample to the last."""
    model = openai.realtime.RealtimeModel(base_url=f"{given.url}/v1", api_key="none", model="gpt-realtime")
    session = model.session()
    conversation = Conversation(session, report)
    if given.instructions:
        await session.update_instructions(given.instructions)
    if given.function:
        await session.update_tools([work_out])
    async for piece in report.speech(given.file, PIECE_MS):
        session.push_audio(rtc.AudioFrame(piece, HZ, 1, len(piece) // 2))
    logging.disable(logging.WARNING)  # what is under way when we hang up is discarded, and that logged
    await session.aclose()
    if conversation.reading:
        await asyncio.wait(set(conversation.reading), timeout=3)
    await model.aclose()


if __name__ == "__main__":
    told = Report()
    logging.basicConfig(handlers=[Warnings(told)])
    asyncio.run(call(arguments(), told))
    told.tell()
