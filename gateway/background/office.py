"""Background work as a gateway's main process has it: one desk, and a door for each kind of worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateway.background.door import TaskDoor, keep_in
from gateway.background.records import News
from gateway.config import GatewaySettings
from gateway.fleet import Kind

if TYPE_CHECKING:  # redis-py takes 0.15 s to load
    from gateway.background.desk import Desk
    from gateway.state.sessions import Sessions

CLOSE_S: Final = 1.0
"""The end of calls gets so long to reach the workers' queue."""


class Office:
    """Where no Redis is set there is no desk: tasks fail at once, and the models are told so."""

    def __init__(self, settings: GatewaySettings, sessions: Sessions | None) -> None:
        self._settings, self._sessions = settings, sessions
        self._doors: list[TaskDoor] = []
        self.desk = self._make_desk()
        self.context_of: Callable[[str, str], str] = lambda call, task: ""
        """See `TaskDoor`; to be set before there is a door."""

    def door(self, kind: Kind, name_of: Callable[[str], str] = str) -> TaskDoor:
        """Around that kind of worker, whose calls are kept in Redis under `name_of` their names."""
        door = TaskDoor(kind, name_of, self._sessions, self._settings.node_name)
        door.desk, door.context_of = self.desk, self.context_of
        self._doors.append(door)
        return door

    async def run(self) -> None:
        """Until cancelled."""
        if self.desk is not None:
            await self.desk.run()

    async def close(self) -> None:
        """Calls are over: what they asked for is cancelled."""
        if self.desk is not None:
            await self.desk.settle(CLOSE_S)

    def counters(self) -> dict[str, Any]:
        """By the part of the metrics that they belong to."""
        return {"tasks": self.desk.counters} if self.desk is not None else {}

    def gauges(self) -> dict[str, float]:
        """Of now."""
        return {"tasks_open": float(self.desk.open_tasks)} if self.desk is not None else {}

    def _make_desk(self) -> Desk | None:
        address = self._settings.state_address
        if address is None or self._sessions is None:
            return None
        from gateway.background.desk import Desk
        from gateway.background.line import task_line

        return Desk(
            lambda: task_line(self._settings, address),
            self._settings.node_name,
            deadline_s=self._settings.background_deadline_s,
            most_of_a_call=self._settings.background_tasks_per_call,
            deliver=self._deliver,
            note=keep_in(self._sessions, self._settings.node_name),
        )

    def _deliver(self, news: News) -> bool:
        return any(door.deliver(news) for door in self._doors)
