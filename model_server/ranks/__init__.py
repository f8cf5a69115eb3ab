"""One model server, several processes: ranks that hold a part of the model each and step together.

    microturn's model server = rank 0 (`leader.py`): slots, ticks, admission, and an engine like the others
    ranks 1 ..               (`follower.py`): an engine each, told every step by rank 0; their replies go nowhere

    engine.py       the engine of a rank, for CPUs; device.py: for a device
    memory.py       what they share: cells of progress, the plan of the step, rows that are being added
    plan.py         what rank 0 tells the others: open, step, close
    collectives.py  which way sums go, chosen at start, said and counted
    group.py        ranks that meet in a process group: those with GPUs
    watch.py        who is gone, who is stuck; then all of them end

Rank 0 broadcasts the whole batch, so that every rank runs the same engine on the same chunks; tokens are chosen on
each from logits that were gathered, bit for bit the same. One death is the death of all: the supervisor starts
rank 0 anew, which starts the others, and the workers come back with their calls.
"""
