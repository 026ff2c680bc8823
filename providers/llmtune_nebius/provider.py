"""Nebius Token Factory: OpenAI's calls, open models, and a LoRA adapter whose shape can be chosen."""

from __future__ import annotations

from pydantic import BaseModel

from llmtune_nebius.service import NEBIUS
from llmtune_nebius.settings import NebiusOptions, NebiusSettings
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.services import Service


class NebiusProvider(OpenAIProvider):
    """Tuning at Nebius Token Factory through the `openai` SDK. The run key travels at the end of the suffix."""

    kind = "nebius"
    Options: type[BaseModel] = NebiusOptions
    Settings: type[BaseModel] = NebiusSettings

    def __init__(self, name: str = "nebius", settings: NebiusSettings | None = None) -> None:
        super().__init__(name, settings)

    def _service(self) -> Service:
        return NEBIUS

    @property
    def base_url(self) -> str | None:
        """The address that is configured; OPENAI_BASE_URL is not looked at."""
        return self.settings.base_url or None
