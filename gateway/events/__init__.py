"""What becomes of calls, told to programs elsewhere: webhooks from a spool on disk, and a live stream.

    Sessions, tasks -> `desk` -> `spool` (disk) -> `outbox` (one an endpoint) -> `courier` (HTTP) -> webhooks
                              -> `feed` (Redis stream) -> `/v1/events`

| module | says |
|---|---|
| `records` | what an event is, and how its id comes about |
| `settings`, `signing` | endpoints; what proves to them that an event is ours |
| `forgetting` | what `microturn forget` takes out of events that wait |
| `handovers` | the transcript, once a caller is handed to a person |
| `spool` | a bounded log of segments, and each endpoint's place in it |
| `outbox` | what is due at an endpoint, and when; time is an argument |
"""
