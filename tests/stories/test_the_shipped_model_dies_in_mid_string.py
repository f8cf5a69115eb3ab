"""kill -9 of the model server while callers dictate: its spare says back the digits from before, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import soxr

from gateway.caller.analysis import received_audio
from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.engines import choose
from gateway.priority import keeping_time
from loadtests.dialogues import APART_S, LEAD_IN_S, synchronous
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.timebase import FRAME_MS, MODEL_HZ

pytestmark = pytest.mark.processes

DATA = Path(__file__).parents[2].parent / "shared" / "data"
CALLS, TRIES = 4, 16
DIGITS = 6
BEFORE = 3
"""Digits of a string that are said before the kill."""
PAUSE_S = 0.5
"""In which it falls; the turn that it falls into is lost."""
SPOKEN_S, ANSWERED_S = 5.0, 9.0
"""From a call's first sample to the middle of that pause, and from there to the call's end."""


class Dictation:
    """A string of digits of unseen speakers; `pcm` int16 [n], 16 kHz, has its long pause at `SPOKEN_S`."""

    def __init__(
        self, caller: np.ndarray[tuple[int], np.dtype[np.int16]], cut_s: float, digits: Sequence[str]
    ) -> None:
        length, start = round((SPOKEN_S + ANSWERED_S) * MODEL_HZ), round((SPOKEN_S - cut_s) * MODEL_HZ)
        self.pcm = np.zeros(length, np.int16)
        part = caller[max(0, -start) :][: length - max(0, start)]
        self.pcm[max(0, start) :][: len(part)] = part
        self.digits = tuple(digits)


def dictations() -> list[Dictation]:
    """Strings with a pause in the middle that the model reads back when nobody kills it."""
    from model_server.engine.digits import DigitsEngine
    from model_server.engine.registry import CHECKPOINT
    from model_server.training import cases
    from model_server.training.rehearsal import rehearse

    found = []
    for heard in rehearse(DigitsEngine(CHECKPOINT), cases.of(["paused"], TRIES, DATA)):
        words = heard.case.words
        pause_s = words[BEFORE].start_s - words[BEFORE - 1].end_s
        said = "".join(text for _, text in heard.captions).split()
        if pause_s >= PAUSE_S and said == [word.label for word in words]:
            middle_s = words[BEFORE].start_s - pause_s / 2
            found.append(Dictation(heard.case.caller, middle_s, heard.case.expected))
    return found[:CALLS]


@pytest.mark.long
def test_digits_from_before_the_kill_are_said_back_after_it() -> None:
    if choose("auto")[0] != "digits":
        pytest.skip(f"no trained model here: {choose('auto')[1]}")
    if not DATA.is_dir():
        pytest.skip(f"no recordings in {DATA}: they are not part of this tree")
    settings = {"spare_model_server": "on", "slots": "8", "persona": f"read-back expect={DIGITS}"}
    wish = GatewayWish(CALLS, "digits", settings=settings, ready_timeout_s=90.0)
    killed: list[int] = []

    async def story(gateway: GatewayUnderTest, dictated: list[Dictation]) -> list[CallLog]:
        with keeping_time():
            async with Caller() as caller:
                tasks = []
                for each in dictated:
                    plan = CallPlan(gateway.uri, "PCMU", each.pcm, MODEL_HZ, lead_in_s=LEAD_IN_S)
                    tasks.append(asyncio.create_task(caller.place(plan)))
                    await asyncio.sleep(APART_S)
                await asyncio.sleep(LEAD_IN_S + SPOKEN_S - (CALLS / 2) * APART_S)
                killed.append(gateway.only("model-server").kill())
                return list(await asyncio.gather(*tasks))

    with GatewayUnderTest.start(wish) as gateway:
        dictated = dictations()  # the spare loads meanwhile
        assert len(dictated) == CALLS, "the model reads too few strings back even when it lives"
        spare = gateway.spare("model-server", 90.0)
        logs = asyncio.run(story(gateway, dictated))
        assert gateway.only("model-server").pid == spare.pid
        metrics = gateway.metrics()
    assert metrics["microturn_calls_lost_total"] == 0
    assert metrics["microturn_model_turns_rebuilt_total"] >= CALLS * SPOKEN_S
    assert all(log.answered and log.ended_by == "us" for log in logs)
    said = [said_after(log, killed[0]) for log in logs]
    remembered = [common(words, each.digits[:BEFORE]) for words, each in zip(said, dictated, strict=True)]
    told = [(each.digits, words) for words, each in zip(said, dictated, strict=True)]
    assert sum(remembered) >= CALLS * BEFORE * 2 // 3, told
    assert sum(words == each.digits for words, each in zip(said, dictated, strict=True)) >= 1, told


def said_after(log: CallLog, killed_ns: int) -> tuple[str, ...]:
    """The words of our voice that the caller heard from then on, off their sound."""
    from model_server.training.mouth import table_of
    from model_server.training.reading import Reader
    from model_server.training.voice_table import load_voice

    received = received_audio(log.datagrams, log.arrivals_ns, log.received_type, log.codec)
    seconds = log.plan.play_pcm.size / log.plan.play_rate_hz
    heard = synchronous(received, np.array(log.sent_ns, np.int64), FRAME_MS, seconds)
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    spoken = reader.read(soxr.resample(heard, received.rate_hz, MODEL_HZ))
    at_s = (killed_ns - log.sent_ns[0]) / 1e9 - LEAD_IN_S
    return tuple(each.word for each in spoken if each.start_s > at_s)


def common(words: Sequence[str], digits: Sequence[str]) -> int:
    """How many of these digits were said, in their order, among the words."""
    return sum(
        block.size for block in SequenceMatcher(None, words, digits, autojunk=False).get_matching_blocks()
    )
