"""pjsua2, and the only place that imports it: a call's audio port, the call, the endpoint, and how much it takes.

The library's traps, met with both builds, that the shape of these files answers:

- every pj object lives and dies in one thread, the one that called `Endpoint.start` (`poll`, `close` too);
  the worker turns the collector off and collects there itself;
- Python is called by two native threads only for `Port` (clock thread: copies, nothing else) and for
  RFC 4733 digits (`on_digit`: handed to the loop by the worker);
- a callback that raises is printed and forgotten by SWIG: each one here is `guarded`, which logs it;
- members of a temporary dangle: parents (`getInfo()`, `getStreamStat()`, `rdata`) are bound to a local first;
- a call object that outlives its call hangs up the next call of its number: `sweep` says when it dies;
- the clock thread calls a port until the library's half of it is destroyed: a Python half that is gone by then is
  called in its last breath, and crashes the process (once in some thousand calls), so `sweep` destroys that half
  while the other still lives;
- a transfer that is accepted without a call object of ours leaves one that nobody owns: `newCall` is always
  given, and is buried by the worker if the library then does not dial;
- the process ends by `os._exit` after `libDestroy`: leaving otherwise hangs or crashes.

Names that are no API of the library and are leaned on: `ByteVector.this` (address of a libstdc++ vector);
`vectors_are_fast` tests it at start, and `choose_copies` falls back to plain ones. `__swig_destroy__` of calls and
ports, SWIG's own destructor, which also takes the object out of Python's hands. `stream` has names of its own.
"""

from __future__ import annotations

from gateway.sip.pj.call import CallEvents, SipCall
from gateway.sip.pj.endpoint import Endpoint, version
from gateway.sip.pj.limit import call_limit
from gateway.sip.pj.port import Port

__all__ = ["CallEvents", "Endpoint", "Port", "SipCall", "call_limit", "version"]
