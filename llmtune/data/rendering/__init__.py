"""Rows as the model sees them: chat template, tokens and their weights, prepared shards, previews."""
