"""What the model is told of the line is the same in a call as it was in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from media.chunk import QUARTER_SAMPLES, QUARTERS, Chunk
from media.slots import SlotTable
from media.timebase import FRAMES_PER_TURN, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from tests.model_server.engine.conftest import batch_of, chunk_of, voice
from tests.support.two_doors import TURNS, over_packets


def seen(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The network-truth inputs of every turn that the engine appends from now on, of one call."""
    turns: list[list[int]] = []
    inputs_of = engine._inputs

    def watched(dues: Any, **how: Any) -> Any:
        inputs = inputs_of(dues, **how)
        turns.extend(inputs.truth.tolist())
        return inputs

    monkeypatch.setattr(engine, "_inputs", watched)
    return turns


def through_the_table(chunks: Sequence[Chunk]) -> list[Batch]:
    """As the model server takes them: one at each tick."""
    table, batches = SlotTable.create(1), []
    table.generation[:] = 1
    for chunk in chunks:
        assert table.put_chunk(0, chunk)
        slots = table.inbound.ready()
        rows = table.inbound.gather(slots)
        table.inbound.advance(slots)
        batches.append(Batch(chunk.turn * TURN_NS, rows.slots, rows.meta, rows.pcm))
    table.close()
    return batches


def in_training(lost: np.ndarray) -> list[list[int]]:
    """The same inputs of a conversation of silence over a line that loses these packets: bool [10 a turn]."""
    from model_server.model.config import DIGITS
    from model_server.training.batches import example_of
    from model_server.training.channel import Codec, Line, concealed, made_up
    from model_server.training.conversation import Conversation, Turn

    turns, silence = len(lost) // FRAMES_PER_TURN, np.zeros(len(lost) * TURN_SAMPLES // 10, np.int16)
    conversation = Conversation(
        "silence",
        (Turn((), (), (-1, 0)),) * turns,
        concealed(silence, lost),
        made_up(lost),
        silence,
        (),
        Line(Codec.OPUS, -20.0),
    )
    return [turn.truth.tolist() for turn in example_of(conversation, DIGITS).turns]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_same_losses_are_the_same_inputs_in_training_and_in_a_call(
    engine: Any, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    frames = FRAMES_PER_TURN * TURNS
    lost = np.random.default_rng(6).random(frames) < share
    lost[:FRAMES_PER_TURN] = lost[-FRAMES_PER_TURN:] = False  # a call begins with a packet and ends with one
    told = seen(engine, monkeypatch)
    engine.open(0, "")
    for batch in through_the_table(over_packets(set(np.flatnonzero(lost).tolist()))):
        engine.step(batch)
    assert told == in_training(lost)
    assert (share > 0) is any(level for turn in told for level in turn)


def test_every_way_to_the_network_says_where(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the batch, a chunk that came late, and turns that never came."""
    told, pcm = seen(engine, monkeypatch), voice(1, 6)
    quarters = (0, 160, QUARTER_SAMPLES, 534)
    engine.open(0, "")
    first = batch_of({0: 0}, {0: pcm[0]})
    first.meta_B["concealed"] = quarters
    engine.step(first)
    late = chunk_of(1, pcm[1], concealed_quarters=quarters[::-1])
    engine.step(batch_of({0: 4}, {0: pcm[4]}, earlier={0: [late]}))
    assert told == [[0, 1, 3, 3], [3, 3, 1, 0], [3] * QUARTERS, [3] * QUARTERS, [0] * QUARTERS]
