"""Traces (OpenTelemetry): one a call, for whoever wants to see where its time went.

    edge, WHIP, /v1 --arrived--\\
    sessions, switchboard, tasks ----> `calls.CallTraces` --`Span`--> `export.Exporter` --thread--> OTLP/HTTP
    workers --CallEnded.notes--/                    `microturn worker` --/

    spans.py      names and ids of spans, W3C trace context; knows no library
    calls.py      what happens in calls, as spans; an arrangement of facts, without IO
    door.py       takes what workers noted of a call, on its way past
    export.py     the only place that imports OpenTelemetry: a bounded queue, a thread, the exporter

The ids of a call's own span and of its tasks' come from their names: a main process that came after a death, and
a background worker that was told of a task, know them without being told. What can be said of a person (numbers,
names, words, addresses) is in no attribute: ids, doors, codecs, reasons and figures are.
"""
