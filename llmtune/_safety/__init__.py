"""Rules that every room keeps: private files, no foreign page, no telemetry, no endless computing."""
