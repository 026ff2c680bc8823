"""Sets and trainings of the decisions benchmark (`benchmarks/decisions.py`)."""
