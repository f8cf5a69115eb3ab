"""Fixed rules over a few tools."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest

from gateway.background.records import Order, Reads
from gateway.background.router import Router, route, words_of
from gateway.background.small_tools import Orders, calculate, clock
from gateway.background.work import Doing, NoAnswer, Words
from model_server.engine.words import Talk
from model_server.model.vocabulary import ids_of
from tests.gateway.background.support import caller, order


def answer(order: Order, said: str = "") -> str:
    async def ask() -> str:
        steps = [step async for step in Router(Orders()).answer(order, said)]
        assert isinstance(steps[0], Doing)
        return "".join(step.text for step in steps if isinstance(step, Words))

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("request_", "reads", "told"),
    [
        ("caller: 3 plus 4", "numbers", "7"),
        ("caller: 3 plus 4; model: let me check", "numbers", "7"),
        ("caller: 1 2 3 plus 4", "numbers", "7"),
        ("caller: 9; model: nine; caller: minus 4", "numbers", "5"),
        ("caller: 2 plus 2; model: four; caller: 6 times 3", "numbers", "18"),
        ("caller: three plus four", "text", "3 + 4 is 7."),
        ("What is 12.5 divided by 5?", "text", "12.5 / 5 is 2.5."),
        ("caller: how-many 4", "numbers", "12"),
        ("caller: is order 4 8 2 9 1 3 here", "text", "Order 482913 is shipped. It has 4 items and is due Friday."),
        ("caller: what is order 7 and 2 plus 3", "text", "2 + 3 is 5."),
    ],
)  # fmt: skip
def test_questions_that_it_knows(request_: str, reads: Reads, told: str) -> None:
    assert answer(order(request=request_, reads=reads)) == told


def test_what_time_it_is() -> None:
    assert re.fullmatch(
        r"It is \w+, \d\d \w+ \d{4}, \d\d:\d\d UTC\.", answer(order(request="what time is it"))
    )


@pytest.mark.parametrize(
    "request_",
    ["", "caller: 3 plus", "caller: how-many other", "caller: 1 2 3", "order 99", "3 / 0", "model: 3 plus 4"],
)
def test_anything_else_has_no_answer(request_: str) -> None:
    with pytest.raises(NoAnswer):
        answer(order(request=request_))


def test_the_words_that_the_network_writes_are_understood() -> None:
    """From tokens to the answer: what `words.py` passes on is what is read here."""
    talk = Talk()
    talk.write(ids_of(["heard:5", "say:5", "heard:3", "heard:plus"]))
    _, events = talk.write(ids_of(["heard:4", "<delegate>", "say:let-me-check"]))
    request_ = events[-1].removeprefix("delegate ")
    assert answer(order(request=request_, reads="numbers")) == "7"


def test_without_a_request_the_conversation_is_read() -> None:
    here = order(request="", lines=caller("three", "plus four"))
    assert words_of(here) == "3 + 4" and answer(here) == "3 + 4 is 7."


def test_what_was_said_already_is_not_said_again() -> None:
    assert answer(order(reads="text"), said="3 + 4 is") == " 7."


def test_no_rule_is_no_route() -> None:
    assert route("where is my hat") is None


# -- the tools


@pytest.mark.parametrize(
    ("expression", "value"),
    [("3 * (4 + 5)", "27"), ("1/3", "0.3333333333"), ("-2 - -3", "1"), ("0.1 + 0.2", "0.3")],
)
def test_arithmetic_is_exact(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "3 +", "2 ** 9999", "__import__('os')", "1/0", "x", "9" * 150, f"{'9' * 20} * {'9' * 20}", "(" * 150,
     "True + 1", "'a' * 9", "[1]"],
)  # fmt: skip
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        calculate(expression)


def test_a_zone_that_is_none() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        clock("../etc/passwd")


def test_orders_are_read_from_a_file_and_never_written(tmp_path: Path) -> None:
    file = tmp_path / "orders #1.sqlite"
    with sqlite3.connect(file) as table:
        table.execute(
            "CREATE TABLE orders (number INTEGER PRIMARY KEY, status TEXT, items INTEGER, due TEXT)"
        )
        table.execute("INSERT INTO orders VALUES (5, 'lost', 9, 'some day')")
    orders = Orders(str(file))
    assert orders.look_up_order(5) == "Order 5 is lost. It has 9 items and is due some day."
    with pytest.raises(ValueError, match="no order 6"):
        orders.look_up_order(6)
    with pytest.raises(ValueError, match="expected a file with orders"):
        Orders(str(tmp_path / "none.sqlite"))
    assert not (tmp_path / "none.sqlite").exists()
