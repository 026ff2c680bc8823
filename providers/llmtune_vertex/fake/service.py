"""A stand-in for Vertex AI and Cloud Storage on loopback, for tests and `python -m llmtune.testing.serve vertex`.

It holds requests to the fields that the REST API knows, speaks the dialects of both of Google's clients (enum names
for google-genai, numbers for the generated ones), and keeps TensorBoards, objects and endpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llmtune.testing.fake_vendor import FakeJob, Phase
from llmtune.testing.http import Call, Refusal, route
from llmtune.testing.request_schema import Required
from llmtune_vertex.declarations import ADAPTER_SIZES, RUN_LABEL, TUNING_MODES
from llmtune_vertex.fake.storage import FakeCloudStorage, iso

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

_SIZE = set(ADAPTER_SIZES.values())
_DATA = {"trainingDatasetUri": Required(str), "validationDatasetUri": str, "exportLastCheckpointOnly": bool}
#: A reward of reinforcement tuning, by Python code or by a service on Cloud Run.
REWARD: dict[str, Any] = {
    "rewardName": Required(str),
    "parseResponseConfig": {"parse_type": Required({"IDENTITY"})},
    "codeExecutionRewardScorer": {"python_code_snippet": Required(str)},
    "cloudRunRewardScorer": {"cloud_run_uri": Required(str)},
}
#: What ValidateReinforcementTuningReward takes.
_VALIDATE = {
    "sampleResponse": Required({"role": str, "parts": Required([{...: Any}])}),
    "example": Required(
        {
            "contents": Required([{...: Any}]),
            "references": {...: str},
            "systemInstruction": {...: Any},
            "tools": [{...: Any}],
        }
    ),
    "singleRewardConfig": Required(REWARD),
}
#: The parts of a job that say how it is tuned.
SPECS = ("supervisedTuningSpec", "preferenceOptimizationSpec", "reinforcementTuningSpec")
#: What CreateTuningJob takes. Keys inside preTunedModel, encryptionSpec and the parts of a reward come in snake_case
#: from google-genai.
TUNING_JOB: dict[str, Any] = {
    "baseModel": str,
    "preTunedModel": {"tuned_model_name": Required(str), "checkpoint_id": str},
    "supervisedTuningSpec": {
        **_DATA,
        "tuningMode": set(TUNING_MODES.values()),
        "hyperParameters": {
            "epochCount": int,
            "learningRateMultiplier": float,
            "adapterSize": _SIZE,
            "batchSize": int,
            "learningRate": float,
        },
    },
    "preferenceOptimizationSpec": {
        **_DATA,
        "hyperParameters": {"epochCount": int, "learningRateMultiplier": float, "adapterSize": _SIZE, "beta": float},
    },
    "reinforcementTuningSpec": {
        "trainingDatasetUri": Required(str),
        "validationDatasetUri": str,
        "singleRewardConfig": Required(REWARD),
        "hyperParameters": {
            "epochCount": int,
            "stepCount": int,
            "learningRateMultiplier": float,
            "adapterSize": _SIZE,
            "samplesPerPrompt": int,
            "batchSize": int,
            "evaluateInterval": int,
            "checkpointInterval": int,
            "maxOutputTokens": int,
            "thinkingLevel": {"MINIMAL", "HIGH"},
        },
    },
    "tunedModelDisplayName": str,
    "description": str,
    "labels": {...: str},
    "customBaseModel": str,
    "outputUri": str,
    "encryptionSpec": {"kms_key_name": Required(str)},
    "serviceAccount": str,
}
_GENERATE: dict[str, Any] = {
    "contents": Required([{"role": {"user", "model"}, "parts": Required([{...: Any}])}]),
    "systemInstruction": {"role": str, "parts": Required([{...: Any}])},
    "tools": [{...: Any}],
    "generationConfig": {
        "temperature": float,
        "topP": float,
        "topK": float,
        "maxOutputTokens": int,
        "seed": int,
        "thinkingConfig": {...: Any},
    },
}

#: Ours -> how its curve falls or rises, for the names Google gives them.
CURVES = ("total_loss", "fraction_of_correct_next_step_preds", "num_predictions")

#: What a service on Cloud Run answers, by what it is sent.
CloudRun = Callable[[Mapping[str, Any]], Mapping[str, Any]]


#: Models of reinforcement tuning.
_REINFORCED = {"gemini-3.5-flash"}

_DEPLOY = {
    "customModel": Required({"gcsUri": Required(str)}),
    "endpointConfig": Required({"endpointDisplayName": Required(str), "endpointUserId": Required(str)}),
    "modelConfig": {"modelDisplayName": str},
    "deployConfig": {
        "dedicatedResources": Required(
            {
                "machineSpec": Required(
                    {"machineType": Required(str), "acceleratorType": str, "acceleratorCount": int}
                ),
                "minReplicaCount": Required(int),
            }
        )
    },
}
_CHAT = {
    "model": str,
    "messages": Required([{...: Any}]),
    "temperature": float,
    "top_p": float,
    "max_tokens": int,
    "tools": [{...: Any}],
}


class FakeVertex(FakeCloudStorage):
    """Vertex AI and Cloud Storage, both at `url`."""

    name = "vertex"
    walks: Mapping[str, tuple[Phase, ...]] = {  # type: ignore[misc]
        "success": (
            Phase("JOB_STATE_PENDING"),
            Phase("JOB_STATE_RUNNING", looks=3, training=True),
            Phase("JOB_STATE_SUCCEEDED"),
        ),
        "failure": (Phase("JOB_STATE_PENDING"), Phase("JOB_STATE_RUNNING", training=True), Phase("JOB_STATE_FAILED")),
        "partial": (Phase("JOB_STATE_RUNNING", training=True), Phase("JOB_STATE_PARTIALLY_SUCCEEDED")),
        "expired": (Phase("JOB_STATE_RUNNING", training=True), Phase("JOB_STATE_EXPIRED")),
        "cancelled": (Phase("JOB_STATE_CANCELLING"), Phase("JOB_STATE_CANCELLED")),
    }
    failure_message = "The tuning dataset has an invalid example at line 3: contents must end with a model turn."

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.endpoints: dict[str, dict[str, Any]] = {}
        """Tuned endpoints that stand: name -> {model}."""

        self.base_models = {
            "gemini-2.5-flash",
            "gemini-2.5-flash-lite",
            "gemini-2.5-pro",
            "gemini-3.1-flash-lite",
        } | _REINFORCED
        self.cloud_run: dict[str, CloudRun] = {}
        """The services on Cloud Run that score answers, by their address."""

        self.deploy_fault: str | None = None
        """Why open models that are deployed cannot be; None: they can."""

        self.locations = {"us-central1", "europe-west4", "global"}

    def client_settings(self) -> dict[str, str]:
        """Return a project, a bucket in it, and both addresses."""
        return {
            "project": "my-project",
            "location": "us-central1",
            "bucket": "my-bucket",
            "base_url": self.url,
            "storage_url": self.url,
            "token_env": "FAKE_TOKEN",
        }

    def client_environment(self) -> dict[str, str]:
        """Return the access token that `token_env` names."""
        return {"FAKE_TOKEN": self.api_key or "fake"}

    def error_body(self, refusal: Refusal) -> Any:
        """Return an error in the shape of Google's REST APIs."""
        code = refusal.code if refusal.code and refusal.code.isupper() else _STATUS.get(refusal.status, "UNKNOWN")
        listed = [{"message": refusal.message, "reason": code, "domain": "global"}]
        return {"error": {"code": refusal.status, "message": refusal.message, "status": code, "errors": listed}}

    # --- tuning jobs -------------------------------------------------------------------------------------------------
    @route("POST", "/v1beta1/projects/{project}/locations/{location}/tuningJobs", role="submit")
    def create_job(self, call: Call) -> Any:
        body = call.json(TUNING_JOB)
        location = call.params["location"]
        if location not in self.locations:
            raise Refusal(400, f"Tuning is not supported in location {location}.", code="FAILED_PRECONDITION")
        specs = [name for name in SPECS if name in body]
        if len(specs) != 1 or ("baseModel" in body) == ("preTunedModel" in body):
            raise Refusal(400, "Exactly one tuning spec and one source model must be given.")
        base = body.get("baseModel", "")
        is_open = "@" in base
        if base and not is_open and base not in self.base_models:
            raise Refusal(400, f"Base model {base} is not supported.")
        spec = body[specs[0]]
        hyperparameters = spec.get("hyperParameters", {})
        self._check_family(call, is_open, spec, hyperparameters, body)
        for key in ("trainingDatasetUri", "validationDatasetUri"):
            if key in spec:
                bucket, _, name = spec[key].removeprefix("gs://").partition("/")
                if (bucket, name) not in self.objects:
                    raise Refusal(400, f"The file {spec[key]} does not exist or cannot be read.")
        if specs[0] == "reinforcementTuningSpec":
            self._check_reinforcement(call, base, spec)
        for key, text in body.get("labels", {}).items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", key) or not re.fullmatch(r"[a-z0-9_-]{0,64}", text):
                raise Refusal(400, f"Label {key}={text} is invalid.")
        job = self.new_job(body, key=body.get("labels", {}).get(RUN_LABEL), prefix="8356726629")
        job.data["name"] = f"projects/{call.params['project']}/locations/{location}/tuningJobs/{job.id}"
        return self.describe(job, job.word)

    def _check_reinforcement(self, call: Call, base: str, spec: Mapping[str, Any]) -> None:
        """Refuse a model that is not tuned so, steps beside epochs, rows without a prompt, and a reward that fails."""
        if base not in _REINFORCED:
            raise Refusal(400, f"Base model {base} does not support reinforcement tuning.")
        if {"epochCount", "stepCount"} <= spec.get("hyperParameters", {}).keys():
            call.refused.append(("stepCount", "excludes epochCount"))
            raise Refusal(400, "Only one of epoch_count and step_count can be set.")
        for key in ("trainingDatasetUri", "validationDatasetUri"):
            bucket, _, name = spec.get(key, "").removeprefix("gs://").partition("/")
            content = self.objects[bucket, name]["content"] if key in spec else b""
            for number, line in enumerate(content.splitlines(), 1):
                row = json.loads(line)
                if not row["contents"] or row["contents"][-1]["role"] != "user":
                    call.refused.append((key, f"line {number} does not end in the user's turn"))
                    raise Refusal(400, f"Example {number}: contents must end with a user turn.")
                if not all(isinstance(text, str) for text in row.get("references", {}).values()):
                    call.refused.append((key, f"line {number} has a reference that is no text"))
                    raise Refusal(400, f"Example {number}: references must be strings.")
                reward, problem = self._pay(spec["singleRewardConfig"], row, {"role": "model", "parts": [{"text": ""}]})
                if reward is None:
                    call.refused.append(("singleRewardConfig", problem))
                    raise Refusal(400, f"The reward function failed on example {number}: {problem}")

    def _pay(
        self, reward: Mapping[str, Any], example: Mapping[str, Any], response: Mapping[str, Any]
    ) -> tuple[float | None, str]:
        """Return what a reward pays, clipped as Google clips it; or None and the error."""
        try:
            if service := reward.get("cloudRunRewardScorer"):
                question = {"example": example, "response": response, "metadata": {"step": 1, "tuning_job_id": 1}}
                paid = float(self.cloud_run[service["cloud_run_uri"]](question)["reward"])
            else:
                names: dict[str, Any] = {"__name__": "reward"}
                exec(compile(reward["codeExecutionRewardScorer"]["python_code_snippet"], "reward.py", "exec"), names)
                paid = float(names["evaluate"](json.loads(json.dumps(example)), json.loads(json.dumps(response))))
        except Exception as error:  # noqa: BLE001 - whatever the reward raises
            return None, f"{type(error).__name__}: {error}"
        return max(-1.0, min(1.0, paid)), ""

    @route("POST", "/v1beta1/projects/{project}/locations/{location}/tuningJobs:validateReinforcementTuningReward")
    def validate_reward(self, call: Call) -> Any:
        """Score one answer. Nothing is billed; an error of the reward is part of a good answer."""
        body = call.json(_VALIDATE)
        reward, problem = self._pay(body["singleRewardConfig"], body["example"], body["sampleResponse"])
        if reward is None:
            return {"error": problem}
        name = body["singleRewardConfig"]["rewardName"]
        # Protocol buffers leave out what is zero.
        return {**({"overallReward": reward} if reward else {}), "rewardInfoDetails": {name: {"reward": reward}}}

    def _check_family(self, call: Call, is_open: bool, spec: Any, hyperparameters: Any, body: Any) -> None:
        wrong = [name for name in ("batchSize", "learningRate") if name in hyperparameters and not is_open]
        if "reinforcementTuningSpec" in body:
            wrong.clear()
        wrong += ["tuningMode"] if "tuningMode" in spec and not is_open else []
        wrong += ["learningRateMultiplier"] if "learningRateMultiplier" in hyperparameters and is_open else []
        wrong += ["outputUri"] if ("outputUri" in body) != is_open else []
        if wrong:
            call.refused += [(name, "does not belong to this kind of model") for name in wrong]
            raise Refusal(400, f"{', '.join(wrong)} cannot be used with this base model.")

    def describe(self, job: FakeJob, state: str) -> dict[str, Any]:
        """Return a job as the REST API answers it: whole numbers are text."""
        answer: dict[str, Any] = json.loads(json.dumps(job.body))
        for spec in SPECS:
            hyperparameters = answer.get(spec, {}).get("hyperParameters", {})
            if answer.get(spec) is not None and "epochCount" not in hyperparameters:
                answer[spec].setdefault("hyperParameters", {})["epochCount"] = 3  # the service tells what it chose
                hyperparameters = answer[spec]["hyperParameters"]
            for name in ("epochCount", "batchSize", "stepCount"):
                if name in hyperparameters:
                    hyperparameters[name] = str(hyperparameters[name])
        if pre := answer.pop("preTunedModel", None):
            answer["preTunedModel"] = {"tunedModelName": pre["tuned_model_name"]}
        if key := answer.pop("encryptionSpec", None):
            answer["encryptionSpec"] = {"kmsKeyName": key["kms_key_name"]}
        _spell_in_camel_case(answer.get("reinforcementTuningSpec", {}).get("singleRewardConfig", {}))
        answer |= {
            "name": job.data["name"],
            "state": state,
            "createTime": iso(job.created),
            "updateTime": iso(job.since),
        }
        if state not in ("JOB_STATE_PENDING", "JOB_STATE_QUEUED"):
            root = job.data["name"].rsplit("/tuningJobs/", 1)[0]
            answer["experiment"] = f"{root}/metadataStores/default/contexts/tuning-experiment-{job.id}"
            answer["tuningJobState"] = "TUNING_JOB_STATE_TUNING"
            done = self.steps_done(job)
            answer["tuningJobMetadata"] = {"completedStepCount": str(done), "completedEpochCount": "1"}
        if state.endswith(("SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED")):
            answer["endTime"] = iso(job.since)
        if state == "JOB_STATE_FAILED":
            answer["error"] = {"code": 3, "message": self.failure_message}
        if state.endswith("SUCCEEDED"):
            answer |= self._final_fields(job)
        return answer

    def _final_fields(self, job: FakeJob) -> dict[str, Any]:
        root = job.data["name"].rsplit("/tuningJobs/", 1)[0]
        words = {
            "preferenceOptimizationSpec": "preferenceOptimization",
            "reinforcementTuningSpec": "reinforcementTuning",
        }
        kind = next((word for spec, word in words.items() if spec in job.body), "supervisedTuning")
        stats = {
            "tuningDatasetExampleCount": "500",
            "totalBillableTokenCount": "96894",
            "tuningStepCount": str(job.data["steps"]),
        }
        if kind == "supervisedTuning":
            stats |= job.data.get("stats", {})
        fields: dict[str, Any] = {"tuningDataStats": {f"{kind}DataStats": stats}}
        if "@" in job.body.get("baseModel", ""):
            return fields
        endpoint = f"{root}/endpoints/5{job.id}"
        model = f"{root}/models/1{job.id}@1"
        if not job.data.get("served"):
            job.data["served"] = True
            self.endpoints[endpoint] = {"model": model}
            self.models[model] = {"job": job.id}
        fields["tunedModel"] = {"model": model, "endpoint": endpoint}
        spec = next(job.body[name] for name in SPECS if name in job.body)
        if not spec.get("exportLastCheckpointOnly"):
            fields["tunedModel"]["checkpoints"] = [
                {
                    "checkpointId": str(epoch),
                    "epoch": str(epoch),
                    "step": str(epoch * 5),
                    "endpoint": f"{endpoint}{epoch}",
                }
                for epoch in (1, 2)
            ]
            for checkpoint in fields["tunedModel"]["checkpoints"]:
                self.endpoints.setdefault(checkpoint["endpoint"], {"model": model})
        return fields

    def _job_of_call(self, call: Call) -> FakeJob:
        return self.job(call.params["job"])

    @route("GET", "/v1beta1/projects/{project}/locations/{location}/tuningJobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self._job_of_call(call)
        return self.describe(job, self.look(job))

    @route("POST", "/v1beta1/projects/{project}/locations/{location}/tuningJobs/{job}:cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        job = self._job_of_call(call)
        self.cancel_job(job, Refusal(400, f"The job is in state {job.word}.", code="FAILED_PRECONDITION"))
        return {}

    @route("GET", "/v1beta1/projects/{project}/locations/{location}/tuningJobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        filter_text = call.query.get("filter", "")
        label = re.fullmatch(r'labels\.([a-z0-9_-]+)="([^"]*)"', filter_text)
        if filter_text and not label:
            raise Refusal(400, f"Invalid filter {filter_text!r}.")
        root = f"projects/{call.params['project']}/locations/{call.params['location']}/"
        jobs = [job for job in self.listed(self.jobs.values()) if job.data["name"].startswith(root)]
        if label:
            jobs = [job for job in jobs if job.body.get("labels", {}).get(label[1]) == label[2]]
        start, size = int(call.query.get("pageToken") or 0), int(call.query.get("pageSize") or 100)
        page = [self.describe(job, job.word) for job in jobs[start : start + size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(jobs) else {}
        return {"tuningJobs": page} | more

    # --- curves ------------------------------------------------------------------------------------------------------
    @route("GET", "/v1/projects/{project}/locations/{location}/metadataStores/default/contexts/{context}")
    def get_context(self, call: Call) -> Any:
        root = f"projects/{call.params['project']}/locations/{call.params['location']}"
        name = f"{root}/metadataStores/default/contexts/{call.params['context']}"
        return {"name": name, "metadata": {"backing_tensorboard_resource": f"{root}/tensorboards/77"}}

    @route("GET", "/v1/projects/{project}/locations/{location}/tensorboards/77/experiments/{experiment}/runs")
    def list_runs(self, call: Call) -> Any:
        parent = call.path.removeprefix("/v1/")
        return {"tensorboardRuns": [{"name": f"{parent}/run-0", "displayName": "run-0"}]}

    @route(
        "GET",
        "/v1/projects/{project}/locations/{location}/tensorboards/77/experiments/{experiment}/runs/{run}/timeSeries",
    )
    def list_series(self, call: Call) -> Any:
        parent = call.path.removeprefix("/v1/")
        job = self._job_of_experiment(call.params["experiment"])
        return {
            "tensorboardTimeSeries": [
                {"name": f"{parent}/{index}", "displayName": raw, "valueType": 1}
                for index, raw in enumerate(_curve_names(job))
            ]
        }

    @route("GET", "/v1/projects/{project}/locations/{location}/tensorboards/77:batchRead")
    def read_series(self, call: Call) -> Any:
        answers = []
        for name in [value for key, value in call.pairs if key == "timeSeries"]:
            job = self._job_of_experiment(name.split("/experiments/")[1].split("/")[0])
            raw = _curve_names(job)[int(name.rsplit("/", 1)[-1])]
            values = [
                {"wallTime": iso(job.created + step), "step": str(step), "scalar": {"value": _value(raw, step)}}
                for step in range(1, self.steps_done(job) + 1)
            ]
            id = name.rsplit("/", 1)[-1]
            answers.append({"tensorboardTimeSeriesId": id, "valueType": 1, "values": values})
        return {"timeSeriesData": answers}

    def _job_of_experiment(self, experiment: str) -> FakeJob:
        return self.job(experiment.removeprefix("tuning-experiment-"))

    # --- generation --------------------------------------------------------------------------------------------------
    @route("POST", "/v1beta1/{model*}:generateContent", role="generate")
    def generate(self, call: Call) -> Any:
        body = call.json(_GENERATE)
        model = call.params["model"]
        tuned = "/endpoints/" in model
        if tuned and model not in self.endpoints:
            raise Refusal(404, f"Endpoint {model} is not found.")
        question = "".join(part.get("text", "") for part in body["contents"][-1]["parts"])
        return {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": self.say(question, tuned=tuned)}]},
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
        }

    # --- open models deployed from their weights ---------------------------------------------------------------------
    @route("POST", "/v1beta1/projects/{project}/locations/{location}:deploy", role="deploy")
    def deploy(self, call: Call) -> Any:
        body = call.json(_DEPLOY)
        root = f"projects/{call.params['project']}/locations/{call.params['location']}"
        name = f"{root}/endpoints/{body['endpointConfig']['endpointUserId']}"
        if name in self.endpoints:
            raise Refusal(409, f"Endpoint {name} already exists.", code="ALREADY_EXISTS")
        key = body["endpointConfig"]["endpointUserId"].removeprefix("llmtune-")
        deployment = self.new_deployment(body["customModel"]["gcsUri"], key=key, endpoint=name, looks=0)
        operation = f"{root}/operations/{deployment.id}"
        self.endpoints[name] = {"deployment": deployment.id}
        return {"name": operation, "metadata": {}}

    @route("GET", "/v1/projects/{project}/locations/{location}/operations/{operation}")
    def get_operation(self, call: Call) -> Any:
        deployment = self.deployments.get(call.params["operation"])
        if deployment is None:
            raise Refusal(404, "There is no such operation.")
        deployment.data["looks"] += 1
        name = call.path.removeprefix("/v1/")
        if deployment.data["looks"] < 2:
            return {"name": name, "metadata": {}}
        if self.deploy_fault:
            return {"name": name, "done": True, "error": {"code": 8, "message": self.deploy_fault}}
        root = name.partition("/operations/")[0]
        endpoint = self.endpoints.get(deployment.data["endpoint"])
        if endpoint is not None and "model" not in endpoint:
            endpoint["model"] = f"{root}/models/open-{deployment.id}@1"
            self.models[endpoint["model"]] = {"deployment": deployment.id}
        return {"name": name, "done": True, "response": {"endpoint": deployment.data["endpoint"]}}

    @route(
        "POST",
        "/v1beta1/projects/{project}/locations/{location}/endpoints/{endpoint}/chat/completions",
        role="generate",
    )
    def chat(self, call: Call) -> Any:
        body = call.json(_CHAT)
        name = call.path.removeprefix("/v1beta1/").removesuffix("/chat/completions")
        if not self.endpoints.get(name, {}).get("model"):
            raise Refusal(404, f"Endpoint {name} is not found.")
        question = next((turn["content"] for turn in reversed(body["messages"]) if turn["role"] == "user"), "")
        text = self.say(str(question), tuned=True)
        return {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    # --- endpoints and models ----------------------------------------------------------------------------------------
    @route("GET", "/v1/projects/{project}/locations/{location}/endpoints/{endpoint}")
    def get_endpoint(self, call: Call) -> Any:
        name = call.path.removeprefix("/v1/")
        if name not in self.endpoints:
            raise Refusal(404, f"Endpoint {name} is not found.")
        deployed = self.endpoints[name].get("model")
        return {"name": name, "deployedModels": [{"id": "1", "model": deployed}] if deployed else []}

    @route("POST", "/v1/projects/{project}/locations/{location}/endpoints/{endpoint}:undeployModel", role="undeploy")
    def undeploy_model(self, call: Call) -> Any:
        call.json({"deployedModelId": Required(str)})
        self.endpoints[call.path.removeprefix("/v1/").removesuffix(":undeployModel")]["model"] = None
        return self._finished_operation(call, "google.cloud.aiplatform.v1.UndeployModelResponse")

    @route("DELETE", "/v1/projects/{project}/locations/{location}/endpoints/{endpoint}", role="delete")
    def delete_endpoint(self, call: Call) -> Any:
        name = call.path.removeprefix("/v1/")
        if name not in self.endpoints:
            raise Refusal(404, f"Endpoint {name} is not found.")
        if self.endpoints[name].get("model"):
            raise Refusal(400, "The endpoint still has a deployed model.", code="FAILED_PRECONDITION")
        if deployment := self.endpoints[name].get("deployment"):
            self.remove_deployment(deployment)
        del self.endpoints[name]
        return self._finished_operation(call)

    @route("DELETE", "/v1/projects/{project}/locations/{location}/models/{model}", role="delete")
    def delete_model(self, call: Call) -> Any:
        name = call.path.removeprefix("/v1/")
        matches = [model for model in self.models if model.partition("@")[0] == name]
        if not matches:
            raise Refusal(404, f"Model {name} is not found.")
        for model in matches:
            del self.models[model]
        return self._finished_operation(call)

    def _finished_operation(self, call: Call, kind: str = "google.protobuf.Empty") -> dict[str, Any]:
        root = f"projects/{call.params['project']}/locations/{call.params['location']}"
        empty = {"@type": f"type.googleapis.com/{kind}"}
        return {"name": f"{root}/operations/{self.new_id('9')}", "done": True, "response": empty}


def _spell_in_camel_case(reward: dict[str, Any]) -> None:
    """Spell the keys of a reward's parts as the service does: google-genai sends them in snake_case."""
    for part in [part for part in reward.values() if isinstance(part, dict)]:
        for name in list(part):
            part[re.sub("_(.)", lambda match: match[1].upper(), name)] = part.pop(name)


def _curve_names(job: FakeJob) -> list[str]:
    spec = next(job.body[name] for name in SPECS if name in job.body)
    if "reinforcementTuningSpec" in job.body:
        return ["/train_reward_mean", "/train_generation_length", "/eval_reward_mean"]
    train = [f"/train_{curve}" for curve in CURVES]
    if "preferenceOptimizationSpec" in job.body:
        train = ["/preference_optimization_train_loss"]
    return train + ([f"/eval_{curve}" for curve in CURVES] if "validationDatasetUri" in spec else [])


def _value(raw: str, step: int) -> float:
    if "num_predictions" in raw:
        return 128.0
    if "length" in raw:
        return 40.0 + step
    return 1 - 1 / (1 + step) if "fraction" in raw or "reward" in raw else 2 / (1 + step) + 0.1
