"""A tuned model in hand: generation, label scores, tool calls."""
