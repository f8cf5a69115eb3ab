"""Load tests: they start what they measure, place real calls and report figures."""
