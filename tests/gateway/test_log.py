"""Lines of processes that share a stream stay whole."""

from __future__ import annotations

import json
import subprocess
import sys

from gateway.log import without_callers
from gateway.state.keys import name_of_telephone_call

_TALK = """
import io, sys
class Stream(io.StringIO):
    writes = []
    def write(self, text):
        self.writes.append(text)
        return len(text)
sys.stderr = Stream()
from gateway.log import set_up_logging
import structlog
set_up_logging("a")
structlog.get_logger().info("said", number=1)
print(len(Stream.writes), Stream.writes[0].endswith("\\n"), "said" in Stream.writes[0])
"""


def test_a_line_and_its_end_are_one_write() -> None:
    """In two, another process's line came between them: `make run`'s `ready` stood behind one, and was not seen."""
    told = subprocess.run([sys.executable, "-c", _TALK], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "True", "True"]


def test_one_object_a_line_for_programs() -> None:
    script = """
from gateway.log import set_up_logging
import structlog
set_up_logging("sip-0", "info", "json")
log = structlog.get_logger()
try:
    int("0049 151 is what Anna said")
except ValueError as wrong:
    log.error("call broken", call="84@203.0.113.7", exc_info=wrong)
    log.exception("gateway broken")
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    call, gateway = map(json.loads, told.stderr.splitlines())
    assert (call["event"], call["level"], call["process"]) == ("call broken", "error", "sip-0")
    assert call["call"] == name_of_telephone_call("84@203.0.113.7")
    assert "ValueError" in call["exception"] and "line 7" in call["exception"]
    assert "Anna" not in call["exception"].replace('int("0049 151 is what Anna said")', "")
    assert "Anna" in gateway["exception"], "what is none of a call's is shown whole"


def test_a_line_of_a_thread_names_its_process_too() -> None:
    for module, arguments, name in (
        ("gateway", '"sip-0", "info", ', "sip-0"),
        ("model_server", '"info", ', "model-server"),
    ):
        script = f"""
import threading
from {module}.log import set_up_logging
import structlog
set_up_logging({arguments}"json")
thread = threading.Thread(target=structlog.get_logger().info, args=("said",))
thread.start()
thread.join()
"""
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert json.loads(told.stderr)["process"] == name


def test_what_a_peer_has_named_its_call_is_not_shown() -> None:
    told = without_callers(
        None, "info", {"event": "x", "call": "84@203.0.113.7", "target": "sip:+4930@x", "n": 1}
    )
    assert told["call"] == name_of_telephone_call("84@203.0.113.7") and told["n"] == 1
    assert "203.0.113.7" not in str(told) and "4930" not in str(told)
    assert without_callers(None, "info", {"call": "b-0123456789abcdef"}) == {"call": "b-0123456789abcdef"}
