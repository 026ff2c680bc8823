"""The Vertex AI backend."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidSettings, LlmtuneError, TransientError, VendorError
from llmtune.provider import (
    AnyRef,
    Billed,
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
from llmtune_vertex import declarations, requests, responses
from llmtune_vertex import settings as account
from llmtune_vertex.settings import VertexOptions, VertexSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.provider import Capabilities, EncodedDataset, MetricPoint, Receipt
    from llmtune_vertex.client import Sdk
    from llmtune_vertex.files import Storage

CATALOG = Path(__file__).with_name("catalog.toml")

#: While a job runs its curves are read at most this often, in seconds: each reading is several calls.
CURVE_SECONDS = 60.0


class VertexProvider:
    """Gemini and open models on Vertex AI, through google-genai (tuning, generation) and google-cloud-storage."""

    kind = "vertex"
    hosted = True
    listed = True
    #: Google does not say how far its lists lag; two minutes are generous.
    submit_safety = SubmitSafety(kind="searchable", window=120.0)
    Options = VertexOptions
    Settings = VertexSettings
    requirements = (
        Requirement(extra="vertex", module="google.genai", distribution="google-genai"),
        Requirement(extra="vertex", module="google.cloud.storage", distribution="google-cloud-storage"),
    )

    def __init__(self, name: str = "vertex", settings: VertexSettings | None = None) -> None:
        self.name = name
        self.settings = settings or VertexSettings()

    @cached_property
    def _sdk(self) -> Sdk:
        from llmtune_vertex.client import Sdk

        return Sdk(self.name, self.settings)

    @cached_property
    def _storage(self) -> Storage:
        from llmtune_vertex.files import Storage

        return Storage(self._sdk)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        known = catalog.load(self.kind, CATALOG)
        return declarations.capabilities(target, known, account.location(self.settings))

    def ready(self) -> Readiness:
        """Whether extra, settings and credentials are there, from files and variables alone."""
        installed = all(_installed(each.module) for each in self.requirements)
        found = account.credentials(self.settings)
        unset = account.missing(self.settings)
        hint = None
        if not installed:
            hint = "pip install 'llmtune-sdk[vertex]'"
        elif unset:
            hint = account.needs(self.name, unset)
        elif found == "not found":
            hint = "gcloud auth application-default login"
        return Readiness(
            extra="installed" if installed else "missing", credentials=found, missing_settings=unset, hint=hint
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows as Gemini `contents` (or preference rows) to content-named files in `into`."""
        from llmtune.provider import encode_dataset

        return encode_dataset(data, self.capabilities(receipt.target).limits.format, into)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact request. Pure."""
        where = (
            f"projects/{account.project(self.settings) or '<project>'}"
            f"/locations/{account.location(self.settings) or '<location>'}"
        )
        return Request(
            operation=f"POST /v1beta1/{where}/tuningJobs", body=requests.build(receipt, files, self.settings)
        )

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """The settings, the bucket, the files, where the model is tuned, and whether a job is running already."""
        unset = account.missing(self.settings)
        if unset:
            return [error("setting", account.needs(self.name, unset), "llmtune doctor shows what is set")]
        findings = []
        try:
            self._storage.look()
        except InvalidSettings as fault:
            return [error("bucket", fault.message, "mend it, or create the bucket")]
        except TransientError:
            raise
        except LlmtuneError as fault:  # reading objects may be allowed where looking at the bucket is not
            findings.append(warning("bucket", fault.message, "the upload will tell"))
        from llmtune_vertex.files import parse

        spec = request.body.get(requests.PREFERENCE) or request.body.get(requests.SUPERVISED) or {}
        uris = [spec.get(key, "<") for key in ("trainingDatasetUri", "validationDatasetUri")]
        findings += [
            error("file", f"{uri} is not there", "upload it again")
            for uri in uris
            if not uri.startswith("<")  # a placeholder: the file is not uploaded yet
            and self._storage.size(*parse(uri)) is None
        ]
        base = request.body.get("baseModel", "")
        entry = catalog.load(self.kind, CATALOG).model(base)[0]
        regions = entry.facts.get("regions", ())
        if regions and self._sdk.location not in regions:
            said = f"{base} is tuned in {' or '.join(regions)}; location is {self._sdk.location!r}"
            findings.append(warning("location", said, f"mend location under [providers.{self.name}]"))
        if request.body.get("encryptionSpec") and entry.facts.get("cmek") is False:
            said = f"{base} does not support customer-managed keys (kms_key_name)"
            findings.append(error("encryption", said, "leave kms_key_name unset for this model"))
        running = [
            job["name"]
            for job in islice(self._jobs(), 100)
            if not responses.state(str(job.get("state") or ""))[0].final
        ]
        if running:
            said = f"{len(running)} tuning job(s) are not finished; a project may run 1 at once by default"
            findings.append(warning("quota", said, "wait for them, or ask for more quota"))
        return findings

    def _jobs(self, filter: str | None = None) -> Iterator[dict[str, Any]]:
        config: dict[str, Any] = {"page_size": 100}
        if filter:
            config["filter"] = filter
        with self._sdk.calling("listing the tuning jobs"):
            for job in self._sdk.genai().tunings.list(config=config):
                yield job.model_dump(mode="json", by_alias=True, exclude_none=True)

    def find_upload(self, digest: str) -> UploadRef | None:
        """The object with this content in our folder of the bucket."""
        return self._storage.find(digest)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file, named by its content."""
        return self._storage.upload(file)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one call, with the run key as a label by which `find` finds it."""
        account.require(self.name, self.settings, "project", "location", "bucket")
        base, train, config, extra = requests.sdk_arguments(requests.with_key(request.body, key))
        client = self._sdk.genai()
        from google.genai import types

        options = types.HttpOptions(extra_body=extra) if extra else None
        with self._sdk.calling("starting the job"):
            job = client.tunings.tune(
                base_model=base,
                training_dataset=types.TuningDataset(gcs_uri=train),
                config=types.CreateTuningJobConfig(**config, http_options=options),
            )
        if not job.name:
            raise TransientError("Google's answer to the new job could not be read", sent=True)
        return responses.job_ref({"name": job.name})

    def find(self, key: RunKey) -> JobRef | None:
        """The job that carries this key as a label."""

        def mine(jobs: Iterator[dict[str, Any]]) -> JobRef | None:
            found = (job for job in jobs if (job.get("labels") or {}).get(declarations.RUN_LABEL) == key)
            job = next(found, None)
            return responses.job_ref(job) if job else None

        try:
            return mine(self._jobs(f'labels.{declarations.RUN_LABEL}="{key}"'))
        except VendorError as refused:
            if refused.status != 400:
                raise
            return mine(self._jobs())  # a filter that the service does not take: look at every job

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """The job's state; curves once a minute while it runs, and once more when it has ended."""
        answer = self._get(job.id)
        cursor = dict(since or {})
        points: list[MetricPoint] = []
        unreadable: tuple[str, ...] = ()
        now = responses.state(str(answer.get("state") or ""))[0]
        due = time.time() - float(cursor.get("curves_at", 0.0)) >= CURVE_SECONDS
        if (experiment := answer.get("experiment")) and (now.final or due):
            from llmtune_vertex import metrics

            try:
                points = metrics.read(self._sdk, experiment)
                cursor["curves_at"] = time.time()
            except TransientError:
                raise
            except LlmtuneError as fault:  # a job without curves is still a job
                unreadable = (f"the curves could not be read: {fault.message}",) if now.final else ()
        seen = responses.snapshot(answer, points)
        told = cursor.get("events", [])
        fresh = tuple(event for event in seen.events if event.id not in told)
        cursor["events"] = [*told, *(event.id for event in fresh)]
        return seen.model_copy(
            update={
                "events": fresh,
                "cursor": cursor,
                "warnings": (*seen.warnings, *unreadable),
                "billed": self._priced(seen.billed, str(answer.get("baseModel") or "")),
            }
        )

    def _priced(self, billed: Billed | None, base: str) -> Billed | None:
        """The billed tokens in money, where the catalogue has a price; Google tells tokens only."""
        price = catalog.load(self.kind, CATALOG).model(base)[0].price
        if billed is None or billed.tokens is None or price.training is None:
            return billed
        return billed.model_copy(
            update={
                "amount": billed.tokens / 1e6 * price.training,
                "currency": price.currency,
                "source": f"{billed.source} x {price.training:g} {price.currency} per million ({price.source})",
            }
        )

    def _get(self, name: str) -> dict[str, Any]:
        with self._sdk.calling(f"looking at the job {name}"):
            job = self._sdk.genai(responses.location_of(name)).tunings.get(name=name)
            told: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not told.get("name"):
            raise TransientError("Google's answer about the job could not be read", sent=True)
        return told

    def cancel(self, job: JobRef) -> None:
        """Ask Google to stop the job; it is CANCELLING first, then CANCELLED. One that has ended is left alone."""
        try:
            with self._sdk.calling(f"cancelling the job {job.id}"):
                self._sdk.genai(responses.location_of(job.id)).tunings.cancel(name=job.id)
        except VendorError as refused:
            if refused.status != 400 or not responses.state(str(self._get(job.id).get("state") or ""))[0].final:
                raise

    # --- serving -----------------------------------------------------------------------------------------------------
    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Nothing to deploy: a tuned Gemini has its endpoint from the job, billed by the token."""
        return None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """There are no deployments of ours."""
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """Remove an endpoint."""
        self.delete(ModelRef(id=ref.id, data=ref.data))

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """A base model, a tuned endpoint or a checkpoint's endpoint in hand."""
        model = ref if isinstance(ref, ModelRef) else ModelRef(id=ref.id)
        if model.data.get("weights") or model.id.startswith("gs://"):
            return Unavailable(
                f"the weights of an open model are files ({model.id}): deploy them from Model Garden to ask them"
            )
        from llmtune_vertex.inference import GeminiGenerator

        return GeminiGenerator(self._sdk, model, self._serving_location(model))

    def _serving_location(self, model: ModelRef) -> str | None:
        """Where a model answers: as set, where its endpoint is, or the multi-region of Gemini 3."""
        if self.settings.serving_location:
            return self.settings.serving_location
        if where := responses.location_of(model.id):
            return where
        location = self._sdk.location
        entry, _ = catalog.load(self.kind, CATALOG).model(model.base or model.id)
        if entry.facts.get("generation") == "multi-region" and location != "global":
            return "eu" if location.startswith("eu") else "us"
        return location

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The untuned Gemini; open models answer only once deployed."""
        model = receipt.target.model
        if receipt.family == "open models":
            return Unavailable("an open base model answers only once you have deployed it from Model Garden")
        if model.startswith("projects/") and "/endpoints/" not in model:
            return Unavailable("the base is a tuned model, which answers through its own endpoint")
        return ModelRef(id=model, base=model, tuned=False)

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """The tuned model's resource name; a checkpoint goes along as an option."""
        checkpoint = model.data.get("checkpoint_id")
        options = {"pre_tuned_model_checkpoint_id": checkpoint} if checkpoint else {}
        return str(model.data.get("model") or model.id), options

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """Python that asks this model through google-genai."""
        project = account.project(self.settings) or "YOUR_PROJECT"
        location = self.settings.serving_location or responses.location_of(ref.id) or account.location(self.settings)
        return (
            "from google import genai\n\n"
            f'client = genai.Client(vertexai=True, project="{project}", location="{location or "us-central1"}")\n'
            f'answer = client.models.generate_content(model="{ref.id}", contents="Hello")\n'
            "print(answer.text)\n"
        )

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model that a tuning job in this location has left."""
        for job in self._jobs():
            model = responses.tuned_model(job)
            if model is not None:
                yield RemoteModel(
                    id=model.id,
                    base=model.base,
                    job=job.get("name"),
                    created=responses.seconds(job.get("endTime") or job.get("createTime")) or None,
                    data={**model.data, "name": job.get("tunedModelDisplayName")},
                )

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model: its base, hyperparameters and files."""
        name = remote.job or next((each.job for each in self.inventory() if each.id == remote.id), None)
        if name is None:
            raise LlmtuneError(f"no tuning job in {self._sdk.location} has made the model {remote.id}")
        return responses.remote_job(self._get(name))

    def download(self, file_id: str, into: Path) -> Path:
        """Bring a Cloud Storage object here."""
        return self._storage.download(file_id, into)

    def delete(self, ref: AnyRef) -> None:
        """Remove an upload of ours, or a tuned model with its endpoint. Jobs stay: Google cannot delete them."""
        if isinstance(ref, UploadRef):
            self._storage.delete(ref.id)
        elif isinstance(ref, DeploymentRef):
            self.undeploy(ref)
        elif isinstance(ref, ModelRef):
            from llmtune_vertex import inference

            inference.remove(self._sdk, ref)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
