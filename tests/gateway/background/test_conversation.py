"""One call's transcript and tasks, on a real leg; the main process is a list of messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import structlog

from gateway import control
from gateway.background.answers import FAILED
from gateway.background.conversation import AGAIN_TURNS, MOST_OPEN, UNHEARD_TURNS, Conversation, written
from gateway.background.records import CUT, MOST_CONVERSATION_BYTES, MOST_PIECES, Spoken
from media.chunk import MAX_TEXT_BYTES, Flags, Reply
from media.chunker import Cut
from media.leg import Leg, Tenancy
from media.timebase import FRAMES_PER_TURN, NS_PER_MS, TURN_NS, TURN_SAMPLES

HEARD = 3_200


class Silent:
    rate_hz = 16_000

    def choose_phase(self) -> None: ...
    def is_whole(self) -> bool:
        return True

    def cut(self, now_ns: int) -> Cut:
        return Cut(np.zeros(TURN_SAMPLES, np.int16))


class Call:
    """A leg that is cut, replied to and listened to, turn by turn."""

    def __init__(self, engine: str = "echo") -> None:
        self.told: list[Any] = []
        self.shown: list[dict[str, Any]] = []
        self.leg: Leg[Any] = Leg(Silent())
        self.leg.lease(Tenancy(0, 1, 0, 50 * NS_PER_MS))
        self.conversation = Conversation("b-1", self.leg, self.told.append, self._show, engine)
        self.text: list[str] = []
        self._now_ns = TURN_NS

    def _show(self, kind: str, **fields: Any) -> None:
        self.shown.append({"type": kind, **fields})

    def turn(
        self, text: str = "", *events: str, flags: Flags = Flags.NONE, listens: bool = True
    ) -> tuple[str, ...]:
        """One turn; the reply to it comes at once."""
        self._now_ns += TURN_NS
        chunk = self.leg.cut(self._now_ns, self._now_ns, self._now_ns)
        assert chunk is not None
        self.text += chunk.text.splitlines()
        self.conversation.turned()
        reply = Reply(1, chunk.turn, self._now_ns, text=text, events=events, flags=flags)
        others = self.conversation.replied(reply, self.leg.receive_reply(reply))
        for _ in range(FRAMES_PER_TURN):
            if listens:
                self.leg.playout.pull()
            else:
                self.leg.playout.skip(1)
        return others

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def lines(self) -> list[Spoken]:
        return [line for m in self.told if isinstance(m, control.Said) for line in m.lines]

    def orders(self) -> list[control.Delegated]:
        return [m for m in self.told if isinstance(m, control.Delegated)]

    def news(self, number: int, state: Any, text: str = "", task: str = "", **more: Any) -> None:
        task = task or self.orders()[-1].task
        self.conversation.take_news(control.TaskNews("b-1", task, state, number, text, **more))


def test_lines_are_told_in_order_with_what_was_heard() -> None:
    call = Call()
    call.turn("one ", "heard 3")
    call.turn("two ")
    call.conversation.typed("hello")
    call.turn("", "heard plus", "heard 4")
    call.turns(12)
    assert call.lines() == [
        Spoken(0, "caller", "3"), Spoken(0, "model", "one ", HEARD), Spoken(1, "model", "two ", HEARD),
        Spoken(2, "caller", "hello\nplus 4"),
    ]  # fmt: skip
    assert [m for m in call.shown if m["type"] == "heard"] == [
        {"type": "heard", "turn": 0, "text": "3"}, {"type": "heard", "turn": 2, "text": "plus 4"},
    ]  # fmt: skip


def test_what_was_cut_off_was_not_heard() -> None:
    call = Call()
    call.turn("one ")
    call.turn("two ")
    call.turn("three ", flags=Flags.FLUSH)
    call.turns(10)
    heard = {line.text: line.played_samples for line in call.lines()}
    assert heard["one "] == HEARD and heard["two "] < HEARD and heard["three "] == HEARD


def test_what_is_said_to_nobody_was_not_heard() -> None:
    call = Call()
    call.turns(2)
    call.turn("one ", listens=False)
    for _ in range(4):
        call.turn(listens=False)
    call.turns(10)
    assert call.lines() == [Spoken(2, "model", "one ")]


def test_other_events_are_left_to_the_call() -> None:
    assert Call().turn("", "hangup", "heard 3", "dtmf 5", "delegate x") == ("hangup", "dtmf 5")


def test_a_question_goes_out_with_the_conversation_before_it() -> None:
    call = Call()
    call.turn("", "heard 3", "heard plus")
    call.turn("let me check ", "heard 4", "delegate caller: 3 plus 4")
    (order,) = call.orders()
    assert (order.call, order.turn, order.request, order.reads) == ("b-1", 1, "caller: 3 plus 4", "text")
    assert order.lines == (Spoken(0, "caller", "3 plus"), Spoken(1, "caller", "4"))
    assert call.shown[-1]["state"] == "asked" and call.shown[-1]["request"] == "caller: 3 plus 4"


def test_pieces_reach_the_model_as_they_come_one_a_turn() -> None:
    call = Call()
    call.turn("", "delegate where")
    call.news(0, "asked", left_ms=60_000)
    call.news(1, "running")
    call.news(2, "running", "It left. ")
    call.news(3, "running", "It is near.\nVery.")
    call.turns(5)
    assert call.text == ["result It left.", "result It is near.", "result Very."]
    call.news(4, "done")
    call.turns(5)
    assert len(call.text) == 3 and not call.conversation.open_tasks
    assert [m["state"] for m in call.shown] == ["asked", "running", "running", "running", "done"]


def test_news_that_come_twice_are_taken_once() -> None:
    call = Call()
    call.turn("", "delegate where")
    for _ in range(2):
        call.news(1, "running", "One.")
        call.news(2, "running", "Two.")
        call.news(1, "running", "One.")
        call.news(3, "done", "Three.")
    call.turns(8)
    assert call.text == ["result One.", "result Two.", "result Three."]
    assert [m["state"] for m in call.shown] == ["asked", "running", "running", "done"]


def test_who_reads_numbers_gets_the_whole_as_one() -> None:
    call = Call("digits")
    call.turn("", "delegate caller: 3 plus 4")
    assert call.orders()[0].reads == "numbers"
    call.news(1, "running", "It is ")
    call.turns(3)
    assert call.text == []
    call.news(2, "done", "7.")
    call.turns(3)
    assert call.text == ["result 7"]


def test_failure_is_told_to_the_model() -> None:
    call = Call("digits")
    call.turn("", "delegate caller: 3 plus")
    call.news(1, "failed", note="no rule")
    call.turns(2)
    assert call.text == [FAILED] and call.shown[-1]["note"] == "no rule"


def test_a_task_that_is_not_confirmed_is_told_again_and_given_up_at_last() -> None:
    call = Call()
    call.turn("", "delegate where")
    call.turns(UNHEARD_TURNS - 2)
    assert (
        len(call.orders()) == 1 + (UNHEARD_TURNS - 2) // AGAIN_TURNS
        and len({o.task for o in call.orders()}) == 1
    )
    assert call.text == []
    call.turns(4)
    assert call.text == [FAILED] and call.shown[-1]["note"] == "no gateway took it"
    assert call.told[-1] == control.Withdrawn("b-1", call.orders()[0].task)


def test_a_confirmed_task_is_told_again_to_a_new_main_process_alone() -> None:
    call = Call()
    call.turn("", "delegate where")
    call.news(0, "asked", left_ms=60_000)
    call.turns(40)
    assert len(call.orders()) == 1
    call.conversation.tell_again()
    call.turn()
    assert len(call.orders()) == 2
    call.news(0, "running", left_ms=30_000)
    call.turns(30)
    assert len(call.orders()) == 2


def test_a_deadline_ends_it_whatever_has_become_of_the_others() -> None:
    call = Call()
    call.turn("", "delegate where")
    call.news(0, "asked", left_ms=2_000)
    call.turns(9)
    assert call.text == []
    call.turns(4)
    assert call.text == [FAILED] and call.shown[-1]["note"] == "out of time"
    call.news(1, "done", "too late", task=call.orders()[0].task)
    call.turns(3)
    assert call.text == [FAILED]


def test_several_at_once_and_one_is_withdrawn() -> None:
    call = Call()
    for number in range(MOST_OPEN + 1):
        call.turn("", f"delegate {number}")
    assert call.conversation.open_tasks == MOST_OPEN and call.shown[-1]["note"] == "too many tasks at once"
    first, second = (order.task for order in call.orders()[:2])
    call.conversation.withdraw(first)
    assert call.told[-1] == control.Withdrawn("b-1", first)
    call.news(1, "done", "late", task=first)
    call.news(1, "done", "Second.", task=second)
    call.turns(3)
    assert call.text == [FAILED, "result Second."]
    call.turn("", "withdraw")
    assert not call.conversation.open_tasks


def test_the_end_of_a_call_withdraws_all() -> None:
    call = Call()
    call.turn("one ", "delegate where")
    call.conversation.end()
    assert call.told[-1] == control.Withdrawn("b-1")
    assert [line.text for line in call.lines()] == ["one "]
    quiet = Call()
    quiet.turn()
    quiet.conversation.end()
    assert quiet.told == []


def test_who_comes_back_to_watch_sees_what_is_open() -> None:
    call = Call()
    call.turn("", "delegate where")
    call.news(1, "running", "It left. ")
    call.shown.clear()
    call.conversation.show_all()
    (shown,) = call.shown
    assert shown["state"] == "running" and shown["text"] == "It left. " and shown["request"] == "where"


def test_everything_has_a_bound() -> None:
    call = Call()
    for turn in range(600):
        call.conversation.typed(f"{turn} " + 900 * "\x01")
        call.turn("", "heard no")
    call.turn("", "delegate " + 3_000 * "ü")
    order = call.orders()[0]
    packets = [control.encode(message) for message in call.told]
    assert max(map(len, packets)) <= control.MAX_BYTES and len(order.lines) > 3
    assert len(control.encode(order)) <= MOST_CONVERSATION_BYTES + 8_192
    for number in range(1, 5 * MOST_PIECES):
        call.news(number, "running", f"piece {number} " + 400 * "x")
    call.turns(3 * MOST_PIECES)
    assert len(call.text) <= 600 + MOST_PIECES + 1
    with structlog.testing.capture_logs() as lines:
        call.conversation.end()
    assert [line["lines"] for line in lines if "more results" in line["event"]] == [4 * MOST_PIECES - 1]
    assert all(len(control.encode(m)) <= control.MAX_BYTES for m in call.told)


def test_a_conversation_as_text() -> None:
    lines = (
        Spoken(0, "caller", "three"), Spoken(1, "caller", "plus"), Spoken(1, "model", "let me ", HEARD),
        Spoken(2, "model", "check ", 0), Spoken(4, "caller", "four"),
    )  # fmt: skip
    assert written(lines) == "caller: three plus\nmodel: let me [not heard: check]\ncaller: four"


def test_a_whole_chunk_of_text_is_a_line_and_what_is_more_is_cut_for_all_to_see() -> None:
    call = Call()
    call.conversation.typed("x" * MAX_TEXT_BYTES)
    call.turns(10)
    call.conversation.typed("y" * MAX_TEXT_BYTES)
    call.conversation.typed("and more")
    call.turns(10)
    with structlog.testing.capture_logs() as logs:
        call.conversation.end()
    whole, cut = [line.text for line in call.lines() if line.speaker == "caller"]
    assert whole == "x" * MAX_TEXT_BYTES
    assert cut == "y" * (MAX_TEXT_BYTES - len(CUT)) + CUT
    (told,) = [entry for entry in logs if "than a line holds" in entry["event"]]
    assert told["lines"] == 1 and "y" * 9 not in str(told)
