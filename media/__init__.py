"""Samples, frames and chunks of one call, without IO: bytes, samples and `now_ns` in, values out."""
