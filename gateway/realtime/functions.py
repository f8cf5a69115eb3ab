"""What the model does beyond speech, where the client has a function for it.

A question that the model hands off goes to the client's function instead of a background worker, as the same
task: the model is told of its result, its failure or its lateness by the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateway import control
from gateway.background.conversation import Tell
from gateway.background.records import MOST_PIECE_BYTES, State, cut_text
from gateway.realtime.events import Fault
from gateway.realtime.responses import Responses
from gateway.realtime.session import Session, arguments_of

DEADLINE_MS: Final = 60_000
MOST_OUTPUT_BYTES: Final = 8_192
OUT_OF_TIME: Final = "the task of this call is over: out of time, withdrawn, or answered before"


class Functions:
    """Of one call."""

    def __init__(
        self,
        session: Session,
        responses: Responses,
        tell: Tell,
        take_news: Callable[[control.TaskNews], None],
    ) -> None:
        """`tell` is the line to the main process, `take_news` the call's conversation."""
        self.called = 0
        self._session, self._responses, self._tell, self._take_news = session, responses, tell, take_news
        self._open: dict[str, str] = {}  # bounded: as many as a conversation has tasks
        """Task -> function."""

    def tell(self, message: control.WorkerMessage) -> None:
        """What a conversation tells the main process, unless it is for the client."""
        match message:
            case control.Delegated(call, task, _, request):
                tool = self._session.function_of("delegate") if task not in self._open else None
                if tool is not None:
                    self._open[task] = str(tool["name"])
                    self._call(str(tool["name"]), task, arguments_of(tool, request))
                if task in self._open:
                    self._take_news(control.TaskNews(call, task, "running", left_ms=DEADLINE_MS))
                    return
            case control.Withdrawn(_, task) if self._open.pop(task, None) is not None:
                return
        self._tell(message)

    def act(self, action: str, value: str, number: int) -> None:
        """Something else that the model does, which waits for no answer: told where there is a function of that
        name."""
        tool = self._session.function_of(action)
        if tool is not None and action != "delegate" and tool["name"] == action:
            self._call(action, f"{action}-{number}", arguments_of(tool, value))

    def give(self, call: str, task: str, output: str) -> Fault | None:
        """The client's function has given that."""
        if task not in self._open:
            return Fault("invalid_value", f"{task[:80]!r}: {OUT_OF_TIME}", "item.call_id")
        if len(output.encode(errors="replace")) > MOST_OUTPUT_BYTES:
            return Fault("invalid_value", f"at most {MOST_OUTPUT_BYTES} bytes are taken", "item.output")
        del self._open[task]
        pieces = list(_pieces(output))
        for number, piece in enumerate(pieces, 1):
            state: State = "done" if number == len(pieces) else "running"
            self._take_news(control.TaskNews(call, task, state, number, piece))
        return None

    def _call(self, function: str, task: str, arguments: str) -> None:
        self.called += 1
        self._responses.call(function, task, arguments)


def _pieces(text: str) -> Iterator[str]:
    """Each fits into a line for the model; cut between words where there are any."""
    while True:
        piece = cut_text(text, MOST_PIECE_BYTES)
        if len(piece) < len(text) and " " in piece:
            piece = piece[: piece.rindex(" ") + 1]
        yield piece
        text = text[len(piece) :]
        if not text:
            return
