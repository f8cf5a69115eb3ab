"""The flow head learns another sound for one word, and keeps the others."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from model_server.model.flow_head import OUTPUTS, FlowHead  # noqa: E402
from model_server.training.tune_voice import Rows, tune  # noqa: E402

HIDDEN, WORDS = 24, 4


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def said(head: FlowHead, rows: Rows, word: int) -> float:
    """Mean squared error of what one step of the flow makes of that word's rows."""
    of = rows.words == word
    found = head.sample(rows.hidden[of], drawn(9, int(of.sum()), OUTPUTS), 1)
    return float((found - rows.vectors[of]).square().mean())


def test_a_word_that_sounds_otherwise_is_learned_and_the_others_are_kept() -> None:
    torch.manual_seed(0)
    head = FlowHead(HIDDEN, width=48, blocks=1)
    words = torch.arange(WORDS).repeat_interleave(torch.tensor([300, 300, 300, 12]))  # the last is a rare one
    hidden = drawn(1, WORDS, HIDDEN)[words] + 0.1 * drawn(2, len(words), HIDDEN)
    table = drawn(3, WORDS, 4, 82)
    tune(head, Rows(hidden, table[words], words), 200, seed=1)
    table[3] = drawn(4, 4, 82)
    rows = Rows(hidden, table[words], words)
    before = [said(head, rows, word) for word in range(WORDS)]
    losses = tune(head, rows, 200, seed=2)
    after = [said(head, rows, word) for word in range(WORDS)]
    assert before[3] > 1.0 and after[3] < 0.05 * before[3]
    assert all(after[word] < 2 * before[word] for word in range(3)) and losses[-1] < losses[0]
