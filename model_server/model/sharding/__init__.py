"""The model cut over ranks: which matrix along which axis, which experts and heads to whom.

    plan.py      the cuts as data: a table of parameter names, for any configuration and number of ranks
    cutting.py   a rank's part of a tensor, and whole tensors from all parts
    parallel.py  the plain model built at a rank's size, with an all-reduce behind each attention and MLP

The plain model knows nothing of it.
"""
