"""Rivulet: OpenAI's fine-tuning calls, one open model, and a learning rate in absolute terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from llmtune.data.formats.base import VendorRows
from llmtune.provider import Abilities, Float, Int, Limits, NotOffered, Options, ProviderSettings, Sent, Unsupported
from llmtune_openai import declarations as openai
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.services import Service

PAGE = "Rivulet API reference, Create a job, https://docs.rivulet.example/jobs (2026-11-01)"
PATH = "method.supervised.hyperparameters."

PARAMETERS = openai.SFT.replace(
    epochs=Sent(PATH + "n_epochs", Int(1, 10), default=2, source=PAGE),
    learning_rate=Sent(PATH + "learning_rate", Float(gt=0, le=1e-2), default=1e-4, source=PAGE),
    learning_rate_multiplier=Unsupported("an absolute rate is taken", source=PAGE),
    gradient_noise=Sent(PATH + "gradient_noise", Float(ge=0, le=1), default=0, source=PAGE),
    tags=Unsupported("a job has no metadata", source=PAGE),
)

LIMITS = Limits(format="openai", min_rows=2, max_bytes=100 * 1000**2, validation="used", source=PAGE)

#: What `llmtune_openai` finds by the entry point `llmtune_openai.services`.
RIVULET = Service(
    title="Rivulet",
    kind="rivulet",
    catalog=Path(__file__).with_name("catalog.toml"),
    sft=PARAMETERS,
    dpo=None,
    methods=openai.METHODS | {"dpo": NotOffered("only supervised tuning is offered")},
    adapters=openai.ADAPTERS,
    limits={"sft": LIMITS},
    abilities=Abilities(billed_cost=NotOffered("the service does not report what it billed")),
    key_env="RIVULET_API_KEY",
    base_url="https://api.rivulet.example/v1/",
    hosts=("rivulet.example",),
    key_in=("suffix",),
    max_tokens_word="max_tokens",
    may_lack_lists=True,
)

RIVULET_ROWS = VendorRows(provider="rivulet", defaults={"sft": "openai"})


class RivuletSettings(ProviderSettings):
    """Where and as whom Rivulet is called."""

    base_url: str | None = None
    """Address of the service; unset: https://api.rivulet.example/v1/."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; unset: RIVULET_API_KEY."""

    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that one call may take; unset: 120, and 600 for files."""


class RivuletOptions(Options):
    """What travels with a job to Rivulet alone: nothing yet."""


class RivuletProvider(OpenAIProvider):
    """Tuning at Rivulet through the `openai` SDK."""

    kind = "rivulet"
    Options = RivuletOptions
    Settings = RivuletSettings
    service = RIVULET
