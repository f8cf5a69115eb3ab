"""What somebody beside caller and model may do to a live call, in the worker that has it."""

from __future__ import annotations

from typing import Any, Protocol

from gateway import control
from gateway.recording.call import CallRecording
from media.leg import Leg


class Commanded(Protocol):
    """A call, whoever carries it."""

    @property
    def leg(self) -> Leg[Any]: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def recording(self) -> CallRecording | None: ...
    def hang_up(self, cause: str = "") -> None:
        """End it; `cause` as in its record."""
        ...

    def press(self, digits: str) -> bool:
        """Keys towards the caller; False when there is nobody who could hear it."""
        ...


def obey(call: Commanded | None, command: control.Command) -> control.Done:
    """Do it; says what became of it."""
    if call is None or call.is_over:
        return control.Done(command.id, 404, "gone", "the call is over")
    match command.do:
        case "hang-up":
            call.hang_up(command.value or "api")
        case "text":
            if not call.leg.receive_text(command.value):
                return control.Done(command.id, 409, "turn-full", "this turn's text is full: send it again")
        case "digits":
            if not call.press(command.value):
                return control.Done(
                    command.id, 409, "no-digits", "nobody is there to hear them: on hold, or not answered"
                )
        case "record":
            if call.recording is None:
                return control.Done(command.id, 403, "not-recorded", "nothing is recorded here")
            status, reason = call.recording.do(command.value, "api")
            return control.Done(command.id, status, "not-recorded" if reason else "", reason)
        case "cut":
            screen = call.leg.screen
            if screen is None or not screen.cut(command.value):
                return control.Done(command.id, 409, "silent", "the model says nothing that could be cut")
        case "mute-caller" | "unmute-caller":
            call.leg.mute(command.do == "mute-caller")
        case "mute-model" | "unmute-model":
            call.leg.playout.mute(command.do == "mute-model")
    return control.Done(command.id, 204)
