"""W3C trace context, and ids that come from names."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from gateway.tracing.spans import Context, of_call, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_context_is_read_and_written() -> None:
    context = parse(f" 00-{TRACE}-{SPAN}-01 ")
    assert context == Context(int(TRACE, 16), int(SPAN, 16)) and context is not None
    assert context.traceparent == f"00-{TRACE}-{SPAN}-01"
    unsampled = parse(f"00-{TRACE}-{SPAN}-00")
    assert unsampled is not None and not unsampled.is_sampled
    assert parse(f"01-{TRACE}-{SPAN}-03-more") == context, "of a later version, as far as it is known"


@pytest.mark.parametrize(
    "header",
    [
        "", "x", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01-more", f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\r\nX: y",
    ],
)  # fmt: skip
def test_what_is_none_begins_a_trace_here(header: str) -> None:
    assert parse(header) is None


def test_ids_come_from_names_and_differ() -> None:
    asked = Context(1, 2)
    one, other = of_call("b-1", None), of_call("b-2", None)
    assert one == of_call("b-1", None) and one.trace != other.trace and one.span != other.span
    assert of_call("b-1", asked).trace == 1 and of_call("b-1", asked).span == one.span
    assert not of_call("b-1", Context(1, 2, is_sampled=False)).is_sampled
    assert one.below("task 1") == one.below("task 1") != one.below("task 2")


def test_where_it_is_off_nothing_is_loaded() -> None:
    """The library of the state server takes the SDK where it is installed: of its users only ours is asked."""

    def loaded(*modules: str) -> set[str]:
        asked = f"import sys, {', '.join(modules)}; print(list(sys.modules))"
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        return set(ast.literal_eval(done.stdout))

    media = loaded("gateway.sip.worker", "gateway.webrtc.worker")
    assert not {name for name in media if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))}
    others = loaded("gateway.main", "gateway.background.worker")
    assert "gateway.tracing.spans" in others and "gateway.tracing.export" not in others
