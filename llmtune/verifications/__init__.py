"""Verifications: whether a server answers as the tuned model does that was measured. See docs/verify.md."""
