"""The skills of `digits`: for each the rules of the ideal partner, and callers who make use of it."""
