"""The local backend: PEFT/LoRA training in a worker process on the user's own GPU or CPU."""

from llmtune_local.provider import LocalProvider

__all__ = ["LocalProvider"]
