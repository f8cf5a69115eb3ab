"""What a layer does between its products, in C: made when it is first wanted, where there is a compiler.

    layer.c    each of them in one pass over its rows; the torch beside it says what is right
    lanes.h    a register's worth of numbers at once, and blocks of sums that stay in registers
    build.py   source -> library, kept in `__pycache__` as Python keeps its own
    ops.py     the library's functions as functions of tensors

Without a compiler the same is computed in torch: nothing else is lost, and the log says so.
"""
