"""Redaction of everything that leaves the process: secrets are masked, control characters escaped."""
