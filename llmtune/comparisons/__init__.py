"""Which backend for this data? Several at once, on one held-out split, on one board."""
