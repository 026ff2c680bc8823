"""The dedicated endpoints and the chat of the fake."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.http import Call, Refusal, route
from llmtune.testing.request_schema import Required


class FakeEndpoints(FakeVendor):
    """Endpoints with one deployment each, and chat completions that only they (and base models) answer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deployment_looks = 1
        """Looks at a deployment until it is ready."""

        self.supported: dict[str, tuple[tuple[float, float] | None, list[tuple[str, int]]]] = {
            "Qwen/Qwen3-8B": (None, [("H100", 1)]),
            "openai/gpt-oss-120b": ((0.15, 0.6), [("H100", 4), ("H100", 2)]),
            "some/other-model": ((9.0, 9.0), [("B200", 8)]),
        }
        """Models of the catalogue: prices of answers in and out, and the hardware of their deployments."""

        self.hardware: dict[tuple[str, int], int] = {("H100", 1): 649, ("H100", 2): 1298, ("H100", 4): 2596}
        """Cents an hour of each kind and number of GPUs."""

    # --- prices ------------------------------------------------------------------------------------------------------
    @route("GET", "/v2/supported-models")
    def list_supported(self, call: Call) -> Any:
        call.fields({"after": str, "limit": str})
        return {"data": [self._supported(name, *facts) for name, facts in self.supported.items()]}

    @route("GET", "/v2/public/inference-instance-types")
    def list_hardware(self, call: Call) -> Any:
        instances = [self._instance(kind, count, cents) for (kind, count), cents in self.hardware.items()]
        return {"object": "list", "data": instances, "next_cursor": None}

    @staticmethod
    def _supported(name: str, prices: tuple[float, float] | None, hardware: list[tuple[str, int]]) -> dict[str, Any]:
        """Return one entry, with the keys of the SDK's `SupportedModel` that every entry has."""
        pricing = {} if prices is None else {"pricing": {"input": prices[0], "output": prices[1]}}
        return {
            "id": f"ml_{name.lower()}",
            "name": name,
            "displayName": name,
            "displayType": "chat",
            "publisher": name.partition("/")[0],
            "baseModel": "",
            "baseModelId": "",
            "capabilities": ["CAPABILITY_CHAT"],
            "inputModalities": ["MODALITY_TEXT"],
            "outputModalities": ["MODALITY_TEXT"],
            "products": ["PRODUCT_SERVERLESS", "PRODUCT_FINE_TUNING"],
            "status": "SUPPORTED_MODEL_STATUS_SUPPORTED",
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-11-01T00:00:00Z",
            "deploymentProfiles": [
                {"profileId": f"{kind}-{count}", "gpuType": kind, "gpuCount": count} for kind, count in hardware
            ],
            **pricing,
        }

    @staticmethod
    def _instance(kind: str, count: int, cents: int) -> dict[str, Any]:
        return {
            "id": f"{count}x_{kind.lower()}",
            "name": f"{count}x {kind}",
            "description": f"{count} {kind}",
            "gpuType": kind,
            "gpuCount": count,
            "gpuMemoryGib": 80,
            "priceCentsPerHour": cents,
            "regions": [{"name": "us-central-4"}],
        }

    # --- endpoints and chat ------------------------------------------------------------------------------------------
    @route("GET", "/v2/projects/{project}/configs", role="deploy")
    def list_configs(self, call: Call) -> Any:
        query = call.fields({"referenceModel": Required(str), "after": str, "limit": str})
        return {
            "data": [
                {
                    "id": "cr_1",
                    "projectId": "public",
                    "certifications": [],
                    "referenceModel": query["referenceModel"],
                    "referenceModelId": "ml_1",
                    "selectors": [],
                }
            ]
        }

    @route("POST", "/v2/projects/{project}/endpoints", role="deploy")
    def create_endpoint(self, call: Call) -> Any:
        body = call.json({"name": Required(str)})
        self.models[f"endpoint:{body['name']}"] = {"id": f"ep_{len(self.models)}", "created": self.now()}
        return self._endpoint(body["name"])

    @route("GET", "/v2/projects/{project}/endpoints", role="find")
    def list_endpoints(self, call: Call) -> Any:
        names = [name.removeprefix("endpoint:") for name in self.models if name.startswith("endpoint:")]
        return {"data": [self._endpoint(name) for name in names]}

    @route("DELETE", "/v2/projects/{project}/endpoints/{endpoint}", role="undeploy")
    def delete_endpoint(self, call: Call) -> Any:
        for name, entry in list(self.models.items()):
            if name.startswith("endpoint:") and entry["id"] == call.params["endpoint"]:
                if any(deployment.data["endpoint"] == entry["id"] for deployment in self.standing):
                    raise Refusal(409, "Delete the deployments of the endpoint first.")
                del self.models[name]
                return {}
        raise Refusal(404, "No such endpoint.")

    @route("POST", "/v2/projects/{project}/endpoints/{endpoint}/deployments", role="deploy")
    def create_deployment(self, call: Call) -> Any:
        body = call.json(
            {
                "name": Required(str),
                "model": Required(str),
                "config": Required(str),
                "autoscaling": Required({"minReplicas": int, "maxReplicas": int}),
                "inactiveTimeout": int,
            }
        )
        deployment = self.new_deployment(
            body["model"], key=body["name"], prefix="dep_", endpoint=call.params["endpoint"], looks=0
        )
        return self._deployment(deployment.id)

    @route("GET", "/v2/projects/{project}/endpoints/{endpoint}/deployments/{deployment}", role="deploy")
    def get_deployment(self, call: Call) -> Any:
        deployment = self.deployments.get(call.params["deployment"])
        if deployment is None or deployment.removed is not None:
            raise Refusal(404, "No such deployment.")
        deployment.data["looks"] += 1
        return self._deployment(deployment.id)

    @route("PATCH", "/v2/projects/{project}/endpoints/{endpoint}/deployments/{deployment}", role="undeploy")
    def scale_deployment(self, call: Call) -> Any:
        call.json({"autoscaling": {"minReplicas": int, "maxReplicas": int}})
        if self.deployments.get(call.params["deployment"]) not in self.standing:
            raise Refusal(404, "No such deployment.")
        return self._deployment(call.params["deployment"])

    @route("DELETE", "/v2/projects/{project}/endpoints/{endpoint}/deployments/{deployment}", role="undeploy")
    def delete_deployment(self, call: Call) -> Any:
        self.remove_deployment(call.params["deployment"])
        return {}

    def _endpoint(self, name: str) -> dict[str, Any]:
        entry = self.models[f"endpoint:{name}"]
        return {
            "id": entry["id"],
            "name": f"acme/{name}",
            "projectId": "proj-1",
            "createdAt": iso(entry["created"]),
            "updatedAt": iso(self.now()),
            "endpointType": "ENDPOINT_TYPE_DEDICATED",
            "visibility": "VISIBILITY_PRIVATE",
            "etag": "1",
            "trafficSplit": [],
            "deployments": [
                {"id": deployment.id, "name": deployment.key, "state": "DEPLOYMENT_STATE_READY"}
                for deployment in self.standing
                if deployment.data["endpoint"] == entry["id"]
            ],
        }

    def _deployment(self, id: str) -> dict[str, Any]:
        deployment = self.deployments[id]
        endpoint = next(
            name.removeprefix("endpoint:")
            for name, entry in self.models.items()
            if name.startswith("endpoint:") and entry["id"] == deployment.data["endpoint"]
        )
        state = "READY" if deployment.data["looks"] >= self.deployment_looks else "PROVISIONING"
        return {
            "id": id,
            "name": f"acme/{endpoint}/{deployment.key}",
            "endpointId": deployment.data["endpoint"],
            "projectId": "proj-1",
            "model": deployment.model,
            "modelId": "ml",
            "modelRevisionId": "rv",
            "config": "projects/public/configs/cr_1",
            "configId": "cr_1",
            "hardware": "1x_nvidia_h100_80gb_sxm",
            "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
            "trafficMode": "TRAFFIC_MODE_LIVE",
            "createdAt": iso(deployment.created),
            "updatedAt": iso(self.now()),
            "etag": "1",
            "status": {"state": f"DEPLOYMENT_STATE_{state}", "message": state.lower()},
        }

    @route("POST", "/v1/chat/completions", role="generate")
    def chat(self, call: Call) -> Any:
        body = call.json(
            {
                "model": Required(str),
                "messages": Required([dict]),
                "temperature": float,
                "top_p": float,
                "top_k": int,
                "max_tokens": int,
                "seed": int,
                "tools": [dict],
            }
        )
        deployed = {f"/{deployment.key}" for deployment in self.standing}
        tuned = any(body["model"].endswith(name) for name in deployed)
        if not tuned and body["model"] in self.models:
            raise Refusal(400, f"Unable to access non-serverless model {body['model']}.", code="model_not_available")
        question = next((turn["content"] for turn in reversed(body["messages"]) if turn["role"] == "user"), "")
        text = self.say(question, tuned=tuned)
        return {
            "id": "chat-1",
            "object": "chat.completion",
            "created": int(self.now()),
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": len(text.split()), "total_tokens": 9},
        }


def iso(seconds: float) -> str:
    """Format a time as the API does."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
