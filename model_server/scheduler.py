"""Who takes part in a tick: a pure function of arrays, without rings, clock or engine.

The turn that a tick is about is, for each slot, one more than at its tick before (`SlotStates.expected_S`).
So a turn that does not come is missing, and one that comes afterwards is late: it goes into the state of its
sequence (`Batch.earlier`), and no reply is made to it, since nobody would play it. Before it is called missing it
may be looked for again (`Plan.put_off`), for as long as a reply would still be played. A caller whose chunks have
all been late for `RESYNC_TICKS` is believed: what it sends is due from then on, or it would never be answered.

Shapes: S slots of the table, W slots with something waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_server.batch import Slots

RESYNC_TICKS = 5
"""One second: longer than a stall of the worker that is not for good, short enough for the caller to stay."""
NOBODY = -1


@dataclass(frozen=True, slots=True)
class SlotStates:
    """What the model server knows of each slot, by arrays [S]; its own memory, not the table's."""

    group_S: npt.NDArray[np.int64]
    """Phase group of the tenant; `NOBODY` when not leased."""
    started_S: npt.NDArray[np.bool_]
    """The first chunk has been seen."""
    closing_S: npt.NDArray[np.bool_]
    """The last chunk has been seen: nothing is missing any more."""
    expected_S: npt.NDArray[np.int64]
    """The turn that the next tick is about, once started."""
    behind_S: npt.NDArray[np.int64]
    """Ticks in a row at which all that was waiting was late."""

    @classmethod
    def of(cls, slots: int) -> SlotStates:
        """All free."""
        return cls(
            np.full(slots, NOBODY, np.int64),
            np.zeros(slots, np.bool_),
            np.zeros(slots, np.bool_),
            np.zeros(slots, np.int64),
            np.zeros(slots, np.int64),
        )

    def open(self, slot: int, group: int) -> None:
        """A new tenant, which has sent nothing yet."""
        self.group_S[slot] = group
        self.started_S[slot] = self.closing_S[slot] = False
        self.expected_S[slot] = self.behind_S[slot] = 0

    def close(self, slot: int) -> None:
        """The tenant is gone."""
        self.group_S[slot] = NOBODY

    def commit(self, plan: Plan) -> None:
        """What the tick has changed."""
        self.started_S[plan.new] = True
        self.closing_S[plan.closing] = True
        self.expected_S[plan.members] = plan.expected
        self.behind_S[plan.members] = plan.behind


@dataclass(frozen=True, slots=True)
class Waiting:
    """Slots of one group that have something whole and fresh to take, by arrays [W]."""

    slots_W: Slots
    """Ascending."""
    newest_W: npt.NDArray[np.int64]
    """Turn of the newest row."""
    rows_W: npt.NDArray[np.int64]
    """How many rows, the newest included."""
    last_W: npt.NDArray[np.bool_]
    """One of them is the last of its call."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at one tick."""

    ready_W: npt.NDArray[np.bool_]
    """Of `Waiting`: the newest row gets a reply. The others' rows are all late."""
    missing: Slots
    """Started, not closing, and no row for the turn that this tick is about: masked, counted once a tick."""
    absent: Slots
    """Of the missing: nothing at all is here of them."""
    late: Slots
    """They have rows that are taken and get no reply: older ones, or all."""
    resynced: int
    """Slots whose lateness has been taken for good."""
    new: Slots
    """Their first chunk is here."""
    closing: Slots
    """Their last chunk is here."""
    members: Slots
    """Slots of the group with a started call, after this tick."""
    expected: npt.NDArray[np.int64]
    """For each of `members`: the turn that its next tick is about."""
    behind: npt.NDArray[np.int64]
    """For each of `members`: ticks in a row with nothing but late rows."""

    def put_off(self) -> Plan:
        """The same without the absent, which are looked for again: nothing is said of them yet."""
        here = ~np.isin(self.members, self.absent)
        return replace(
            self,
            missing=np.setdiff1d(self.missing, self.absent),
            members=self.members[here],
            expected=self.expected[here],
            behind=self.behind[here],
        )


def plan_tick(states: SlotStates, ours_S: npt.NDArray[np.bool_], waiting: Waiting) -> Plan:
    """Who of `ours_S`, a group or a part of it, is ready, missing, late, new and closing at a tick.

    Changes nothing: see `commit`.
    """
    slots_W, newest_W = waiting.slots_W, waiting.newest_W
    started_W = states.started_S[slots_W]
    due_W = ~started_W | (newest_W >= states.expected_S[slots_W])
    behind_W = np.where(due_W, 0, states.behind_S[slots_W] + 1)
    resync_W = behind_W >= RESYNC_TICKS
    ready_W = due_W | resync_W
    behind_W[resync_W] = 0

    # By whole tables from here: a few compares over S beat sorting and merging index lists.
    expected_S = states.expected_S + 1
    expected_S[slots_W[ready_W]] = newest_W[ready_W] + 1
    behind_S = states.behind_S.copy()
    behind_S[slots_W] = behind_W
    missing_S = ours_S & states.started_S & ~states.closing_S
    missing_S[slots_W[ready_W]] = False
    member_S = ours_S & states.started_S
    member_S[slots_W] = True
    members = np.flatnonzero(member_S)
    closing = slots_W[waiting.last_W]
    missing_S[closing] = False
    missing = np.flatnonzero(missing_S)
    return Plan(
        ready_W=ready_W,
        missing=missing,
        absent=np.setdiff1d(missing, slots_W) if len(missing) else missing,
        late=slots_W[(waiting.rows_W > 1) | ~ready_W],
        resynced=int(np.count_nonzero(resync_W)),
        new=slots_W[~started_W],
        closing=closing,
        members=members,
        expected=expected_S[members],
        behind=behind_S[members],
    )
