"""Acme's fine-tuning service as a backend of llmtune."""

from llmtune_acme.adapter import AcmeProvider as AcmeProvider
