"""Pipecat's service for OpenAI's Realtime protocol, in a pipeline as its documents have it, calls a gateway.

How it is run and what it tells: `report.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.realtime.events import (
    AudioConfiguration,
    AudioInput,
    InputAudioTranscription,
    SessionProperties,
)
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner
from report import FUNCTION, HZ, Report, arguments

PIECE_MS = 20


class Notes(FrameProcessor):
    """Of what passes, in that direction alone."""

    def __init__(self, report: Report, direction: FrameDirection) -> None:
        super().__init__()
        self._report, self._of = report, direction

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """One frame."""
        await super().process_frame(frame, direction)
        if direction is self._of:
            self._note(frame)
        await self.push_frame(frame, direction)

    def _note(self, frame: Frame) -> None:
        self._report.count(type(frame).__name__)
        if isinstance(frame, TTSAudioRawFrame):
            self._report.hear(frame.audio, frame.sample_rate)
        elif isinstance(frame, TTSTextFrame):
            self._report.said.append(frame.text)
        elif isinstance(frame, TranscriptionFrame):
            self._report.heard.append(frame.text)


def tools(report: Report) -> ToolsSchema:
    """The one function, which the service calls by itself."""

    async def work_out(params: FunctionCallParams) -> None:
        await params.result_callback(report.work_out(json.dumps(dict(params.arguments))))

    schema = FUNCTION["parameters"]
    return ToolsSchema(
        standard_tools=[
            FunctionSchema(
                FUNCTION["name"], FUNCTION["description"], schema["properties"], schema["required"], work_out
            )
        ]
    )


async def call(given: argparse.Namespace, report: Report) -> None:
    """From the first sample to the last."""
    heard = AudioConfiguration(input=AudioInput(transcription=InputAudioTranscription()))
    settings = OpenAIRealtimeLLMService.Settings(
        system_instruction=given.instructions or None, session_properties=SessionProperties(audio=heard)
    )
    url = given.url.replace("http", "ws", 1) + "/v1/realtime"
    service = OpenAIRealtimeLLMService(api_key="none", base_url=url, settings=settings)
    greeting = [{"role": "user", "content": "hello"}]
    context = LLMContext(greeting, tools(report)) if given.function else LLMContext(greeting)
    pair = LLMContextAggregatorPair(context)
    before, after = Notes(report, FrameDirection.UPSTREAM), Notes(report, FrameDirection.DOWNSTREAM)
    worker = PipelineWorker(
        Pipeline([pair.user(), before, service, after, pair.assistant()]),
        params=PipelineParams(audio_in_sample_rate=HZ, audio_out_sample_rate=HZ),
    )

    @worker.event_handler("on_pipeline_error")
    async def failed(worker: PipelineWorker, frame: ErrorFrame) -> None:
        report.errors.append(frame.error)

    async def speak() -> None:
        await worker.queue_frame(LLMRunFrame())
        async for piece in report.speech(given.file, PIECE_MS):
            await worker.queue_frame(InputAudioRawFrame(piece, HZ, 1))
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())


if __name__ == "__main__":
    told = Report()
    logger.remove()
    logger.add(
        lambda line: told.errors.append(str(line).strip()), level="WARNING", format="{name}: {message}"
    )
    asyncio.run(call(arguments(), told))
    told.tell()
