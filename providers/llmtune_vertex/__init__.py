"""Google Vertex AI: Gemini (supervised and preference tuning) and open models, through google-genai."""

from __future__ import annotations

from llmtune_vertex.provider import VertexProvider

__all__ = ["VertexProvider"]
