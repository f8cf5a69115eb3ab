"""`python -m gateway` is the command `microturn`."""

from gateway.cli import main

main()
