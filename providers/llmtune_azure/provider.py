"""The Azure OpenAI backend: OpenAI's wire for the job, Azure's control plane for the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import llmtune.provider as core
from llmtune import _clock
from llmtune.config import read_secret
from llmtune.errors import InvalidSettings, LlmtuneError, TransientError, VendorError
from llmtune_azure import deployments, prices
from llmtune_azure.declarations import AZURE, capabilities, reinforcement_options
from llmtune_azure.settings import AzureOptions, AzureSettings, TrainingType
from llmtune_openai import inference
from llmtune_openai.graders import write_grader
from llmtune_openai.provider import OpenAIProvider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmtune.data.findings import Finding
    from llmtune.job.graders import Grader

#: A deployment that Azure calls ready may answer 404 for some minutes more.
LONGEST_SILENCE = 900.0


class AzureProvider(OpenAIProvider):
    """Tuning on Azure OpenAI's v1 endpoint through the `openai` SDK, deploying through azure-mgmt-cognitiveservices.

    The run key travels at the end of the suffix and in the deployment's name. Tuned models answer only while they
    are deployed, which has an hourly price.
    """

    kind = "azure"
    Options = AzureOptions
    Settings = AzureSettings
    requirements = (deployments.OPENAI_SDK, deployments.IDENTITY, deployments.MANAGEMENT)
    service = AZURE

    def __init__(self, name: str = "", settings: AzureSettings | None = None) -> None:
        super().__init__(name, settings)
        self._control = deployments.ControlPlane(self.name, self.settings)

    @property
    def address(self) -> str:
        """The v1 endpoint of the resource, or "" while no endpoint is configured."""
        endpoint = (self.settings.value_of("endpoint") or "").rstrip("/")
        if not endpoint:
            return ""
        return f"{endpoint}/" if endpoint.endswith("/openai/v1") else f"{endpoint}/openai/v1/"

    @property
    def _token_variable(self) -> str:
        return str(self.settings.token_env or "AZURE_OPENAI_AD_TOKEN")

    def _client_arguments(self) -> dict[str, Any]:
        if not self.address:
            raise InvalidSettings(
                f"the endpoint of {self.name} is not set",
                hint=f"set endpoint under [providers.{self.name}] in llmtune.toml, or AZURE_OPENAI_ENDPOINT",
            )
        arguments = super()._client_arguments()
        if self.settings.auth == "entra" or (self.settings.auth is None and "api_key" not in arguments):
            arguments["api_key"] = read_secret(self._token_variable) or deployments.token_provider()
        return arguments

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports. Pure."""
        return capabilities(target, self.settings)

    def find_credentials(self) -> core.Credentials:
        """Return whether a key or a token is there; what azure-identity would find is not looked for."""
        if read_secret(self.key_variable) or read_secret(self._token_variable):
            return "found", None
        if self.settings.auth == "key":
            return "not found", f"export {self.key_variable}=..."
        return "not checked", "az login"

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact body, without the run key. Pure."""
        request = super().build(receipt, files)
        if hyperparameters := reinforcement_options(receipt.target):
            added = {"method": {"reinforcement": {"hyperparameters": hyperparameters}}}
            request = request.model_copy(update={"body": core.deep_merge(request.body, added)})
        if training_type := receipt.target.options.get("training_type"):
            return request.model_copy(update={"body": {**request.body, "trainingType": training_type}})
        return request

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model. Raises `VendorError` if the account has none."""
        job = super().fetch(remote)
        record = dict(job.record)
        spellings = {name.lower(): name for name in get_args(TrainingType)}
        training_type = spellings.get(str(record.get("trainingType")).lower())  # the service takes any casing
        if training_type is None:
            return job
        del record["trainingType"]
        options = {**job.options, "training_type": training_type}
        names = {**job.names, "training_type": "trainingType"}
        return job.model_copy(update={"record": record, "options": options, "names": names})

    def write_grader_source(self, grader: Grader) -> str:
        """Return the Python source by which Azure scores an answer."""
        return str(write_grader(grader)["source"])

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one call, never repeated here."""
        try:
            return super().submit(request, key)
        except VendorError as refused:
            if "does not support fine-tuning" in str(refused.raw) and "trainingType" not in request.body:
                refused.hint = (
                    "Azure also says so when no training type is sent: set provider_options.azure.training_type to"
                    " Standard, GlobalStandard or developerTier"
                )
            raise

    def check_deployment(self) -> list[Finding]:
        """Ask the control plane whether this sign-in may deploy; a setting that deploying needs and lacks is raised."""
        from llmtune.data.findings import error, warning

        try:
            if self._control.may_deploy():
                return []
        except VendorError as refused:
            problem = f"whether this sign-in may deploy could not be asked: {refused.message}"
            return [warning("deployment", problem, "the evaluation may end without a deployment")]
        account = deployments.deploy_settings(self.settings)["account_name"]
        problem = f"this sign-in may not deploy on {account}: it lacks {deployments.DEPLOY_OPERATION}"
        remedy = "ask for the role Foundry Owner, or set evaluation.deploy: false to train without an evaluation"
        return [error("deployment", problem, remedy)]

    # --- prices ------------------------------------------------------------------------------------------------------
    live_prices_page = "Azure Retail Prices API"

    def fetch_prices(self, models: Sequence[str]) -> core.PriceAnswer:
        """Ask Azure's public price list what tuning and answers cost in the resource's region."""
        region = (self.settings.region or "").lower().replace(" ", "")
        if not (region.isascii() and region.isalnum()):
            problem = f"is {self.settings.region!r}, which is none of Azure's" if region else "is not set"
            raise InvalidSettings(
                f"the region of {self.name} {problem}, and prices differ by region",
                hint=f'set region = "eastus2" or the like under [providers.{self.name}] in llmtune.toml',
            )
        rows = prices.fetch_rows(self.settings.prices_url or prices.PAGE, region)
        catalog = self.service.known()
        listed = []
        for id in models:
            facts = catalog.model(id)[0].facts
            if stems := facts.get("meters"):
                training_type = facts.get("training_type")
                trained = prices.TRAINED[training_type or "Standard"]
                listed.append(prices.Model(id=id, stems=frozenset(stems), trained=trained, open=bool(training_type)))
        return prices.read_prices(rows, listed, region=region, sku=self.settings.deployment_sku, today=_clock.today())

    # --- the model ---------------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """Deploy the model under a name that carries the key, and wait until it answers."""
        name = _name(key)
        self._control.create(name, model.id)
        ref = core.DeploymentRef(id=name, data={"model": model.id, "sku": self.settings.deployment_sku})
        self._wait_for_an_answer(ref)
        return ref

    def _wait_for_an_answer(self, ref: core.DeploymentRef) -> None:
        question = {"model": ref.id, "messages": [{"role": "user", "content": "."}], "max_completion_tokens": 1}
        for _ in core.growing_pauses(LONGEST_SILENCE):
            try:
                self._complete(question)
            except TransientError as error:
                if error.status == 429:  # it answers, if only to say that it is busy
                    return
                if error.status is not None and error.status < 500:
                    raise
                why = error.message
            except VendorError as error:
                if error.status != 404:
                    raise
                why = error.message
            else:
                return
        raise TransientError(f"the deployment {ref.id} stands but does not answer: {why}")

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the deployment whose name carries the key."""
        deployment = self._control.get(_name(key))
        if deployment is None:
            return None
        return core.DeploymentRef(id=_name(key), data={"model": deployment["model"], "sku": deployment["sku"]})

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone."""
        self._control.delete(ref.id)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a deployment through the chat API. A model that is not deployed does not answer here."""
        if isinstance(ref, core.ModelRef) and not ref.data.get("deployment"):
            return core.Unavailable(f"{ref.id} answers on Azure only while it is deployed")
        return super().generator(ref)

    def find_model(self, name: str) -> core.ModelRef | core.Unavailable:
        """Return the standing deployment of that name: models answer on Azure through deployments alone."""
        return core.ModelRef(id=name, tuned=False, data={"deployment": name})

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the deployment named in the settings, if there is one."""
        name = self.settings.base_deployment
        if name:
            return core.ModelRef(id=name, tuned=False, data={"deployment": name})
        return core.Unavailable(
            "a base model answers on Azure only through a deployment; name a standing one as base_deployment"
        )

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call a deployment through the `openai` package."""
        name = ref.id if isinstance(ref, core.DeploymentRef) or ref.data.get("deployment") else "<deployment>"
        comment = f"the deployment of {ref.data.get('model') or ref.id}"
        return inference.snippet(name, base_url=self.address, key_variable=self.key_variable, comment=comment)

    def delete(self, ref: core.AnyRef) -> None:
        """Delete a file or a deployment; quietly done when it is gone. The v1 endpoint deletes no models and jobs."""
        if isinstance(ref, core.DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, (core.ModelRef, core.JobRef)):
            raise LlmtuneError(
                f"Azure's v1 endpoint deletes neither models nor jobs: {ref.id} stays",
                hint="delete it in the Foundry portal; a model that is not deployed costs nothing by the hour",
            )
        else:
            super().delete(ref)


def _name(key: core.RunKey) -> str:
    return f"llmtune-{key}"
