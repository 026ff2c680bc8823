"""The sections of a report: each is a function that returns a section, or None where there is nothing to say."""
