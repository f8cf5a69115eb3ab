"""Several gateways that share a Redis: what each has room for, what a tenant or trunk may have of all of them.

    gateway main -> registry --announce, every second--> Redis: nodes, and how many calls each counts for a limit
    new call     -> desk -> permits -> registry --take--> Redis: granted, or the limit that is full
    browser back -> homes: here, at another node (`gateway/api/forward.py`), or to go on here: its node is dead

A node that is gone counts for nothing once its announcement has run out: nobody has to clean up after it. Without
a server a gateway is alone, and takes what it has room for.
"""
