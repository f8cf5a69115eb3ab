"""`python -m loadtests faults`: the fault matrix. What dies, stands still, is slow, full, cut or wrong; who
hears it, and how soon it is over.

    calls up -> something goes wrong -> calls end -> analysis -> one row a case, a table, one JSON object

Each case starts its own gateway with the echo engine, so that everything heard can be laid beside what was
said. One rule: a case judges only what came out, which is packets, answers, metrics and processes; nothing is
analysed while calls are live.
"""

from loadtests.faults.command import main

__all__ = ["main"]
