"""The model server: slots in, slots out, on a turn clock. Never Redis, never the network."""
