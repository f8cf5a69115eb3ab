"""A picture of the caller's camera for whoever works at a task: asked of the gateway that has the call, over Redis.

    look -> script LOOK -> news with `still` -> desk, door -> `control.Look` -> WebRTC worker: the next picture
    Still <- list, read once <- script SHOW  <- desk, door <- `control.Still` <- as a JPEG

Nobody waits longer than `LOOK_S`; without a picture there is a reason, in words that a model can pass on.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.background.line import TaskLine
from gateway.background.records import Order, Still
from gateway.state.client import Away

LOOK_S: Final = 6.0
"""A WebRTC worker waits 3 s for a picture (`webrtc.call.STILL_S`); the ways there and back are short."""
NONE_CAME: Final = "no picture came in time: the call may be over"


class Eyes:
    """`agent.Eyes`."""

    def __init__(self, line: TaskLine, most: int) -> None:
        """`most` pictures of one task."""
        self._line, self._most = line, most

    async def look(self, order: Order) -> Still:
        """See `agent.Eyes`."""
        number = 0
        try:
            async with asyncio.timeout(LOOK_S):
                number = await self._line.look(order, self._most)
                if number < 0:
                    return Still(0, reason=f"a task has {self._most} looks, and they are taken")
                while number:
                    still = await self._line.still(order.key)
                    if still is not None and still.number == number:  # else of a wish that was given up
                        return still
        except (TimeoutError, Away):
            pass
        return Still(number, reason=NONE_CAME)
