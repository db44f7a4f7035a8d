"""Benchmarks: one module a benchmark, run with ``python dev.py bench NAME``."""
