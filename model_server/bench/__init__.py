"""Load tests of the engine itself, without a gateway: what a step costs, after hours too, and what a death costs.

`python -m model_server.bench cost-curve|four-hours|many-calls|rebuild|killed|sessions`: a table, a plot where there
is one, one JSON object in the last line. Rows are kept in `loadtests/results/`.
"""
