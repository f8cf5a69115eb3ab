"""The trunk in the form that a CPU steps fastest; the plain one (`trunk.py`) says what it computes.

    products.py     matrices times rows, in bfloat16 where the CPU has it, with what follows fused where it can be
    convolution.py  the short convolution that adds to the residual
    attention.py    attention over rings, its bias and what is hidden in one product
    mlp.py          gated MLPs; experts with the shared ones among them
    layer.py        a layer of these; `serve` puts them in place of a trunk's own

A trunk that is cut over ranks (`sharding/parallel.py`) has the same form: its parts of the matrices, and the sum
over ranks behind each branch. Norms' weights are folded into the matrices behind them. For inference: there is no
`whole`, and no gradient.
"""
