"""The step in the form that a GPU repeats: shapes are fixed, state lies on the device, and a pass asks it nothing.

    state.py        keys and values in pages, rows of convolutions, positions: all of them there from the start
    passes.py       which rows a pass takes, from where, and how many positions each of them gets: tensors alone
    convolution.py  the short convolution over kept rows
    layer.py        a layer: the plain one's weights, attention and experts by `turn_kernels`
    step.py         a turn: one prefill, up to k passes of a token, one pass of sound
    graphs.py       each pass captured once for its shape, then replayed; on a CPU it is called
    random_weights.py  a model of any size, made where it is to lie
    chosen.py       the device that a setting names, and whether it has room

The plain model (`model_server/model`) says what it computes. Weights are those of the plain modules and are not
copied. `engine/device.py` answers calls with it; it has not run on a GPU yet.
"""
