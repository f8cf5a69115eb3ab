"""The tools that come with the worker: arithmetic, the time, a look at an order. Plain functions, no network."""

from __future__ import annotations

import ast
import datetime
import operator
import sqlite3
import zoneinfo
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from typing import Final
from urllib.parse import quote

MOST_LETTERS: Final = 200
MOST_DIGITS: Final = 30
SAMPLE: Final = (
    (1, "shipped", 2, "Monday"),
    (2, "paid, not shipped yet", 5, "Wednesday"),
    (3, "delivered", 1, "last week"),
    (4, "shipped", 12, "tomorrow"),
    (7, "cancelled", 3, "never"),
    (482913, "shipped", 4, "Friday"),
)
"""Rows of the sample: order, status, items, when it is due."""
_OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """Arithmetic with + - * / and brackets, such as 3 * (4 + 5). Gives the exact value."""
    if len(expression) > MOST_LETTERS:
        raise ValueError(f"an expression has at most {MOST_LETTERS} letters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is no arithmetic: numbers, + - * / and brackets") from None
    except ZeroDivisionError:
        raise ValueError("nothing can be divided by zero") from None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}"


def clock(zone: str = "UTC") -> str:
    """The date and time now in a time zone, such as Europe/Berlin."""
    try:
        here = zoneinfo.ZoneInfo(zone)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError):
        raise ValueError(f"{zone!r} is no time zone: give one such as Europe/Berlin or UTC") from None
    return datetime.datetime.now(here).strftime("%A, %d %B %Y, %H:%M %Z")


class Orders:
    """A look at one table: `orders (number INTEGER PRIMARY KEY, status TEXT, items INTEGER, due TEXT)`."""

    def __init__(self, file: str = "") -> None:
        """An SQLite file, which is only read; empty is the sample. `ValueError` when there is no such table."""
        self._file = file
        try:
            self.find(0)
        except sqlite3.Error as wrong:
            raise ValueError(
                f"background_orders = {file!r}: {wrong}; expected a file with "
                "orders (number INTEGER PRIMARY KEY, status TEXT, items INTEGER, due TEXT)"
            ) from None

    def look_up_order(self, number: int) -> str:
        """The status of an order, how many items it has and when it is due, by its number."""
        found = self.find(number)
        if found is None:
            raise ValueError(f"there is no order {number}")
        status, items, due = found
        return f"Order {number} is {status}. It has {items} items and is due {due}."

    def find(self, number: int) -> tuple[str, int, str] | None:
        """Status, items, when it is due."""
        with closing(self._open()) as table:
            row = table.execute(
                "SELECT status, items, due FROM orders WHERE number = ?", (number,)
            ).fetchone()
        return (str(row[0]), int(row[1]), str(row[2])) if row else None

    def _open(self) -> sqlite3.Connection:
        if self._file:
            return sqlite3.connect(f"file:{quote(self._file)}?mode=ro", uri=True, timeout=2.0)
        table = sqlite3.connect(":memory:")
        table.execute(
            "CREATE TABLE orders (number INTEGER PRIMARY KEY, status TEXT, items INTEGER, due TEXT)"
        )
        table.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", SAMPLE)
        return table


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(Fraction(str(number)))
        case ast.BinOp(left, action, right) if type(action) in _OPERATORS:
            return _bounded(_OPERATORS[type(action)](_value(left), _value(right)))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
    raise ValueError("only numbers, + - * / and brackets")


def _bounded(value: Fraction) -> Fraction:
    if len(str(value.numerator)) + len(str(value.denominator)) > MOST_DIGITS:
        raise ValueError("that is too large a number")
    return value
