"""The same fake and the same provider as in tests/providers/llmtune_sagemaker."""

from __future__ import annotations

from tests.providers.llmtune_sagemaker.conftest import aws, provider, vendor

__all__ = ["aws", "provider", "vendor"]
