"""The third door: clients of OpenAI's Realtime protocol, over a WebSocket at `/v1/realtime` (docs/realtime.md).

    gateway/api/realtime.py   main process: who may come, admission; then the connection goes to a WebRTC worker
    socket.py                 worker: the WebSocket, what comes in and what a client is owed
    events.py                 bytes of a client to events, or to what is wrong with them
    session.py                what a client may choose, and what is in force
    sound.py                  the three audio formats
    items.py                  the conversation as the protocol counts it
    responses.py              the model's speech as responses, frame by frame
    call.py                   wires them to a leg (`media/burst.py` is its intake) and to everything a call has

A call of this door is one like any other: slot, turns, record, recording, policy, commands. The model takes its
turns by itself, so what the protocol says about turn detection is said after the fact, or not at all.
"""
