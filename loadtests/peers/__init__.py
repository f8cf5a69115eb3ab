"""`python -m loadtests peers`: the same callers at microturn and at other programs, one after the other in one run.

    phones.py     SIP programs that send sound back: pjsua2, sipp, asterisk
    browsers.py   WebRTC servers that do: aiortc with our chunks, aiortc relaying, Pipecat
    pjsua_echo.py, aiortc_relay.py, pipecat_echo.py   three of them, as programs; they import nothing of ours
    command.py    what each costs and how late it is; receive paths under loss; table, rows, plot

One rule: a peer does what its own documents show, with nothing tuned for it or against it.
"""

from loadtests.peers.command import main

__all__ = ["main"]
