"""Runs: started once, followed from anywhere, never paid for twice."""
