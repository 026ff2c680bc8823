"""Several runs on one held-out split, side by side: the leaderboard of `compare`."""
