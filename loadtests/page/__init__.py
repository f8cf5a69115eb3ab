"""`python -m loadtests page`: one page of all results, from their rows alone; the README's summary, too.

    parts.py     what is shown: which row of which file, which columns, beside what
    rows.py      rows of a CSV file, the newest that fits
    command.py   Markdown and HTML, and the README's table

One rule: no number is written by hand. What has no row yet is named with the command
that makes one.
"""

from loadtests.page.command import main

__all__ = ["main"]
