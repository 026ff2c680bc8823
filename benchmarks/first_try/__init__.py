"""Rows, scores and settings of the first-try benchmark (`benchmarks/first_try.py`)."""
