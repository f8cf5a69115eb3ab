"""Lines of processes that share a stream stay whole."""

from __future__ import annotations

import subprocess
import sys

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
