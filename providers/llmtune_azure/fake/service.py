"""A stateful stand-in for one Azure OpenAI resource and the control plane that deploys on it.

Requests to the v1 endpoint go to `{url}/openai/v1/`, those to the control plane to `{url}/subscriptions/...`, and those
to the public price list, which takes no credential, to `{url}/api/retail/prices`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from llmtune.testing.fake_vendor import FakeDeployment, FakeJob, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune_openai.fake.service import FakeOpenAI

_WHOLE = {"n_epochs": int, "batch_size": int, "learning_rate_multiplier": float}
_ACCOUNT = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices/accounts/{account}"
)
_ARM = _ACCOUNT + "/deployments"
_FILTERS = re.compile(r"(\w+) eq '([^']*)'")
_SKUS = frozenset({"Standard", "GlobalStandard", "DeveloperTier", "DataZoneStandard", "ProvisionedManaged"})


_ROLES = frozenset({"user", "assistant", "system", "developer"})


def _read_rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def _load_grade(source: str) -> Any:
    names: dict[str, Any] = {"__name__": "grader"}
    exec(compile(source, "grader.py", "exec"), names)
    return names["grade"]


class FakeAzure(FakeOpenAI):
    """Azure OpenAI: files that must be processed first, jobs without a metadata filter, models that need deployments.

    `looks_until_standing` is how often a new deployment is looked at before it stands, `looks_until_answering` how
    many questions it leaves unanswered after that.
    """

    name = "azure"
    prefix = "openai/v1"
    walks = {
        "success": (Phase("pending"), Phase("running", looks=3, training=True), Phase("succeeded")),
        "failure": (Phase("pending"), Phase("running", training=True), Phase("failed")),
        "cancelled": (Phase("cancelled"),),
    }
    job_shape = {
        "model": Required(str),
        "training_file": Required(str),
        "validation_file": str,
        "method": {
            "type": Required({"supervised", "dpo", "reinforcement"}),
            "supervised": {"hyperparameters": _WHOLE},
            "reinforcement": {
                "grader": Required(
                    (
                        {"type": Required({"python"}), "name": Required(str), "source": Required(str)},
                        {
                            "type": Required({"score_model"}),
                            "name": Required(str),
                            "model": Required(str),
                            "input": Required([{"role": Required(_ROLES), "content": Required(str)}]),
                            "range": [float],
                        },
                    )
                ),
                "hyperparameters": {
                    **_WHOLE,
                    "compute_multiplier": float,
                    "eval_interval": int,
                    "eval_samples": int,
                    "reasoning_effort": {"low", "medium", "high"},
                },
            },
            "dpo": {"hyperparameters": {**_WHOLE, "beta": float}},
        },
        "suffix": str,
        "seed": int,
        "integrations": FakeOpenAI.job_shape["integrations"],
        "metadata": {...: str},
        "trainingType": str,
    }
    longest_suffix = 40
    file_walk: ClassVar[tuple[str, ...]] = ("pending", "running", "processed")
    base_models = (
        "gpt-4.1-2025-04-14",
        "gpt-4.1-mini-2025-04-14",
        "gpt-4.1-nano-2025-04-14",
        "gpt-4o-2024-08-06",
        "gpt-oss-20b",
        "o4-mini-2025-04-16",
    )
    automatic = -1

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.looks_until_standing = 2
        self.looks_until_answering = 1
        self.permissions: list[dict[str, list[str]]] = [
            {"actions": ["Microsoft.CognitiveServices/*"], "notActions": []}
        ]
        """What the caller may do on the resource, as the control plane lists it."""

        self.meters: list[dict[str, Any]] = [dict(meter) for meter in _list_meters()]
        """The public price list, of all regions and services."""

        self.meters_on_a_page = 10

    def client_settings(self) -> dict[str, str]:
        """Return a resource, and a control plane that deploys on it."""
        return {
            "endpoint": self.url,
            "management_url": self.url,
            "management_token_env": "FAKE_TOKEN",
            "subscription_id": "11111111-2222-3333-4444-555555555555",
            "resource_group": "fake",
            "account_name": "fake",
            "region": "eastus2",
            "prices_url": f"{self.url}/api/retail/prices",
        }

    def client_environment(self) -> dict[str, str]:
        """Return the resource's key and a token for the control plane."""
        return dict.fromkeys(("AZURE_OPENAI_API_KEY", "FAKE_TOKEN"), self.api_key or "fake")

    # --- the public price list ---------------------------------------------------------------------------------------
    def authorised(self, call: Call) -> bool:
        """Return whether the request has the right credential. The price list takes none."""
        return call.route == "list_meters" or super().authorised(call)

    @route("GET", "/api/retail/prices")
    def list_meters(self, call: Call) -> Any:
        """List meters, a page at a time. Names and values of the filter are compared letter by letter."""
        credentials = {"authorization", "api-key", "cookie", "x-api-key"} & call.headers.keys()
        if credentials:
            self.complaints.append(f"a credential was sent to the public price list: {sorted(credentials)}")
        terms = call.query.get("$filter", "")
        conditions: dict[str, str] = dict(_FILTERS.findall(terms))
        if " and ".join(f"{name} eq '{value}'" for name, value in conditions.items()) != terms:
            raise Refusal(400, "Invalid OData parameters supplied")
        currency = call.query.get("currencyCode", "USD").strip("'")
        if "priceType" in conditions:
            conditions["type"] = conditions.pop("priceType")
        matches = [
            meter
            for meter in self.meters
            if meter["currencyCode"] == currency and all(meter.get(name) == value for name, value in conditions.items())
        ]
        start = int(call.query.get("$skip", "0"))
        items = matches[start : start + self.meters_on_a_page]
        following = None
        if start + len(items) < len(matches):
            query = {**call.query, "$skip": str(start + len(items))}
            following = f"{self.url}/api/retail/prices?{urlencode(query)}"
        return {
            "BillingCurrency": currency,
            "CustomerEntityId": "Default",
            "CustomerEntityType": "Retail",
            "Items": items,
            "NextPageLink": following,
            "Count": len(items),
        }

    # --- jobs --------------------------------------------------------------------------------------------------------
    def check_job(self, call: Call, body: Mapping[str, Any]) -> None:
        """Refuse what Azure refuses, then what OpenAI refuses too."""
        if body.get("trainingType", "Standard") not in ("Standard", "GlobalStandard", "developerTier"):
            call.refused.append(("trainingType", "is none of the three that the service understands"))
            raise Refusal(400, "The fineTuningJob field is required.")
        if "suffix" in body and not re.fullmatch(r"[A-Za-z0-9_-]+", body["suffix"]):
            call.refused.append(("suffix", "holds a reserved character"))
            raise Refusal(400, "The suffix contains reserved characters.", field="suffix")
        super().check_job(call, body)
        is_reinforced = body.get("method", {}).get("type") == "reinforcement"
        if is_reinforced != body["model"].startswith("o4-mini"):
            raise Refusal(400, f"The method is not available for {body['model']}.", code="invalidPayload")
        if is_reinforced:
            self._check_reinforcement(call, body)

    def _check_reinforcement(self, call: Call, body: Mapping[str, Any]) -> None:
        """Refuse a grader that does not compile, no validation file, and rows that do not end in the user's turn."""
        if "validation_file" not in body:
            raise Refusal(400, "A validation file is required for reinforcement.", field="validation_file")
        grader = body["method"]["reinforcement"]["grader"]
        if grader["type"] == "score_model":
            self._check_score_model(call, body, grader)
            return
        try:
            grade = _load_grade(grader["source"])
        except Exception as error:  # noqa: BLE001 - whatever the grader's module raises
            call.refused.append(("grader", str(error)))
            raise Refusal(400, f"The grader is invalid: {error}", code="invalid_grader") from None
        for name in ("training_file", "validation_file"):
            for number, row in enumerate(_read_rows(self.files[body[name]].content), 1):
                if row["messages"][-1]["role"] != "user":
                    call.refused.append((name, f"line {number} does not end in the user's turn"))
                    raise Refusal(400, f"Line {number}: the last message must be the user's.", field=name)
                score = grade({"output_text": "", "output_tools": []}, row)
                if not isinstance(score, float):
                    raise Refusal(400, f"The grader returned {score!r}.", code="python_grader_invalid_type_error")

    def _check_score_model(self, call: Call, body: Mapping[str, Any], grader: Mapping[str, Any]) -> None:
        """Refuse templates with variables that no row has."""
        texts = " ".join(message["content"] for message in grader["input"])
        for name in ("training_file", "validation_file"):
            for number, row in enumerate(_read_rows(self.files[body[name]].content), 1):
                for namespace, variable in re.findall(r"\{\{\s*(\w+)\.(\w+)", texts):
                    fields = {"item": row, "sample": {"output_text": ""}}.get(namespace, {})
                    if variable not in fields:
                        call.refused.append(("grader", f"{namespace}.{variable} is not there"))
                        raise Refusal(400, f"Line {number}: no variable {namespace}.{variable}.", code="invalid_grader")

    def measured(self, job: FakeJob, step: int) -> dict[str, Any]:
        """Return the metrics of one step; of a reinforcement job what its grader paid."""
        if self.word_of(job) != "reinforcement":
            return super().measured(job, step)
        rewards = {"train_reward_mean": round(1 - 0.8 / (1 + 0.3 * step), 5)}
        if step % int(self.number(job, "eval_interval", 1)) == 0:
            rewards["valid_reward_mean"] = round(1 - 0.85 / (1 + 0.25 * step), 5)
        return {"step": step, **rewards}

    def check_file(self, field: str, id: str) -> None:
        """Refuse a file that has not been processed."""
        super().check_file(field, id)
        if self.status_of(self.files[id]) != "processed":
            message = "The specified file reference must point to a completed file import."
            raise Refusal(400, message, code="invalidPayload")

    def key_of(self, body: Mapping[str, Any]) -> str | None:
        """Return the run key at the end of the suffix."""
        return str(body["suffix"])[-12:] if "suffix" in body else None

    @route("GET", "/{prefix*}/fine_tuning/jobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        """List the jobs, newest first. There is no metadata filter."""
        self.at_home(call)
        query = call.fields({"limit": str, "after": str})
        return self.page(query, [self.describe_job(job) for job in reversed(self.listed(self.jobs.values()))])

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """Return a job as Azure reports it."""
        description = super().describe_job(job)
        for name in ("user_provided_suffix", "usage_metrics", "shared_with_openai", "eval_id", "organization_id"):
            del description[name]
        description["suffix"] = job.body.get("suffix")
        if "trainingType" in job.body:
            description["trainingType"] = job.body["trainingType"]
        return description

    def tuned_name(self, job: FakeJob) -> str:
        """Return the id of the tuned model."""
        return f"{job.body['model'].split('.ft-')[0]}.ft-{job.id[-6:]:0>32}-{job.body.get('suffix', '')}"

    def checkpoint_name(self, job: FakeJob, step: int) -> str:
        """Return the id of a checkpoint."""
        return f"{self.tuned_name(job)}:ckpt-step-{step}"

    def result_file(self, job: FakeJob) -> bytes:
        """Return the result file: plain CSV, one column spelled otherwise."""
        if self.word_of(job) == "reinforcement":
            return self.csv(job, {name: name for name in ("step", "train_reward_mean", "valid_reward_mean")})
        columns = {
            "step": "step",
            "train_loss": "train_loss",
            "train_mean_token_accuracy": "train_mean_token_accuracy",
            "valid_loss": "valid_loss",
            "validation_mean_token_accuracy": "valid_mean_token_accuracy",
            "full_valid_loss": "full_valid_loss",
            "full_valid_mean_token_accuracy": "full_valid_mean_token_accuracy",
        }
        return self.csv(job, columns)

    # --- deployments -------------------------------------------------------------------------------------------------
    def answers_as(self, model: str) -> bool:
        """Return whether the model is tuned. Only a deployment answers, and not at once."""
        deployment = self.deployment(model)
        if deployment is None:
            message = "The API deployment for this resource does not exist."
            raise Refusal(404, message, code="DeploymentNotFound")
        if self.state_of(deployment) != "Succeeded" or deployment.data["silences"] > 0:
            deployment.data["silences"] -= 1
            raise Refusal(404, "The deployment is not ready yet.", code="DeploymentNotReady")
        return deployment.model in self.models

    def deployment(self, name: str) -> FakeDeployment | None:
        """Return the existing deployment of that name, or None."""
        return next((deployment for deployment in self.standing if deployment.id == name), None)

    def state_of(self, deployment: FakeDeployment) -> str:
        """Return a deployment's provisioning state."""
        return "Succeeded" if deployment.data["looks"] >= self.looks_until_standing else "Creating"

    def deploy_by_hand(self, name: str, model: str) -> FakeDeployment:
        """Add a deployment that exists already, such as one of a base model."""
        deployment = FakeDeployment(name, model, None, self.now(), data={"looks": 99, "silences": 0, "sku": {}})
        self.deployments[name] = deployment
        return deployment

    def _control(self, call: Call) -> None:
        if not call.query.get("api-version"):
            raise Refusal(400, "The api-version query parameter is required.", code="MissingApiVersionParameter")

    @route("GET", _ACCOUNT + "/providers/Microsoft.Authorization/permissions")
    def list_permissions(self, call: Call) -> Any:
        """List what the caller may do on the resource."""
        self._control(call)
        return {"value": self.permissions}

    @route("PUT", _ARM + "/{deployment}", role="deploy")
    def put_deployment(self, call: Call) -> Any:
        """Make a deployment."""
        self._control(call)
        shape = {
            "sku": Required({"name": Required(set(_SKUS)), "capacity": Required(int)}),
            "properties": Required(
                {"model": Required({"format": Required({"OpenAI"}), "name": Required(str), "version": Required({"1"})})}
            ),
        }
        body = call.json(shape)
        name, model = call.params["deployment"], body["properties"]["model"]["name"]
        if model not in self.models:
            raise Refusal(400, f"The specified model '{model}' does not exist.", code="DeploymentModelNotSupported")
        deployment = self.deployment(name)
        if deployment is None:
            key = name.removeprefix("llmtune-")
            data = {"looks": 0, "silences": self.looks_until_answering, "sku": body["sku"]}
            deployment = FakeDeployment(name, model, key, self.now(), data=data)
            self.deployments[name] = deployment
            return Reply(self._describe(deployment), 201)
        return self._describe(deployment)

    @route("GET", _ARM + "/{deployment}")
    def get_deployment(self, call: Call) -> Any:
        """Return one deployment; each request advances its state."""
        self._control(call)
        deployment = self.deployment(call.params["deployment"])
        if deployment is None:
            raise Refusal(404, "The resource was not found.", code="ResourceNotFound")
        deployment.data["looks"] += 1
        return self._describe(deployment)

    @route("DELETE", _ARM + "/{deployment}", role="undeploy")
    def delete_deployment(self, call: Call) -> Any:
        """Remove a deployment."""
        self._control(call)
        deployment = self.deployment(call.params["deployment"])
        if deployment is None:
            return Reply(status=204)
        self.remove_deployment(deployment.id)
        return Reply(status=202)

    def _describe(self, deployment: FakeDeployment) -> dict[str, Any]:
        return {
            "id": f"/fake/deployments/{deployment.id}",
            "name": deployment.id,
            "type": "Microsoft.CognitiveServices/accounts/deployments",
            "sku": deployment.data["sku"],
            "properties": {
                "model": {"format": "OpenAI", "name": deployment.model, "version": "1"},
                "provisioningState": self.state_of(deployment),
            },
        }


#: Meters as the list has them: name, unit, product, amount. The names are Azure's (2026-09-27 and 2026-10-04, as third
#: parties recorded them), some of the amounts the fake's own.
_METERS = (
    ("gpt-4.1-nano FT Training global", "1K", "Azure OpenAI", 0.0015),
    ("gpt-4.1-nano FT Training regional", "1K", "Azure OpenAI", 0.00165),
    ("gpt 4.1 nano dev ft training glbl", "1M", "Azure OpenAI", 0.75),
    ("gpt-4.1-nano-ft input global", "1K", "Azure OpenAI", 0.0001),
    ("gpt-4.1-nano-ft cached input global", "1K", "Azure OpenAI", 0.000025),
    ("gpt-4.1-nano-ft output global", "1K", "Azure OpenAI", 0.0004),
    ("gpt-4.1-nano-ft hosting global", "1 Hour", "Azure OpenAI", 1.7),
    ("gpt-4.1-nano-ft input regional", "1K", "Azure OpenAI", 0.00011),
    ("gpt-4.1-nano-ft cached input regional", "1K", "Azure OpenAI", 0.000028),
    ("gpt-4.1-nano-ft output regional", "1K", "Azure OpenAI", 0.00044),
    ("gpt-4.1-nano-ft hosting regional", "1Hour", "Azure OpenAI", 1.87),
    ("gpt 4.1 nano Inp glbl", "1K", "Azure OpenAI", 0.0001),
    ("gpt 4.1 nano Inp regnl", "1K", "Azure OpenAI", 0.00011),
    ("gpt 4.1 nano Outp regnl", "1K", "Azure OpenAI", 0.00044),
    ("gpt 4.1 nano cached Inp regnl", "1K", "Azure OpenAI", 0.0),
    ("gpt-4.1-mini-dev-ft inpt glbl", "1M", "Azure OpenAI", 0.4),
    ("gpt-4.1-mini-ft mdl opt", "1M", "Azure OpenAI", 1.6),
    ("gpt-4o-0806-FT-Trng-glbl tkn", "1M", "Azure OpenAI", 25.0),
    ("gpt-4o-0806-FT-Hstng-regnl", "1 Hour", "Azure OpenAI", 2.04),
    ("gpt-4o-mini-0718-FT-Hstng-glbl", "1 Day", "Azure OpenAI", 40.8),
    ("gpt-4o-mini-0718-FT-Outp-regnl", "1K", "Azure OpenAI", 0.0),
    ("GPT 5 Inpt Glbl 1M", "1M", "Azure OpenAI GPT5", 1.25),
    ("41 ft opt Dz", "1M", "Azure OpenAI PP FT GPT4s", 8.8),
    ("Mnstrl 3B FT", "1K", "Azure Mistral Models", 0.001),
    ("Mnstrl 3B FT DZ", "1K", "Azure Mistral Models", 0.0011),
    ("Mnstrl 3B FT Deployment Hosting Unit", "1/Hour", "Azure Mistral Models", 0.65),
    ("Ministral 3bFTregnl Deployment Hosting Unit", "1/Hour", "Azure Mistral Models", 0.715),
    ("Mnstrl 3b Inp FT regnl", "1K", "Azure Mistral Models", 0.000055),
    ("3.3 70b FT DZ Deployment Hosting Unit", "1/Hour", "Azure Llama Models", 0.33),
)


def _list_meters() -> Iterator[dict[str, Any]]:
    """Yield the meters of one region, their copies in another, in another currency, for another service and buyer."""
    for number, (name, unit, product, amount) in enumerate(_METERS):
        meter = {
            "currencyCode": "USD",
            "tierMinimumUnits": 0.0,
            "retailPrice": amount,
            "unitPrice": amount,
            "armRegionName": "eastus2",
            "location": "US East 2",
            "effectiveStartDate": "2026-07-01T00:00:00Z",
            "meterId": f"00000000-0000-0000-0000-{number:012}",
            "meterName": f"{name} Unit" if "Hour" in unit else f"{name} Tokens",
            "productName": product,
            "skuName": name,
            "serviceName": "Foundry Models",
            "serviceFamily": "AI + Machine Learning",
            "unitOfMeasure": unit,
            "type": "Consumption",
            "isPrimaryMeterRegion": True,
            "armSkuName": "",
        }
        yield meter
        elsewhere = round(amount * 1.2, 9)
        yield meter | {"armRegionName": "westeurope", "location": "EU West", "retailPrice": elsewhere}
        yield meter | {"currencyCode": "EUR", "retailPrice": round(amount * 0.9, 9)}
        yield meter | {"type": "Reservation", "retailPrice": round(amount * 0.5, 9)}
        yield meter | {"serviceName": "Cognitive Services", "retailPrice": round(amount * 2, 9)}


__all__ = ["FakeAzure"]
