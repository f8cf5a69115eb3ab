"""Load tests of the engine itself, without a gateway: what a step costs, and what it costs after hours.

`python -m model_server.bench cost-curve|four-hours`: a table, a plot where there is one, one JSON object in the
last line. Rows are kept in `loadtests/results/`.
"""
