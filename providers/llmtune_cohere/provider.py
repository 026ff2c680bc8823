"""The Cohere backend: truthful about the retired service, complete for whoever still has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

import llmtune.provider as core
from llmtune.config import read_secret
from llmtune.errors import ProviderClosed
from llmtune.provider import catalog
from llmtune_cohere import declarations, requests
from llmtune_cohere.settings import CohereOptions, CohereSettings, Transport

KEY_VARIABLES = ("CO_API_KEY", "COHERE_API_KEY")

#: A checkpoint to go on with where the asked-for model has no published weights.
FALLBACK_WEIGHTS = "CohereForAI/aya-expanse-8b"


class CohereProvider(core.BaseProvider):
    """Cohere's public service, retired on 2025-09-15: it can be asked about, and every paid call is refused with the
    date, the source and the way on.

    With `base_url` or `service_url` in its settings, one of the two subclasses is made instead: the API at an endpoint
    that still serves it, or Cohere's open trainer.
    """

    kind = "cohere"
    parameters = declarations.MANAGED
    catalog = Path(__file__).with_name("catalog.toml")
    limits = declarations.CHAT_LIMITS
    methods = declarations.MANAGED_METHODS
    adapters = declarations.MANAGED_ADAPTERS
    abilities = declarations.MANAGED_ABILITIES
    submit_safety = core.SubmitSafety(kind="searchable", window=60.0)
    Options: type[BaseModel] = CohereOptions
    Settings: type[BaseModel] = CohereSettings
    requirements: tuple[core.Requirement, ...] = (
        core.Requirement(extra="cohere", module="cohere", distribution="cohere"),
    )
    service: ClassVar[str] = ""
    """What the user's own service is, in a sentence; "" for the public one."""

    _services: ClassVar[dict[Transport, type[CohereProvider]]] = {}

    def __init_subclass__(cls, transport: Transport | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if transport is not None:
            cls._services[transport] = cls

    def __new__(cls, name: str = "", settings: Any = None) -> CohereProvider:
        """Make the class of the service that the settings mean."""
        if cls is CohereProvider and settings is not None:
            cls = cls._services.get(settings.transport, cls)
        return super().__new__(cls)

    # --- offline -----------------------------------------------------------------------------------------------------
    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key: the first that is set of the two names the vendor uses."""
        names = (self.settings.api_key_env,) if self.settings.api_key_env else KEY_VARIABLES
        return next((name for name in names if read_secret(name)), names[0])

    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports. Pure."""
        capabilities = super().capabilities(target)
        models = catalog.load(self.kind, self.catalog)
        if self.service:
            lifecycle = core.Lifecycle(
                note=f"{self.service} at {self.address}; Cohere's own service retired on {models.lifecycle.closes}",
                source=models.lifecycle.source,
            )
        else:
            retired = capabilities.lifecycle
            note = f"{retired.note.split(' Continue on')[0]} {self._alternative(target.model)}"
            lifecycle = replace(retired, note=note)
        limits = capabilities.limits
        if target.method == "classification":
            limits = declarations.CLASSIFICATION_LIMITS
        return replace(capabilities, limits=limits, lifecycle=lifecycle, price=models.default.price)

    def _alternative(self, model: str) -> str:
        """Return the command that runs the same job at another provider."""
        models = catalog.load(self.kind, self.catalog)
        entry = models.model(model)[0] if model else models.default
        weights = entry.facts.get("open_weights")
        source = f"the open weights of {entry.id}" if weights else "open weights"
        return (
            f"Continue with {source}: llmtune tune JOB --provider local --model {weights or FALLBACK_WEIGHTS}"
            " (see the weights' own licence first); or name another living backend, or set base_url (an endpoint that"
            " still serves the API) or service_url (your own cohere-finetune) under [providers.cohere]"
        )

    def ready(self) -> core.Readiness:
        """Check offline what is installed and set; the retired service needs nothing."""
        if self.service:
            return super().ready()
        return core.Readiness(extra="not needed", credentials="not needed", hint="the managed service is retired")

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact body. Pure."""
        return core.Request(operation="POST /v1/finetuning/finetuned-models", body=requests.managed(receipt, files))

    # --- online ------------------------------------------------------------------------------------------------------
    def _refuse(self, *_: Any, **__: Any) -> Any:
        lifecycle = catalog.load(self.kind, self.catalog).lifecycle
        raise ProviderClosed(
            f"{self.name}: Cohere retired fine-tuning, dashboard and API, on {lifecycle.closes} ({lifecycle.source});"
            " models tuned there no longer answer",
            provider=self.name,
            since=lifecycle.closes,
            alternatives=("local",),
            hint=self._alternative(""),
        )

    preflight = find_upload = upload = submit = find = poll = cancel = _refuse
    inventory = fetch = download = delete = _refuse

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Return why no model answers."""
        return core.Unavailable("models tuned at Cohere stopped answering on 2025-09-15")

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the untuned model, if the service answers for it."""
        if receipt.target.method == "classification":
            return core.Unavailable("the classifier's base has no head to answer with before it is tuned")
        if not self.service:
            return core.Unavailable("Cohere's fine-tuning is retired")
        return super().base_model(receipt)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the SDK."""
        call, answer = 'chat(model="{}", messages=[{{"role": "user", "content": "Hello!"}}])', "message.content[0].text"
        if ref.data.get("base_type") == declarations.BASE_TYPES["classification"]:
            call, answer = 'classify(model="{}", inputs=["Hello!"])', "classifications[0].prediction"
        base = f', base_url="{self.settings.base_url}"' if self.settings.base_url else ""
        return (
            "import os\n\nimport cohere\n\n"
            f'client = cohere.ClientV2(os.environ["{self.settings.api_key_env or KEY_VARIABLES[0]}"]{base})\n'
            f"answer = client.{call.format(ref.id)}\nprint(answer.{answer})\n"
        )
