"""Asking a model, and the dedicated endpoint that a tuned one needs.

A tuned model answers from a dedicated endpoint, billed by the minute (docs.together.ai/docs/fine-tuning/deployment,
read 2026-11-21); base models answer serverless, where the service offers that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llmtune.provider as core
from llmtune.config import setting_variable
from llmtune.errors import InvalidSettings, TransientError, VendorError

if TYPE_CHECKING:
    from llmtune.data.example import Message
    from llmtune_together.client import Connection

#: Minutes without a question after which an endpoint stops by itself (30 is the least the service takes): a crash
#: of ours must not leave one running for ever.
IDLE_MINUTES = 30

_READY = ("DEPLOYMENT_STATE_READY", "DEPLOYMENT_STATE_DEGRADED")
_ENDED = ("DEPLOYMENT_STATE_FAILED", "DEPLOYMENT_STATE_STOPPED", "DEPLOYMENT_STATE_STOPPING")


class ChatGenerator(core.ChatGenerator):
    """A model or a deployment, over /v1/chat/completions."""

    def __init__(self, connection: Connection, model: str) -> None:
        super().__init__(model, self._complete, fields={**core.CHAT_FIELDS, "top_k": "top_k"})
        self._connection = connection

    def message(self, turn: Message) -> dict[str, Any]:
        """Return one turn; roles beyond the common ones have other names here."""
        return core.chat_message(turn.replace(raw_role=None))

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        action = f"ask {self._model}"
        answer = self._connection.request(action, lambda sdk: sdk.chat.completions.create(**body))
        if not answer.get("choices"):
            raise TransientError(f"{self._connection.name}: {action}: an answer without choices")
        return answer


class Endpoints:
    """Dedicated endpoints: one endpoint and one deployment in it per run key."""

    def __init__(self, connection: Connection) -> None:
        self._name = connection.name
        self._settings = connection.settings
        self._connection = connection

    @property
    def _project(self) -> str:
        """The project that endpoints belong to. Raises `InvalidSettings` when none is named."""
        project = self._settings.value_of("project_id")
        if not project:
            raise InvalidSettings(
                f"provider {self._name}: a dedicated endpoint needs project_id",
                hint=f"set project_id under [providers.{self._name}] in llmtune.toml,"
                f" or {setting_variable(self._name, 'project_id')}",
            )
        return project

    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef:
        """Make the model answer; waits until it does. What an earlier, interrupted call made is used."""
        object_id = model.data.get("model_object_id") or model.data.get("adapter_object_id")
        if not object_id:
            raise VendorError(
                f"{self._name}: {model.id} has no entry in the model registry, so no endpoint can be made for it",
                hint="open the job at api.together.ai and deploy it there",
            )
        return self._wait(self.find(key) or self._create(model, f"projects/{self._project}/models/{object_id}", key))

    def _create(self, model: core.ModelRef, path: str, key: core.RunKey) -> core.DeploymentRef:
        project, config = self._project, self._config(path)
        if model.data.get("model_object_id") and model.data.get("model_object_revision_id"):
            path += f"/revisions/{model.data['model_object_revision_id']}"
        endpoint = self._find_endpoint(key) or self._connection.request(
            "make the endpoint", lambda sdk: sdk.endpoints.create(project_id=project, name=_endpoint_name(key))
        )
        deployment = self._connection.request(
            "deploy the model",
            lambda sdk: sdk.endpoints.deployments.create(
                endpoint["id"],
                project_id=project,
                name=key,
                model=path,
                config=config,
                autoscaling={"min_replicas": 1, "max_replicas": 1},
                inactive_timeout=IDLE_MINUTES,
            ),
        )
        return _reference(deployment, project)

    def find(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the deployment that carries this key."""
        project, endpoint = self._project, self._find_endpoint(key) or {}
        for summary in endpoint.get("deployments") or ():
            return _reference(self._look(project, endpoint["id"], summary["id"]), project)
        return None

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Scale to zero, delete the deployment and the endpoint; whatever is gone already is skipped."""
        project, endpoint, deployment = (ref.data[name] for name in ("project", "endpoint", "deployment"))
        path = {"project_id": project, "endpoint_id": endpoint}
        with core.ignore_not_found(), self._connection.translate_errors("stop the deployment"):
            deployments = self._connection.sdk.endpoints.deployments
            deployments.update(deployment, **path, autoscaling={"min_replicas": 0, "max_replicas": 0})
        with core.ignore_not_found(), self._connection.translate_errors("delete the deployment"):
            self._connection.sdk.endpoints.deployments.delete(deployment, **path)
        with core.ignore_not_found(), self._connection.translate_errors("delete the endpoint"):
            self._connection.sdk.endpoints.delete(endpoint, project_id=project)

    def _find_endpoint(self, key: core.RunKey) -> dict[str, Any] | None:
        project = self._project
        endpoints = self._connection.items("list the endpoints", lambda sdk: sdk.endpoints.list(project_id=project))
        name = _endpoint_name(key)
        return next((endpoint for endpoint in endpoints if endpoint["name"].rpartition("/")[2] == name), None)

    def _look(self, project: str, endpoint: str, deployment: str) -> dict[str, Any]:
        return self._connection.request(
            "look at the deployment",
            lambda sdk: sdk.endpoints.deployments.retrieve(deployment, project_id=project, endpoint_id=endpoint),
        )

    def _config(self, model: str) -> str:
        project = self._project
        if self._settings.endpoint_config:
            return f"projects/{project}/configs/{self._settings.endpoint_config}"
        with self._connection.translate_errors("list the endpoint configurations"):
            configs = list(self._connection.sdk.models.configs.list(project_id=project, reference_model=model))
        if len(configs) == 1:
            return f"projects/{configs[0].project_id}/configs/{configs[0].id}"
        names = ", ".join(config.id for config in configs) or "none"
        raise InvalidSettings(
            f"{self._name}: an endpoint for this model can run on these configurations: {names}",
            hint=f"choose one: endpoint_config under [providers.{self._name}]" if configs else None,
        )

    def _wait(self, ref: core.DeploymentRef) -> core.DeploymentRef:
        limit, pause = self._settings.endpoint_wait, self._settings.poll_interval
        for _ in core.growing_pauses(limit, first=pause, longest=pause):
            deployment = self._look(ref.data["project"], ref.data["endpoint"], ref.data["deployment"])
            status = deployment.get("status") or {}
            if status.get("state") in _READY:
                return ref
            if status.get("state") in _ENDED:
                self.undeploy(ref)
                problem = f"the endpoint did not start ({status['state']}): {status.get('message')}"
                raise VendorError(f"{self._name}: {problem}")
        self.undeploy(ref)
        raise VendorError(
            f"{self._name}: the endpoint was not ready in {limit:.0f} s and was removed",
            hint=f"raise endpoint_wait under [providers.{self._name}]",
        )


def _endpoint_name(key: core.RunKey) -> str:
    return f"llmtune-{key}"


def _reference(deployment: Mapping[str, Any], project: str) -> core.DeploymentRef:
    return core.DeploymentRef(
        id=str(deployment["name"]),
        data={"project": project, "endpoint": deployment["endpointId"], "deployment": deployment["id"]},
    )
