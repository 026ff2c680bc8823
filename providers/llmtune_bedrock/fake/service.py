"""A stand-in for Bedrock and S3 on a loopback port, for tests and for `python -m llmtune.testing.serve bedrock`.

Every request is checked against AWS's own service model (botocore's copy) and hyperparameters against the family's
published table; what does not fit is refused and remembered. It needs boto3's botocore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmtune.provider import Converted, Sent
from llmtune.testing.fake_vendor import FakeJob, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune_bedrock import service_model
from llmtune_bedrock.capabilities import Family, find_family, inference_id
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_bedrock.fake.functions import FakeFunctions
from llmtune_bedrock.fake.s3 import REGION

ACCOUNT = "123456789012"
#: Keys for AWS's chain, and that this is no machine of AWS.
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAFAKE",
    "AWS_SECRET_ACCESS_KEY": "fake",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_CODES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class FakeBedrock(FakeFunctions):
    """Bedrock at `url`, S3 at `url + "/s3"`, Lambda at `url + "/lambda"`."""

    name = "bedrock"
    walks: Mapping[str, tuple[Phase, ...]] = {  # type: ignore[misc]
        "success": (Phase("InProgress", looks=3, training=True), Phase("Completed")),
        "failure": (Phase("InProgress", looks=2, training=True), Phase("Failed")),
        "cancelled": (Phase("Stopping"), Phase("Stopped")),
    }
    failure_message = "Encountered an error in the training data: line 3 is not a valid record."

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.provisioned: dict[str, dict[str, Any]] = {}
        self.csv_newline = "\n"
        """Line ends of the metrics files that finished jobs leave behind; AWS's are seen with both kinds."""

        self.csv_perplexity = True
        self.csv_nested = False
        """Whether the validation file lies one folder deeper, as in AWS's own samples."""

        self.deploy_looks = 1
        self.imports: list[dict[str, Any]] = []
        """Import jobs of weights, oldest first; each is done at the second look at it."""

        self.prices: dict[str, tuple[str, str]] = {
            "USE1-NovaPro-Customization-Training": ("0.0080000000", "1K tokens"),
            "USE1-NovaPro-Customization-Storage": ("1.9500000000", "Model/month"),
            "USE1-NovaPro-input-tokens-custom-model": ("0.0008000000", "1K tokens"),
            "USE1-NovaPro-output-tokens-custom-model": ("3.2000000000", "1M tokens"),
        }
        """The price list: amount and unit by usage type. The amounts are the fake's own."""

        self.import_fault: str | None = None
        """Why imports that are started from now on fail; None: they succeed."""

    def client_settings(self) -> dict[str, str]:
        """Return a region, a bucket and a role, and both addresses."""
        return {
            "region": "us-east-1",
            "bucket": "my-bucket",
            "role_arn": "arn:aws:iam::123456789012:role/fake",
            "base_url": self.url,
            "storage_url": self.storage_url,
            "pricing_url": self.pricing_url,
            "lambda_url": self.lambda_url,
        }

    @property
    def pricing_url(self) -> str:
        """Where the price list answers."""
        return f"{self.url}/prices"

    def client_environment(self) -> dict[str, str]:
        """Return keys for AWS's chain, and that this is no machine of AWS."""
        return dict(AWS_ENVIRONMENT)

    # --- the wire ----------------------------------------------------------------------------------------------------
    def error_body(self, refusal: Refusal) -> Any:
        """Return an error in the shape of Bedrock's REST protocol."""
        code = refusal.code if refusal.code and refusal.code[0].isupper() else _CODES.get(refusal.status, "Unknown")
        return {"__type": code, "message": refusal.message}

    def check(self, call: Call, operation: str, value: Mapping[str, Any], service: str = "bedrock") -> None:
        """Refuse a request that does not fit AWS's service model."""
        wrong = service_model.faults(service, operation, value)
        if wrong:
            call.refused += wrong
            raise Refusal(400, "; ".join(f"{path} {fault}" for path, fault in wrong), code="ValidationException")

    # --- prices ------------------------------------------------------------------------------------------------------
    @route("POST", "/prices")
    def get_products(self, call: Call) -> Any:
        body = dict(call.data or {})
        self.check(call, "GetProducts", body, "pricing")
        if call.headers.get("x-amz-target") != "AWSPriceListService.GetProducts":
            raise Refusal(400, "Unknown operation.", code="UnknownOperationException")
        filters = {term["Field"]: term["Value"] for term in body.get("Filters", ())}
        listed = self.prices.get(filters.get("usagetype", ""))
        if body["ServiceCode"] != "AmazonBedrock" or listed is None:
            return {"FormatVersion": "aws_v1", "PriceList": []}
        amount, unit = listed
        dimension = {"unit": unit, "pricePerUnit": {"USD": amount}, "description": "", "beginRange": "0"}
        product = {
            "product": {"attributes": {"usagetype": filters["usagetype"]}},
            "terms": {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}},
        }
        return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]}

    # --- imports of weights -------------------------------------------------------------------------------------------
    @route("POST", "/model-import-jobs", role="deploy")
    def create_import(self, call: Call) -> Any:
        body = dict(call.data or {})
        self.check(call, "CreateModelImportJob", body)
        for job in self.imports:
            if job["token"] == body.get("clientRequestToken"):
                return Reply({"jobArn": job["jobArn"]}, 201)
            if job["jobName"] == body["jobName"]:
                raise Refusal(400, f"Job name {body['jobName']} is in use", code="ConflictException")
        uri = body["modelDataSource"]["s3DataSource"]["s3Uri"]
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        names = {key.removeprefix(prefix) for where, key in self.objects if where == bucket and key.startswith(prefix)}
        if "config.json" not in names:
            raise Refusal(400, f"There is no config.json at {uri}", code="ValidationException")
        number = _new_id(self.new_id("import"))
        job = {
            "jobArn": f"arn:aws:bedrock:{REGION}:{ACCOUNT}:model-import-job/{number}",
            "jobName": body["jobName"],
            "importedModelName": body["importedModelName"],
            "roleArn": body["roleArn"],
            "modelDataSource": body["modelDataSource"],
            "creationTime": _iso(self.now()),
            "token": body.get("clientRequestToken"),
            "fault": self.import_fault,
            "looks": 0,
            "number": number,
        }
        self.imports.append(job)
        return Reply({"jobArn": job["jobArn"]}, 201)

    @route("GET", "/model-import-jobs")
    def list_imports(self, call: Call) -> Any:
        part = call.query.get("nameContains", "")
        jobs = [_import_of(job) for job in self.imports if part in job["jobName"]]
        names = ("jobArn", "jobName", "status", "creationTime", "importedModelName")
        return {"modelImportJobSummaries": [{name: job[name] for name in names} for job in jobs]}

    @route("GET", "/model-import-jobs/{job}")
    def get_import(self, call: Call) -> Any:
        for job in self.imports:
            if call.params["job"] in (job["jobArn"], job["jobName"]):
                job["looks"] += 1
                return _import_of(job)
        raise Refusal(404, f"Could not find the import job {call.params['job']}", code="ResourceNotFoundException")

    # --- jobs --------------------------------------------------------------------------------------------------------
    @route("POST", "/model-customization-jobs", role="submit")
    def create_job(self, call: Call) -> Any:
        body = dict(call.data or {})
        self.check(call, "CreateModelCustomizationJob", body)
        token = body.get("clientRequestToken")
        for job in self.jobs.values():
            if token is not None and job.token == token:
                return Reply({"jobArn": job.data["arn"]}, 201)
            if body["jobName"] == job.body["jobName"]:
                raise Refusal(400, f"Job name {body['jobName']} is in use", code="ConflictException")
        family = find_family(body["baseModelIdentifier"])
        if family is None:
            raise Refusal(400, f"{body['baseModelIdentifier']} cannot be customized", code="ValidationException")
        reinforced = body.get("customizationType") == "REINFORCEMENT_FINE_TUNING"
        if reinforced != ("rftConfig" in body.get("customizationConfig", {})) or (
            reinforced and "hyperParameters" in body
        ):
            call.refused.append(("customizationConfig", "does not go with the type of the job"))
            raise Refusal(400, "customizationConfig does not match customizationType", code="ValidationException")
        if reinforced and family.name != "nova-2":
            raise Refusal(400, f"{body['baseModelIdentifier']} does not support it", code="ValidationException")
        self._check_hyperparameters(call, family, body.get("hyperParameters", {}))
        validators = body.get("validationDataConfig", {}).get("validators", [])
        for uri in (body["trainingDataConfig"]["s3Uri"], *(validator["s3Uri"] for validator in validators)):
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            if (bucket, key) not in self.objects:
                raise Refusal(400, f"Unable to access S3 object {uri}", code="ValidationException")
            if reinforced:
                self._score(call, body["customizationConfig"]["rftConfig"], self.objects[bucket, key]["content"])
        key = next((tag["value"] for tag in body.get("jobTags", []) if tag["key"] == RUN_TAG), None)
        job = self.new_job(body, key=key, token=token, prefix="job000")
        job.id = _new_id(job.id)
        base = inference_id(body["baseModelIdentifier"])
        suffix = body["baseModelIdentifier"].removeprefix(base)
        job.data["arn"] = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:model-customization-job/{base}{suffix}/{job.id}"
        job.data["base_arn"] = f"arn:aws:bedrock:{REGION}::foundation-model/{body['baseModelIdentifier']}"
        return Reply({"jobArn": job.data["arn"]}, 201)

    def _score(self, call: Call, config: Mapping[str, Any], content: bytes) -> None:
        """Refuse rows without a right answer, a function that is not there, and one that fails."""
        arn = config["graderConfig"]["lambdaGrader"]["lambdaArn"]
        if arn not in self.functions:
            raise Refusal(400, f"The function {arn} cannot be invoked by the role", code="ValidationException")
        items = [json.loads(line) for line in content.splitlines()]
        for number, item in enumerate(items, 1):
            if "reference_answer" not in item:
                call.refused.append(("training data", f"line {number} has no reference_answer"))
                raise Refusal(400, f"Record {number} has no reference_answer", code="ValidationException")
        self.score_rows(call, arn, items, wrapped=False)

    def _check_hyperparameters(self, call: Call, family: Family, sent: Mapping[str, str]) -> None:
        ranges: dict[str, Any] = {"evalPercentage": None} if family.name.startswith("cohere") else {}
        for declared in family.parameters.values():
            if isinstance(declared, (Sent, Converted)) and declared.request_path.startswith("hyperParameters."):
                ranges.setdefault(declared.request_path.removeprefix("hyperParameters."), declared.type)
        for name, text in sent.items():
            if name not in ranges:
                call.refused.append((f"hyperParameters.{name}", f"is not a hyperparameter of {family.name}"))
                raise Refusal(400, f"Unknown hyperparameter {name}", code="ValidationException")
            number = float(text)
            value = int(number) if number.is_integer() and "." not in text else number
            if ranges[name] is not None and (wrong := ranges[name].error(value)):
                call.refused.append((f"hyperParameters.{name}", wrong))
                raise Refusal(400, f"{name} {wrong}", code="ValidationException")

    def find_job(self, identifier: str) -> FakeJob:
        """Find a job by name or ARN; refuse with 404 if there is none."""
        for job in self.jobs.values():
            if identifier in (job.data["arn"], job.body["jobName"]):
                return job
        raise Refusal(404, f"Could not find the customization job {identifier}", code="ResourceNotFoundException")

    @route("GET", "/model-customization-jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self.find_job(call.params["job"])
        return self.describe(job, self.look(job))

    def describe(self, job: FakeJob, status: str) -> dict[str, Any]:
        """Return a job as GetModelCustomizationJob answers it."""
        body = job.body
        answer = {
            "jobArn": job.data["arn"],
            "jobName": body["jobName"],
            "outputModelName": body["customModelName"],
            "clientRequestToken": body.get("clientRequestToken"),
            "roleArn": body["roleArn"],
            "status": status,
            "creationTime": _iso(job.created),
            "lastModifiedTime": _iso(job.since),
            "baseModelArn": job.data["base_arn"],
            "hyperParameters": body.get("hyperParameters", {}),
            "trainingDataConfig": body["trainingDataConfig"],
            "validationDataConfig": body.get("validationDataConfig", {"validators": []}),
            "outputDataConfig": body["outputDataConfig"],
            "customizationType": body.get("customizationType", "FINE_TUNING"),
            "customizationConfig": body.get("customizationConfig"),
        }
        part = {"Completed": "Completed", "Failed": "Failed"}.get(status, "InProgress")
        answer["statusDetails"] = {
            "validationDetails": {"status": "Completed", "lastModifiedTime": _iso(job.created)},
            "dataProcessingDetails": {"status": "Completed", "lastModifiedTime": _iso(job.created)},
            "trainingDetails": {"status": part, "lastModifiedTime": _iso(job.since)},
        }
        if status in ("Completed", "Failed", "Stopped"):
            answer["endTime"] = _iso(job.since)
        if status == "Failed":
            answer["failureMessage"] = self.failure_message
        if status == "Completed":
            answer |= self._final_fields(job)
        return {name: value for name, value in answer.items() if value is not None}

    def _final_fields(self, job: FakeJob) -> dict[str, Any]:
        base = job.body["baseModelIdentifier"]
        arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model/{base}/{job.id}"
        if arn not in self.models:
            self.models[arn] = {"job": job.id, "created": self.now()}
            self._write_curves(job)
        losses = _losses(job.data["steps"])
        fields: dict[str, Any] = {"outputModelArn": arn, "trainingMetrics": {"trainingLoss": losses[-1]}}
        validators = job.body.get("validationDataConfig", {}).get("validators", [])
        fields["validationMetrics"] = [{"validationLoss": losses[-1] + 0.1} for _ in validators]
        return fields

    def _write_curves(self, job: FakeJob) -> None:
        bucket, _, prefix = job.body["outputDataConfig"]["s3Uri"].removeprefix("s3://").partition("/")
        folder = f"{prefix.strip('/')}/model-customization-job-{job.id}"
        self._put(bucket, f"{folder}/training_artifacts/step_wise_training_metrics.csv", self._csv(job, "training"))
        if job.body.get("validationDataConfig", {}).get("validators"):
            deeper = "validation/" if self.csv_nested else ""
            name = f"{folder}/validation_artifacts/post_fine_tuning_validation/{deeper}validation_metrics.csv"
            self._put(bucket, name, self._csv(job, "validation"))

    def _csv(self, job: FakeJob, kind: str) -> bytes:
        losses = _losses(job.data["steps"])
        if "customizationConfig" in job.body:
            column = {"training": "critic/rewards/mean", "validation": "val-score/rewards/mean@1"}[kind]
            lines = [f"step_number,{column}", *(f"{step},{1 - loss / 4:.4f}" for step, loss in enumerate(losses))]
            return (self.csv_newline.join(lines) + self.csv_newline).encode()
        rows = [f"step_number,epoch_number,{kind}_loss{',perplexity' if self.csv_perplexity else ''}"]
        epochs = int(job.body.get("hyperParameters", {}).get("epochCount", "2"))
        for step, loss in enumerate(losses):
            shifted = loss + (0.1 if kind == "validation" else 0.0)
            epoch = step * epochs // max(1, len(losses))
            rows.append(f"{step},{epoch},{shifted:.4f}" + (f",{2.718281828**shifted:.4f}" * self.csv_perplexity))
        return (self.csv_newline.join(rows) + self.csv_newline).encode()

    @route("POST", "/model-customization-jobs/{job}/stop", role="cancel")
    def stop_job(self, call: Call) -> Any:
        job = self.find_job(call.params["job"])
        self.cancel_job(job, Refusal(400, f"The job has ended: {job.word}", code="ConflictException"))
        return {}

    @route("GET", "/model-customization-jobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        part = call.query.get("nameContains", "")
        jobs = [job for job in self.listed(self.jobs.values()) if part in job.body["jobName"]]
        page = int(call.query.get("nextToken", "0"))
        size = int(call.query.get("maxResults", "100"))
        answer: dict[str, Any] = {
            "modelCustomizationJobSummaries": [
                {
                    "jobArn": job.data["arn"],
                    "baseModelArn": job.data["base_arn"],
                    "jobName": job.body["jobName"],
                    "status": job.word,
                    "creationTime": _iso(job.created),
                    "customModelName": job.body["customModelName"],
                }
                for job in jobs[page : page + size]
            ]
        }
        if page + size < len(jobs):
            answer["nextToken"] = str(page + size)
        return answer

    # --- models ------------------------------------------------------------------------------------------------------
    @route("GET", "/custom-models")
    def list_models(self, call: Call) -> Any:
        jobs = {job.id: job for job in self.jobs.values()}
        return {
            "modelSummaries": [
                {
                    "modelArn": arn,
                    "modelName": jobs[model["job"]].body["customModelName"],
                    "creationTime": _iso(model["created"]),
                    "baseModelArn": jobs[model["job"]].data["base_arn"],
                    "baseModelName": jobs[model["job"]].body["baseModelIdentifier"],
                    "modelStatus": "Active",
                }
                for arn, model in self.models.items()
            ]
        }

    @route("GET", "/custom-models/{model}")
    def get_model(self, call: Call) -> Any:
        model = self.models.get(call.params["model"])
        if model is None:
            raise Refusal(404, "The model could not be found", code="ResourceNotFoundException")
        job = next(job for job in self.jobs.values() if job.id == model["job"])
        description = self.describe(job, "Completed")
        job_fields = ("jobArn", "jobName", "baseModelArn", "customizationType", "hyperParameters", "trainingDataConfig")
        return {name: description[name] for name in (*job_fields, "validationDataConfig", "outputDataConfig")} | {
            "modelArn": call.params["model"],
            "modelName": job.body["customModelName"],
            "creationTime": _iso(model["created"]),
            "modelStatus": "Active",
        }

    @route("DELETE", "/custom-models/{model}", role="delete")
    def delete_model(self, call: Call) -> Any:
        if self.models.pop(call.params["model"], None) is None:
            raise Refusal(404, "The model could not be found", code="ResourceNotFoundException")
        return {}

    # --- deployments -------------------------------------------------------------------------------------------------
    @route("POST", "/model-customization/custom-model-deployments", role="deploy")
    def create_deployment(self, call: Call) -> Any:
        body = call.data or {}
        self.check(call, "CreateCustomModelDeployment", body)
        return Reply({"customModelDeploymentArn": self._deploy("custom-model-deployment", body["modelArn"], body)}, 202)

    @route("POST", "/provisioned-model-throughput", role="deploy")
    def create_throughput(self, call: Call) -> Any:
        body = call.data or {}
        self.check(call, "CreateProvisionedModelThroughput", body)
        return Reply({"provisionedModelArn": self._deploy("provisioned-model", body["modelId"], body)}, 201)

    def _deploy(self, kind: str, model: str, body: Mapping[str, Any]) -> str:
        if model not in self.models:
            raise Refusal(404, f"The model {model} could not be found", code="ResourceNotFoundException")
        token = body.get("clientRequestToken")
        for standing in self.deployments.values():
            if token is not None and standing.data["token"] == token:
                return standing.id
        key = next((tag["value"] for tag in body.get("tags", []) if tag["key"] == RUN_TAG), None)
        deployment = self.new_deployment(model, key=key, token=token, looks=0, kind=kind)
        arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:{kind}/{_new_id(deployment.id)}"
        deployment.data["name"] = body.get("modelDeploymentName") or body["provisionedModelName"]
        self.deployments[arn] = self.deployments.pop(deployment.id)
        deployment.id = arn
        return arn

    def _deployment(self, arn: str) -> Any:
        deployment = self.deployments.get(arn)
        if deployment is None or deployment.removed is not None:
            raise Refusal(404, f"The deployment {arn} could not be found", code="ResourceNotFoundException")
        return deployment

    @route("GET", "/model-customization/custom-model-deployments/{deployment}")
    def get_deployment(self, call: Call) -> Any:
        deployment = self._deployment(call.params["deployment"])
        deployment.data["looks"] += 1
        ready = deployment.data["looks"] > self.deploy_looks
        return {
            "customModelDeploymentArn": deployment.id,
            "modelDeploymentName": deployment.data["name"],
            "modelArn": deployment.model,
            "createdAt": _iso(deployment.created),
            "status": "Active" if ready else "Creating",
        }

    @route("GET", "/provisioned-model-throughput/{deployment}")
    def get_throughput(self, call: Call) -> Any:
        deployment = self._deployment(call.params["deployment"])
        deployment.data["looks"] += 1
        return self._throughput(deployment) | {
            "status": "InService" if deployment.data["looks"] > self.deploy_looks else "Creating"
        }

    def _throughput(self, deployment: Any) -> dict[str, Any]:
        return {
            "modelUnits": 1,
            "desiredModelUnits": 1,
            "provisionedModelName": deployment.data["name"],
            "provisionedModelArn": deployment.id,
            "modelArn": deployment.model,
            "desiredModelArn": deployment.model,
            "foundationModelArn": f"arn:aws:bedrock:{REGION}::foundation-model/a.b",
            "status": "InService",
            "creationTime": _iso(deployment.created),
            "lastModifiedTime": _iso(deployment.created),
        }

    @route("GET", "/model-customization/custom-model-deployments")
    def list_deployments(self, call: Call) -> Any:
        return {
            "modelDeploymentSummaries": [
                {
                    "customModelDeploymentArn": deployment.id,
                    "customModelDeploymentName": deployment.data["name"],
                    "modelArn": deployment.model,
                    "createdAt": _iso(deployment.created),
                    "status": "Active",
                }
                for deployment in self._list_standing(call, "custom-model-deployment")
            ]
        }

    @route("GET", "/provisioned-model-throughputs")
    def list_throughputs(self, call: Call) -> Any:
        return {
            "provisionedModelSummaries": [
                self._throughput(deployment) for deployment in self._list_standing(call, "provisioned-model")
            ]
        }

    def _list_standing(self, call: Call, kind: str) -> list[Any]:
        part = call.query.get("nameContains", "")
        return [
            deployment
            for deployment in self.listed(self.standing)
            if deployment.data["kind"] == kind and part in deployment.data["name"]
        ]

    @route("DELETE", "/model-customization/custom-model-deployments/{deployment}", role="undeploy")
    @route("DELETE", "/provisioned-model-throughput/{deployment}", role="undeploy")
    def delete_deployment(self, call: Call) -> Any:
        self._deployment(call.params["deployment"])
        self.remove_deployment(call.params["deployment"])
        return {}

    # --- generation --------------------------------------------------------------------------------------------------
    @route("POST", "/model/{model}/converse", role="generate")
    def converse(self, call: Call) -> Any:
        body = call.data or {}
        model = call.params["model"]
        self.check(call, "Converse", body | {"modelId": model}, "bedrock-runtime")
        tuned = model.startswith("arn:")
        if tuned:
            deployment = self._deployment(model)
            if deployment.data["looks"] <= self.deploy_looks:
                raise Refusal(400, "The deployment is not active", code="ValidationException")
        question = "".join(block.get("text", "") for block in body["messages"][-1]["content"])
        text = self.say(question, tuned=tuned)
        return {
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
            "metrics": {"latencyMs": 5},
        }


def _losses(steps: int) -> list[float]:
    return [2.0 / (1 + step) + 0.1 for step in range(max(1, steps))]


def _import_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return an import job as GetModelImportJob answers it."""
    done = job["looks"] > 1
    status = "InProgress" if not done else "Failed" if job["fault"] else "Completed"
    answer = {key: value for key, value in job.items() if key not in ("token", "fault", "looks", "number")}
    answer["status"] = status
    if status == "Failed":
        answer["failureMessage"] = job["fault"]
    if status == "Completed":
        answer["importedModelArn"] = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:imported-model/{job['number']}"
    return answer


def _new_id(id: str) -> str:
    """Return an id of AWS's shape: twelve of [a-z0-9]."""
    return re.sub(r"[^a-z0-9]", "", id.lower()).rjust(12, "0")[-12:]


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
