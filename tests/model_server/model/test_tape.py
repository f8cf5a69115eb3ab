"""Slices of the tape are the distances that the definition of a ring gives, for calls of every age."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.tape import Tape  # noqa: E402

VISIBLE, EXTENT, LIMIT = 11, 7, 4
RING = VISIBLE - 1 + LIMIT


@pytest.mark.parametrize("longest", [1, 3, LIMIT])
@pytest.mark.parametrize("before", [0, 1, 5, RING - 2, RING - 1, RING, 2 * RING + 3, 500])
def test_a_slice_has_the_distance_of_every_place(before: int, longest: int) -> None:
    tape = Tape(VISIBLE, EXTENT, RING, LIMIT)
    counts = torch.arange(1, longest + 1)  # a call for each
    starts = tape.starts(before + counts, counts, longest)
    bias = torch.cat([torch.arange(1.0, EXTENT + 1), torch.zeros(1)]).index_select(0, tape.columns)

    def by_place(of_columns: Any) -> Any:
        rows = tape.slices(of_columns, starts, longest)[:, None, None].repeat(1, 2, longest, 1)
        return tape.by_place(rows)[:, 1]

    found, hidden = by_place(bias), by_place(tape.hidden)
    assert found.shape == (longest, longest, RING)
    for b, count in enumerate(counts.tolist()):
        newest = before + count - 1
        for t in range(count):
            for place in range(RING):
                held = newest - (newest - place) % RING  # the newest position that lies there
                distance = before + t - held
                seen = held >= 0 and 0 <= distance < VISIBLE
                assert hidden[b, t, place] == (0 if seen else -torch.inf), (before, count, t, place)
                if seen:
                    assert found[b, t, place] == (distance + 1 if distance < EXTENT else 0)


def test_positions_beyond_the_end_of_a_shorter_call_see_something() -> None:
    """Their rows mean nothing, but are numbers: attention that sees nothing gives none."""
    tape = Tape(VISIBLE, EXTENT, RING, LIMIT)
    for before in range(3 * RING):
        starts = tape.starts(torch.tensor([before + 1]), torch.tensor([1]), LIMIT)
        rows = tape.slices(tape.hidden, starts, LIMIT)[:, None, None].repeat(1, 1, LIMIT, 1)
        assert (tape.by_place(rows) == 0).any(-1).all(), before


def test_a_ring_that_a_pass_could_overwrite_is_refused() -> None:
    with pytest.raises(AssertionError):
        Tape(VISIBLE, EXTENT, RING - 1, LIMIT)
