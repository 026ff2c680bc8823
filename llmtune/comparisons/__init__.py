"""Comparisons: the same job at several backends, evaluated on one held-out split and ranked on one leaderboard."""
