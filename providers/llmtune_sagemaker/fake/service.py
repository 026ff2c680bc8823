"""A stand-in for SageMaker on a loopback port, for tests and for `python -m llmtune.testing.serve sagemaker`.

It speaks AWS's JSON 1.1: every operation is a POST to "/", named by a header. Every request is checked against AWS's
own service model (botocore's copy), and hyperparameters against the model's recipe in the hub; what does not fit is
refused and remembered. It needs boto3's botocore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmtune.testing.fake_vendor import FakeJob, Phase
from llmtune.testing.faults import Fault
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune_bedrock import service_model
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_bedrock.fake.functions import FakeFunctions
from llmtune_bedrock.fake.s3 import REGION
from llmtune_bedrock.fake.service import AWS_ENVIRONMENT
from llmtune_sagemaker import recipes
from llmtune_sagemaker.capabilities import load_catalog

ACCOUNT = "123456789012"
HUB_BUCKET = "jumpstart-cache-prod-us-east-1"
_CODES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ValidationException",
    429: "ThrottlingException",
    500: "InternalFailure",
    503: "ServiceUnavailable",
}
#: A tag's text. AWS's own pattern is in Unicode classes that Python's `re` does not have.
_TAG = re.compile(r"[\w .:/=+@-]*")


QWEN = "huggingface-reasoning-qwen3-8b"
GPT_OSS = "openai-reasoning-gpt-oss-20b"
LLAMA = "meta-textgeneration-llama-3-2-1b-instruct"


def _list_price(model: str, region: str, component: str, tokens: str, amount: str, unit: str) -> dict[str, str]:
    attributes = {"modelname": model, "regionCode": region, "component": component, "tokentype": tokens}
    return attributes | {"amount": amount, "unit": unit}


def _describe_price(price: Mapping[str, str]) -> dict[str, Any]:
    attributes = {name: value for name, value in price.items() if name not in ("amount", "unit")}
    dimension = {"unit": price["unit"], "pricePerUnit": {"USD": price["amount"]}, "description": "", "beginRange": "0"}
    return {
        "product": {"attributes": attributes},
        "terms": {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}},
    }


class FakeSageMaker(FakeFunctions):
    """SageMaker at `url`, S3 at `url + "/s3"`, Lambda at `url + "/lambda"`, MLflow at `url + "/mlflow"`."""

    name = "sagemaker"
    walks: Mapping[str, tuple[Phase, ...]] = {  # type: ignore[misc]
        "success": (Phase("InProgress", looks=4, training=True), Phase("Completed")),
        "failure": (Phase("InProgress", looks=2, training=True), Phase("Failed")),
        "timeout": (Phase("InProgress", looks=2, training=True), Phase("Stopped")),
        "cancelled": (Phase("Stopping"), Phase("Stopped")),
    }
    failure_message = "ClientError: line 3 of the training data is not a valid record"

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.groups: set[str] = {"llmtune"}
        """Model package groups."""

        self.evaluators: dict[str, str] = {}
        """Evaluators of the account: ARN -> ARN of their Lambda function."""

        self.packages_say_where = True
        """Whether a model package names the address of its weights; else the job alone does."""

        self.counts_in_epoch = True
        """Whether the step is counted anew in each epoch."""

        self.prices: list[dict[str, str]] = [
            _list_price(QWEN, REGION, "SFT:Finetuning", "Train", "1.2000000000", "1M tokens"),
            _list_price(QWEN, REGION, "DPO:Finetuning", "Train", "0.0024000000", "1K tokens"),
            _list_price(QWEN, REGION, "MultiTurnRFT:Finetuning", "Train", "3.6000000000", "1M tokens"),
            _list_price(QWEN, REGION, "MultiTurnRFT:Finetuning", "Prefill", "0.2000000000", "1M tokens"),
            _list_price(QWEN, "eu-west-1", "SFT:Finetuning", "Train", "9.0000000000", "1M tokens"),
            _list_price(GPT_OSS, REGION, "SFT:Finetuning", "Train", "2.0000000000", "1M tokens"),
            _list_price(GPT_OSS, REGION, "DPO:Finetuning", "Train", "2.0000000000", "1M tokens"),
            _list_price(GPT_OSS, REGION, "SFT:Evaluation", "Sample", "0.4000000000", "1M tokens"),
            _list_price(LLAMA, REGION, "SFT:Finetuning", "Train", "0.8000000000", "Hour"),
        ]
        """The price list. The amounts are the fake's own, and so is how the components of SFT and DPO are spelled."""

        self.prices_on_a_page = 2

        self.buckets[HUB_BUCKET] = REGION
        self.hub = {model: entry.family for model, entry in load_catalog().models.items()}
        """Models of the public hub, and their families."""

        for model, family in self.hub.items():
            self._publish(model, family)

    def client_settings(self) -> dict[str, str]:
        """Return a region, a bucket, a role and a group, and the addresses."""
        return {
            "region": REGION,
            "bucket": "my-bucket",
            "role_arn": f"arn:aws:iam::{ACCOUNT}:role/fake",
            "model_package_group": "llmtune",
            "base_url": self.url,
            "storage_url": self.storage_url,
            "mlflow_url": self.mlflow_url,
            "pricing_url": self.pricing_url,
            "lambda_url": self.lambda_url,
        }

    def client_environment(self) -> dict[str, str]:
        """Return keys for AWS's chain, and that this is no machine of AWS."""
        return dict(AWS_ENVIRONMENT)

    # --- the wire ----------------------------------------------------------------------------------------------------
    def receive(self, call: Call) -> Fault | None:
        """Give a call of the JSON protocol a path of its own, by the operation that its header names."""
        target = call.headers.get("x-amz-target", "")
        if call.path == "/" and target.startswith("SageMaker."):
            call.path = f"/sagemaker/{target.removeprefix('SageMaker.')}"
        return super().receive(call)

    def error_body(self, refusal: Refusal) -> Any:
        """Return an error in the shape of AWS's JSON protocol."""
        code = refusal.code if refusal.code and refusal.code[0].isupper() else _CODES.get(refusal.status, "Unknown")
        not_found = code == "ValidationException" and refusal.status == 404
        message = f"Requested resource not found. {refusal.message}" if not_found else refusal.message
        return {"__type": code, "message": message}

    def read(self, call: Call) -> dict[str, Any]:
        """Return the input of the operation; refuse one that does not fit AWS's service model."""
        body = dict(call.data or {})
        tags = body.pop("Tags", [])
        wrong = service_model.faults("sagemaker", call.path.rsplit("/", 1)[-1], body)
        wrong += [
            ("Tags", f"holds {tag}")
            for tag in tags
            if set(tag) != {"Key", "Value"} or not all(_TAG.fullmatch(text) for text in tag.values())
        ]
        wrong += [("Tags", "has more than 50")] * (len(tags) > 50)
        if wrong:
            call.refused += wrong
            raise Refusal(400, "; ".join(f"{path} {fault}" for path, fault in wrong), code="ValidationException")
        return body | ({"Tags": tags} if tags else {})

    @property
    def pricing_url(self) -> str:
        """Where the price list answers."""
        return f"{self.url}/prices"

    # --- prices ------------------------------------------------------------------------------------------------------
    @route("POST", "/prices")
    def get_products(self, call: Call) -> Any:
        body = dict(call.data or {})
        wrong = service_model.faults("pricing", "GetProducts", body)
        if wrong or call.headers.get("x-amz-target") != "AWSPriceListService.GetProducts":
            call.refused += wrong
            raise Refusal(400, "The request cannot be read.", code="InvalidParameterException")
        wanted_fields = {term["Field"]: term["Value"] for term in body.get("Filters", ())}
        matches = [
            price
            for price in self.prices
            if body["ServiceCode"] == "AmazonSageMaker"
            and all(price.get(name) == value for name, value in wanted_fields.items())
        ]
        start = int(body.get("NextToken", "0"))
        page = matches[start : start + self.prices_on_a_page]
        following = start + len(page)
        return {
            "FormatVersion": "aws_v1",
            "PriceList": [json.dumps(_describe_price(price)) for price in page],
            **({"NextToken": str(following)} if following < len(matches) else {}),
        }

    # --- the hub -----------------------------------------------------------------------------------------------------
    def _publish(self, model: str, family: str) -> None:
        seen = recipes.from_catalog(family)
        for recipe in seen.recipes if seen is not None else ():
            content = {name: recipes.as_raw(parameter) for name, parameter in recipe.parameters.items()}
            self._put(HUB_BUCKET, self._override_key(model, recipe), json.dumps(content).encode())

    def _override_key(self, model: str, recipe: recipes.Recipe) -> str:
        return f"recipes/{model}_{recipe.technique}_{recipe.adapter}_override_params_sm_jobs_v1.json".lower()

    def list_recipes(self, model: str) -> list[recipes.Recipe]:
        """Return the recipes of a model of the hub."""
        seen = recipes.from_catalog(self.hub[model])
        entry = load_catalog().models[model]
        offered = {recipes.TECHNIQUES[method] for method in entry.methods}
        return [
            recipe
            for recipe in (seen.recipes if seen is not None else ())
            if recipe.technique in offered and recipe.adapter in entry.adapters
        ]

    @route("POST", "/sagemaker/DescribeHubContent")
    def describe_hub_content(self, call: Call) -> Any:
        body = self.read(call)
        if body["HubContentType"] == "JsonDoc":
            return self._describe_evaluator(body)
        model = body["HubContentName"]
        if body["HubName"] != recipes.HUB or model not in self.hub:
            raise Refusal(404, f"Hub content {model} does not exist", code="ResourceNotFound")
        collection = [
            {
                "Name": f"{model}-{recipe.technique.lower()}-{recipe.adapter}",
                "Type": "FineTuning",
                "CustomizationTechnique": recipe.technique,
                "ServerlessMeteringType": "Token-based",
                "SmtjOverrideParamsS3Uri": f"s3://{HUB_BUCKET}/{self._override_key(model, recipe)}",
                **({"Peft": "LORA"} if recipe.adapter == "lora" else {}),
            }
            for recipe in self.list_recipes(model)
        ]
        arn = f"arn:aws:sagemaker:{REGION}:aws:hub-content/{recipes.HUB}/Model/{model}/2.0.1"
        return {
            "HubContentName": model,
            "HubContentArn": arn,
            "HubContentVersion": "2.0.1",
            "HubContentType": "Model",
            "DocumentSchemaVersion": "2.3.0",
            "HubName": recipes.HUB,
            "HubArn": f"arn:aws:sagemaker:{REGION}:aws:hub/{recipes.HUB}",
            "HubContentDocument": json.dumps({"RecipeCollection": [*collection, {"Type": "Evaluation"}]}),
            "HubContentStatus": "Available",
            "CreationTime": self.now(),
        }

    def _describe_evaluator(self, body: Mapping[str, Any]) -> dict[str, Any]:
        part = f"{body['HubName']}/JsonDoc/{body['HubContentName']}"
        arn = next((arn for arn in self.evaluators if f"hub-content/{part}" in arn), None)
        if arn is None:
            raise Refusal(404, f"Hub content {part} does not exist", code="ResourceNotFound")
        content = {"EvaluatorType": "RewardFunction", "Reference": self.evaluators[arn]}
        return {
            "HubContentName": body["HubContentName"],
            "HubContentArn": arn,
            "HubContentVersion": arn.rsplit("/", 1)[-1],
            "HubContentType": "JsonDoc",
            "DocumentSchemaVersion": "2.0.0",
            "HubName": body["HubName"],
            "HubArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:hub/{body['HubName']}",
            "HubContentDocument": json.dumps({"SubType": "AWS/Evaluator", "JsonContent": json.dumps(content)}),
            "HubContentStatus": "Available",
            "CreationTime": self.now(),
        }

    # --- jobs --------------------------------------------------------------------------------------------------------
    @route("POST", "/sagemaker/CreateTrainingJob", role="submit")
    def create_training_job(self, call: Call) -> Any:
        body = self.read(call)
        name = body["TrainingJobName"]
        if any(job.body["TrainingJobName"] == name for job in self.jobs.values()):
            raise Refusal(400, f"A training job with this name already exists ({_arn(name)})", code="ResourceInUse")
        for needed in ("ServerlessJobConfig", "InputDataConfig"):
            if needed not in body:
                raise Refusal(400, f"{needed} is missing", code="ValidationException")
        group = body.get("ModelPackageConfig", {}).get("ModelPackageGroupArn", "").rsplit("/", 1)[-1]
        if group not in self.groups:
            raise Refusal(404, f"ModelPackageGroup {group} does not exist.", code="ValidationException")
        self._check_model(call, body)
        for channel in body["InputDataConfig"]:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            if (bucket, key) not in self.objects:
                raise Refusal(400, f"No S3 objects found under {uri}", code="ValidationException")
            if body["ServerlessJobConfig"].get("CustomizationTechnique") == "RLVR":
                self._score(call, body["ServerlessJobConfig"], self.objects[bucket, key]["content"])
        key = next((tag["Value"] for tag in body.get("Tags", []) if tag["Key"] == RUN_TAG), None)
        job = self.new_job(body, key=key)
        self.jobs[name] = self.jobs.pop(job.id)
        job.id = name
        job.data["package"] = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/{group}/{len(self.jobs)}"
        return {"TrainingJobArn": _arn(name)}

    def _score(self, call: Call, serverless: Mapping[str, Any], content: bytes) -> None:
        """Refuse rows that are not VERL's, no evaluator, and one whose function fails."""
        arn = serverless.get("EvaluatorArn")
        if arn not in self.evaluators:
            call.refused.append(("ServerlessJobConfig.EvaluatorArn", f"{arn} is no evaluator"))
            raise Refusal(400, f"Evaluator {arn} does not exist", code="ValidationException")
        rows = [json.loads(line) for line in content.splitlines()]
        items = [{"messages": row["prompt"], "reference_answer": row["reward_model"]["ground_truth"]} for row in rows]
        self.score_rows(call, self.evaluators[arn], items, wrapped=True)

    def _check_model(self, call: Call, body: Mapping[str, Any]) -> None:
        serverless = body["ServerlessJobConfig"]
        model = serverless["BaseModelArn"].split("/Model/")[-1].split("/")[0]
        if model not in self.hub:
            raise Refusal(404, f"Hub content {model} does not exist", code="ResourceNotFound")
        if load_catalog().models[model].facts.get("eula") and not serverless.get("AcceptEula"):
            raise Refusal(400, "AcceptEula must be true for this model", code="ValidationException")
        wanted = (serverless.get("CustomizationTechnique"), "lora" if serverless.get("Peft") else "full")
        recipe = next((each for each in self.list_recipes(model) if (each.technique, each.adapter) == wanted), None)
        if recipe is None:
            raise Refusal(400, f"{model} has no recipe for {wanted[0]} {wanted[1]}", code="ValidationException")
        converse = {channel["DataSource"]["S3DataSource"]["S3DataType"] for channel in body["InputDataConfig"]}
        if (converse == {"Converse"}) != (self.hub[model] == "nova-2"):
            raise Refusal(400, f"S3DataType {converse} is not for {model}", code="ValidationException")
        faults = list(recipes.list_faults(body.get("HyperParameters", {}), recipe))
        if faults:
            call.refused += [(f"HyperParameters.{name}", fault) for name, fault in faults]
            raise Refusal(400, "; ".join(f"{name} {fault}" for name, fault in faults), code="ValidationException")

    def find_job(self, name: str) -> FakeJob:
        """Find a job by name; refuse as AWS does if there is none."""
        for job in self.jobs.values():
            if job.body["TrainingJobName"] == name:
                return job
        raise Refusal(404, f"There is no training job {name}", code="ValidationException")

    @route("POST", "/sagemaker/DescribeTrainingJob", role="poll")
    def describe_training_job(self, call: Call) -> Any:
        job = self.find_job(self.read(call)["TrainingJobName"])
        return self.describe(job, self.look(job))

    def describe(self, job: FakeJob, status: str) -> dict[str, Any]:
        """Return a job as DescribeTrainingJob answers it."""
        body, name = job.body, job.body["TrainingJobName"]
        output = body["OutputDataConfig"]["S3OutputPath"]
        timed_out = status == "Stopped" and job.outcome == "timeout"
        detail = {"InProgress": "Training"}.get(status, "MaxRuntimeExceeded" if timed_out else status)
        answer: dict[str, Any] = {
            "TrainingJobName": name,
            "TrainingJobArn": _arn(name),
            "ModelArtifacts": {"S3ModelArtifacts": f"{output}/{name}/output"},
            "TrainingJobStatus": status,
            "SecondaryStatus": detail,
            "StoppingCondition": body.get("StoppingCondition", {"MaxRuntimeInSeconds": 86_400}),
            "CreationTime": job.created,
            "LastModifiedTime": job.since,
            "SecondaryStatusTransitions": self._transitions(job, detail),
            "ProgressInfo": self._progress(job),
        }
        echoed = ("RoleArn", "InputDataConfig", "OutputDataConfig", "ServerlessJobConfig", "HyperParameters")
        answer |= {part: body[part] for part in echoed if part in body}
        if "MlflowConfig" in body:
            answer["MlflowDetails"] = {"MlflowExperimentId": "1", "MlflowRunId": job.id}
        if status in ("Completed", "Failed", "Stopped"):
            answer["TrainingEndTime"] = job.since
            answer["BillableTokenCount"] = 1_000 * self.steps_done(job)
        if status == "Failed":
            answer["FailureReason"] = self.failure_message
        if status == "Completed":
            answer |= self._final_fields(job, answer["ModelArtifacts"]["S3ModelArtifacts"])
        return answer

    def _transitions(self, job: FakeJob, detail: str) -> list[dict[str, Any]]:
        started = {"Status": "Starting", "StartTime": job.created, "StatusMessage": "Starting the training job"}
        return [started, {"Status": detail, "StartTime": job.since, "StatusMessage": f"{detail} the job"}]

    def _progress(self, job: FakeJob) -> dict[str, int]:
        epochs = int(job.body.get("HyperParameters", {}).get("max_epochs", "1"))
        each = max(1, job.data["steps"] // epochs)
        done = min(self.steps_done(job), each * epochs)
        epoch = min(epochs, max(1, -(-done // each)))
        return {
            "TotalStepCountPerEpoch": each,
            "CurrentStep": done - (epoch - 1) * each if self.counts_in_epoch else done,
            "CurrentEpoch": epoch,
            "MaxEpoch": epochs,
        }

    def _final_fields(self, job: FakeJob, artefacts: str) -> dict[str, Any]:
        arn = job.data["package"]
        if not job.data.get("written"):
            job.data["written"] = True
            self.models[arn] = {"job": job.id, "created": self.now(), "artefacts": artefacts}
            self._write_weights(artefacts, adapter=bool(job.body["ServerlessJobConfig"].get("Peft")))
        last = _loss(job.data["steps"])
        metrics = [("train_loss", last)]
        if job.body["ServerlessJobConfig"].get("CustomizationTechnique") == "RLVR":
            reward = round(1 - last / 3, 4)
            metrics = [("critic/rewards/mean", reward), ("val-core/llmtune/reward/mean@1", reward - 0.05)]
        elif any(channel["ChannelName"] == "validation" for channel in job.body["InputDataConfig"]):
            metrics.append(("eval_loss", last + 0.1))
        return {
            "OutputModelPackageArn": arn,
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value, "Timestamp": job.since} for name, value in metrics
            ],
        }

    def _write_weights(self, artefacts: str, *, adapter: bool) -> None:
        bucket, _, prefix = artefacts.removeprefix("s3://").partition("/")
        forms: dict[str, tuple[str, ...]] = {"hf_merged": ("config.json", "model.safetensors", "tokenizer.json")}
        if adapter:
            forms["hf"] = ("adapter_config.json", "adapter_model.safetensors")
        for folder, names in forms.items():
            for name in (*names, "training_args.bin"):
                self._put(
                    bucket, f"{prefix}/checkpoints/{folder}/{name}", b"{}" if name.endswith("json") else b"w" * 64
                )

    @route("POST", "/sagemaker/StopTrainingJob", role="cancel")
    def stop_training_job(self, call: Call) -> Any:
        job = self.find_job(self.read(call)["TrainingJobName"])
        self.cancel_job(
            job, Refusal(400, f"The request was rejected because the job is {job.word}", code="ValidationException")
        )
        return {}

    @route("POST", "/sagemaker/ListTrainingJobs", role="find")
    def list_training_jobs(self, call: Call) -> Any:
        body = self.read(call)
        part, status = body.get("NameContains", ""), body.get("StatusEquals")
        jobs = [
            job
            for job in self.listed(self.jobs.values())
            if part in job.body["TrainingJobName"]
            and status in (None, job.word)
            and job.created <= body.get("CreationTimeBefore", self.now())
        ]
        if body.get("SortOrder") == "Descending":
            jobs.reverse()
        page, size = int(body.get("NextToken", "0")), body.get("MaxResults", 10)
        answer: dict[str, Any] = {
            "TrainingJobSummaries": [
                {
                    "TrainingJobName": job.body["TrainingJobName"],
                    "TrainingJobArn": _arn(job.body["TrainingJobName"]),
                    "CreationTime": job.created,
                    "TrainingJobStatus": job.word,
                }
                for job in jobs[page : page + size]
            ]
        }
        if page + size < len(jobs):
            answer["NextToken"] = str(page + size)
        return answer

    # --- model packages ----------------------------------------------------------------------------------------------
    @route("POST", "/sagemaker/DescribeModelPackageGroup")
    def describe_model_package_group(self, call: Call) -> Any:
        name = self.read(call)["ModelPackageGroupName"]
        if name not in self.groups:
            raise Refusal(400, f"ModelPackageGroup {name} does not exist.", code="ValidationException")
        return {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/{name}",
            "CreationTime": self.now(),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
        }

    @route("POST", "/sagemaker/CreateModelPackageGroup")
    def create_model_package_group(self, call: Call) -> Any:
        body = dict(call.data or {})
        name = body["ModelPackageGroupName"]
        if name in self.groups:
            raise Refusal(400, f"Model Package Group already exists: {name}", code="ValidationException")
        self.groups.add(name)
        return {"ModelPackageGroupArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/{name}"}

    @route("POST", "/sagemaker/ListModelPackages")
    def list_model_packages(self, call: Call) -> Any:
        group = self.read(call).get("ModelPackageGroupName")
        return {
            "ModelPackageSummaryList": [
                {
                    "ModelPackageArn": arn,
                    "ModelPackageGroupName": group,
                    "CreationTime": model["created"],
                    "ModelPackageStatus": "Completed",
                }
                for arn, model in self.models.items()
                if arn.split("/")[-2] == group
            ]
        }

    @route("POST", "/sagemaker/DescribeModelPackage")
    def describe_model_package(self, call: Call) -> Any:
        arn = self.read(call)["ModelPackageName"]
        model = self.models.get(arn)
        if model is None:
            raise Refusal(400, f"ModelPackage {arn} does not exist.", code="ValidationException")
        source = {"S3DataType": "S3Prefix", "S3Uri": f"{model['artefacts']}/", "CompressionType": "None"}
        containers = [{"ModelDataSource": {"S3DataSource": source}}] if self.packages_say_where else [{}]
        return {
            "ModelPackageName": arn.rsplit("/", 1)[-1],
            "ModelPackageArn": arn,
            "CreationTime": model["created"],
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": []},
            "InferenceSpecification": {"Containers": containers},
        }

    @route("POST", "/sagemaker/DeleteModelPackage", role="delete")
    def delete_model_package(self, call: Call) -> Any:
        arn = self.read(call)["ModelPackageName"]
        if self.models.pop(arn, None) is None:
            raise Refusal(400, f"ModelPackage {arn} does not exist.", code="ValidationException")
        return {}

    # --- MLflow ------------------------------------------------------------------------------------------------------
    @property
    def mlflow_url(self) -> str:
        """Where MLflow answers."""
        return f"{self.url}/mlflow"

    def _run(self, call: Call, fault: Fault | None) -> Reply:
        if call.path.startswith("/mlflow/") and "SignedHeaders" not in call.headers.get("authorization", ""):
            raise Refusal(403, "The request is not signed", code="AccessDeniedException")
        return super()._run(call, fault)

    @route("GET", "/mlflow/api/2.0/mlflow/runs/get")
    def get_run(self, call: Call) -> Any:
        job = self.job(call.query["run_id"])
        reinforced = job.body.get("ServerlessJobConfig", {}).get("CustomizationTechnique") == "RLVR"
        names = ("critic/rewards/mean", "response_length/mean") if reinforced else ("train/loss", "train/lr")
        keys = names if self.steps_done(job) else ()
        return {"run": {"info": {"run_id": job.id}, "data": {"metrics": [{"key": key, "value": 0.0} for key in keys]}}}

    @route("GET", "/mlflow/api/2.0/mlflow/metrics/get-history")
    def get_history(self, call: Call) -> Any:
        job = self.job(call.query["run_id"])
        first, size = int(call.query.get("page_token", "0")), 4
        steps = range(self.steps_done(job))[first : first + size]
        loss = call.query["metric_key"] == "train/loss"
        reward = call.query["metric_key"] == "critic/rewards/mean"
        points = [
            {
                "key": call.query["metric_key"],
                "step": step,
                "value": _loss(step) if loss else round(1 - _loss(step) / 3, 4) if reward else 1e-4,
                "timestamp": 1,
            }
            for step in steps
        ]
        more = first + size < self.steps_done(job)
        return {"metrics": points} | ({"next_page_token": str(first + size)} if more else {})


def _arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{name}"


def _loss(step: int) -> float:
    return round(2.0 / (1 + step) + 0.1, 4)
