"""Codecs by name; each turns int16 samples into payload bytes and back."""
