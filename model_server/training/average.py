"""`python -m model_server.training.average --out OUT A B ...`: the mean of several checkpoints of one network.

Runs that go on from the same weights end beside each other in one valley, each with errors of its own; the mean of
their weights makes fewer (Wortsman et al. 2022, model soups, arXiv 2203.05482). The flow head is the first one's: a
voice table that changed between two runs has no mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model_server.model import checkpoint
from model_server.model.checkpoint import Checkpoint
from model_server.model.flow_head import FlowHead
from model_server.model.interaction import Interaction

HEAD = "flow_head"


def mean(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Of all but the flow head, in float32. `ValueError` where they are not of one network."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.config != first.config or other.tensors.keys() != first.tensors.keys():
            raise ValueError(f"{other.path} is another network than {first.path}: nothing to be averaged")
    tensors = {
        name: torch.stack([one.tensors[name].float() for one in checkpoints]).mean(0).to(value.dtype)
        for name, value in first.tensors.items()
        if not name.startswith(f"{HEAD}.")
    }
    return replace(first, tensors=first.tensors | tensors, notes=first.notes | {"averaged": len(checkpoints)})


def run(paths: Sequence[Path], out: Path) -> None:
    """From these files to another. `ValueError` where one cannot be read, or is of another network."""
    found = mean([checkpoint.load(path) for path in paths])
    interaction, head = Interaction(found.config), FlowHead(found.config.hidden)
    found.into("interaction", interaction)
    found.into(HEAD, head)
    checkpoint.save(out, found.config, {"interaction": interaction, HEAD: head}, found.notes)


def main(argv: Sequence[str]) -> int:
    """0 when done, 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m model_server.training.average")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="the first one's flow head stays")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to be written")
    given = parser.parse_args(argv)
    try:
        run(given.checkpoints, given.out)
    except (ValueError, OSError) as wrong:
        print(f"average: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(given.out), "averaged": len(given.checkpoints)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
