"""Azure OpenAI: OpenAI's wire on the v1 endpoint, and deployments through Azure's control plane."""

from __future__ import annotations

from llmtune_azure.provider import AzureProvider

__all__ = ["AzureProvider"]
