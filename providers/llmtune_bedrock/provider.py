"""The Bedrock backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import llmtune.provider as core
from llmtune.data.findings import Finding, error, warning
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.job.graders import LambdaGrader
from llmtune_bedrock import capabilities as targets
from llmtune_bedrock import imports, inference, prices, requests, responses, service_model, settings
from llmtune_bedrock.client import BOTO3
from llmtune_bedrock.declarations import NOTHING
from llmtune_bedrock.errors import CONFLICT
from llmtune_bedrock.files import S3Provider
from llmtune_bedrock.graders import try_function, write_grader_source

if TYPE_CHECKING:
    from llmtune.job.graders import Grader

#: A key of the right shape, to judge a request before it has one of its own.
_SAMPLE_KEY = "lt0000000000"


class BedrockProvider(S3Provider):
    """Model customization jobs on AWS Bedrock, through boto3 (bedrock, bedrock-runtime, s3)."""

    kind = "bedrock"
    parameters = NOTHING
    catalog = targets.CATALOG
    methods = targets.METHODS
    adapters = targets.ADAPTERS
    abilities = targets.ABILITIES
    Options: type[BaseModel] = settings.BedrockOptions
    Settings: type[BaseModel] = settings.BedrockSettings
    requirements = (BOTO3,)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports, by the family of its model. Pure."""
        region = self.settings.value_of("region")
        return targets.by_family(super().capabilities(target).in_region(region), target, region)

    live_prices_page = "AWS Price List API, GetProducts"

    def fetch_prices(self, models: Sequence[str]) -> core.PriceAnswer:
        """Ask AWS's price list for the prices of the models that the catalogue has a name for in it."""
        live = {}
        catalog = targets.load_catalog()
        for model in models:
            entry = catalog.model(model)[0]
            if (prefix := entry.facts.get("price_list")) is None:
                continue
            names = [name for name in prices.ENDINGS if name in entry.price.billed or name.startswith("base_")]
            live[model] = {name: amount for name in names if (amount := self._ask_price(str(prefix), name)) is not None}
        return core.PriceAnswer(prices=live)

    def _ask_price(self, prefix: str, price: str) -> float | None:
        with self._sdk.translate_errors("asking for prices"):
            answer = self._sdk.price_list.get_products(**prices.build_query(prefix, price))
        return prices.read_price(answer, price)

    def find_credentials(self) -> core.Credentials:
        """Return whether AWS's chain has something to read."""
        status = settings.find_credentials()
        return status, "aws configure sso (or: aws configure)" if status == "not found" else None

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact request. Pure."""
        used = self.capabilities(receipt.target).limits.validation != "unused"
        return core.Request(
            operation="bedrock CreateModelCustomizationJob (POST /model-customization-jobs)",
            body=requests.build(receipt, files, self.settings, validation=used),
        )

    def write_grader_source(self, grader: Grader) -> str:
        """Return the source of a Lambda function that scores as llmtune does, to be deployed by the user."""
        return write_grader_source(grader)

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Check the request by AWS's service model, then the bucket and its region, the files and the role.

        botocore itself checks no maximum, no pattern and no enum, and AWS may say so only when the job has failed.
        """
        if missing := self.settings.missing():
            problem = self.settings.describe_missing(self.name, missing)
            return [error("setting", problem, "llmtune doctor shows what is set")]
        keyed = requests.with_key(requests.with_sample_files(request.body), _SAMPLE_KEY)
        findings = [
            error("request", f"{path} {fault}", "AWS would refuse the job")
            for path, fault in service_model.faults("bedrock", "CreateModelCustomizationJob", keyed)
        ]
        findings += self._storage.check_inputs(requests.input_files(request.body))
        if problem := targets.wrong_region(request.body.get("baseModelIdentifier", ""), self._sdk.region):
            findings.append(warning("region", problem, f"set region under [providers.{self.name}]"))
        config = (request.body.get("customizationConfig") or {}).get("rftConfig") or {}
        function = ((config.get("graderConfig") or {}).get("lambdaGrader") or {}).get("lambdaArn")
        # A grader that is itself a function was tried on many rows already.
        if function and self._sample is not None and not isinstance(self._sample.grader, LambdaGrader):
            findings += try_function(self.open_function(self._sample.grader, function), self._sample)
        return findings

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one call. The key is AWS's idempotency token, so that the same call never makes two jobs."""
        self.settings.require(self.name, "bucket", "role_arn")
        keyed = requests.with_key(request.body, key)
        try:
            with self._sdk.translate_errors("starting the job"):
                answer = self._sdk.bedrock.create_model_customization_job(**keyed)
        except VendorError as refused:
            job = self.find(key) if refused.code == CONFLICT else None
            if job is None:
                raise
            return job  # the name ends in our key: a job of that name is ours
        if "jobArn" not in answer:
            raise TransientError("AWS's answer to the new job could not be read", sent=True, raw=str(answer))
        return responses.job_ref(answer["jobArn"], keyed["jobName"])

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job whose name ends in this key."""
        with self._sdk.translate_errors("looking for the run's job"):
            pages = self._sdk.bedrock.get_paginator("list_model_customization_jobs").paginate(nameContains=key)
            for page in pages:
                for entry in page.get("modelCustomizationJobSummaries", []):
                    if entry["jobName"].endswith(f"-{key}"):
                        return responses.job_ref(entry["jobArn"], entry["jobName"])
        return None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the job's state and, once it has ended, its final losses and the curves from S3."""
        with self._sdk.translate_errors(f"looking at the job {job.id}"):
            answer = self._sdk.bedrock.get_model_customization_job(jobIdentifier=job.id)
        if "jobArn" not in answer:
            raise TransientError("AWS's answer about the job could not be read", sent=True, raw=str(answer)[:200])
        points: list[Any] = []
        optional = core.OptionalReads()
        if responses.read_state(str(answer.get("status")))[0].final:
            try:
                with optional.reading("the curves"):
                    output = answer["outputDataConfig"]["s3Uri"]
                    points = list(self._storage.curves(output, responses.job_id(answer["jobArn"])))
            except LlmtuneError as fault:  # the losses of the API still stand: say what is missing, and go on
                optional.warnings = (f"the curves could not be read: {fault.message}",)
        family = targets.find_family(responses.base_id(str(answer.get("baseModelArn", ""))))
        unused = family is not None and family.limits.validation == "unused"
        snapshot = responses.snapshot(
            answer, points, validation_unused="this family does not use validation rows" if unused else ""
        )
        return optional.complete(core.only_new_events(snapshot, since or {}))

    def cancel(self, job: core.JobRef) -> None:
        """Ask AWS to stop the job; it is Stopping first, then Stopped."""
        try:
            with self._sdk.translate_errors(f"stopping the job {job.id}"):
                self._sdk.bedrock.stop_model_customization_job(jobIdentifier=job.id)
        except VendorError as refused:
            if refused.code != CONFLICT:  # it has ended already
                raise

    # --- serving -----------------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """Make a custom model answer: on demand where its base allows it, else on throughput you allowed to buy."""
        return inference.deploy(self._sdk, model, key, on_demand=targets.on_demand(model.base or ""))

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the deployment that is named after this key."""
        return inference.find(self._sdk, key)

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone already."""
        inference.undeploy(self._sdk, ref)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a base model or a deployment; a custom model answers only through a deployment."""
        if isinstance(ref, core.DeploymentRef):
            return inference.ConverseGenerator(self._sdk, ref.id, ref)
        if not ref.tuned:
            return inference.ConverseGenerator(self._sdk, ref.id)
        if targets.on_demand(ref.base or ""):
            return core.Unavailable("a custom model answers only through a deployment (evaluation.deploy: true)")
        return core.Unavailable(
            f"models tuned from {ref.base} answer only on provisioned throughput, which is bought by the hour:"
            f" set provisioned_units under [providers.{self.name}] and evaluation.deploy: true to allow it"
        )

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the base model under its inference id, which is not its tuning id."""
        model = receipt.target.model
        if model.startswith("arn:"):
            return core.Unavailable("the base is a custom model, which answers only through a deployment")
        chosen = receipt.target.options.get("base_inference_id") or targets.inference_id(model)
        return core.ModelRef(id=chosen, base=model, tuned=False)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that ask this model through boto3."""
        region = self.settings.value_of("region") or "us-east-1"
        deployed = "# deploy the model first; modelId is then the deployment's ARN\n"
        note = deployed if getattr(ref, "tuned", False) else ""
        return (
            "import boto3\n\n"
            f'client = boto3.client("bedrock-runtime", region_name="{region}")\n'
            f"{note}answer = client.converse(\n"
            f'    modelId="{ref.id}",\n'
            '    messages=[{"role": "user", "content": [{"text": "Hello"}]}],\n'
            ")\n"
            'print(answer["output"]["message"]["content"][0]["text"])\n'
        )

    # --- weights that were trained elsewhere --------------------------------------------------------------------------
    def import_cost(self) -> str:
        """Return in a sentence what an imported model costs."""
        return imports.COST

    def find_import(self, key: core.RunKey) -> core.WeightImport | None:
        """Find the last import that carries this key."""
        return imports.find(self._sdk, key)

    def import_weights(self, folder: Path, name: str, key: core.RunKey) -> core.WeightImport:
        """Upload a merged model's folder to the bucket and start its import."""
        return imports.start(self._sdk, self._storage, folder, name, key)

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every custom model that the account owns in this region."""
        yield from core.read_each(self._custom_models(), responses.remote_model, self.name)

    def _custom_models(self) -> Iterator[Mapping[str, Any]]:
        with self._sdk.translate_errors("listing the custom models"):
            for page in self._sdk.bedrock.get_paginator("list_custom_models").paginate(isOwned=True):
                yield from page.get("modelSummaries", [])

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a custom model: its base, hyperparameters and files."""
        with self._sdk.translate_errors(f"reading the model {remote.id}"):
            model = self._sdk.bedrock.get_custom_model(modelIdentifier=remote.id)
        values, unmapped = responses.hyperparameters(model.get("hyperParameters") or {})
        files = {}
        if train := (model.get("trainingDataConfig") or {}).get("s3Uri"):
            files["train"] = train
        validators = (model.get("validationDataConfig") or {}).get("validators") or []
        if validators:
            files["validation"] = validators[0]["s3Uri"]
        return core.RemoteJob(
            id=model.get("jobArn") or remote.id,
            model=model["modelArn"],
            base=responses.base_id(model.get("baseModelArn") or remote.base or ""),
            method="reinforcement" if model.get("customizationType") == requests.REINFORCEMENT else "sft",
            hyperparameters=values,
            unmapped=unmapped,
            files=files,
            name=model.get("modelName"),
            record={key: value for key, value in model.items() if key not in responses.HELD},
            data={"customization": model.get("customizationType")},
        )

    def delete(self, ref: core.AnyRef) -> None:
        """Remove an upload of ours, a deployment or a custom model. Jobs stay: AWS cannot delete them."""
        if isinstance(ref, core.UploadRef):
            self._storage.delete(ref.id)
        elif isinstance(ref, core.DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, core.ModelRef):
            with core.ignore_not_found(), self._sdk.translate_errors(f"deleting the model {ref.id}"):
                self._sdk.bedrock.delete_custom_model(modelIdentifier=ref.id)
