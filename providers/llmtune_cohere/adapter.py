"""The Cohere backend: truthful about the retired service, complete for whoever still has one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from llmtune import catalog
from llmtune.capability import Capabilities
from llmtune.provider import Files, Readiness, Request, Requirement, SubmitSafety, Target
from llmtune_cohere import account, body, parameters
from llmtune_cohere.account import CohereOptions, CohereSettings

if TYPE_CHECKING:
    from llmtune.translation import Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


class CohereProvider:
    """Cohere's fine-tuning API at an endpoint that still serves it, or its open trainer.

    Without `base_url` or `service_url` this is the public service, retired on 2025-09-15: it can be asked about, and
    every paid call is refused with the date, the source and the way on.
    """

    kind = "cohere"
    Options: type[BaseModel] = CohereOptions
    Settings: type[BaseModel] = CohereSettings
    requirements: tuple[Requirement, ...] = (Requirement(extra="cohere", module="cohere", distribution="cohere"),)

    def __init__(self, name: str = "cohere", settings: CohereSettings | None = None) -> None:
        self.name = name
        self.settings = settings or CohereSettings()
        self.transport = account.transport(self.settings)
        self.listed = True
        self.hosted = self.transport != "self-hosted"
        # The open trainer shows no list of jobs: an unclear start must not be repeated.
        self.submit_safety = (
            SubmitSafety(kind="none")
            if self.transport == "self-hosted"
            else SubmitSafety(kind="searchable", window=60.0)
        )

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        own = self.transport == "self-hosted"
        known = catalog.load(self.kind, CATALOG)
        entry, warnings = known.model(target.model) if target.model else (known.default, ())
        if own and target.model.startswith("/"):
            warnings = ()  # a checkpoint of the user's own, by its path in the container
        return Capabilities(
            parameters=parameters.SELF_HOSTED if own else parameters.MANAGED,
            family="cohere-finetune" if own else entry.family,
            limits=parameters.limits(target.method, self_hosted=own),
            lifecycle=account.lifecycle(self.settings, known, entry),
            price=entry.price,
            abilities=parameters.SELF_HOSTED_ABILITIES if own else parameters.MANAGED_ABILITIES,
            methods=parameters.SELF_HOSTED_METHODS if own else parameters.MANAGED_METHODS,
            adapters=parameters.SELF_HOSTED_ADAPTERS if own else parameters.MANAGED_ADAPTERS,
            concurrency=1 if own else None,
            concurrency_source=parameters.OPEN if own else "",
            known_model=not warnings,
            warnings=warnings,
        )

    def ready(self) -> Readiness:
        """What is there, offline; for the retired service nothing is asked for."""
        return account.ready(self.settings)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body. Pure."""
        if self.transport == "self-hosted":
            return Request(operation="POST /finetune", body=body.self_hosted(receipt, files))
        return Request(operation="POST /v1/finetuning/finetuned-models", body=body.managed(receipt, files))
