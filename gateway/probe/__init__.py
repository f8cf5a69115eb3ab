"""Probe calls: what a caller would hear, measured by a call of our own through everything but the model.

    child process: clip -> SIP and RTP -> edge, worker, 200 ms path -> engine that echoes -> back -> aligned -> PESQ

The main process places one every `probe_every_s` in a process of its own (`desk`), an operator one by hand
(`command`). It is counted apart and written down nowhere: no session, no CDR, no event, no trace, no recording.
"""
