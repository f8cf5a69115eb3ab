"""What training makes smaller: surprise at the tokens that a conversation writes, and error of its sound.

tokens   cross entropy at every position that has a target, `END` included
sound    flow-matching loss of the `speak` positions: all that sound, and a share of the silent ones
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.flow_head import OUTPUTS, FlowHead, training_times
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import SPEAK_POSITIONS, SUBFRAMES, Kind
from model_server.model.vocabulary import END
from model_server.training.batches import Batch
from model_server.training.mouth import MAX_WORD_TURNS
from model_server.training.voice_table import Voice, silence

SILENT_SHARE = 0.1
"""Of the silent `speak` positions: they are nearly all, and all alike."""
SOUND_WEIGHT = 0.2
"""Of the sound against the tokens."""


class Vectors:
    """The acoustic vectors of a voice by (row, turns into it); (-1, 0) is silence."""

    def __init__(self, voice: Voice) -> None:
        words = [[voice.vectors(word, turn) for turn in range(MAX_WORD_TURNS)] for word in voice.words]
        quiet = [silence()] * MAX_WORD_TURNS
        self._rows = torch.tensor([*words, quiet])  # silence is row -1

    def of(self, spoken: Tensor) -> Tensor:
        """int64 [turns, 2] -> float32 [4 turns, 4, 82], one row a `speak` position."""
        rows = self._rows[spoken[:, 0], spoken[:, 1].clamp_max(MAX_WORD_TURNS - 1)]
        return rows.unflatten(1, (SPEAK_POSITIONS, SUBFRAMES)).flatten(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Of one batch."""

    tokens: Tensor
    """Mean cross entropy, nats a target."""
    sound: Tensor
    """Mean squared error of the velocity."""
    events: int
    """Targets other than `END` ..."""
    events_right: int
    """... that were the likeliest token where they stand."""
    false_events: int
    """Positions that ought to end, and at which another token was the likeliest."""

    @property
    def total(self) -> Tensor:
        return self.tokens + SOUND_WEIGHT * self.sound


class Learner(nn.Module):
    """The model and its flow head, taught together."""

    def __init__(self, config: ModelConfig, voice: Voice) -> None:
        super().__init__()
        self.interaction, self.flow_head = Interaction(config), FlowHead(config.hidden)
        mean, deviation = voice.statistics()
        self.flow_head.normalise_by(torch.from_numpy(mean), torch.from_numpy(deviation))
        self._vectors = Vectors(voice)

    def losses(self, batch: Batch, generator: torch.Generator, chosen: list[Tensor] | None = None) -> Losses:
        """Differentiable; `generator` draws the noise and times of the flow and which silence is looked at."""
        inputs = batch.inputs
        hidden = self.interaction.whole(inputs, chosen)
        wanted = inputs.targets[inputs.targets >= 0]
        logits = self.interaction.logits(hidden[inputs.targets >= 0])
        found, event = logits.argmax(-1), wanted != END
        return Losses(
            F.cross_entropy(logits, wanted),
            self._sound(hidden[inputs.where(Kind.SPEAK)], batch.voice, generator),
            int(event.sum()),
            int((found == wanted)[event].sum()),
            int((found != END)[~event].sum()),
        )

    def _sound(self, rows: Tensor, spoken: Tensor, generator: torch.Generator) -> Tensor:
        sounding = (spoken[:, 0] >= 0).repeat_interleave(SPEAK_POSITIONS)
        taken = sounding | (torch.rand(len(sounding), generator=generator) < SILENT_SHARE)
        vectors = self._vectors.of(spoken)[taken]
        noise = torch.randn(len(vectors), OUTPUTS, generator=generator)
        times = training_times(len(vectors), generator)
        return self.flow_head.loss(rows[taken], vectors, noise, times).mean()
