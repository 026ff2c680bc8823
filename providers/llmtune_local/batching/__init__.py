"""Rows as tokens, packed into steps, and the loss over them."""
