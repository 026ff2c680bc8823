"""A stand-in for Vertex AI and Cloud Storage on loopback, for tests and `python -m llmtune.testing.serve vertex`.

It holds requests to the fields that the REST API knows, speaks the dialects of both of Google's clients (enum names
for google-genai, numbers for the generated ones), and keeps TensorBoards, objects and endpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
#: What CreateTuningJob takes. Keys inside preTunedModel and encryptionSpec come in snake_case from google-genai.
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

        self.base_models = {"gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro", "gemini-3.1-flash-lite"}
        self.locations = {"us-central1", "europe-west4", "global"}

    def error_body(self, refusal: Refusal) -> Any:
        """An error as Google's REST APIs have it."""
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
        specs = [name for name in ("supervisedTuningSpec", "preferenceOptimizationSpec") if name in body]
        if len(specs) != 1 or ("baseModel" in body) == ("preTunedModel" in body):
            raise Refusal(400, "Exactly one tuning spec and one source model must be given.")
        base = body.get("baseModel", "")
        is_open = "@" in base
        if base and not is_open and base not in self.base_models:
            raise Refusal(400, f"Base model {base} is not supported.")
        spec = body[specs[0]]
        knobs = spec.get("hyperParameters", {})
        self._check_family(call, is_open, spec, knobs, body)
        for key in ("trainingDatasetUri", "validationDatasetUri"):
            if key in spec:
                bucket, _, name = spec[key].removeprefix("gs://").partition("/")
                if (bucket, name) not in self.objects:
                    raise Refusal(400, f"The file {spec[key]} does not exist or cannot be read.")
        for key, text in body.get("labels", {}).items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", key) or not re.fullmatch(r"[a-z0-9_-]{0,64}", text):
                raise Refusal(400, f"Label {key}={text} is invalid.")
        job = self.new_job(body, key=body.get("labels", {}).get(RUN_LABEL), prefix="8356726629")
        job.data["name"] = f"projects/{call.params['project']}/locations/{location}/tuningJobs/{job.id}"
        return self.describe(job, job.word)

    def _check_family(self, call: Call, is_open: bool, spec: Any, knobs: Any, body: Any) -> None:
        wrong = [name for name in ("batchSize", "learningRate") if name in knobs and not is_open]
        wrong += ["tuningMode"] if "tuningMode" in spec and not is_open else []
        wrong += ["learningRateMultiplier"] if "learningRateMultiplier" in knobs and is_open else []
        wrong += ["outputUri"] if ("outputUri" in body) != is_open else []
        if wrong:
            call.refused += [(name, "does not belong to this kind of model") for name in wrong]
            raise Refusal(400, f"{', '.join(wrong)} cannot be used with this base model.")

    def describe(self, job: FakeJob, word: str) -> dict[str, Any]:
        """A job as the REST API answers it: whole numbers are text."""
        answer: dict[str, Any] = json.loads(json.dumps(job.body))
        for spec in ("supervisedTuningSpec", "preferenceOptimizationSpec"):
            knobs = answer.get(spec, {}).get("hyperParameters", {})
            if answer.get(spec) is not None and "epochCount" not in knobs:
                answer[spec].setdefault("hyperParameters", {})["epochCount"] = 3  # the service tells what it chose
                knobs = answer[spec]["hyperParameters"]
            for name in ("epochCount", "batchSize"):
                if name in knobs:
                    knobs[name] = str(knobs[name])
        if pre := answer.pop("preTunedModel", None):
            answer["preTunedModel"] = {"tunedModelName": pre["tuned_model_name"]}
        if key := answer.pop("encryptionSpec", None):
            answer["encryptionSpec"] = {"kmsKeyName": key["kms_key_name"]}
        answer |= {
            "name": job.data["name"],
            "state": word,
            "createTime": iso(job.created),
            "updateTime": iso(job.since),
        }
        if word not in ("JOB_STATE_PENDING", "JOB_STATE_QUEUED"):
            root = job.data["name"].rsplit("/tuningJobs/", 1)[0]
            answer["experiment"] = f"{root}/metadataStores/default/contexts/tuning-experiment-{job.id}"
            answer["tuningJobState"] = "TUNING_JOB_STATE_TUNING"
            done = self.steps_done(job)
            answer["tuningJobMetadata"] = {"completedStepCount": str(done), "completedEpochCount": "1"}
        if word.endswith(("SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED")):
            answer["endTime"] = iso(job.since)
        if word == "JOB_STATE_FAILED":
            answer["error"] = {"code": 3, "message": self.failure_message}
        if word.endswith("SUCCEEDED"):
            answer |= self._finished(job)
        return answer

    def _finished(self, job: FakeJob) -> dict[str, Any]:
        root = job.data["name"].rsplit("/tuningJobs/", 1)[0]
        preference = "preferenceOptimizationSpec" in job.body
        stats = {
            "tuningDatasetExampleCount": "500",
            "totalBillableTokenCount": "96894",
            "tuningStepCount": str(job.data["steps"]),
        }
        if not preference:
            stats |= job.data.get("stats", {})
        found: dict[str, Any] = {
            "tuningDataStats": {f"{'preferenceOptimization' if preference else 'supervisedTuning'}DataStats": stats}
        }
        if "@" in job.body.get("baseModel", ""):
            return found
        endpoint = f"{root}/endpoints/5{job.id}"
        model = f"{root}/models/1{job.id}@1"
        if not job.data.get("served"):
            job.data["served"] = True
            self.endpoints[endpoint] = {"model": model}
            self.models[model] = {"job": job.id}
        found["tunedModel"] = {"model": model, "endpoint": endpoint}
        spec = job.body.get("supervisedTuningSpec") or job.body["preferenceOptimizationSpec"]
        if not spec.get("exportLastCheckpointOnly"):
            found["tunedModel"]["checkpoints"] = [
                {"checkpointId": str(each), "epoch": str(each), "step": str(each * 5), "endpoint": f"{endpoint}{each}"}
                for each in (1, 2)
            ]
            for each in found["tunedModel"]["checkpoints"]:
                self.endpoints.setdefault(each["endpoint"], {"model": model})
        return found

    def _named(self, call: Call) -> FakeJob:
        return self.job(call.params["job"])

    @route("GET", "/v1beta1/projects/{project}/locations/{location}/tuningJobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self._named(call)
        return self.describe(job, self.look(job))

    @route("POST", "/v1beta1/projects/{project}/locations/{location}/tuningJobs/{job}:cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        job = self._named(call)
        if job.ended:
            raise Refusal(400, f"The job is in state {job.word}.", code="FAILED_PRECONDITION")
        self.cancel_job(job)
        return {}

    @route("GET", "/v1beta1/projects/{project}/locations/{location}/tuningJobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        asked = call.query.get("filter", "")
        wanted = re.fullmatch(r'labels\.([a-z0-9_-]+)="([^"]*)"', asked)
        if asked and not wanted:
            raise Refusal(400, f"Invalid filter {asked!r}.")
        root = f"projects/{call.params['project']}/locations/{call.params['location']}/"
        found = [job for job in self.listed(self.jobs.values()) if job.data["name"].startswith(root)]
        if wanted:
            found = [job for job in found if job.body.get("labels", {}).get(wanted[1]) == wanted[2]]
        start, size = int(call.query.get("pageToken") or 0), int(call.query.get("pageSize") or 100)
        page = [self.describe(job, job.word) for job in found[start : start + size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(found) else {}
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
        job = self._behind(call.params["experiment"])
        return {
            "tensorboardTimeSeries": [
                {"name": f"{parent}/{index}", "displayName": raw, "valueType": 1}
                for index, raw in enumerate(_raw_names(job))
            ]
        }

    @route("GET", "/v1/projects/{project}/locations/{location}/tensorboards/77:batchRead")
    def read_series(self, call: Call) -> Any:
        answers = []
        for name in [value for key, value in call.pairs if key == "timeSeries"]:
            job = self._behind(name.split("/experiments/")[1].split("/")[0])
            raw = _raw_names(job)[int(name.rsplit("/", 1)[-1])]
            values = [
                {"wallTime": iso(job.created + step), "step": str(step), "scalar": {"value": _value(raw, step)}}
                for step in range(1, self.steps_done(job) + 1)
            ]
            id = name.rsplit("/", 1)[-1]
            answers.append({"tensorboardTimeSeriesId": id, "valueType": 1, "values": values})
        return {"timeSeriesData": answers}

    def _behind(self, experiment: str) -> FakeJob:
        return self.job(experiment.removeprefix("tuning-experiment-"))

    # --- generation --------------------------------------------------------------------------------------------------
    @route("POST", "/v1beta1/{model*}:generateContent", role="generate")
    def generate(self, call: Call) -> Any:
        body = call.json(_GENERATE)
        model = call.params["model"]
        tuned = "/endpoints/" in model
        if tuned and model not in self.endpoints:
            raise Refusal(404, f"Endpoint {model} is not found.")
        asked = "".join(part.get("text", "") for part in body["contents"][-1]["parts"])
        return {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": self.say(asked, tuned=tuned)}]},
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
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
        return self._done(call, "google.cloud.aiplatform.v1.UndeployModelResponse")

    @route("DELETE", "/v1/projects/{project}/locations/{location}/endpoints/{endpoint}", role="delete")
    def delete_endpoint(self, call: Call) -> Any:
        name = call.path.removeprefix("/v1/")
        if name not in self.endpoints:
            raise Refusal(404, f"Endpoint {name} is not found.")
        if self.endpoints[name].get("model"):
            raise Refusal(400, "The endpoint still has a deployed model.", code="FAILED_PRECONDITION")
        del self.endpoints[name]
        return self._done(call)

    @route("DELETE", "/v1/projects/{project}/locations/{location}/models/{model}", role="delete")
    def delete_model(self, call: Call) -> Any:
        name = call.path.removeprefix("/v1/")
        found = [model for model in self.models if model.partition("@")[0] == name]
        if not found:
            raise Refusal(404, f"Model {name} is not found.")
        for model in found:
            del self.models[model]
        return self._done(call)

    def _done(self, call: Call, kind: str = "google.protobuf.Empty") -> dict[str, Any]:
        root = f"projects/{call.params['project']}/locations/{call.params['location']}"
        empty = {"@type": f"type.googleapis.com/{kind}"}
        return {"name": f"{root}/operations/{self.new_id('9')}", "done": True, "response": empty}


def _raw_names(job: FakeJob) -> list[str]:
    spec = job.body.get("supervisedTuningSpec") or job.body["preferenceOptimizationSpec"]
    train = [f"/train_{each}" for each in CURVES]
    if "preferenceOptimizationSpec" in job.body:
        train = ["/preference_optimization_train_loss"]
    return train + ([f"/eval_{each}" for each in CURVES] if "validationDatasetUri" in spec else [])


def _value(raw: str, step: int) -> float:
    if "num_predictions" in raw:
        return 128.0
    return 1 - 1 / (1 + step) if "fraction" in raw else 2 / (1 + step) + 0.1
