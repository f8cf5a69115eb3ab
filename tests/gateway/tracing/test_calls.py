"""What happens in calls, as spans: facts in, spans out, time is an argument."""

from __future__ import annotations

import msgspec

from gateway.control import CallNotes, TurnNote
from gateway.sip.call_events import CallEvent
from gateway.state.records import Cdr, Figures, Session, Task
from gateway.tracing.calls import MOST_COMING, CallTraces
from gateway.tracing.spans import Span, of_call, parse
from gateway.turn_notes import MOST_NOTES, TurnNotes

MS, S = 1_000_000, 1_000_000_000
CALL = "t-00112233445566778899aabbccddeeff"
ASKED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Rig:
    """Traces with a clock that is set by hand."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.now_ns = 1_000 * S
        self.traces = CallTraces(self.spans.append, lambda: self.now_ns)

    def session(self, call: str = CALL) -> Session:
        return Session(
            call, "sip", "n", "sip-0", self.now_ns // MS, persona="a name", called="4930123", number="49151",
            caller="pseudonym", tenant="acme",
        )  # fmt: skip

    def cdr(self, session: Session, **more: object) -> Cdr:
        cdr = Cdr(session.call, "sip", "n", session.began_ms, tenant="acme", ended_ms=self.now_ns // MS)
        return msgspec.structs.replace(cdr, **more)

    def by_name(self, name: str) -> Span:
        [found] = [span for span in self.spans if span.name == name]
        return found


def test_a_call_with_all_its_parts() -> None:
    rig = Rig()
    rig.traces.arrived(CALL, ASKED)
    rig.now_ns += 300 * MS
    session = rig.session()
    rig.traces.began(session)
    task = Task(f"{CALL}.t1", "asked", 7, 0, request="a secret word")
    rig.traces.task(session, task)
    told = rig.traces.context_of_task(CALL, "t1")
    rig.now_ns += 2 * S
    rig.traces.task(session, msgspec.structs.replace(task, state="done", result="another one"))
    rig.traces.heard(CallEvent(CALL, "joined", person="t-2"))
    rig.now_ns += S
    rig.traces.heard(CallEvent(CALL, "left"))
    rig.traces.heard(CallEvent(CALL, "transferring", target="desk"))
    rig.now_ns += S
    rig.traces.heard(CallEvent(CALL, "transfer-failed", 603, "Words of a peer", "declined", "desk"))
    media_ms = session.began_ms + 50
    rig.traces.noted(CALL, CallNotes(media_ms, (TurnNote(9, media_ms + 1_800, 2, True),)))
    rig.traces.over(session, rig.cdr(session, cause="caller", figures=Figures(codec="PCMU", missed_turns=5)))

    asked = parse(ASKED)
    assert asked is not None
    call = rig.by_name("call")
    assert call.context == of_call(CALL, asked) and call.parent == asked and call.parent_is_remote
    assert call.begun_ns == 1_000 * S and call.ended_ns == rig.now_ns // MS * MS
    assert call.attributes["microturn.missed_turns"] == 5 and call.attributes["microturn.cause"] == "caller"
    for name, seconds in (
        ("set-up", 0.35),
        ("task", 2.0),
        ("person", 1.0),
        ("transfer", 1.0),
        ("turn late", 0.4),
    ):
        span = rig.by_name(name)
        assert span.parent == call.context and span.context.trace == asked.trace, name
        assert (span.ended_ns - span.begun_ns) / S == seconds, name
        assert span.attributes["microturn.call"] == CALL
    assert rig.by_name("task").context.traceparent == told
    assert rig.by_name("transfer").error == "declined" and not rig.by_name("person").error
    words = str(rig.spans)
    for private in ("secret", "another", "Words", "a name", "4930123", "49151", "pseudonym"):
        assert private not in words, private


def test_a_further_engine_is_told_and_the_usual_one_is_not() -> None:
    for engine, told in (("lab", "lab"), ("", None)):
        rig = Rig()
        session = rig.session()
        rig.traces.began(session)
        rig.traces.over(session, rig.cdr(session, engine=engine))
        assert rig.by_name("call").attributes.get("microturn.engine") == told


def test_who_asks_for_no_trace_gets_none() -> None:
    rig = Rig()
    rig.traces.arrived(CALL, ASKED[:-1] + "0")
    session = rig.session()
    rig.traces.began(session)
    assert rig.traces.context_of_task(CALL, "t1") == ""
    rig.traces.over(session, rig.cdr(session))
    assert rig.spans == []


def test_a_call_that_is_known_again_ends_under_its_old_name() -> None:
    rig = Rig()
    session = rig.session()
    rig.traces.began(session)
    rig.now_ns += 5 * S
    rig.traces.over(session, rig.cdr(session, reason="worker-lost"))
    [call] = rig.spans
    assert call.context == of_call(CALL, None) and call.ended_ns - call.begun_ns == 5 * S
    assert call.error == "worker-lost"


def test_a_call_of_ours_that_nobody_answers() -> None:
    rig = Rig()
    rig.traces.arrived(CALL)
    rig.now_ns += 3 * S
    rig.traces.heard(CallEvent(CALL, "failed", 486, "Busy", "busy"))
    [call] = rig.spans
    assert (call.name, call.error, call.attributes["microturn.status"]) == ("call", "busy", 486)
    assert call.ended_ns - call.begun_ns == 3 * S


def test_calls_that_never_begin_are_forgotten() -> None:
    rig = Rig()
    for number in range(MOST_COMING + 1):
        rig.traces.arrived(f"b-{number}", ASKED)
    rig.traces.began(rig.session("b-0"))
    rig.traces.over(rig.session("b-0"), rig.cdr(rig.session("b-0")))
    assert rig.by_name("call").parent is None, "the oldest: its trace is its own"


def test_turns_are_noted_and_bounded() -> None:
    notes = TurnNotes()
    notes.look(0, 0, 0, first_ns=3 * S, now_ns=4 * S, unix_ns=100 * S)
    notes.look(1, 0, 0, 3 * S, 5 * S, 101 * S)
    notes.look(2, 2, 1, 3 * S, 6 * S, 102 * S)
    told = notes.told()
    assert told.media_ms == 99_000, "one second before the first look"
    assert told.turns == (TurnNote(2, 102_000, 2, True),)
    for turn in range(3, 100):
        notes.look(turn, turn, 1, 3 * S, 7 * S, 103 * S)
    assert len(notes.told().turns) == MOST_NOTES
