"""`llmtune data`: check, count, split, convert, look at and prepare datasets. One file a command."""
