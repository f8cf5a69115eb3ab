"""What the model is about to say is looked at before it is heard.

    reply -> `Leg.screened` -> `screen.Screen.check` -> `watch.Watch`: which rules do its words meet?
          <- the reply, or what is left of it; what was queued is taken back, something else is heard, the call ends
    worker --`control.PolicyMet`--> `desk.SafetyDesk` -> event `call.safety`
    worker --`control.Said`-------> `moderation.Moderator` -> an endpoint elsewhere, in the background
    worker <--`control.Command` cut -- intercom <-- what that flagged

| module | has |
|---|---|
| `policy`, `policy_file` | rules; the operator's YAML file |
| `normal` | text as rules see it: letters, cases, blanks |
| `watch` | the running text of one call, and what of it is new |
| `screen` | one call, and all of a worker: what is done |
| `moderation` | the endpoint: OpenAI's shape |
| `desk` | the main process: doors, events, what was flagged |
| `settings`, `options` | what an operator chooses, what a worker is told |

One rule: a worker decides by text that it has, and waits for nobody.
"""
