"""Recordings: what both sides of a call heard, on one clock, on disk within a second, and what becomes of it then.

    leg -> `media/tape.py` (both sides on one clock) -> `call.py` (may it, is it paused) -> `writer.py` (a thread)
        -> `container.py` (encrypted, append-only) -> file in `recordings/live` -> `keeper.py` (a process)
        -> WAV or Opus -> `recordings/done` -> `s3.py` -> gone after `recording_keep_days`

Whoever wants to begin, end or pause one from outside of the call asks `desk.RecordingDesk`; the model writes
`recording pause` and `recording resume`.
"""
