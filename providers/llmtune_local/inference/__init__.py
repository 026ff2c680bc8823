"""Use of a tuned model: generation, label scores, tool calls."""
