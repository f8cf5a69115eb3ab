"""The few operations that the model server does not find in a library, each in a folder of its own.

    turn_kernels/<op>/__init__.py     the op: checks, and the choice between its forms
    turn_kernels/<op>/reference.py    plain torch, runs anywhere; it says what is right
    turn_kernels/<op>/triton_form.py  the fast form, and what of it is compiled ahead of time (`BUILDS`)

Imports torch and triton only, triton only where a Triton form is asked for. No kernel here has run on a GPU yet:
on the CPU the forms are interpreted (`TRITON_INTERPRET=1` before triton is imported), and compiled to machine code
for sm_90a and sm_100a.
"""
