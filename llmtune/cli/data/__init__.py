"""`llmtune data`: check, count, split, convert, preview and prepare datasets. One file per command."""
