"""The Azure OpenAI backend: OpenAI's wire for the job, Azure's control plane for the deployment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from llmtune.errors import InvalidSettings, LlmtuneError, TransientError, VendorError
from llmtune.provider import DeploymentRef, JobRef, ModelRef, Readiness, Requirement, Unavailable
from llmtune_azure import deployments
from llmtune_azure.declarations import AZURE, capabilities
from llmtune_azure.settings import AzureOptions, AzureSettings
from llmtune_openai.client import PATIENCE, key_of
from llmtune_openai.inference import ChatGenerator
from llmtune_openai.provider import OpenAIProvider

if TYPE_CHECKING:
    from llmtune.provider import AnyRef, Capabilities, Files, Generator, Receipt, Request, RunKey, Target
    from llmtune_openai.services import Service

#: A deployment that Azure calls ready may answer 404 for some minutes more.
LONGEST_SILENCE = 900.0


class AzureProvider(OpenAIProvider):
    """Tuning on Azure OpenAI's v1 endpoint through the `openai` SDK, deploying through azure-mgmt-cognitiveservices.

    The run key travels at the end of the suffix and in the deployment's name. Tuned models answer only while they
    are deployed, which has an hourly price.
    """

    kind = "azure"
    Options: type[BaseModel] = AzureOptions
    Settings: type[BaseModel] = AzureSettings
    requirements: tuple[Requirement, ...] = (
        Requirement(extra="azure", module="openai", distribution="openai"),
        Requirement(extra="azure", module="azure.identity", distribution="azure-identity"),
        Requirement(extra="azure", module="azure.mgmt.cognitiveservices", distribution="azure-mgmt-cognitiveservices"),
    )

    def __init__(self, name: str = "azure", settings: AzureSettings | None = None) -> None:
        super().__init__(name, settings)
        self._control = deployments.ControlPlane(name, self.settings)

    def _service(self) -> Service:
        return AZURE

    @property
    def base_url(self) -> str | None:
        """The v1 endpoint of the resource, or None while no endpoint is configured."""
        endpoint = deployments.endpoint(self.settings)
        if endpoint is None:
            return None
        return f"{endpoint}/" if endpoint.endswith("/openai/v1") else f"{endpoint}/openai/v1/"

    @property
    def _token_env(self) -> str:
        return str(self.settings.token_env or "AZURE_OPENAI_AD_TOKEN")

    def _client_arguments(self) -> dict[str, Any]:
        if self.base_url is None:
            raise InvalidSettings(
                f"the endpoint of {self.name} is not set",
                hint=f"set endpoint under [providers.{self.name}] in llmtune.toml, or AZURE_OPENAI_ENDPOINT",
            )
        timeout = self.settings.timeout or PATIENCE
        return {"base_url": self.base_url, "api_key": self._sign_in(), "timeout": timeout}

    def _sign_in(self) -> str | Callable[[], str] | None:
        key = key_of(self.key_env)
        if self.settings.auth == "key" or (self.settings.auth is None and key):
            return key
        return key_of(self._token_env) or deployments.token_provider()

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        return capabilities(target, self.settings)

    def ready(self) -> Readiness:
        """Whether the packages, the endpoint and a way to sign in are there."""
        absent = [each for each in self.requirements if not deployments.installed(each.module)]
        unset = () if deployments.endpoint(self.settings) else ("endpoint",)
        found = key_of(self.key_env) is not None or key_of(self._token_env) is not None
        hint = None
        if absent:
            hint = "pip install 'llmtune-sdk[azure]'"
        elif unset:
            hint = f"set endpoint under [providers.{self.name}] in llmtune.toml, or AZURE_OPENAI_ENDPOINT"
        elif not found:
            hint = f"export {self.key_env}=..." if self.settings.auth == "key" else "az login"
        credentials = "found" if found else "not found" if self.settings.auth == "key" else "not checked"
        return Readiness(
            extra="missing" if absent else "installed",
            credentials=credentials,  # type: ignore[arg-type]
            missing_settings=unset,
            hint=hint,
        )

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body, without the run key. Pure."""
        request = super().build(receipt, files)
        if training_type := receipt.target.options.get("training_type"):
            return request.model_copy(update={"body": {**request.body, "trainingType": training_type}})
        return request

    # --- the model ---------------------------------------------------------------------------------------------------
    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Deploy the model under a name that carries the key, and wait until it answers."""
        name = _name(key)
        self._control.create(name, model.id)
        ref = DeploymentRef(id=name, data={"model": model.id, "sku": self.settings.deployment_sku})
        self._wait_for_an_answer(ref)
        return ref

    def _wait_for_an_answer(self, ref: DeploymentRef, *, pause: Callable[[float], None] = time.sleep) -> None:
        delay, waited = 0.1, 0.0
        while True:
            try:
                self._connection.ask(
                    lambda sdk: sdk.chat.completions.with_raw_response.create(
                        model=ref.id, messages=[{"role": "user", "content": "."}], max_completion_tokens=1
                    )
                )
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
            if waited >= LONGEST_SILENCE:
                raise TransientError(f"the deployment {ref.id} stands but does not answer: {why}")
            pause(delay)
            waited += delay
            delay = min(delay * 2, 10.0)

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """The deployment whose name carries the key."""
        found = self._control.get(_name(key))
        if found is None:
            return None
        return DeploymentRef(id=_name(key), data={"model": found["model"], "sku": found["sku"]})

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone."""
        self._control.delete(ref.id)

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """A deployment, through the chat API. A model that is not deployed does not answer here."""
        if isinstance(ref, ModelRef) and not ref.data.get("deployment"):
            return Unavailable(f"{ref.id} answers on Azure only while it is deployed")
        return ChatGenerator(self._connection, ref.id, self.service.max_tokens_word)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The standing deployment named in the settings, if there is one."""
        name = self.settings.base_deployment
        if name:
            return ModelRef(id=name, tuned=False, data={"deployment": name})
        return Unavailable(
            "a base model answers on Azure only through a deployment; name a standing one as base_deployment"
        )

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """A few lines of Python that call a deployment through the `openai` package."""
        name = ref.id if isinstance(ref, DeploymentRef) or ref.data.get("deployment") else "<deployment>"
        return "\n".join(
            [
                "import os",
                "",
                "from openai import OpenAI",
                "",
                f"client = OpenAI(base_url={self.base_url!r}, api_key=os.environ[{self.key_env!r}])",
                "answer = client.chat.completions.create(",
                f"    model={name!r},  # the deployment of {ref.data.get('model') or ref.id}",
                '    messages=[{"role": "user", "content": "Hello"}],',
                ")",
                "print(answer.choices[0].message.content)",
            ]
        )

    def delete(self, ref: AnyRef) -> None:
        """Delete a file or a deployment; quietly done when it is gone. The v1 endpoint deletes no models and jobs."""
        if isinstance(ref, DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, (ModelRef, JobRef)):
            raise LlmtuneError(
                f"Azure's v1 endpoint deletes neither models nor jobs: {ref.id} stays",
                hint="delete it in the Foundry portal; a model that is not deployed costs nothing by the hour",
            )
        else:
            super().delete(ref)


def _name(key: RunKey) -> str:
    return f"llmtune-{key}"
