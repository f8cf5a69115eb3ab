"""Every line about a call names it, and no line shows what a caller or a peer has said: by reading the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
OF_CALLS = (
    "gateway/sip/worker.py", "gateway/sip/session.py", "gateway/sip/joining.py", "gateway/sip/pj/call.py",
    "gateway/sip/placed_calls.py", "gateway/sip/handovers.py",
    "gateway/webrtc/call.py", "gateway/webrtc/worker.py", "gateway/recording/call.py", "gateway/safety/screen.py",
    "gateway/safety/desk.py", "gateway/handover.py", "gateway/background/conversation.py",
    "model_server/slack.py",
)  # fmt: skip
"""All lines of these are about a call."""
NAMED_BY = {"call", "task"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
SAID = {"text", "request", "result", "number", "uri", "name", "words", "reason_phrase", "sdp", "body", "to"}
"""Fields that would hold it. `to` of a transfer is a Call-ID, and is shown as a name."""
SHOWN = {
    ("gateway/sip/worker.py", "transferred", "to"),
    ("gateway/supervise.py", "process died", "name"),
    ("gateway/supervise.py", "process does not end", "name"),
    ("gateway/api/v1/surface.py", "request broken", "request"),
    ("gateway/webrtc/pool.py", "worker does not answer", "request"),
}
"""A Call-ID, which is shown as a name; names of processes; a request's id; a kind of request."""


def lines() -> Iterator[tuple[str, str, set[str]]]:
    """File, event and fields of every line that is logged."""
    for folder in ("gateway", "model_server", "media"):
        for path in sorted((TREE / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                of = node.func.value
                if node.func.attr in LEVELS and isinstance(of, ast.Name) and of.id in ("log", "_log"):
                    event = ast.unparse(node.args[0]).strip("'\"") if node.args else ""
                    fields = {each.arg for each in node.keywords if each.arg}
                    yield str(path.relative_to(TREE)), event, fields


def test_lines_about_calls_name_them() -> None:
    found = [(file, event) for file, event, fields in lines() if file in OF_CALLS and not fields & NAMED_BY]
    assert not found, f"{found}: give call=, under which the call's record is found"


def test_no_line_has_a_field_for_what_people_say() -> None:
    found = [
        (file, event, field)
        for file, event, fields in lines()
        for field in fields & SAID
        if (file, event, field) not in SHOWN
    ]
    assert not found, f"{found}: count it, or say how long it was"
    assert len(list(lines())) > 100
