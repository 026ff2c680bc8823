"""The SageMaker backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

import llmtune.provider as core
from llmtune.data.findings import Finding, error
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune_bedrock.files import S3Provider
from llmtune_bedrock.graders import write_grader_source
from llmtune_bedrock.settings import find_credentials
from llmtune_sagemaker import capabilities as targets
from llmtune_sagemaker import inference, preflight, prices, recipes, requests, responses, settings
from llmtune_sagemaker.client import BOTO3, Sdk
from llmtune_sagemaker.errors import IN_USE
from llmtune_sagemaker.files import S3, check_empty
from llmtune_sagemaker.metrics import Mlflow

if TYPE_CHECKING:
    from llmtune.job.graders import Grader

#: Jobs that are looked at for the one behind a model package, at most.
MOST_JOBS = 50


class SageMakerProvider(S3Provider):
    """Serverless customization jobs on Amazon SageMaker, through boto3 (sagemaker, s3).

    A job is named after its run: SageMaker takes no second job of one name, so that the same submit twice is one job.
    """

    kind = "sagemaker"
    parameters = targets.for_catalog()
    catalog = targets.CATALOG
    methods = targets.METHODS
    adapters = targets.ADAPTERS
    abilities = targets.ABILITIES
    Options: type[BaseModel] = settings.SageMakerOptions
    Settings: type[BaseModel] = settings.SageMakerSettings
    requirements = (BOTO3,)
    sdk_class = Sdk
    storage_class = S3
    rows_in_one_field = True
    _sdk: Sdk
    _storage: S3

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports, by its model's recipes as they were read last."""
        region = self.settings.value_of("region")
        found = targets.for_target(super().capabilities(target).in_region(region), target, region)
        if self.settings.evaluate_locally:
            able = replace(found.abilities, serving=True, base_serving=True)
            found = replace(found, abilities=able)
        return found

    def plan_notes(self, receipt: core.Receipt) -> Sequence[str]:
        """Return how old the recipes are that a plan goes by."""
        target = receipt.target
        seen = recipes.find(target.model, self.settings.value_of("region"), targets.find_family(target.model))
        return () if seen is None else (f"{seen.sentence()}; the hub is read before the job is sent",)

    live_prices_page = "AWS Price List API, GetProducts of AmazonSageMaker"

    def fetch_prices(self, models: Sequence[str]) -> core.PriceAnswer:
        """Ask AWS's price list what training of models costs in the region of this instance."""
        reading = prices.Reading()
        region = self._sdk.region
        for model in models:
            query = prices.build_query(model, region)
            for _ in range(prices.MAX_PAGES):
                with self._sdk.translate_errors("asking for prices"):
                    answer = self._sdk.price_list.get_products(**query)
                reading.add(model, answer.get("PriceList") or ())
                if not (token := answer.get("NextToken")):
                    break
                query["NextToken"] = token
            else:
                raise VendorError(f"asking for prices: those of {model} do not end within {prices.MAX_PAGES} pages")
        catalog = targets.load_catalog()
        return reading.answer({model: catalog.model(model)[0].methods for model in models}, region)

    def find_credentials(self) -> core.Credentials:
        """Return whether AWS's chain has something to read."""
        status = find_credentials()
        return status, "aws configure sso (or: aws configure)" if status == "not found" else None

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact request. Pure."""
        converse = targets.row_format(receipt.target.method, receipt.target.model) == targets.CONVERSE_ROWS
        return core.Request(
            operation="sagemaker CreateTrainingJob (serverless)",
            body=requests.build(receipt, files, self.settings, converse=converse),
        )

    def write_grader_source(self, grader: Grader) -> str:
        """Return the source of a Lambda function that scores as llmtune does, to be deployed by the user."""
        return write_grader_source(grader, wrapped=True)

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Check the request by AWS's service model and the model's recipe, then the bucket, the files and the group."""
        if missing := self.settings.missing():
            problem = self.settings.describe_missing(self.name, missing)
            return [error("setting", problem, "llmtune doctor shows what is set")]
        findings = preflight.check(self._sdk, self._storage, request.body)
        evaluator = (request.body.get("ServerlessJobConfig") or {}).get(recipes.EVALUATOR_ARN)
        if evaluator and self._sample is not None:
            findings += preflight.check_evaluator(self._sdk, evaluator, self._sample, self.open_function)
        return findings

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one call. A second one of its name is refused, and is the first job then."""
        self.settings.require(self.name, "bucket", "role_arn", "model_package_group")
        keyed = requests.with_key(request.body, key, self._sdk.region)
        if self.settings.create_model_package_group:
            self._before(lambda: preflight.ensure_group(self._sdk))
        name = str(keyed["TrainingJobName"])
        try:
            with self._sdk.translate_errors("starting the job"):
                answer = self._sdk.sagemaker.create_training_job(**keyed)
        except VendorError as refused:
            if refused.code != IN_USE:
                raise
            return responses.job_ref(name, self._sdk.region)  # the name ends in our key: a job of that name is ours
        if "TrainingJobArn" not in answer:
            raise TransientError("AWS's answer to the new job could not be read", sent=True, raw=str(answer)[:200])
        return responses.job_ref(name, self._sdk.region)

    def _before(self, call: Any) -> None:
        """Make a call that comes before the paid one: where it breaks, no job was sent."""
        try:
            call()
        except TransientError as broken:
            raise TransientError(
                broken.message, sent=False, retry_after=broken.retry_after, code=broken.code, raw=broken.raw
            ) from broken

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job whose name ends in this key."""
        with self._sdk.translate_errors("looking for the run's job"):
            pages = self._sdk.sagemaker.get_paginator("list_training_jobs").paginate(NameContains=key)
            for page in pages:
                for entry in page.get("TrainingJobSummaries", []):
                    for name in (entry["TrainingJobName"], responses.job_name(entry["TrainingJobArn"])):
                        if name.endswith(f"-{key}"):
                            return responses.job_ref(name, self._sdk.region)
        return None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the job's state, progress and events, and its curves where it reports to MLflow."""
        answer = self._describe(job.id)
        if not answer.get("TrainingJobName") or not answer.get("TrainingJobStatus"):
            raise TransientError("AWS's answer about the job could not be read", sent=True, raw=str(answer)[:200])
        points: list[Any] = []
        optional = core.OptionalReads()
        run = (answer.get("MlflowDetails") or {}).get("MlflowRunId")
        if self.settings.mlflow_arn and run:
            try:
                with optional.reading("the curves"):
                    ended = responses.read_state(str(answer["TrainingJobStatus"]))[0].final
                    mlflow = Mlflow(self._sdk, self.settings.mlflow_arn)
                    points = list(mlflow.curves(str(run), losses_only=not ended))
            except LlmtuneError as fault:  # the final metrics still stand: say what is missing, and go on
                optional.warnings = (f"the curves could not be read: {fault.message}",)
        return optional.complete(core.only_new_events(responses.snapshot(answer, points), since or {}))

    def _describe(self, id: str) -> Mapping[str, Any]:
        name = responses.job_name(id)
        with self._sdk.translate_errors(f"looking at the job {name}"):
            answer: Mapping[str, Any] = self._sdk.sagemaker.describe_training_job(TrainingJobName=name)
        return answer

    def cancel(self, job: core.JobRef) -> None:
        """Ask AWS to stop the job; it is Stopping first, then Stopped. Nothing happens to one that has ended."""
        name = responses.job_name(job.id)
        try:
            with self._sdk.translate_errors(f"stopping the job {name}"):
                self._sdk.sagemaker.stop_training_job(TrainingJobName=name)
        except TransientError:
            raise
        except VendorError:
            if not responses.read_state(str(self._describe(name).get("TrainingJobStatus")))[0].final:
                raise

    # --- the model ---------------------------------------------------------------------------------------------------
    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a model on this machine, where that is allowed; SageMaker itself has no endpoint from here."""
        if not self.settings.evaluate_locally or isinstance(ref, core.DeploymentRef):
            return core.Unavailable(targets.NO_ENDPOINT)
        if not ref.tuned:
            return inference.base(ref)
        return inference.tuned(self._storage, ref, self._artefacts(ref))

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the base model as it is asked on this machine, or why it is not."""
        return inference.base_model(receipt.target.model, allowed=self.settings.evaluate_locally)

    def _artefacts(self, model: core.ModelRef) -> str:
        """Return where a model's weights lie: as its package says, else as its job said."""
        if ":model-package/" in model.id:
            with self._sdk.translate_errors(f"reading the model package {model.id}"):
                package = self._sdk.sagemaker.describe_model_package(ModelPackageName=model.id)
            if uri := responses.package_artefacts(package):
                return uri
        uri = model.data.get("artefacts") or model.id
        if not str(uri).startswith("s3://"):
            raise VendorError(f"{model.id} does not say where its weights lie", hint="look into its training job")
        return str(uri)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """Return the base model, and the option that names the package to train on from."""
        return str(model.base or model.id), {"source_model_package": model.id}

    def export(self, model: core.ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Download the tuned model's weights to a folder, as the recipe has written them."""
        check_empty(into)
        self._storage.fetch_weights(self._artefacts(model), format, into)
        name = targets.hugging_face_id(model.base or "") or model.base
        if format == "merged":
            return (f"vllm serve {into}",)
        return (f'PeftModel.from_pretrained(base, "{into}") loads it, with {name} as the base',)

    def serving_command(self, model: core.ModelRef, name: str) -> str | None:
        """Return None: it lies in S3, and is exported first."""
        return None

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that say where this model lies."""
        return inference.snippet(ref, self.settings.value_of("region") or "us-east-1")

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every model package of the configured group."""
        self.settings.require(self.name, "model_package_group")
        yield from core.read_each(self._packages(), responses.remote_model, self.name)

    def _packages(self) -> Iterator[Mapping[str, Any]]:
        group = self.settings.model_package_group
        with self._sdk.translate_errors("listing the model packages"), core.ignore_not_found():
            pages = self._sdk.sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
            for page in pages:
                yield from page.get("ModelPackageSummaryList", [])

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a model package: its base, hyperparameters and files."""
        with self._sdk.translate_errors(f"reading the model package {remote.id}"):
            package = self._sdk.sagemaker.describe_model_package(ModelPackageName=remote.id)
        for name in self._candidates(package):
            job = self._describe(name)
            if job.get("OutputModelPackageArn") == remote.id:
                return responses.remote_job(job, remote.id)
        raise VendorError(
            f"{self.name}: no job of this account has made {remote.id}, among the last {MOST_JOBS} before it"
        )

    def _candidates(self, package: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of the jobs that may have made a package, the likeliest first."""
        made = package.get("CreationTime")
        within = {} if made is None else {"CreationTimeBefore": made + timedelta(hours=1)}
        with self._sdk.translate_errors("looking for the package's job"):
            answer = self._sdk.sagemaker.list_training_jobs(
                StatusEquals="Completed", SortBy="CreationTime", SortOrder="Descending", MaxResults=MOST_JOBS, **within
            )
        for entry in answer.get("TrainingJobSummaries", []):
            yield str(entry["TrainingJobName"])

    def delete(self, ref: core.AnyRef) -> None:
        """Remove an upload of ours or a model package. Weights in S3 stay: they are the user's.

        Jobs stay too: SageMaker takes a new job of a removed one's name, and the name is what keeps a run at one job.
        """
        if isinstance(ref, core.UploadRef):
            self._storage.delete(ref.id)
        elif isinstance(ref, core.ModelRef) and ":model-package/" in ref.id:
            with core.ignore_not_found(), self._sdk.translate_errors(f"deleting the model package {ref.id}"):
                self._sdk.sagemaker.delete_model_package(ModelPackageName=ref.id)
