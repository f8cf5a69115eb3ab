"""The turns of one worker's calls, by the engine that answers them: for each a `Turns` of its own, with the model
server at its path, or the two of a live upgrade.

A call has its engine from its beginning to its end. What happens to a model server (it dies, a spare takes over,
calls move) so happens to the calls of its engine alone; all they share is the thread that cuts them
(`gateway/cut_time.py`).
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway.control import CallNotes
from gateway.cut_time import CutTime
from gateway.state.keys import kept_name
from gateway.turns import Call, CallSums, Turns
from media.slots import SlotTable

log = structlog.get_logger()


class EngineTurns:
    """Of one worker. What it is asked of a call goes to the call's engine."""

    def __init__(
        self,
        worker: str,
        sockets: Mapping[str, Path],
        cut_time: CutTime,
        *,
        attachable: Callable[[str, bool], None],
        between: Callable[[], None] = lambda: None,
        takes_notes: bool = False,
    ) -> None:
        """`sockets` has the path of each engine's model server, "" the usual one's; `attachable` is told of which
        engine there is one for new calls. The rest is as in `Turns`."""
        self._turns = {
            engine: Turns(
                worker, path, cut_time, attachable=functools.partial(attachable, engine), between=between,
                takes_notes=takes_notes, name=engine,
            )
            for engine, path in sockets.items()
        }  # fmt: skip

    @property
    def attached(self) -> list[str]:
        """Engines whose model server is there for new calls."""
        return [engine for engine, turns in self._turns.items() if turns.is_attached]

    def is_attached(self, engine: str) -> bool:
        """Whether a model server is there for new calls of that engine; not of one that this worker never had."""
        return engine in self._turns and self._turns[engine].is_attached

    def table_of(self, call: Call) -> SlotTable | None:
        """Of the model server that new calls of its engine go to; None while there is none."""
        return self._of(call).table

    def kind_of(self, call: Call) -> str:
        """What its engine is, by the word of the model server: `digits`, `echo`; empty while there is none."""
        return self._of(call).engine

    @property
    def is_empty(self) -> bool:
        """No call has a slot: nobody waits for a turn."""
        return all(turns.is_empty for turns in self._turns.values())

    async def keep(self) -> None:
        """Stay attached until cancelled; raises what broke a tick, which is a bug of ours."""
        keeping = [asyncio.create_task(turns.keep()) for turns in self._turns.values()]
        try:
            await asyncio.gather(*keeping)
        finally:
            for task in keeping:
                task.cancel()

    async def lease(self, call: Call) -> bool:
        """A slot of the call's engine; False when there is none, or no such engine."""
        if call.engine not in self._turns:
            log.warning(
                "no slot", call=kept_name(call.name), reason=f"this worker has no engine {call.engine!r}"
            )
            return False
        return await self._turns[call.engine].lease(call)

    def leave(self, call: Call) -> None:
        """The call is over: what it counted is kept, its slot is given back."""
        self._of(call).leave(call)

    def sums_of(self, call: Call) -> CallSums:
        """Until it leaves."""
        return self._of(call).sums_of(call)

    def notes_of(self, call: Call) -> CallNotes | None:
        """For its trace, until it leaves."""
        return self._of(call).notes_of(call)

    def report(self) -> dict[str, int]:
        """Counters for the main process, of all engines together."""
        sums: Counter[str] = Counter()
        for turns in self._turns.values():
            sums.update(turns.report())
        return dict(sums)

    def gauges(self) -> dict[str, float]:
        """Calls of each engine now, whether they have a slot or wait for one."""
        return {
            f"engine_calls{':' * bool(engine)}{engine}": float(turns.live)
            for engine, turns in self._turns.items()
        }

    def _of(self, call: Call) -> Turns:
        """A call of an engine that is not here never got a slot: the usual one knows nothing of it either."""
        return self._turns.get(call.engine) or self._turns[""]
