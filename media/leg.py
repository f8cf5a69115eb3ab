"""One leg of a call: frames in, chunks out; replies in, frames out. SIP and WebRTC share it.

The leg only wires the organs: its intake (when is a chunk a chunk), `Resampler` (whose samples), `Playout`
(when is a reply heard). It knows no socket and no slot. There are two doors: a SIP leg has a `Chunker`, which
takes frames, a WebRTC leg a `JitterBuffer`, which takes packets; behind them all is the same. Whoever drives
it does, once a turn and just before the tick of the leg's phase group (`now_ns`, the same time before each):

    intake.receive_...(...) for all that came; chunk = cut(now_ns); publish it; receive_reply(...) when rung

Its one rule: a chunk is cut every turn as long as the leg lives, whatever did not come. Whoever slept over some
ticks has their turns counted as missed: a tick is the same turn here, in the model server and in the playout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from media.chunk import MAX_TEXT_BYTES, Chunk, Flags, Quarters, Reply, VideoFrame
from media.chunker import Cut
from media.keys import ToneEar
from media.made_up import MadeUp, quarters
from media.playout import Playout
from media.resample import Resampler
from media.tape import Tape
from media.timebase import (
    FRAME_MS,
    FRAME_NS,
    MODEL_HZ,
    NS_PER_MS,
    NS_PER_S,
    TURN_MS,
    TURN_NS,
    TURN_SAMPLES,
    samples_of,
)

WAKE_NS = 8 * NS_PER_MS
"""Between a reply's publishing and its first frame: the doorbell, the worker's waking, the resampling."""
MAX_EVENTS = 16
SLEPT_FRAMES = 2
"""A clock that is one frame behind is only late; it catches up by itself."""


class Intake(Protocol):
    """Where a leg's samples come from, and how it cuts them into turns."""

    @property
    def rate_hz(self) -> int: ...

    def choose_phase(self) -> None: ...

    def is_whole(self) -> bool: ...

    def cut(self, now_ns: int) -> Cut: ...


IntakeT = TypeVar("IntakeT", bound=Intake)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The lease of a slot as the leg needs it."""

    slot: int
    generation: int
    group: int
    budget_ns: int


@dataclass(slots=True)
class LegCounters:
    """What happened to replies that did not come from this tenancy, and to events that did not fit."""

    stale_replies: int = 0
    events_dropped: int = 0
    texts_dropped: int = 0
    interruptions: int = 0
    """The model fell silent in the middle of what it was saying."""
    cuts: int = 0
    """It was kept from being heard."""


class Screen(Protocol):
    """Who sees what the model says before it is heard."""

    def check(self, reply: Reply) -> Reply:
        """What is left of it; with `Leg.withholds` its sound is not heard."""
        ...

    def cut(self, name: str) -> bool:
        """What the model says now is not heard further, for a reason of that name; False when it is silent."""
        ...


class Leg(Generic[IntakeT]):
    """One media connection, at its intake's rate, from its first sample to its last."""

    def __init__(self, intake: IntakeT) -> None:
        rate_hz = intake.rate_hz
        self.intake = intake
        self.playout = Playout(rate_hz)
        self.counters = LegCounters()
        self.turn = 0
        self.held = self.muted = False
        self.tones: ToneEar | None = None
        """Who listens for keys in the sound, where nobody sends them as events."""
        self.screen: Screen | None = None
        self.withholds = False
        """Replies have their turns and are not heard."""
        self.tape: Tape | None = None
        """Who records it: here what the caller says, its worker tells it what was heard."""
        self._turn_samples = samples_of(TURN_MS, rate_hz)
        self._said_to = 0
        """Place of the newest turn's end on the ear's clock (`media.tape`)."""
        self._up = Resampler(rate_hz, MODEL_HZ)
        self._down = Resampler(MODEL_HZ, rate_hz)
        self._to_model = MODEL_HZ / rate_hz
        self._made_up = MadeUp()  # of what `_up` gives next
        self._tenancy: Tenancy | None = None
        self._played_told = 0
        self._events: list[str] = []
        self._texts: list[str] = []
        self._lost_packets = 0
        self._playing_since: int | None = None
        self._first_tick_ns = 0  # of that turn

    @property
    def tenancy(self) -> Tenancy | None:
        """The slot that this leg holds now; None while there is no model server."""
        return self._tenancy

    def lease(self, tenancy: Tenancy) -> None:
        """A slot was leased to this leg; after a restart of the model server another one is."""
        self._tenancy = tenancy
        self._playing_since = None
        self.intake.choose_phase()

    def move(self, tenancy: Tenancy) -> None:
        """Between two turns another model server goes on with the call, in the same phase group.

        The playout point stays where it is, so nobody hears of it.
        """
        self._tenancy = tenancy

    def vacate(self) -> None:
        """The model server is gone: turns go on without it, and nothing of it is played any more."""
        self._tenancy = None
        self.playout.flush()

    def receive_event(self, event: str) -> None:
        """A fact for the next chunk; beyond `MAX_EVENTS` a turn the newest are dropped and counted."""
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        else:
            self.counters.events_dropped += 1

    def receive_text(self, text: str) -> bool:
        """A typed line for the next chunk; False, and counted, when the turn's text is full."""
        if sum(len(t.encode()) + 1 for t in (*self._texts, text)) > MAX_TEXT_BYTES:
            self.counters.texts_dropped += 1
            return False
        self._texts.append(text)
        return True

    def hold(self, held: bool, *, events: tuple[str, str] = ("hold", "resume")) -> None:
        """The caller put us on hold or came back; the chunks go on and say so, by one of the two events."""
        if held != self.held:
            self.held = held
            self.receive_event(events[0] if held else events[1])

    def mute(self, muted: bool) -> None:
        """From the next chunk on the model hears nothing of the caller, or hears it again; it is told."""
        if muted != self.muted:
            self.muted = muted
            self.receive_event("muted" if muted else "unmuted")

    def cut(
        self, now_ns: int, tick_ns: int, last_pull_ns: int, video: tuple[VideoFrame, ...] = ()
    ) -> Chunk | None:
        """This turn's chunk; None while no slot is leased (the turn is counted all the same).

        `tick_ns` is when the model server takes it, `last_pull_ns` when the playout's newest frame was
        pulled: the playout point is set by both.
        """
        cut = self.intake.cut(now_ns)
        slept = self._slept_over(tick_ns)
        for _ in range(slept):
            self._count_turn()
        turn = self._count_turn()
        self._said_to += (slept + 1) * self._turn_samples
        if self._playing_since is None:  # the frame that was pulled last began then
            since_ns = now_ns - last_pull_ns
            self._said_to = samples_of(FRAME_MS, self.intake.rate_hz) * (self.playout.next_frame - 1)
            self._said_to += since_ns * self.intake.rate_hz // NS_PER_S
        if self.tape is not None:
            self.tape.say(self._said_to, cut.pcm)
        pcm, concealed = self._up.push(cut.pcm), self._concealed(cut)
        if self.tones is not None and not self.held:
            for digit in self.tones.listen(pcm):
                self.receive_event(f"dtmf {digit}")
        played = int(self.playout.ledger.played * self._to_model)
        heard, self._played_told = played - self._played_told, played
        self._lost_packets += cut.lost
        if self._tenancy is None:
            self.playout.ledger.missed_turns += 1
            return None
        if self._playing_since is None:
            self._playing_since, self._first_tick_ns = turn, tick_ns
            self._set_playout_point(turn, tick_ns, last_pull_ns, self._tenancy.budget_ns)
        flags = Flags.FIRST if turn == 0 else Flags.NONE
        if self.held or self.muted:
            flags |= Flags.HELD
        if self.muted:
            pcm, concealed = np.zeros_like(pcm), (0, 0, 0, 0)
        events, self._events = tuple(self._events), []
        text, self._texts = "\n".join(self._texts), []
        lost, self._lost_packets = self._lost_packets, 0
        return Chunk(
            generation=self._tenancy.generation,
            turn=turn,
            captured_ns=now_ns,
            pcm=pcm,
            concealed_quarters=concealed,
            lost_packets=lost,
            dropped_samples=int(cut.dropped * self._to_model),
            played_samples=heard,
            text=text,
            events=events,
            video=video,
            flags=flags,
        )

    def screened(self, reply: Reply) -> Reply:
        """What is left of a reply where somebody looks at it first; to be asked before `receive_reply`."""
        if self.screen is None or not self._is_ours(reply):
            return reply
        return self.screen.check(reply)

    def receive_reply(self, reply: Reply) -> bool:
        """A reply of the model; False when it is stale or late, which is counted."""
        if not self._is_ours(reply):
            self.counters.stale_replies += 1
            return False
        if reply.flags & Flags.FLUSH:
            self.counters.interruptions += self.playout.flush() > 0
        pcm = self._down.push(reply.pcm)
        if self.withholds:
            self.playout.withhold(reply.turn, len(pcm))
            return True
        return self.playout.offer(reply.turn, pcm)

    def catch_up(self, elapsed_ns: int) -> int:
        """Skip the frames that the puller's clock slept over; returns how many.

        `elapsed_ns` is from its first pull to its newest: one frame is due every `FRAME_NS` of it.
        """
        behind = elapsed_ns // FRAME_NS + 1 - self.playout.next_frame
        if behind < SLEPT_FRAMES:
            return 0
        self.playout.skip(behind)
        return behind

    def _is_ours(self, reply: Reply) -> bool:
        tenancy = self._tenancy
        return tenancy is not None and reply.generation == tenancy.generation and reply.turn < self.turn

    def _concealed(self, cut: Cut) -> Quarters:
        """Where the made-up samples of this cut, and what the resampler held back of the last one, are heard."""
        for run in cut.made_up:
            first, end = (self._up.delay + at * self._up.to_hz // self._up.from_hz for at in run)
            self._made_up.add(first, end - first)
        return quarters(self._made_up.take(TURN_SAMPLES))

    def _slept_over(self, tick_ns: int) -> int:
        """Turns that went by since the last cut, without a chunk."""
        if self._tenancy is None or self._playing_since is None:
            return 0
        return max(0, (tick_ns - self._first_tick_ns) // TURN_NS - (self.turn - self._playing_since))

    def _count_turn(self) -> int:
        """The turn that is cut now; the books of the one that was heard meanwhile are closed."""
        turn, self.turn = self.turn, self.turn + 1
        if self._playing_since is not None and turn - 2 >= self._playing_since:
            self.playout.settle(turn - 2)
        return turn

    def _set_playout_point(self, turn: int, tick_ns: int, last_pull_ns: int, budget_ns: int) -> None:
        """Turn `turn` is heard from the first pull that its reply is certain to be there for."""
        ready_ns = tick_ns + budget_ns + WAKE_NS
        pulls = max(1, -((last_pull_ns - ready_ns) // FRAME_NS))  # ceil; the pull after the last is 1
        self.playout.start(turn, self.playout.next_frame + pulls - 1)
