"""Work that the model hands off while it goes on talking, and what comes of it.

    model -> reply `delegate ...` -> Conversation (worker) -> Desk (gateway main) -> Redis Stream
                                                                                         |
    model <- chunk `result ...`   <- Conversation          <- Desk <- Redis Stream <- `microturn worker`

| module | process | is |
|---|---|---|
| `conversation` | SIP and WebRTC workers | one call's transcript by turn and its open tasks; no Redis there |
| `door`, `desk` | gateway main | tasks to the queue, news of them back to the call's worker |
| `line`, `scripts` | gateway main, background worker | Redis: one Lua script a change |
| `worker` | background worker | takes tasks, renews them, takes over those of dead workers |
| `router` or `agent` | background worker | who answers: fixed rules over a few tools, or a model with tools |
| `eyes` | background worker | a picture of the caller's camera for the agent |
| `chat` | background worker | one request to an OpenAI-compatible endpoint |
| `tools`, `small_tools`, `mcp_tools` | background worker | what may be called |
| `threads` | background worker | where functions that block run |

Nobody in a call ever waits for any of this: a task that does not come back has failed at its deadline, and the
model is told so.
"""
