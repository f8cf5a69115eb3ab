"""`python -m gateway.catalogue > docs/metrics.md`."""

from __future__ import annotations

import sys

from gateway.catalogue.page import table

sys.stdout.write(table())
