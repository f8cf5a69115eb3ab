"""The engine `moshi`: full-duplex speech models that can be downloaded, Moshi and PersonaPlex; many calls a step.

    engine.py      the engine: turns of calls to frames of 80 ms and back, captions, books
    frames.py      one call: 16 kHz in turns of 200 ms <-> 24 kHz in frames of 80 ms
    sequences.py   all calls: codec and language model of the package `moshi`, a row a slot, stepped together
    prompts.py     PersonaPlex: voice and role before the first frame, as tokens that are forced
    noise.py       what tokens are drawn with
    steps.py       how long a frame of so many calls takes, measured
    weights.py     files of a model, what it takes of memory, and what to do where something is missing

The package (kyutai, MIT, pinned) keeps the streaming state of every layer by row: a row is masked, or reset,
without the others. Names of it that begin with an underscore are used in sequences.py and prompts.py alone;
tests/on_moshi says whether an upgrade still has them.
"""
