"""The Vertex AI backend."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import llmtune.provider as core
from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidSettings, LlmtuneError, TransientError, VendorError
from llmtune.graders.job_trial import Sample, choose_sample
from llmtune_vertex import capabilities as targets
from llmtune_vertex import declarations, inference, metrics, open_models, preflight, requests, responses, settings
from llmtune_vertex.client import GENAI, STORAGE, Sdk
from llmtune_vertex.errors import LOG_IN, names_adapter_size, rank_hint
from llmtune_vertex.files import CloudStorage
from llmtune_vertex.graders import write_grader_source

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.job.graders import Grader

#: While a job runs its curves are read at most this often, in seconds: each reading is several calls.
CURVE_SECONDS = 60.0


class VertexProvider(core.StoredUploads, core.BaseProvider):
    """Gemini and open models on Vertex AI, through google-genai (tuning, generation) and google-cloud-storage."""

    kind = "vertex"
    parameters = declarations.GEMINI
    catalog = targets.CATALOG
    limits = targets.GEMINI_LIMITS
    methods = targets.METHODS
    adapters = targets.ADAPTERS
    abilities = targets.GEMINI_ABILITIES
    #: Google does not say how far its lists lag; two minutes are generous.
    submit_safety = core.SubmitSafety(kind="searchable", window=120.0)
    Options: type[BaseModel] = settings.VertexOptions
    Settings: type[BaseModel] = settings.VertexSettings
    requirements = (GENAI, STORAGE)
    _storage: CloudStorage

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        self._sdk = Sdk(self.name, self.settings)
        self._storage = CloudStorage(self.name, self.settings, self._sdk)
        self._sample: Sample | None = None

    # --- offline -----------------------------------------------------------------------------------------------------
    def find_credentials(self) -> core.Credentials:
        """Return whether Google's chain, or the variable that `token_env` names, has something to read."""
        status = settings.find_credentials(self.settings)
        return status, LOG_IN if status == "not found" else None

    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports, by the family of its model. Pure."""
        location = self.settings.value_of("location")
        return targets.by_family(super().capabilities(target).in_region(location), target, location)

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact request. Pure."""
        project, location = self.settings.value_of("project"), self.settings.value_of("location")
        parent = f"projects/{project or '<project>'}/locations/{location or '<location>'}"
        return core.Request(
            operation=f"POST /v1beta1/{parent}/tuningJobs", body=requests.build(receipt, files, self.settings)
        )

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Write the rows; of a reinforcement job one is remembered, on which Google tries the grader in `preflight`."""
        encoded = super().encode(data, receipt, into)
        self._sample = choose_sample(receipt["grader"].requested, data.train)
        return encoded

    def write_grader_source(self, grader: Grader) -> str:
        """Return the Python source by which Vertex AI scores an answer."""
        return write_grader_source(grader)

    # --- online ------------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Check the settings, the bucket, the files, the tuning region, and whether a job is running already."""
        if missing := self.settings.missing():
            problem = self.settings.describe_missing(self.name, missing)
            return [error("setting", problem, "llmtune doctor shows what is set")]
        findings = []
        try:
            self._storage.look()
        except InvalidSettings as fault:
            return [error("bucket", fault.message, "fix it, or create the bucket")]
        except TransientError:
            raise
        except LlmtuneError as fault:  # reading objects may be allowed where looking at the bucket is not
            findings.append(warning("bucket", fault.message, "the upload will tell"))
        spec: dict[str, Any] = next(
            (request.body[name] for name, _ in requests.SPECS.values() if request.body.get(name)), {}
        )
        uris = [spec.get(key, "<") for key in ("trainingDatasetUri", "validationDatasetUri")]
        findings += [
            error("file", f"{uri} is not there", "upload it again")
            for uri in uris
            if not uri.startswith("<")  # a placeholder: the file is not uploaded yet
            and self._storage.size(*self._storage.parse(uri)) is None
        ]
        base = request.body.get("baseModel", "")
        if problem := targets.wrong_location(base, self._sdk.location):
            findings.append(warning("location", problem, f"fix location under [providers.{self.name}]"))
        if request.body.get("encryptionSpec") and targets.facts(base).get("cmek") is False:
            problem = f"{base} does not support customer-managed keys (kms_key_name)"
            findings.append(error("encryption", problem, "leave kms_key_name unset for this model"))
        if (reward := spec.get("singleRewardConfig")) and self._sample is not None:
            findings += preflight.check_reward(self._sdk, reward, self._sample)
        running = [
            job["name"]
            for job in islice(self._jobs(), 100)
            if not responses.read_state(str(job.get("state") or ""))[0].final
        ]
        if running:
            problem = f"{len(running)} tuning job(s) are not finished; a project may run 1 at once by default"
            findings.append(warning("quota", problem, "wait for them, or ask for more quota"))
        return findings

    def _jobs(self, filter: str | None = None) -> Iterator[dict[str, Any]]:
        config: dict[str, Any] = {"page_size": 100}
        if filter:
            config["filter"] = filter
        with self._sdk.translate_errors("listing the tuning jobs"):
            for job in self._sdk.genai().tunings.list(config=config):
                yield job.model_dump(mode="json", by_alias=True, exclude_none=True)

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one call, with the run key as a label by which `find` finds it."""
        self.settings.require(self.name, "project", "location", "bucket")
        base, train, config, extra = requests.sdk_arguments(requests.with_key(request.body, key))
        client = self._sdk.genai()
        from google.genai import types

        options = types.HttpOptions(extra_body=extra) if extra else None
        try:
            with self._sdk.translate_errors("starting the job"):
                job = client.tunings.tune(
                    base_model=base,
                    training_dataset=types.TuningDataset(gcs_uri=train),
                    config=types.CreateTuningJobConfig(**config, http_options=options),
                )
        except VendorError as refused:
            if names_adapter_size(str(refused.raw)):
                refused.hint = rank_hint(targets.adapter_sizes(str(base)))
            raise
        if not job.name:
            raise TransientError("Google's answer to the new job could not be read", sent=True)
        return responses.job_ref({"name": job.name})

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job that carries this key as a label."""
        label = declarations.RUN_LABEL
        for filter in (f'labels.{label}="{key}"', None):  # a service may not take the filter: look at every job
            try:
                jobs = (job for job in self._jobs(filter) if (job.get("labels") or {}).get(label) == key)
                job = next(jobs, None)
            except VendorError as refused:
                if filter is None or refused.status != 400:
                    raise
            else:
                return responses.job_ref(job) if job else None
        return None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the job's state; curves once a minute while it runs, and once more when it has ended."""
        answer = self._get(job.id)
        cursor = dict(since or {})
        points: list[core.MetricPoint] = []
        optional = core.OptionalReads()
        now = responses.read_state(str(answer.get("state") or ""))[0]
        due = time.time() - float(cursor.get("curves_at", 0.0)) >= CURVE_SECONDS
        if (experiment := answer.get("experiment")) and (now.final or due):
            try:
                with optional.reading("the curves"):
                    points = metrics.read(self._sdk, experiment)
                    cursor["curves_at"] = time.time()
            except LlmtuneError as fault:  # a package that is missing here; a job without curves is still a job
                optional.warnings = (f"the curves could not be read: {fault.message}",)
            if not now.final:  # they are read again
                optional.warnings = ()
        snapshot = responses.snapshot(answer, points)
        billed = self._add_price(snapshot.billed, str(answer.get("baseModel") or ""))
        snapshot = core.only_new_events(snapshot.model_copy(update={"billed": billed}), cursor)
        return optional.complete(snapshot)

    def _add_price(self, billed: core.Billed | None, base: str) -> core.Billed | None:
        """Return the bill in money if the catalogue has a price; Google reports tokens only."""
        price = targets.load_catalog().model(base)[0].price
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
        with self._sdk.translate_errors(f"looking at the job {name}"):
            job = self._sdk.genai(responses.location_of(name)).tunings.get(name=name)
            answer: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not answer.get("name"):
            raise TransientError("Google's answer about the job could not be read", sent=True)
        return answer

    def cancel(self, job: core.JobRef) -> None:
        """Ask Google to stop the job; it is CANCELLING first, then CANCELLED. One that has ended is left alone."""
        try:
            with self._sdk.translate_errors(f"cancelling the job {job.id}"):
                self._sdk.genai(responses.location_of(job.id)).tunings.cancel(name=job.id)
        except VendorError as refused:
            if refused.status != 400 or not responses.read_state(str(self._get(job.id).get("state") or ""))[0].final:
                raise

    # --- serving -----------------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """Deploy a tuned open model, on machines billed by the hour; a tuned Gemini has its endpoint already."""
        return open_models.deploy(self._sdk, model, key) if model.data.get("weights") else None

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the endpoint of an open model that is named after this key."""
        return open_models.find(self._sdk, key)

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Remove an endpoint; quietly done when it is gone already."""
        if ref.data.get("open"):
            open_models.undeploy(self._sdk, ref)
        else:
            inference.remove(self._sdk, ref)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a base model, a tuned endpoint or a checkpoint's endpoint."""
        if isinstance(ref, core.DeploymentRef) and ref.data.get("open"):
            return open_models.OpenModelGenerator(self._sdk, ref)
        model = ref if isinstance(ref, core.ModelRef) else core.ModelRef(id=ref.id)
        if model.data.get("weights") or model.id.startswith("gs://"):
            return core.Unavailable(
                f"the weights of an open model are files ({model.id}), which answer only from a deployment"
                " (evaluation.deploy: true)"
            )
        return inference.GeminiGenerator(self._sdk, model, self._serving_location(model))

    def _serving_location(self, model: core.ModelRef) -> str | None:
        """Return where a model answers: as set, where its endpoint is, or the multi-region of Gemini 3."""
        if self.settings.serving_location:
            return str(self.settings.serving_location)
        if where := responses.location_of(model.id):
            return where
        location = self._sdk.location
        if targets.facts(model.base or model.id).get("generation") == "multi-region" and location != "global":
            return "eu" if location.startswith("eu") else "us"
        return location

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the untuned Gemini; open models answer only once deployed."""
        model = receipt.target.model
        if receipt.family == "open models":
            return core.Unavailable("an open base model answers only once you have deployed it from Model Garden")
        if model.startswith("projects/") and "/endpoints/" not in model:
            return core.Unavailable("the base is a tuned model, which answers through its own endpoint")
        return core.ModelRef(id=model, base=model, tuned=False)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """Return the tuned model's resource name; a checkpoint goes along as an option."""
        checkpoint = model.data.get("checkpoint_id")
        options = {"pre_tuned_model_checkpoint_id": checkpoint} if checkpoint else {}
        return str(model.data.get("model") or model.id), options

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that ask this model through google-genai."""
        project = self.settings.value_of("project") or "YOUR_PROJECT"
        location = self.settings.serving_location or responses.location_of(ref.id) or self.settings.value_of("location")
        return (
            "from google import genai\n\n"
            f'client = genai.Client(vertexai=True, project="{project}", location="{location or "us-central1"}")\n'
            f'answer = client.models.generate_content(model="{ref.id}", contents="Hello")\n'
            "print(answer.text)\n"
        )

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every tuned model of the tuning jobs in this location."""
        yield from core.read_each(self._jobs(), responses.remote_model, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model: its base, hyperparameters and files."""
        name = remote.job or next((model.job for model in self.inventory() if model.id == remote.id), None)
        if name is None:
            raise LlmtuneError(f"no tuning job in {self._sdk.location} has made the model {remote.id}")
        return responses.remote_job(self._get(name))

    def delete(self, ref: core.AnyRef) -> None:
        """Remove an upload of ours, or a tuned model with its endpoint. Jobs stay: Google cannot delete them."""
        if isinstance(ref, core.UploadRef):
            self._storage.delete(ref.id)
        elif isinstance(ref, (core.ModelRef, core.DeploymentRef)):
            inference.remove(self._sdk, ref)
