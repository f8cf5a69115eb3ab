"""The gateway: calls in, chunks to the slot table, replies back, and everything around a call."""
