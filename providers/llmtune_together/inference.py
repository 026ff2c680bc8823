"""Asking a model, and the dedicated endpoint that a tuned one needs.

A tuned model answers from a dedicated endpoint, billed by the minute (docs.together.ai/docs/fine-tuning/deployment,
read 2026-11-21); base models answer serverless, where the service offers that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from llmtune.data.example import ToolCall
from llmtune.errors import InvalidSettings, TransientError, VendorError
from llmtune.provider import DeploymentRef, Generation, GenerationRequest, ModelRef, RunKey
from llmtune_together import settings as account
from llmtune_together.client import plain, speaking

if TYPE_CHECKING:
    from together import Together

    from llmtune.data.example import Message
    from llmtune_together.settings import TogetherSettings

#: Minutes without a question after which an endpoint stops by itself (30 is the least the service takes): a crash
#: of ours must not leave one running for ever.
IDLE_MINUTES = 30

_FINISH: dict[str, Literal["stop", "length", "tool_calls"]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class ChatGenerator:
    """A model or a deployment in hand, over /v1/chat/completions."""

    max_concurrency = 4

    def __init__(self, name: str, client: Together, model: str) -> None:
        self._name = name
        self._client = client
        self._model = model

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer per request, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Generation:
        asked: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "tools": list(request.tools) or None,
        }
        started = time.monotonic()
        with speaking(self._name, f"ask {self._model}"):
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=cast("Any", [message(each) for each in request.messages]),
                **{key: value for key, value in asked.items() if value is not None},
            )
        told = plain(answer, self._name, f"ask {self._model}")
        if not told.get("choices"):
            raise TransientError(f"{self._name}: ask {self._model}: an answer without choices")
        choice, usage = told["choices"][0], told.get("usage") or {}
        said = choice.get("message") or {}
        return Generation(
            text=said.get("content") or "",
            finish_reason=_FINISH.get(str(choice.get("finish_reason")), "unknown"),
            tool_calls=tuple(_tool_call(call) for call in said.get("tool_calls") or ()),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            seconds=time.monotonic() - started,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def message(turn: Message) -> dict[str, Any]:
    """A turn as the chat API takes it."""
    row: dict[str, Any] = {"role": turn.role, "content": turn.words}
    if turn.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id:
        row["tool_call_id"] = turn.tool_call_id
    return row


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), str(function.get("arguments") or ""))


class Endpoints:
    """Dedicated endpoints: one endpoint and one deployment in it per run key."""

    def __init__(self, name: str, settings: TogetherSettings) -> None:
        self._name = name
        self._settings = settings
        self._project = account.project(name, settings)

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef:
        """Make the model answer; waits until it does. What an earlier, interrupted call made is used."""
        object_id = model.data.get("model_object_id") or model.data.get("adapter_object_id")
        if not object_id:
            raise VendorError(
                f"{self._name}: {model.id} has no entry in the model registry, so no endpoint can be made for it",
                hint="open the job at api.together.ai and deploy it there",
            )
        client = account.client(self._name, self._settings)
        found = self.find(key)
        if found is None:
            path = f"projects/{self._project}/models/{object_id}"
            if model.data.get("model_object_id") and model.data.get("model_object_revision_id"):
                path += f"/revisions/{model.data['model_object_revision_id']}"
            config = self._config(client, f"projects/{self._project}/models/{object_id}")
            endpoint = self._endpoint(client, key)
            with speaking(self._name, "deploy the model"):
                made = client.endpoints.deployments.create(
                    endpoint["id"],
                    project_id=self._project,
                    name=key,
                    model=path,
                    config=config,
                    autoscaling={"min_replicas": 1, "max_replicas": 1},
                    inactive_timeout=IDLE_MINUTES,
                )
            found = _reference(plain(made, self._name, "deploy the model"), self._project)
        return self._wait(client, found)

    def find(self, key: RunKey) -> DeploymentRef | None:
        """The deployment that carries this key."""
        client = account.client(self._name, self._settings)
        with speaking(self._name, "list the endpoints"):
            for endpoint in client.endpoints.list(project_id=self._project):
                if endpoint.name.rpartition("/")[2] != _endpoint_name(key):
                    continue
                for summary in endpoint.deployments:
                    one = client.endpoints.deployments.retrieve(
                        summary.id, project_id=self._project, endpoint_id=endpoint.id
                    )
                    return _reference(plain(one, self._name, "look at the deployment"), self._project)
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Scale to nothing, delete the deployment, delete the endpoint; what is gone already stays gone."""
        client = account.client(self._name, self._settings)
        at = {"project_id": ref.data["project"], "endpoint_id": ref.data["endpoint"]}
        deployments = client.endpoints.deployments
        self._quietly(
            "stop the deployment",
            lambda: deployments.update(
                ref.data["deployment"], **at, autoscaling={"min_replicas": 0, "max_replicas": 0}
            ),
        )
        self._quietly("delete the deployment", lambda: deployments.delete(ref.data["deployment"], **at))
        self._quietly(
            "delete the endpoint",
            lambda: client.endpoints.delete(ref.data["endpoint"], project_id=ref.data["project"]),
        )

    def _quietly(self, action: str, call: Any) -> None:
        try:
            with speaking(self._name, action):
                call()
        except VendorError as error:
            if error.status != 404:
                raise

    def _endpoint(self, client: Together, key: RunKey) -> dict[str, Any]:
        with speaking(self._name, "look for the endpoint"):
            for endpoint in client.endpoints.list(project_id=self._project):
                if endpoint.name.rpartition("/")[2] == _endpoint_name(key):
                    return plain(endpoint, self._name, "look for the endpoint")
            made = client.endpoints.create(project_id=self._project, name=_endpoint_name(key))
        return plain(made, self._name, "make the endpoint")

    def _config(self, client: Together, model: str) -> str:
        if self._settings.endpoint_config:
            return f"projects/{self._project}/configs/{self._settings.endpoint_config}"
        with speaking(self._name, "list the endpoint configurations"):
            offered = list(client.models.configs.list(project_id=self._project, reference_model=model))
        if len(offered) == 1:
            return f"projects/{offered[0].project_id}/configs/{offered[0].id}"
        names = ", ".join(each.id for each in offered) or "none"
        raise InvalidSettings(
            f"{self._name}: an endpoint for this model can run on these configurations: {names}",
            hint=f"choose one: endpoint_config under [providers.{self._name}]" if offered else None,
        )

    def _wait(self, client: Together, ref: DeploymentRef) -> DeploymentRef:
        deadline = time.monotonic() + self._settings.endpoint_wait
        while True:
            with speaking(self._name, "look at the deployment"):
                one = client.endpoints.deployments.retrieve(
                    ref.data["deployment"], project_id=ref.data["project"], endpoint_id=ref.data["endpoint"]
                )
            status = plain(one, self._name, "look at the deployment").get("status") or {}
            word = str(status.get("state") or "")
            if word in ("DEPLOYMENT_STATE_READY", "DEPLOYMENT_STATE_DEGRADED"):
                return ref
            if word in ("DEPLOYMENT_STATE_FAILED", "DEPLOYMENT_STATE_STOPPED", "DEPLOYMENT_STATE_STOPPING"):
                self.undeploy(ref)
                raise VendorError(f"{self._name}: the endpoint did not start ({word}): {status.get('message')}")
            if time.monotonic() > deadline:
                self.undeploy(ref)
                raise VendorError(
                    f"{self._name}: the endpoint was not ready in {self._settings.endpoint_wait:.0f} s and was removed",
                    hint=f"raise endpoint_wait under [providers.{self._name}]",
                )
            time.sleep(self._settings.poll_interval)


def _endpoint_name(key: RunKey) -> str:
    return f"llmtune-{key}"


def _reference(deployment: dict[str, Any], project: str) -> DeploymentRef:
    return DeploymentRef(
        id=str(deployment["name"]),
        data={"project": project, "endpoint": deployment["endpointId"], "deployment": deployment["id"]},
    )
