"""`python -m model_server.training.tune_voice`: the flow head alone learns the voice table as it is now.

After a change of `voice_table` the shipped model still says a word as it used to. Its trunk, which decides what is
said and when, stays as it is here, to the bit: rows of it are computed once, over conversations of training, and
the head learns from them what vectors lie behind them now. Minutes on one core. A word must keep its number of
turns, since the trunk counts them.

Shapes: N `speak` positions, d = width of the hidden row; a position is 4 sub-frames x 82 features.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model_server.model import checkpoint
from model_server.model.flow_head import OUTPUTS, FlowHead, training_times
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import SPEAK_POSITIONS, Kind
from model_server.training import curriculum
from model_server.training.batches import Source
from model_server.training.objective import SILENT_SHARE, Vectors
from model_server.training.train import material_of

TURNS, CONVERSATIONS = 96, 4
"""Of a batch, as in training."""
ROWS = 1024
"""Of a step: half of them as they come, half of them from words that are drawn alike."""
RATE = 1e-3
WARM_UP = 100
COOL_DOWN = 0.6
"""Share of the steps over which the rate falls to nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the trunk gives at `speak` positions, and what is to be heard there."""

    hidden: Tensor
    """float32 [N, d]"""
    vectors: Tensor
    """float32 [N, 4, 82]"""
    words: Tensor
    """int64 [N]: row of the voice table; -1 is silence."""


def rows_of(interaction: Interaction, source: Source, vectors: Vectors, batches: int, seed: int) -> Rows:
    """All that sounds in so many batches, and the share of silence that training looks at."""
    lesson = curriculum.lesson(1, 0, TURNS)
    draw = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for number in range(batches):
            batch = source.batch(seed, number, CONVERSATIONS, lesson)
            hidden = interaction.whole(batch.inputs)[batch.inputs.where(Kind.SPEAK)]
            words = batch.voice[:, 0].repeat_interleave(SPEAK_POSITIONS)
            kept = (words >= 0) | (torch.rand(len(words), generator=draw) < SILENT_SHARE)
            found.append((hidden[kept], vectors.of(batch.voice)[kept], words[kept]))
    return Rows(*(torch.cat(part).clone() for part in zip(*found, strict=True)))


def tune(head: FlowHead, rows: Rows, steps: int, seed: int) -> list[float]:
    """Teach it these rows; gives the loss of each step."""
    draw = torch.Generator().manual_seed(seed)
    _, word, count = rows.words.unique(return_inverse=True, return_counts=True)
    alike = 1.0 / count[word]
    optimiser = torch.optim.AdamW(head.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))
        taken = torch.cat(
            (
                torch.randint(len(word), (ROWS // 2,), generator=draw),
                torch.multinomial(alike, ROWS // 2, replacement=True, generator=draw),
            )
        )
        noise, times = torch.randn(ROWS, OUTPUTS, generator=draw), training_times(ROWS, draw)
        loss = head.loss(rows.hidden[taken], rows.vectors[taken], noise, times).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        head.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def run(begin: Path, out: Path, batches: int, steps: int, seed: int) -> dict[str, float]:
    """From one checkpoint to another. `ValueError` where the first cannot be read."""
    torch.set_num_threads(1)
    begun = checkpoint.load(begin)
    interaction, head = Interaction(begun.config), FlowHead(begun.config.hidden)
    begun.into("interaction", interaction)
    begun.into("flow_head", head)
    material = material_of(begun.config)
    rows = rows_of(interaction.eval(), material.train, Vectors(material.voice), batches, seed)
    losses = tune(head, rows, steps, seed)
    notes = {**begun.notes, "voice_steps": steps}
    checkpoint.save(out, begun.config, {"interaction": interaction, "flow_head": head}, notes)
    last = losses[-max(1, steps // 20) :]
    return {"rows": len(rows.words), "loss_before": losses[0], "loss_after": sum(last) / len(last)}


def main(argv: Sequence[str]) -> int:
    """0 when done, 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m model_server.training.tune_voice")
    parser.add_argument("--begin", type=Path, required=True, help="checkpoint whose trunk stays")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to be written")
    parser.add_argument("--batches", type=int, default=200, help="of conversations")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if min(given.batches, given.steps) < 1:
        parser.error(f"--batches {given.batches} --steps {given.steps}: expected 1 or more")
    try:
        figures = run(given.begin, given.out, given.batches, given.steps, given.seed)
    except (ValueError, OSError) as wrong:
        print(f"tune_voice: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(given.out), **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
