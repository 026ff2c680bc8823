"""The run folder: everything a worker process and its followers tell each other."""
