"""Nebius Token Factory: OpenAI's calls, open models, and a LoRA adapter whose shape can be chosen."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider import Abilities, No
from llmtune_nebius import declarations
from llmtune_nebius.settings import NebiusOptions, NebiusSettings
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.services import Service

#: Nebius among the services that speak OpenAI's fine-tuning API; the entry point `llmtune_openai.services` names it.
NEBIUS = Service(
    title="Nebius Token Factory",
    kind="nebius",
    catalog=Path(__file__).with_name("catalog.toml"),
    sft=declarations.PARAMETERS,
    dpo=None,
    methods=declarations.METHODS,
    adapters=declarations.ADAPTERS,
    limits={"sft": declarations.LIMITS},
    abilities=Abilities(billed_cost=No("the service does not tell what it billed")),
    key_env="NEBIUS_API_KEY",
    base_url="https://api.tokenfactory.nebius.com/v1/",
    hosts=("nebius.com",),
    key_in=("suffix",),
    max_tokens_word="max_tokens",
    lora_flag=True,
    uploaded_is_ready=True,
    may_lack_lists=True,
)


class NebiusProvider(OpenAIProvider):
    """Tuning at Nebius Token Factory through the `openai` SDK. The run key travels at the end of the suffix."""

    kind = "nebius"
    Options = NebiusOptions
    Settings = NebiusSettings
    service = NEBIUS
