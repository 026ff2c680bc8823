"""Nebius Token Factory among the services that speak OpenAI's fine-tuning API: what differs there."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider import Abilities, No
from llmtune_nebius import declarations
from llmtune_openai.services import Service

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
