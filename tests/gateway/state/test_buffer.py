"""What waits for Redis: its bound, its order, and who goes first."""

from __future__ import annotations

import random

from gateway.state.buffer import WRITE_BYTES, Buffer, Rank, Waiting
from gateway.state.lease import Write
from gateway.state.owned import Owned

CALL = Owned("b-0000000000000001", True)


def text(word: str) -> Write:
    return Write("set", "session", word.encode())


def words(taken: list[Waiting]) -> list[str]:
    return [waiting.write.value.decode() for waiting in taken if waiting.write is not None]


def test_what_is_put_is_taken_in_order_over_all_ranks() -> None:
    buffer = Buffer()
    for number, rank in enumerate([Rank.STATE, Rank.DETAIL, Rank.RECORD, Rank.DETAIL, Rank.STATE]):
        assert buffer.put(CALL, rank, text(str(number)))
    assert words(buffer.take(3)) == ["0", "1", "2"] and words(buffer.take(9)) == ["3", "4"]
    assert len(buffer) == 5  # out, and not settled


def test_the_oldest_details_go_first_and_records_last() -> None:
    buffer = Buffer(most_writes=4)
    for word, rank in [("d1", Rank.DETAIL), ("r1", Rank.RECORD), ("s1", Rank.STATE), ("d2", Rank.DETAIL)]:
        assert buffer.put(CALL, rank, text(word))
    assert buffer.put(CALL, Rank.RECORD, text("r2")) and buffer.put(CALL, Rank.RECORD, text("r3"))
    assert buffer.dropped == 2 and len(buffer) == 4
    assert not buffer.put(CALL, Rank.DETAIL, text("d3"))  # everything else is worth more
    assert buffer.put(CALL, Rank.RECORD, text("r4")) and buffer.put(CALL, Rank.RECORD, text("r5"))
    assert words(buffer.take(9)) == ["r2", "r3", "r4", "r5"] and buffer.dropped == 5


def test_bytes_are_bounded_too() -> None:
    buffer = Buffer(most_bytes=3 * (WRITE_BYTES + 100))
    for number in range(5):
        buffer.put(CALL, Rank.STATE, text(f"{number}" * 100))
    assert [word[0] for word in words(buffer.take(9))] == ["2", "3", "4"]
    assert buffer.dropped == 2


def test_what_failed_goes_again_before_everything_else() -> None:
    buffer = Buffer()
    for number in range(6):
        buffer.put(CALL, Rank(number % 3), text(str(number)))
    taken = buffer.take(4)
    buffer.settle(taken[1:2])
    buffer.give_back([taken[3], taken[0], taken[2]])
    assert words(buffer.take(9)) == ["0", "2", "3", "4", "5"]


def test_marks_of_begin_and_end_that_had_no_room_are_no_lost_records() -> None:
    buffer = Buffer(most_writes=1)
    buffer.put(CALL, Rank.STATE, None)
    buffer.put(CALL, Rank.RECORD, text("r"))
    assert buffer.dropped == 0 and len(buffer) == 1


def test_nothing_is_lost_uncounted_and_nothing_overtakes() -> None:
    draw = random.Random(7)
    for _ in range(200):
        buffer, put, settled = Buffer(most_writes=12), 0, 0
        out: list[Waiting] = []
        for _ in range(draw.randrange(120)):
            match draw.randrange(4):
                case 0 if not out:
                    out = buffer.take(draw.randrange(1, 6))
                    numbers = [waiting.number for waiting in out]
                    assert numbers == sorted(numbers)
                case 1 if out:
                    done = draw.sample(out, draw.randrange(len(out) + 1))
                    buffer.settle(done)
                    buffer.give_back([waiting for waiting in out if waiting not in done])
                    settled, out = settled + len(done), []
                case _:
                    buffer.put(CALL, draw.choice(list(Rank)), text("x"))
                    put += 1
            assert len(buffer) <= 12 and put == settled + buffer.dropped + len(buffer)
        buffer.give_back(out)
        rest = [waiting.number for waiting in buffer.take(99)]
        assert rest == sorted(rest)
        assert buffer.bytes == len(buffer) * (WRITE_BYTES + 1)
