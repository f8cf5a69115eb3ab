"""The mixture's form for more rows, beside the one for few (`mixture/triton_form.py`), which has the routing."""
