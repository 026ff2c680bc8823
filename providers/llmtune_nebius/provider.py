"""Nebius Token Factory: OpenAI's calls, open models, and a LoRA adapter that is registered before it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import llmtune.provider as core
from llmtune.errors import VendorError
from llmtune_nebius import declarations, inference, responses, rows, weights
from llmtune_nebius.settings import NebiusOptions, NebiusSettings
from llmtune_openai.inference import snippet
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.responses import check_is_job, read_state
from llmtune_openai.services import Service, find_model

if TYPE_CHECKING:
    from llmtune.data.findings import Finding

#: Nebius among the services that speak OpenAI's fine-tuning API; the entry point `llmtune_openai.services` names it.
NEBIUS = Service(
    title="Nebius Token Factory",
    kind="nebius",
    own_kind="nebius",
    catalog=rows.CATALOG,
    sft=declarations.PARAMETERS,
    dpo=None,
    methods=declarations.METHODS,
    adapters=declarations.ADAPTERS,
    limits={"sft": declarations.LIMITS},
    abilities=core.Abilities(
        billed_cost=core.NotOffered("the service reports the tokens that it billed, and no amount"),
        deployment="required",
    ),
    key_env="NEBIUS_API_KEY",
    base_url="https://api.tokenfactory.nebius.com/v1/",
    hosts=("nebius.com",),
    key_in=("suffix",),
    max_tokens_word="max_tokens",
    lora_flag=True,
    uploaded_is_ready=True,
    may_lack_lists=True,
)
_FULL = core.NotOffered("the service serves LoRA adapters only: take the weights of a model tuned in full home")


class NebiusProvider(OpenAIProvider):
    """Tuning at Nebius Token Factory through the `openai` SDK. The run key travels at the end of the suffix.

    A job names no model: its last checkpoint is the model, known as "JOB:CHECKPOINT". An adapter answers once it is
    registered under `/v0/models`, which is what `deploy` does; weights are downloaded by `export`.
    """

    kind = "nebius"
    Options = NebiusOptions
    Settings = NebiusSettings
    service = NEBIUS

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        self._models = inference.CustomModels(self._connection, lambda: self.address or str(self.service.base_url))

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports, by its model and adapter. Pure."""
        declared = super().capabilities(target)
        if tuning_id := _tuning_id(target.model):
            warning = f"{target.model!r} is the id for inference; the one for tuning is {tuning_id!r}"
            declared = replace(declared, warnings=(*declared.warnings, warning))
        if target.adapter == "full":
            abilities = replace(declared.abilities, serving=_FULL, deployment="none")
            declared = replace(declared, abilities=abilities)
        limits = replace(declared.limits, format=rows.choose(target.method, target.model))
        return replace(declared, limits=limits)

    # --- before money is spent ---------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Ask whether the model is tuned here, how and at which price today, and whether it takes adapters."""
        from llmtune.data.findings import error, warning

        model = str(request.body.get("model"))
        facts = self._models.describe(model, _inference_id(model))
        if facts is None:
            return [warning("model", f"{self.service.title} does not show {model}", "check the id")]
        lora = bool(request.body["hyperparameters"]["lora"])
        tuning = inference.fine_tune_of(facts)
        findings = []
        if tuning.get("model_id") not in (None, model):
            findings.append(error("model", f"{model} is tuned under the id {tuning['model_id']!r}", "use that id"))
        types = [str(type) for type in tuning.get("training_types") or ()]
        if types and not any((type.lower() == "lora") == lora for type in types):
            trained = "a LoRA adapter" if lora else "all weights"
            findings.append(warning("adapter", f"{model} is listed for {', '.join(types)}, not {trained}", "change it"))
        if lora and inference.adapter_base(facts, _inference_id(model)) is None:
            message = f"no variant of {model} takes adapters today, so the tuned model would not be served"
            findings.append(warning("serving", message, "take its weights home with llmtune export"))
        return [*findings, *self._check_price(model, tuning.get("training_price_per_million_tokens"))]

    live_prices_page = "GET /v0/models/{id}, fine_tune.training_price_per_million_tokens"

    def fetch_prices(self, models: Sequence[str]) -> core.PriceAnswer:
        """Ask for the price of trained tokens, model by model."""
        prices = {}
        for model in models:
            facts = self._models.describe(model, _inference_id(model))
            live = None if facts is None else inference.fine_tune_of(facts).get("training_price_per_million_tokens")
            if isinstance(live, (int, float)):
                prices[model] = {"training": float(live)}
        return core.PriceAnswer(prices=prices)

    def _check_price(self, model: str, live: Any) -> list[Finding]:
        from llmtune.data.findings import warning

        price = find_model(self.service.known(), model)[0].price
        if not isinstance(live, (int, float)) or live == price.training:
            return []
        listed = "none" if price.training is None else f"{price.training:g}"
        asks = f"{self.service.title} asks {live:g} USD for a million trained tokens of {model} today"
        message = f"{asks}; the catalogue has {listed}"
        return [warning("price", message, "the estimate goes by the catalogue; llmtune's own can be overlaid")]

    # --- the job -----------------------------------------------------------------------------------------------------
    def add_models(
        self, snapshot: core.Snapshot, job: Mapping[str, Any], checkpoints: list[dict[str, Any]]
    ) -> core.Snapshot:
        """Return the snapshot with the models of the checkpoints, and the price of the trained tokens."""
        models = tuple(responses.models_of(job, checkpoints))
        last = models[-1] if models and snapshot.state is core.RunState.SUCCEEDED else snapshot.model
        billed = snapshot.billed
        price = find_model(self.service.known(), str(job.get("model") or ""))[0].price
        if billed is not None and billed.tokens is not None and price.training is not None:
            source = f"{billed.source} x {price.training:g} {price.currency} per million ({price.source})"
            amount = billed.tokens / 1e6 * price.training
            billed = billed.model_copy(update={"amount": amount, "currency": price.currency, "source": source})
        return snapshot.model_copy(update={"model": last, "checkpoints": models, "billed": billed})

    # --- the model ---------------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """Register the adapter under a name that carries the key, so that it answers; it is billed by the token.

        Raises `VendorError` where no variant of the base model takes adapters.
        """
        if not model.tuned or not model.data.get("lora"):
            return None
        if (registered := self.find_deployment(key)) is not None:  # an answer was lost: there must not be two
            return registered
        inference_id = _inference_id(model.base or "")
        base = inference.adapter_base(self._models.describe(model.base or "", inference_id), inference_id)
        if base is None:
            raise VendorError(
                f"no variant of {model.base} takes adapters, so {self.service.title} cannot serve this model",
                hint="take its weights home with llmtune export",
            )
        answer = self._models.create(f"llmtune-{key}", base, model.id)
        return core.DeploymentRef(id=str(answer["name"]), data={"model": model.id, "base": base})

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the registered adapter whose name carries the key."""
        for model in self._models.list():
            name = str(model.get("name") or "")
            if f":llmtune-{key}" in name and model.get("status") != "deleted":
                source = f"{model.get('job_id')}:{model.get('checkpoint_id')}"
                return core.DeploymentRef(id=name, data={"model": source, "base": name.rpartition("-LoRa:")[0]})
        return None

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Remove a registered adapter; quietly done when it is gone. The job keeps its checkpoints."""
        self._models.delete(ref.id)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a base model or a registered adapter; a checkpoint that is not registered does not answer."""
        fields = {**core.CHAT_FIELDS, "max_tokens": self.service.max_tokens_word}
        if isinstance(ref, core.DeploymentRef):
            return inference.RegisteredGenerator(self._models, ref.id, self._complete, fields=fields)
        if not ref.tuned:
            return core.ChatGenerator(ref.id, self._complete, fields=fields)
        if not ref.data.get("lora"):
            return core.Unavailable(_FULL.reason)
        return core.Unavailable("an adapter answers only once it is registered (evaluation.deploy: true)")

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the base model under its id for inference, which may differ from that for tuning."""
        model = receipt.target.model
        return core.ModelRef(id=_inference_id(model), base=model, tuned=False)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the `openai` package."""
        comment = "register the adapter first; its name goes here" if getattr(ref, "tuned", False) else ""
        address = self.address or self.service.base_url
        return snippet(ref.id, base_url=address, key_variable=self.key_variable, comment=comment)

    def export(self, model: core.ModelRef, format: Literal["adapter", "merged"], into: Path) -> tuple[str, ...]:
        """Download the weights of a tuned model or checkpoint to a new folder; return how to load them."""
        files = model.data.get("files") or ()
        if not files:
            job = self._job(str(model.data["job"]))
            candidates = responses.models_of(job, self._checkpoints(str(job["id"]), {}))
            files = next((entry.data["files"] for entry in candidates if entry.id == model.id), ())
        return weights.export(self._connection, model, files, format, into)

    def serving_command(self, model: core.ModelRef, name: str) -> str | None:
        """Return None: the weights are at the service until they are exported."""
        return None

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield the model of every job that has succeeded: its last checkpoint."""

        def read(job: Mapping[str, Any]) -> core.RemoteModel | None:
            job = check_is_job(job)
            if read_state(job)[0] is not core.RunState.SUCCEEDED:
                return None
            return responses.remote_model(job, responses.models_of(job, self._checkpoints(str(job["id"]), {})))

        readers = (partial(read, job) for job in self._jobs())
        yield from (
            model for model in core.read_each(readers, lambda read: read(), self.service.title) if model is not None
        )

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model, whose id begins with the job's."""
        job = remote.job or remote.id.partition(":")[0]
        return super().fetch(remote.model_copy(update={"job": job}))

    def delete(self, ref: core.AnyRef) -> None:
        """Delete a file, a registered adapter, or the weights of a checkpoint; quietly done when they are gone."""
        if isinstance(ref, core.DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, core.ModelRef) and ref.tuned:
            for id in ref.data.get("files") or ():
                super().delete(core.UploadRef(id=str(id)))
        else:
            super().delete(ref)


def _inference_id(tuning_id: str) -> str:
    """Return the id under which a base model answers."""
    entry = NEBIUS.known().models.get(tuning_id)
    return str(entry.facts.get("inference_id") or tuning_id) if entry is not None else tuning_id


def _tuning_id(id: str) -> str | None:
    """Return the tuning id whose inference id this is, if the catalogue has one and it differs."""
    models = NEBIUS.known().models
    if id in models:
        return None
    return next((name for name, entry in models.items() if entry.facts.get("inference_id") == id), None)
