"""Account settings and job options of Tinker. No secret is ever among them."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from llmtune.provider import Options, ServiceSettings


class TinkerOptions(Options):
    """Options of a run at Tinker: how rows become tokens, and which layers get an adapter."""

    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; unset: the model's own at the Hugging Face Hub. A wrong one trains
    nonsense."""

    chat_template: str | None = None
    """A Jinja chat template instead of the tokenizer's own, or the name of a ready one: chatml, llama3, gemma,
    deepseek-r1, plain, alpaca."""

    template_options: dict[str, Any] = {}
    """Variables for the chat template (enable_thinking)."""

    mask_empty_thinking: bool = False
    """Leave the empty `<think></think>` unlearned that the template of a model with reasoning writes before an answer
    without any."""

    train_mlp: bool = True
    """Whether the MLP layers get an adapter, experts included."""

    train_attn: bool = True
    """Whether the attention layers get an adapter."""

    train_unembed: bool = True
    """Whether the output layer gets an adapter."""

    @model_validator(mode="after")
    def _trains_something(self) -> TinkerOptions:
        if not (self.train_mlp or self.train_attn or self.train_unembed):
            raise ValueError("nothing would be trained: leave one of train_mlp, train_attn and train_unembed true")
        return self


class TinkerSettings(ServiceSettings):
    """How to reach the account, and where the folders of runs are."""

    variables = {"base_url": ("TINKER_BASE_URL",), "project_id": ("TINKER_PROJECT_ID",)}

    api_key_env: str = "TINKER_API_KEY"
    """Name of the environment variable that holds the API key."""

    project_id: str | None = None
    """Project that sessions belong to; unset: TINKER_PROJECT_ID, else the account's default."""

    runs: str | None = None
    """Folder of the run folders; unset: `tinker` in llmtune's home."""
