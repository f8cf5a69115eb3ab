"""pjsua2, and the only place that imports it: a call, its stream, who feeds the streams, the endpoint, and how much
it takes.

The library's traps, met with both builds, that the shape of these files answers:

- every pj object lives and dies in one thread, the one that called `Endpoint.start` (`poll`, `close` too);
  the worker turns the collector off and collects there itself;
- Python is called by two native threads only for `Metronome` (clock thread: pushes frames, and pulls those of
  conferences) and for RFC 4733 digits (`on_digit`: handed to the loop by the worker);
- a callback that raises is printed and forgotten by SWIG: each one here is `guarded`, which logs it;
- members of a temporary dangle: parents (`getInfo()`, `getStreamStat()`, `rdata`) are bound to a local first;
- a call object that outlives its call hangs up the next call of its number: `sweep` says when it dies;
- a frame that is pushed into a stream which was destroyed crashes the process: `metronome` has the rule;
- the clock thread calls a port until the library's half of it is destroyed, be its Python half gone or not: there
  is one, for all calls, and it lives as long as the process;
- a transfer that is accepted without a call object of ours leaves one that nobody owns: `newCall` is always
  given, and is buried by the worker if the library then does not dial;
- the process ends by `os._exit` after `libDestroy`: leaving otherwise hangs or crashes.

Names that are no API of the library and are leaned on: `__swig_destroy__` of calls, SWIG's own destructor, which
also takes the object out of Python's hands, and those at the head of `pjmedia`, which tests the layouts at start.
"""

from __future__ import annotations

from gateway.sip.pj.call import CallEvents, SipCall
from gateway.sip.pj.endpoint import Endpoint, takes_ipv6, version
from gateway.sip.pj.limit import call_limit

__all__ = ["CallEvents", "Endpoint", "SipCall", "call_limit", "takes_ipv6", "version"]
