"""Checks over whole datasets: single rows, duplicates, near-duplicates, privacy, statistics."""
