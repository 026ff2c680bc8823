"""Safety rules for all packages: private files, no foreign pages, no telemetry, limits on time."""
