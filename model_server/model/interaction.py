"""The interaction model: hears, reads and sees a micro-turn, writes tokens, and gives the rows that become sound.

`turn` appends one turn of a batch of calls, in the order of `micro_turn.TABLE`. Most turns write nothing, so the
four `speak` positions go in the same pass as what comes in, as if nothing were written; where a token is, they are
taken back and go with it. A turn of k tokens costs 1 + k passes, not 2 + k, and the rows are the same.

`whole` does the same to whole conversations at once, for training; its rows are those of the streamed model.

    B P   calls, positions of a conversation       d   hidden       V   tokens that can be written
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.inputs import Conversations, TurnInputs
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS, Kind
from model_server.model.state import PIECE_LIMIT, TrunkState
from model_server.model.towers import Ears, NormedEmbedding, PatchTower
from model_server.model.trunk import Trunk
from model_server.model.vocabulary import END

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits [N, V], and which calls (0 .. B - 1) they are of, to one token each, int64 [N]."""


def likeliest(logits_NV: Tensor, calls: Sequence[int]) -> Tensor:
    """The token with the largest logit."""
    return logits_NV.argmax(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What B calls gave in a turn."""

    tokens: list[list[int]]
    """Written by each call, without `END`."""
    hidden: Tensor
    """[B, 4, d]: the rows of the `speak` positions."""
    passes: int = 0
    """Through the trunk, one after another."""


class Interaction(nn.Module):
    """Embeddings, trunk and unembedding; the flow head stands behind it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.text = NormedEmbedding(config.vocabulary, config.hidden, config.norm_eps)
        self.ears = Ears(config)
        self.eyes = PatchTower(config)
        self.mouth = NormedEmbedding(SPEAK_POSITIONS, config.hidden, config.norm_eps)
        """Placeholders of the `speak` positions."""
        self.trunk = Trunk(config)
        self.unembedding = nn.Linear(config.hidden, config.vocabulary, bias=False)

    def initialise(self, seed: int) -> None:
        """Random matrices, norms and scales of 1, from that seed and the kind of device that the weights are on.

        Two things begin where training would have to carry them first: scores as wide as with 1 / sqrt(D) (the
        norm of queries makes up for the 1 / D), and profiles of bias that fall off smoothly, each at its distance.
        """
        generator = torch.Generator(device=self.unembedding.weight.device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("q_norm.weight"):
                    parameter.fill_(self.config.head_dim**0.5)
                elif name.endswith("profiles"):
                    parameter.copy_(_fading(*parameter.shape))
                elif parameter.ndim == 1:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(0, self.config.init_std, generator=generator)

    def state(self, rows: int, piece_limit: int = PIECE_LIMIT) -> TrunkState:
        """An empty state for so many calls, on the device and in the dtype of the weights."""
        like = self.unembedding.weight
        return TrunkState(
            self.config,
            rows,
            piece_limit=piece_limit,
            dtype=like.dtype,
            device=like.device,
            keys_by_channel=self.trunk.keys_by_channel,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V]."""
        logits: Tensor = self.unembedding(hidden / self.config.logits_divisor)
        return logits[..., : self.config.vocabulary_used]

    def turn(
        self,
        state: TrunkState,
        rows: Sequence[int],
        inputs: TurnInputs,
        choose: Choose = likeliest,
        say_limit: int | None = None,
    ) -> Spoken:
        """A turn of the calls in these rows of the state: what comes in, tokens until each gives `END`, sound.

        `say_limit`: tokens that a call may write; None: as many as the configuration says.
        """
        limit = self.config.say_limit if say_limit is None else min(say_limit, self.config.say_limit)
        logits, hidden, passes = self.begin(state, rows, inputs)
        tokens: list[list[int]] = [[] for _ in rows]
        writing = list(range(len(rows)))
        for _ in range(limit):
            chosen = choose(logits, writing).tolist()
            written = {b: token for b, token in zip(writing, chosen, strict=True) if token != END}
            if not written:
                break
            for b, token in written.items():
                tokens[b].append(token)
            writing = list(written)
            state.rewind([rows[b] for b in writing], SPEAK_POSITIONS)
            logits, rows_BSd = self.go_on(state, [rows[b] for b in writing], list(written.values()))
            hidden[writing] = rows_BSd
            passes += 1
        return Spoken(tokens, hidden, passes)

    def begin(self, state: TrunkState, rows: Sequence[int], inputs: TurnInputs) -> tuple[Tensor, Tensor, int]:
        """What comes in, and sound as if nothing were written: logits [B, V] of the first token, rows [B, 4, d] of
        the `speak` positions, passes."""
        passes = self._context(state, rows, inputs)
        x = self.ears(inputs.heard.flatten(0, 1), inputs.own.flatten(0, 1), inputs.truth.flatten())
        x = x.unflatten(0, (len(rows), HEAR_POSITIONS))
        return *self._ahead(x, state, rows), passes + 1

    def go_on(self, state: TrunkState, rows: Sequence[int], tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A token that each of these calls wrote, whose `speak` positions were taken back: logits of the next one,
        and rows of the `speak` positions behind it."""
        x = self.text(torch.tensor(list(tokens), device=state.device))[:, None]
        return self._ahead(x, state, rows)

    def _ahead(self, x_BTd: Tensor, state: TrunkState, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        out = self.trunk.append(torch.cat([x_BTd, self._placeholders(len(rows))], 1), state, rows)
        return self.logits(out[:, -SPEAK_POSITIONS - 1]), out[:, -SPEAK_POSITIONS:]

    def embed(self, batch: Conversations) -> Tensor:
        """Rows [B, P, d] of whole conversations; zeros where there is no position."""
        parts = {
            (Kind.VIDEO,): self.eyes(batch.patches),
            (Kind.TEXT, Kind.SAY): self.text(batch.tokens),
            (Kind.HEAR,): self.ears(batch.heard, batch.own, batch.truth),
            (Kind.SPEAK,): self._placeholders(len(batch.heard) // HEAR_POSITIONS).flatten(0, 1),
        }
        nothing = self.unembedding.weight.new_zeros(1, self.config.hidden)
        order = torch.zeros_like(batch.kinds)
        offset = 1
        for kinds, part in parts.items():
            order[batch.where(*kinds)] = torch.arange(offset, offset + len(part), device=order.device)
            offset += len(part)
        return F.embedding(order, torch.cat([nothing, *parts.values()]))

    def whole(self, batch: Conversations, chosen: list[Tensor] | None = None) -> Tensor:
        """Hidden rows [B, P, d] of whole conversations, teacher forced; differentiable.

        `logits(hidden[batch.targets >= 0])` predicts `batch.targets[batch.targets >= 0]`, and
        `hidden[batch.where(Kind.SPEAK)]`, four a turn, conditions the flow head. See `Trunk.whole` for `chosen`.
        """
        return self.trunk.whole(self.embed(batch), chosen)

    def _placeholders(self, count: int) -> Tensor:
        rows: Tensor = self.mouth(torch.arange(SPEAK_POSITIONS, device=self.mouth.weight.device))
        return rows.expand(count, -1, -1)

    def _context(self, state: TrunkState, rows: Sequence[int], inputs: TurnInputs) -> int:
        """Pictures, then text, of the calls that have any, in passes of their own; returns how many."""
        having = sorted({*inputs.patches, *inputs.text})
        if not having:
            return 0
        runs = []
        for b in having:
            seen = [self.eyes(inputs.patches[b])] if b in inputs.patches else []
            read = [self.text(torch.tensor(inputs.text[b], device=state.device))] if b in inputs.text else []
            runs.append(torch.cat([*seen, *read]))
        x = nn.utils.rnn.pad_sequence(runs, batch_first=True)
        self.trunk.append(x, state, [rows[b] for b in having], [len(run) for run in runs])
        return -(-x.shape[1] // state.piece_limit)


def _fading(profiles: int, distances: int) -> Tensor:
    """[r, R']: profile j is exp(-e / reach j); reaches from 1 to half of the distances, in a geometric row."""
    reaches = torch.logspace(0, math.log10(max(2, distances) / 2), profiles)
    return torch.exp(-torch.arange(distances) / reaches[:, None])
