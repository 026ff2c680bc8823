"""The job: what to train, on what, and how it is evaluated; and job files."""
