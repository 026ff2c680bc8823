"""AWS Bedrock: Nova, Claude 3 Haiku and Llama through CreateModelCustomizationJob, with boto3."""

from __future__ import annotations

from llmtune_bedrock.provider import BedrockProvider

__all__ = ["BedrockProvider"]
