"""The Bedrock backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidSettings, LlmtuneError, TransientError, VendorError
from llmtune.provider import (
    AnyRef,
    Cursor,
    DeploymentRef,
    EncodedFile,
    Files,
    Generator,
    JobRef,
    ModelRef,
    Readiness,
    RemoteJob,
    RemoteModel,
    Request,
    Requirement,
    RunKey,
    Snapshot,
    SubmitSafety,
    Target,
    Unavailable,
    UploadRef,
    catalog,
)
from llmtune_bedrock import capabilities as targets
from llmtune_bedrock import requests, responses, service_model
from llmtune_bedrock import settings as account
from llmtune_bedrock.settings import BedrockOptions, BedrockSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.provider import Capabilities, EncodedDataset, Receipt
    from llmtune_bedrock.client import Sdk
    from llmtune_bedrock.files import Storage

CATALOG = Path(__file__).with_name("catalog.toml")

#: A key of the right shape, to judge a request before it has one of its own.
_SAMPLE_KEY = "lt0000000000"


class BedrockProvider:
    """Model customization jobs on AWS Bedrock, through boto3 (bedrock, bedrock-runtime, s3)."""

    kind = "bedrock"
    hosted = True
    listed = True
    submit_safety = SubmitSafety(kind="token")
    Options = BedrockOptions
    Settings = BedrockSettings
    requirements = (Requirement(extra="bedrock", module="boto3", distribution="boto3"),)

    def __init__(self, name: str = "bedrock", settings: BedrockSettings | None = None) -> None:
        self.name = name
        self.settings = settings or BedrockSettings()

    @cached_property
    def _sdk(self) -> Sdk:
        from llmtune_bedrock.client import Sdk

        return Sdk(self.name, self.settings)

    @cached_property
    def _storage(self) -> Storage:
        from llmtune_bedrock.files import Storage

        return Storage(self._sdk)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        return targets.capabilities(target, catalog.load(self.kind, CATALOG), account.region(self.settings))

    def ready(self) -> Readiness:
        """Whether extra, settings and credentials are there, from files and variables alone."""
        installed = importlib.util.find_spec("boto3") is not None
        found = account.credentials()
        unset = account.missing(self.settings)
        hint = None
        if not installed:
            hint = "pip install 'llmtune-sdk[bedrock]'"
        elif unset:
            hint = account.needs(self.name, unset)
        elif found == "not found":
            hint = "aws configure sso (or: aws configure)"
        return Readiness(
            extra="installed" if installed else "missing", credentials=found, missing_settings=unset, hint=hint
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in the family's own format to content-named files in `into`."""
        from llmtune.provider import encode_dataset

        limits = self.capabilities(receipt.target).limits
        return encode_dataset(data, limits.format, into, validation=limits.validation != "unused")

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact request. Pure."""
        used = self.capabilities(receipt.target).limits.validation != "unused"
        return Request(
            operation="bedrock CreateModelCustomizationJob (POST /model-customization-jobs)",
            body=requests.build(receipt, files, self.settings, validation=used),
        )

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """Everything that AWS's service model says of the request, the bucket and its region, the files, the role.

        botocore itself checks no maximum, no pattern and no enum, and AWS may say so only when the job has failed.
        """
        unset = account.missing(self.settings)
        if unset:
            return [error("setting", account.needs(self.name, unset), "llmtune doctor shows what is set")]
        keyed = requests.with_key(requests.with_sample_files(request.body), _SAMPLE_KEY)
        findings = [
            error("request", f"{path} {fault}", "AWS would refuse the job")
            for path, fault in service_model.faults("bedrock", "CreateModelCustomizationJob", keyed)
        ]
        from llmtune_bedrock.files import check_region, parse

        try:
            if wrong := check_region(self._storage, self._sdk.region):
                findings.append(error("region", wrong, "use a bucket in the job's region"))
        except InvalidSettings as fault:
            return [*findings, error("bucket", fault.message, "mend it, or create the bucket")]
        except VendorError as fault:
            if fault.status != 403:
                raise
            findings.append(warning("bucket", fault.message, "s3:ListBucket would let its region be checked"))
        for uri in _inputs(request.body):
            bucket, key = parse(uri)
            if self._storage.size(bucket, key) is None:
                findings.append(error("file", f"{uri} is not there, or may not be read", "upload it again"))
        base = request.body.get("baseModelIdentifier", "")
        regions = catalog.load(self.kind, CATALOG).model(base)[0].facts.get("regions", ())
        if regions and self._sdk.region not in regions:
            findings.append(
                warning(
                    "region",
                    f"{base} is tuned in {' or '.join(regions)}; the region is {self._sdk.region}",
                    "set region under [providers." + self.name + "]",
                )
            )
        return findings

    def find_upload(self, digest: str) -> UploadRef | None:
        """The object with this content in our folder of the bucket."""
        return self._storage.find(digest)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file, named by its content."""
        return self._storage.upload(file)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one call. The key is AWS's idempotency token, so that the same call never makes two jobs."""
        account.require(self.name, self.settings, "bucket", "role_arn")
        keyed = requests.with_key(request.body, key)
        client = self._sdk.bedrock
        from botocore.exceptions import ClientError

        with self._sdk.calling("starting the job"):
            try:
                answer = client.create_model_customization_job(**keyed)
            except ClientError as refused:
                if refused.response.get("Error", {}).get("Code") == "ConflictException":
                    mine = self.find(key)  # the name ends in our key: a job of that name is ours
                    if mine is not None:
                        return mine
                raise
        if "jobArn" not in answer:
            raise TransientError("AWS's answer to the new job could not be read", sent=True, raw=str(answer))
        return self._job(answer["jobArn"], keyed["jobName"])

    def find(self, key: RunKey) -> JobRef | None:
        """The job whose name ends in this key."""
        with self._sdk.calling("looking for the run's job"):
            pages = self._sdk.bedrock.get_paginator("list_model_customization_jobs").paginate(nameContains=key)
            for page in pages:
                for entry in page.get("modelCustomizationJobSummaries", []):
                    if entry["jobName"].endswith(f"-{key}"):
                        return self._job(entry["jobArn"], entry["jobName"])
        return None

    def _job(self, arn: str, name: str) -> JobRef:
        region = arn.split(":")[3] if arn.count(":") > 3 else ""
        console = f"https://{region}.console.aws.amazon.com/bedrock/home?region={region}#/custom-models"
        return JobRef(id=arn, data={"name": name}, url=console if region else None)

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """The job's state and, once it has ended, its final losses and the curves from S3."""
        with self._sdk.calling(f"looking at the job {job.id}"):
            answer = self._sdk.bedrock.get_model_customization_job(jobIdentifier=job.id)
        if "jobArn" not in answer:
            raise TransientError("AWS's answer about the job could not be read", sent=True, raw=str(answer)[:200])
        points: list[Any] = []
        unreadable: tuple[str, ...] = ()
        if responses.state(str(answer.get("status")))[0].final:
            try:
                output = answer["outputDataConfig"]["s3Uri"]
                points = list(self._storage.curves(output, responses.job_id(answer["jobArn"])))
            except TransientError:
                raise
            except LlmtuneError as fault:  # the losses of the API still stand: say what is missing, and go on
                unreadable = (f"the curves could not be read: {fault.message}",)
        unused = ""
        base = responses.base_id(str(answer.get("baseModelArn", "")))
        if self.capabilities(self._target(base)).limits.validation == "unused":
            unused = "this family does not use validation rows"
        seen = responses.snapshot(answer, points, validation_unused=unused)
        told = (since or {}).get("events", [])
        fresh = tuple(event for event in seen.events if event.id not in told)
        return seen.model_copy(
            update={
                "events": fresh,
                "warnings": (*seen.warnings, *unreadable),
                "cursor": {"events": [*told, *(event.id for event in fresh)]},
            }
        )

    def _target(self, model: str) -> Target:
        return Target(provider=self.name, kind=self.kind, model=model)

    def cancel(self, job: JobRef) -> None:
        """Ask AWS to stop the job; it is Stopping first, then Stopped."""
        client = self._sdk.bedrock
        from botocore.exceptions import ClientError

        with self._sdk.calling(f"stopping the job {job.id}"):
            try:
                client.stop_model_customization_job(jobIdentifier=job.id)
            except ClientError as refused:
                if refused.response.get("Error", {}).get("Code") != "ConflictException":  # it has ended already
                    raise

    # --- serving -----------------------------------------------------------------------------------------------------
    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Make a custom model answer: on demand where its base allows it, else on throughput you allowed to buy."""
        from llmtune_bedrock import inference

        return inference.deploy(self._sdk, model, key, on_demand=self._on_demand(model))

    def _on_demand(self, model: ModelRef) -> bool:
        known = catalog.load(self.kind, CATALOG)
        base = model.base or ""
        entry, _ = known.model(base if base in known.models else targets.tuning_id_of(base, known) or base)
        return targets.on_demand(entry)

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """The deployment that is named after this key."""
        from llmtune_bedrock import inference

        return inference.find(self._sdk, key)

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove a deployment; quietly done when it is gone already."""
        from llmtune_bedrock import inference

        inference.undeploy(self._sdk, ref)

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """A base model or a deployment in hand; a custom model answers only through a deployment."""
        from llmtune_bedrock.inference import ConverseGenerator

        if isinstance(ref, DeploymentRef):
            return ConverseGenerator(self._sdk, ref.id, ref)
        if not ref.tuned:
            return ConverseGenerator(self._sdk, ref.id)
        if self._on_demand(ref):
            return Unavailable("a custom model answers only through a deployment (evaluation.deploy: true)")
        return Unavailable(
            f"models tuned from {ref.base} answer only on provisioned throughput, which is bought by the hour:"
            f" set provisioned_units under [providers.{self.name}] and evaluation.deploy: true to allow it"
        )

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The base model under its inference id, which is not its tuning id."""
        model = receipt.target.model
        if model.startswith("arn:"):
            return Unavailable("the base is a custom model, which answers only through a deployment")
        chosen = receipt.target.options.get("base_inference_id") or targets.inference_id(model)
        return ModelRef(id=chosen, base=model, tuned=False)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """Python that asks this model through boto3."""
        region = account.region(self.settings) or "us-east-1"
        note = ""
        if isinstance(ref, ModelRef) and ref.tuned:
            note = "# deploy the model first; modelId is then the deployment's ARN\n"
        return (
            "import boto3\n\n"
            f'client = boto3.client("bedrock-runtime", region_name="{region}")\n'
            f"{note}answer = client.converse(\n"
            f'    modelId="{ref.id}",\n'
            '    messages=[{"role": "user", "content": [{"text": "Hello"}]}],\n'
            ")\n"
            'print(answer["output"]["message"]["content"][0]["text"])\n'
        )

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[RemoteModel]:
        """Every custom model the account owns in this region."""
        with self._sdk.calling("listing the custom models"):
            for page in self._sdk.bedrock.get_paginator("list_custom_models").paginate(isOwned=True):
                for entry in page.get("modelSummaries", []):
                    yield RemoteModel(
                        id=entry["modelArn"],
                        base=responses.base_id(entry["baseModelArn"]),
                        created=responses.seconds(entry["creationTime"]),
                        data={"name": entry["modelName"], "status": entry.get("modelStatus")},
                    )

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a custom model: its base, hyperparameters and files."""
        with self._sdk.calling(f"reading the model {remote.id}"):
            model = self._sdk.bedrock.get_custom_model(modelIdentifier=remote.id)
        known, others = responses.hyperparameters(model.get("hyperParameters") or {})
        files = {}
        if train := (model.get("trainingDataConfig") or {}).get("s3Uri"):
            files["train"] = train
        validators = (model.get("validationDataConfig") or {}).get("validators") or []
        if validators:
            files["validation"] = validators[0]["s3Uri"]
        return RemoteJob(
            id=model.get("jobArn") or remote.id,
            model=model["modelArn"],
            base=responses.base_id(model.get("baseModelArn") or remote.base or ""),
            hyperparameters=known,
            unmapped=others,
            files=files,
            data={"name": model["modelName"], "customization": model.get("customizationType")},
        )

    def download(self, file_id: str, into: Path) -> Path:
        """Bring an S3 object here."""
        return self._storage.download(file_id, into)

    def delete(self, ref: AnyRef) -> None:
        """Remove an upload of ours, a deployment or a custom model. Jobs stay: AWS cannot delete them."""
        if isinstance(ref, UploadRef):
            self._storage.delete(ref.id)
        elif isinstance(ref, DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, ModelRef):
            client = self._sdk.bedrock
            from botocore.exceptions import ClientError

            with self._sdk.calling(f"deleting the model {ref.id}"):
                try:
                    client.delete_custom_model(modelIdentifier=ref.id)
                except ClientError as refused:
                    if refused.response.get("Error", {}).get("Code") != "ResourceNotFoundException":
                        raise


def _inputs(sent: dict[str, Any]) -> Iterator[str]:
    """The S3 addresses that a body reads from; placeholders of files that are not uploaded yet are left out."""
    validators = (sent.get("validationDataConfig") or {}).get("validators", [])
    for config in (sent.get("trainingDataConfig") or {}, *validators):
        if not str(config.get("s3Uri", "<")).startswith("<"):
            yield config["s3Uri"]
