"""Acme's fine-tuning service as a backend of llmtune."""

from llmtune_acme.provider import AcmeProvider as AcmeProvider
