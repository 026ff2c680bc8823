"""Tuned open models, whose weights are files in the bucket: deployed by Model Garden, asked, and removed.

An endpoint is named after the run's key, so that it is found again and never made twice; its machines are billed by
the hour until it is removed. Sources: aiplatform's v1beta1 protos (DeployRequest.custom_model.gcs_uri and
EndpointConfig.endpoint_user_id), read 2026-12-01; Google Cloud, Tune an open model, 2026-09-25.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import llmtune.provider as core
from llmtune.errors import InvalidSettings, TransientError, VendorError
from llmtune_vertex import responses
from llmtune_vertex.client import Rest, Sdk

#: Machines are found, weights loaded: half an hour is usual, more than two are given up.
DEPLOY_SECONDS = 7200.0
LOOK_SECONDS = 15.0
#: Seconds until one step of a removal is given up.
REMOVE_SECONDS = 300.0
#: Seconds until an endpoint that is still being made is removed again.
REMOVE_AGAIN_SECONDS = 30.0


def deploy(sdk: Sdk, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef:
    """Ask Model Garden to deploy the weights on machines that it chooses, or those of the settings; one call."""
    settings = sdk.settings
    endpoint = _endpoint(sdk, key)
    body: dict[str, Any] = {
        "customModel": {"gcsUri": model.id},
        "endpointConfig": {"endpointDisplayName": f"llmtune-{key}", "endpointUserId": f"llmtune-{key}"},
        "modelConfig": {"modelDisplayName": f"llmtune-{key}"},
    }
    if settings.machine_type:
        machine: dict[str, Any] = {"machineType": settings.machine_type}
        if settings.accelerator_type:
            machine |= {
                "acceleratorType": settings.accelerator_type,
                "acceleratorCount": settings.accelerator_count,
            }
        body["deployConfig"] = {"dedicatedResources": {"machineSpec": machine, "minReplicaCount": 1}}
    parent = endpoint.partition("/endpoints/")[0]
    with sdk.translate_errors(f"deploying {model.id}"):
        operation = _rest(sdk, endpoint).post(f"{parent}:deploy", body, "v1beta1")
    data = {"open": True, "model": model.id, "operation": operation.get("name")}
    return core.DeploymentRef(id=endpoint, data=data)


def find(sdk: Sdk, key: core.RunKey) -> core.DeploymentRef | None:
    """Find the endpoint that is named after this key."""
    if (sdk.settings.serving_location or sdk.location) == "global":
        return None  # nothing can have been deployed there
    endpoint = _endpoint(sdk, key)
    with core.ignore_not_found(), sdk.translate_errors("looking for the run's deployment"):
        _rest(sdk, endpoint).get(endpoint)
        return core.DeploymentRef(id=endpoint, data={"open": True})
    return None


def undeploy(sdk: Sdk, ref: core.DeploymentRef) -> None:
    """Remove the endpoint with the model that was registered for it; the weights stay in the bucket.

    Raises `TransientError` while it is still being made: the same call is right a little later.
    """
    api = _rest(sdk, ref.id)
    busy = TransientError(
        f"{ref.id} is still being deployed, so it cannot be removed just now",
        retry_after=REMOVE_AGAIN_SECONDS,
        sent=False,
    )
    with core.ignore_not_found(), sdk.translate_errors(f"removing {ref.id}"):
        if (operation := ref.data.get("operation")) and not api.get(str(operation)).get("done"):
            raise busy
    with core.ignore_not_found(), sdk.translate_errors(f"removing {ref.id}"):
        deployed = [entry for entry in api.get(ref.id).get("deployedModels") or () if isinstance(entry, Mapping)]
        for entry in deployed:
            api.wait(api.post(f"{ref.id}:undeployModel", {"deployedModelId": entry["id"]}), REMOVE_SECONDS)
        try:
            with sdk.translate_errors(f"removing {ref.id}"):
                api.wait(api.delete(ref.id), REMOVE_SECONDS)
        except VendorError as error:
            if error.status != 400:  # what is found by its name alone may still be in the making
                raise
            raise busy from error
        for name in {str(entry.get("model") or "").partition("@")[0] for entry in deployed} - {""}:
            with core.ignore_not_found(), sdk.translate_errors(f"removing {name}"):
                api.wait(api.delete(name), REMOVE_SECONDS)


class OpenModelGenerator(core.ChatGenerator):
    """A deployed open model behind chat completions; the deployment is waited for when the generator is entered."""

    def __init__(self, sdk: Sdk, ref: core.DeploymentRef) -> None:
        super().__init__("", self._send, fields=core.CHAT_FIELDS)
        self._sdk = sdk
        self._ref = ref
        self._host: str | None = None

    def __enter__(self) -> Self:
        self._host = _wait(self._sdk, self._ref)
        return super().__enter__()

    def _send(self, body: dict[str, Any]) -> Mapping[str, Any]:
        api = _rest(self._sdk, self._ref.id)
        with self._sdk.translate_errors(f"asking {self._ref.id}"):
            return api.post(f"{self._ref.id}/chat/completions", body, "v1beta1", self._host)


def _wait(sdk: Sdk, ref: core.DeploymentRef) -> str | None:
    """Wait until the endpoint serves its model; return the address of its own, where it has one."""
    api = _rest(sdk, ref.id)
    with sdk.translate_errors(f"waiting for {ref.id}"):
        for _ in core.growing_pauses(DEPLOY_SECONDS, longest=LOOK_SECONDS):
            operation = api.get(str(ref.data["operation"])) if ref.data.get("operation") else {}
            if fault := operation.get("error"):
                raise VendorError(f"Google could not deploy {ref.data.get('model')}: {fault.get('message') or fault}")
            if ref.data.get("operation") and not operation.get("done"):
                continue
            endpoint = api.get(ref.id)
            if endpoint.get("deployedModels"):
                host = endpoint.get("dedicatedEndpointDns")
                return str(host) if host and not sdk.settings.base_url else None
    raise TransientError(f"{ref.id} does not serve its model after {DEPLOY_SECONDS / 3600:.0f} hours")


def _endpoint(sdk: Sdk, key: core.RunKey) -> str:
    location = sdk.settings.serving_location or sdk.location
    if location == "global":
        raise InvalidSettings(
            "an open model is deployed in a region, and location is 'global'",
            hint=f"set serving_location under [providers.{sdk.name}], for instance us-central1",
        )
    return f"projects/{sdk.project}/locations/{location}/endpoints/llmtune-{key}"


def _rest(sdk: Sdk, name: str) -> Rest:
    return sdk.rest(responses.location_of(name) or sdk.location)
