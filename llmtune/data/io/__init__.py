"""Readers and writers by container: JSON lines, JSON, tables, compression and character sets."""
