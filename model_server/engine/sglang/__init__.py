"""The engine `sglang`: the interaction model under SGLang's scheduler, one streaming session a call.

    engine.py      the engine: what a call brings and what becomes of what is said is that of `digits`
    rows.py        which call has which session and which row of the model; when a session is rolled over
    limits.py      how many calls, tokens and milliseconds there are: refused or rolled over, never hung
    trunk.py        whose layers: ours on the CPU, or those of SGLang's own Inkling on its GPU
    host.py        SGLang itself: started in this process, sessions and requests, each with a deadline
    asking.py       what it is asked in a turn, and what it says
    turn_item.py   one micro-turn as one request: token ids, and sound and pictures as media items
    folder.py      a checkpoint of ours as a folder that SGLang loads
    processors/    turns requests to media items (in this process)
    models/         the model as SGLang calls it (in the scheduler's process), with our trunk
    inkling/        the same with SGLang's own trunk

SGLang does sessions, queueing, batching, sampling and the life of requests; with our trunk the model keeps its own
rows (rings of keys, values and convolutions) between turns. docs/architecture.md says why.
"""
