"""What training makes smaller: surprise at the tokens that a conversation writes, and error of its sound.

tokens   cross entropy at every position that has a target, `END` included
frames   cross entropy of what the caller is saying, at every `hear` position, by a matrix that is not shipped:
         words are rare, and their targets come at their end; this says at every 50 ms what there was to hear
words    cross entropy among words and actions of ours, where there is one: which, not whether. One target in twenty
         is such a one, and all that a conversation is about is in them
pictures cross entropy of whether a picture completes a change, at its last position, by a matrix that is not
         shipped: for the same reason as `frames`
motion   cross entropy of whether anything moved in a picture, by what the patch tower alone gives of its patches
         (the largest of each row), likewise: through the trunk the tower hears of it late
sound    flow-matching loss of the `speak` positions: all that sound, and a share of the silent ones
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.flow_head import OUTPUTS, FlowHead, training_times
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import SPEAK_POSITIONS, SUBFRAMES, Kind
from model_server.model.vocabulary import END, HEARD, ids_of
from model_server.training.batches import FRAME_CLASSES, NOTHING, Batch
from model_server.training.mouth import MAX_WORD_TURNS
from model_server.training.voice_table import Voice, silence

SILENT_SHARE = 0.1
"""Of the silent `speak` positions: they are nearly all, and all alike."""
SOUND_WEIGHT = 0.2
"""Of the sound against the tokens."""
FRAME_WEIGHT = 0.3
"""Of what is said in each 50 ms, likewise ..."""
NOTHING_WEIGHT = 0.3
"""... in which nothing counts for less, as there is most of it."""
WORD_WEIGHT = 4.0
"""Of which word is ours, on top of what it weighs among the tokens."""
PICTURE_WEIGHT = 1.0
"""Of what a picture shows ..."""
MOTION_WEIGHT = 0.3
"""... and of whether it shows any motion."""
_HEARD = ids_of(HEARD)
_NOT_OURS = (END, *_HEARD)


class Vectors:
    """The acoustic vectors of a voice by (row, turns into it); (-1, 0) is silence."""

    def __init__(self, voice: Voice) -> None:
        words = [[voice.vectors(word, turn) for turn in range(MAX_WORD_TURNS)] for word in voice.words]
        quiet = [silence()] * MAX_WORD_TURNS
        self._rows = torch.from_numpy(np.array([*words, quiet]))  # silence is row -1

    def of(self, spoken: Tensor) -> Tensor:
        """int64 [turns, 2] -> float32 [4 turns, 4, 82], one row a `speak` position."""
        rows = self._rows[spoken[:, 0], spoken[:, 1].clamp_max(MAX_WORD_TURNS - 1)]
        return rows.unflatten(1, (SPEAK_POSITIONS, SUBFRAMES)).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Counts:
    """How the likeliest tokens compare with the targets."""

    heard: int = 0
    """Targets that are words of the caller ..."""
    heard_right: int = 0
    """... that were the likeliest token where they stand."""
    said: int = 0
    """Other targets than `END`: words and actions of ours ..."""
    said_right: int = 0
    false_events: int = 0
    """Positions that ought to end, and at which another token was the likeliest."""

    @property
    def right(self) -> float:
        """Share of all that was to be written."""
        return (self.heard_right + self.said_right) / max(1, self.heard + self.said)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Of one batch."""

    tokens: Tensor
    """Mean cross entropy, nats a target."""
    frames: Tensor
    """Mean cross entropy, nats a `hear` position."""
    words: Tensor
    """Cross entropy of our own words among themselves, nats a target of any kind."""
    pictures: Tensor
    """Mean cross entropy, nats a picture ..."""
    motion: Tensor
    """... likewise."""
    sound: Tensor
    """Mean squared error of the velocity."""
    counts: tuple[Counts, ...]
    """Of each conversation."""

    @property
    def total(self) -> Tensor:
        taught = FRAME_WEIGHT * self.frames + WORD_WEIGHT * self.words + PICTURE_WEIGHT * self.pictures
        return self.tokens + taught + MOTION_WEIGHT * self.motion + SOUND_WEIGHT * self.sound


class Learner(nn.Module):
    """The model and its flow head, taught together, and the matrices that say what is heard and seen."""

    def __init__(self, config: ModelConfig, voice: Voice) -> None:
        super().__init__()
        self.interaction, self.flow_head = Interaction(config), FlowHead(config.hidden)
        self.frames = nn.Linear(config.hidden, FRAME_CLASSES)
        self.pictures = nn.Linear(config.hidden, 2)
        self.motion = nn.Linear(config.hidden, 2)
        mean, deviation = voice.statistics()
        self.flow_head.normalise_by(torch.from_numpy(mean), torch.from_numpy(deviation))
        weights = torch.ones(FRAME_CLASSES)
        weights[NOTHING] = NOTHING_WEIGHT
        self.register_buffer("_frame_weights", weights, persistent=False)
        self._vectors = Vectors(voice)

    def losses(self, batch: Batch, generator: torch.Generator, chosen: list[Tensor] | None = None) -> Losses:
        """Differentiable; `generator` draws the noise and times of the flow and which silence is looked at."""
        inputs = batch.inputs
        hidden = self.interaction.whole(inputs, chosen)
        logits = self.interaction.logits(hidden[inputs.targets >= 0]).float()
        targets = inputs.targets[inputs.targets >= 0]
        said = self.frames(hidden[inputs.where(Kind.HEAR)]).float()
        return Losses(
            F.cross_entropy(logits, targets),
            F.cross_entropy(said, batch.frames, self._buffers["_frame_weights"]),
            words_among(logits, targets),
            self.picture_loss(hidden[inputs.where(Kind.VIDEO)], batch.seen),
            self.motion_loss(inputs.patches, batch.moved),
            self._sound(hidden[inputs.where(Kind.SPEAK)], batch.voice, generator),
            counted(logits.detach().argmax(-1), inputs.targets),
        )

    def picture_loss(self, rows: Tensor, seen: Tensor) -> Tensor:
        """Rows of all patches, as many for each picture."""
        if not len(seen):
            return rows.sum() * 0.0
        last = rows.unflatten(0, (len(seen), -1))[:, -1]
        return F.cross_entropy(self.pictures(last).float(), seen)

    def motion_loss(self, patches: Tensor, moved: Tensor) -> Tensor:
        """All patches, as many for each picture."""
        if not len(moved):
            return patches.sum() * 0.0
        rows = self.interaction.eyes(patches).unflatten(0, (len(moved), -1)).amax(1)
        return F.cross_entropy(self.motion(rows).float(), moved)

    def _sound(self, rows: Tensor, spoken: Tensor, generator: torch.Generator) -> Tensor:
        sounding = (spoken[:, 0] >= 0).repeat_interleave(SPEAK_POSITIONS)
        taken = sounding | (torch.rand(len(sounding), generator=generator) < SILENT_SHARE)
        vectors = self._vectors.of(spoken)[taken]
        noise = torch.randn(len(vectors), OUTPUTS, generator=generator)
        times = training_times(len(vectors), generator)
        return self.flow_head.loss(rows[taken], vectors, noise, times).mean()


def words_among(logits: Tensor, targets: Tensor) -> Tensor:
    """Surprise at our words, given that it is one of ours: [N, V] and int64 [N], nats a target of any kind."""
    not_ours = torch.tensor(_NOT_OURS, device=targets.device)
    ours = ~torch.isin(targets, not_ours)
    among = logits[ours].index_fill(1, not_ours, -torch.inf)
    return F.cross_entropy(among, targets[ours], reduction="sum") / len(targets)


def counted(found: Tensor, targets: Tensor) -> tuple[Counts, ...]:
    """Tokens found at all targets, int64 [N], against targets [B, P]; of each conversation."""
    wanted = targets[targets >= 0]
    heard = torch.isin(wanted, torch.tensor(_HEARD, device=wanted.device))
    ending, right = wanted == END, found == wanted
    said = ~heard & ~ending
    columns = (heard, heard & right, said, said & right, ending & ~right)
    lengths = (targets >= 0).sum(1).tolist()
    return tuple(
        Counts(*(int(number) for number in part.sum(0))) for part in torch.stack(columns, 1).split(lengths)
    )
