"""The Together AI backend."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from llmtune import _clock
from llmtune.errors import InvalidData, NotTranslatable, QuotaExceeded, TransientError, VendorError
from llmtune.provider import (
    AnyRef,
    Capabilities,
    Cursor,
    DeploymentRef,
    EncodedFile,
    Files,
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
from llmtune_together import declarations, inference, preflight, records, requests, responses, weights
from llmtune_together import settings as account
from llmtune_together.client import plain, speaking
from llmtune_together.settings import TogetherOptions, TogetherSettings

if TYPE_CHECKING:
    from together import Together

    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.rendering.preview import Peek
    from llmtune.provider import CostEstimate, EncodedDataset, Provider, Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


#: Where a person can look at a job.
JOB_PAGE = "https://api.together.ai/fine-tuning/{id}"


class TogetherProvider:
    """Open models tuned at Together AI, through the `together` SDK.

    A job carries its run key at the end of its suffix, the only label the service keeps.
    """

    kind = "together"
    hosted = True
    listed = True
    submit_safety = SubmitSafety(kind="searchable", window=60.0)
    Options: type[BaseModel] = TogetherOptions
    Settings: type[BaseModel] = TogetherSettings
    requirements: tuple[Requirement, ...] = (Requirement(extra="together", module="together", distribution="together"),)

    def __init__(self, name: str = "together", settings: TogetherSettings | None = None) -> None:
        self.name = name
        self.settings = settings or TogetherSettings()
        self._made: Together | None = None

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure; the model's live limits are asked for in `preflight`."""
        known = catalog.load(self.kind, CATALOG)
        entry, warnings = known.model(target.model) if target.model else (known.default, ())
        return Capabilities(
            parameters=declarations.declarations(target.options),
            family=entry.family,
            limits=declarations.limits(entry.max_tokens_per_row),
            lifecycle=entry.lifecycle or known.lifecycle,
            price=entry.price,
            abilities=declarations.ABILITIES,
            methods=declarations.METHODS,
            adapters=declarations.ADAPTERS,
            known_model=not warnings,
            warnings=warnings,
        )

    def ready(self) -> Readiness:
        """Whether the SDK and the key are there, without using the network or importing the SDK."""
        return account.ready(self.settings)

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in Together's format to content-named files in `into`."""
        from llmtune.provider import encode_dataset

        return encode_dataset(data, self.capabilities(receipt.target).limits.format, into)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body that the SDK will send. Pure."""
        return Request(operation="POST /v1/fine-tunes", body=requests.build(receipt, files))

    # --- online: before money is spent -------------------------------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """Hold the request to the model's live limits and the account's own; nothing is changed or spent."""
        found = preflight.evaluations(request.body)
        client = self._client()
        limits = plain(self._limits(client, request.body), self.name, "ask for the model's limits")
        found += preflight.against_limits(request.body, limits)
        if not request.body["training_file"].startswith("<"):
            found += preflight.over_limit(self._estimate(client, request.body))
        return found

    def quote(self, request: Request) -> CostEstimate:
        """The service's own estimate of the price, once the files are uploaded."""
        return preflight.estimate(self._estimate(self._client(), request.body), _clock.today())

    def preview(self, model: str, file_id: str, *, rows: int = 5, prompts_too: bool | None = None) -> list[Peek]:
        """The first rows of an uploaded file as this model will be trained on them, token by token.

        Args:
            model: the base model, whose tokenizer and template are used.
            file_id: an uploaded training file.
            rows: how many rows, from the start.
            prompts_too: whether prompt tokens are trained; None is the service's choice for the rows' format.
        """
        client = self._client()
        asked: dict[str, Any] = {} if prompts_too is None else {"train_on_inputs": prompts_too}
        with speaking(self.name, "preview the training rows"):
            answer = client.fine_tuning.preview(model=model, training_file=file_id, top_k=rows, **asked)
        return responses.peeks(plain(answer, self.name, "preview the training rows"), self.name)

    def peek(self, model: str, examples: Sequence[Example]) -> list[Peek]:
        """The service's own view of these rows, to stand beside ours: they are uploaded, previewed and deleted."""
        from llmtune.data.convert import write

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "llmtune-preview.jsonl"
            write(examples, path, declarations.ROW_FORMAT)
            content = path.read_bytes()
            file = EncodedFile(
                role="train",
                path=path,
                sha256=hashlib.sha256(content).hexdigest(),
                rows=len(examples),
                bytes=len(content),
                format=declarations.ROW_FORMAT,
            )
            ref = self.upload(file)
        try:
            shown = self.preview(model, ref.id, rows=len(examples))
        finally:
            self.delete(ref)
        return [each._replace(line=row.line) for each, row in zip(shown, examples, strict=False)]

    # --- online: files -----------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of ours with this content: its name holds the first 16 digits of the hash."""
        with speaking(self.name, "list the files"):
            answer = self._client().files.list()
        for file in plain(answer, self.name, "list the files").get("data") or ():
            named = digest[:16] in str(file.get("filename"))
            if named and file.get("processing_status") in (None, "COMPLETED"):
                return UploadRef(id=file["id"], digest=digest, data={"filename": file["filename"]})
        return None

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one file and wait until the service has checked it."""
        import together

        client = self._client()
        try:
            with speaking(self.name, f"upload {file.path.name}"):
                answer = client.files.upload(file.path, purpose="fine-tune", check=True)
        except together.lib.FileTypeError as error:
            raise InvalidData(f"{self.name}: Together's checker refused {file.path.name}: {error}") from error
        told = plain(answer, self.name, f"upload {file.path.name}")
        self._checked(client, file.path.name, told)
        return UploadRef(
            id=told["id"], digest=file.sha256, role=file.role, data={"filename": told.get("filename", file.path.name)}
        )

    def _checked(self, client: Together, filename: str, told: dict[str, Any]) -> None:
        deadline = time.monotonic() + self.settings.file_wait
        while told.get("processing_status") not in (None, "COMPLETED"):
            refused = told["processing_status"] in ("FAILED", "INVALID_FORMAT")
            if refused and "validation_report" in told:
                raise responses.invalid_file(self.name, filename, told)
            if time.monotonic() > deadline:
                raise TransientError(
                    f"{self.name}: {filename} is still being checked after {self.settings.file_wait:.0f} s"
                )
            time.sleep(self.settings.poll_interval)
            with speaking(self.name, f"look at {filename}"):
                told = plain(client.files.retrieve(told["id"]), self.name, f"look at {filename}")
            if refused:  # the answer to the upload itself has no report
                raise responses.invalid_file(self.name, filename, told)

    # --- online: the job ---------------------------------------------------------------------------------------------
    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one paid call, after the SDK's two questions (limits, price); nothing is retried."""
        # A connection kept open may be dead by now; on a fresh one a failure says more about what arrived.
        client = account.client(self.name, self.settings)
        action = "create the fine-tuning job"
        try:
            given = requests.arguments(self._with_key(request.body, key))
        except ValueError as error:
            raise NotTranslatable(f"{self.name} cannot run this job: {error}", provider=self.name) from error
        limits = self._limits(client, request.body)
        self._watch_price(client)
        try:
            with speaking(self.name, action), contextlib.redirect_stdout(io.StringIO()):  # the SDK prints for SimPO
                answer = client.fine_tuning.create(**given, model_limits=limits)
        except ValueError as error:  # the SDK's own checks, before anything was sent
            raise NotTranslatable(f"{self.name} cannot run this job: {error}", provider=self.name) from error
        except (AttributeError, TypeError) as error:  # an estimate that is no JSON breaks the SDK
            raise TransientError(f"{self.name}: {action}: an answer that cannot be read ({error})") from error
        return self._job(plain(answer, self.name, action))

    def _watch_price(self, client: Together) -> None:
        """Let the SDK's own question for the price refuse a job that the account could not pay; it ignores that."""
        tuning = client.fine_tuning
        ask = tuning.estimate_price

        def watched(**given: Any) -> Any:
            answer = ask(**given)
            refused = preflight.over_limit(plain(answer, self.name, "ask for the price", question=True))
            if refused:
                raise QuotaExceeded(f"{self.name}: {refused[0].message}", hint=refused[0].remedy)
            return answer

        setattr(tuning, "estimate_price", watched)  # noqa: B010 - this client serves this one submit

    def _with_key(self, asked: dict[str, Any], key: RunKey) -> dict[str, Any]:
        """The body with the run key in its suffix and the secrets that it names by variable."""
        sent = dict(asked)
        sent["suffix"] = f"{asked['suffix']}-{key}" if asked.get("suffix") else key
        for field in requests.SECRETS:
            if field in sent:
                variable = str(sent[field]).removeprefix("${").removesuffix("}")
                sent[field] = account.secret(self.name, variable, field)
        return sent

    def find(self, key: RunKey) -> JobRef | None:
        """The job whose suffix (or output name) carries this key; the oldest, if there were several."""
        jobs = [
            job for job in self._jobs() if key in str(job.get("suffix")) or key in str(job.get("model_output_name"))
        ]
        if not jobs:
            return None
        return self._job(min(jobs, key=lambda job: str(job.get("created_at"))))

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """The job's record, the metrics since the cursor, its events and its checkpoints."""
        client = self._client()
        tuning = client.fine_tuning
        action = f"look at job {job.id}"
        with speaking(self.name, action):
            record = plain(tuning.retrieve(job.id), self.name, action)
            if "status" not in record:
                raise TransientError(f"{self.name}: {action}: an answer without a status")
            step = (since or {}).get("step")
            from_step = {} if step is None else {"global_step_from": step}
            metrics = plain(tuning.list_metrics(job.id, **from_step), self.name, action)
            said = plain(tuning.list_events(job.id), self.name, action)
            saved: dict[str, Any] = {}
            if responses.state(record["status"])[0].final:
                saved = plain(tuning.list_checkpoints(job.id), self.name, action)
        return responses.snapshot(
            record,
            metrics=metrics.get("metrics") or (),
            said=said.get("data") or (),
            checkpoints=saved.get("data") or (),
            since=since,
        )

    def cancel(self, job: JobRef) -> None:
        """Ask the service to stop; a job that has ended already is left as it is."""
        client = self._client()
        try:
            with speaking(self.name, f"cancel job {job.id}"):
                client.fine_tuning.cancel(job.id)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status not in (400, 409):
                raise
            with speaking(self.name, f"look at job {job.id}"):
                record = plain(client.fine_tuning.retrieve(job.id), self.name, f"look at job {job.id}")
            if not responses.state(str(record.get("status")))[0].final:
                raise

    # --- online: the model -------------------------------------------------------------------------------------------
    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """A dedicated endpoint for a tuned model, billed by the minute; it stops by itself when idle."""
        return inference.Endpoints(self.name, self.settings).deploy(model, key) if model.tuned else None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """The endpoint that carries this key, if the account's project is known."""
        return inference.Endpoints(self.name, self.settings).find(key)

    def undeploy(self, ref: DeploymentRef) -> None:
        """Stop and remove a dedicated endpoint; quietly done when it is gone already."""
        inference.Endpoints(self.name, self.settings).undeploy(ref)

    def generator(self, ref: ModelRef | DeploymentRef) -> inference.ChatGenerator | Unavailable:
        """A deployment or a serverless base model, over chat completions."""
        if isinstance(ref, ModelRef) and ref.tuned:
            return Unavailable("a tuned model answers from a dedicated endpoint, billed by the minute")
        return inference.ChatGenerator(self.name, account.client(self.name, self.settings), ref.id)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The base model, where it is served without an endpoint."""
        model = receipt.target.model
        if model.endswith("-Reference"):
            return Unavailable(f"{model} can be tuned and is not served (a -Reference model)")
        return ModelRef(id=model, tuned=False)

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """The base model, with the job (or one of its steps) as the checkpoint to go on from."""
        step = model.data.get("step")
        job = str(model.data["job"])
        return str(model.base or model.id), {"from_checkpoint": f"{job}:{step}" if step is not None else job}

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """A few lines that call this model through the SDK."""
        note = ""
        if isinstance(ref, ModelRef) and ref.tuned:
            note = "# A tuned model answers from a dedicated endpoint: deploy it, and put its name here.\n"
        return (
            "from together import Together\n\n"
            f"client = Together()  # reads {self.settings.api_key_env}\n"
            f"{note}answer = client.chat.completions.create(\n"
            f'    model="{ref.id}",\n'
            '    messages=[{"role": "user", "content": "Hello!"}],\n'
            ")\nprint(answer.choices[0].message.content)\n"
        )

    def download_adapter(self, model: ModelRef, into: Path) -> Path:
        """The LoRA adapter of a tuned model or checkpoint, unpacked in PEFT's layout."""
        return weights.download_adapter(self.name, self._client(), model, into)

    # --- online: what the account owns -------------------------------------------------------------------------------
    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model the account owns."""
        for job in self._jobs():
            if job.get("status") == "completed" and job.get("model_output_name"):
                yield records.model(job)

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model."""
        if remote.job is None:
            raise VendorError(f"{self.name}: no job is known behind {remote.id}")
        action = f"look at job {remote.job}"
        with speaking(self.name, action):
            return records.fetched(plain(self._client().fine_tuning.retrieve(remote.job), self.name, action))

    def download(self, file_id: str, into: Path) -> Path:
        """Bring an uploaded file here; `into` is a folder, or the file to write."""
        client = self._client()
        with speaking(self.name, f"download {file_id}"):
            told = plain(client.files.retrieve(file_id), self.name, f"look at {file_id}")
            path = into / Path(str(told.get("filename") or file_id)).name if into.is_dir() else into
            with client.files.with_streaming_response.content(file_id) as answer:
                answer.stream_to_file(path)
        return path

    def delete(self, ref: AnyRef) -> None:
        """Remove a file, a job with its model, or an endpoint; quietly done when it is gone already."""
        if isinstance(ref, DeploymentRef):
            return self.undeploy(ref)
        client = self._client()
        try:
            with speaking(self.name, f"delete {ref.id}"):
                if isinstance(ref, UploadRef):
                    client.files.delete(ref.id)
                else:
                    client.fine_tuning.delete(str(ref.data.get("job", ref.id)))
        except VendorError as error:
            if error.status != 404:
                raise

    # --- pieces ------------------------------------------------------------------------------------------------------
    def _client(self) -> Together:
        if self._made is None:  # making one costs 0.1 s, and a poll makes four calls
            self._made = account.client(self.name, self.settings)
        return self._made

    def _limits(self, client: Together, asked: dict[str, Any]) -> Any:
        model = asked.get("model") or str(asked["from_checkpoint"]).split(":")[0]
        with speaking(self.name, f"ask for the limits of {model}"):
            found = client.fine_tuning.model_limits(model_name=model)
        plain(found, self.name, f"ask for the limits of {model}", question=True)
        return found

    def _estimate(self, client: Together, asked: dict[str, Any]) -> dict[str, Any]:
        kind = asked["training_type"]
        given: dict[str, Any] = {name: asked[name] for name in ("model", "from_checkpoint") if name in asked}
        if asked.get("validation_file"):
            given["validation_file"] = asked["validation_file"]
        if kind["type"] == "Full" or {"lora_r", "lora_alpha"} <= set(kind):
            given["training_type"] = kind
        with speaking(self.name, "ask for the price"):
            answer = client.fine_tuning.estimate_price(
                training_file=asked["training_file"],
                n_epochs=asked["n_epochs"],
                n_evals=asked["n_evals"],
                training_method=asked["training_method"],
                **given,
            )
        return plain(answer, self.name, "ask for the price")

    def _jobs(self) -> list[dict[str, Any]]:
        with speaking(self.name, "list the fine-tuning jobs"):
            answer = self._client().fine_tuning.list()
        return list(plain(answer, self.name, "list the fine-tuning jobs").get("data") or ())

    def _job(self, record: dict[str, Any]) -> JobRef:
        if not record.get("id"):
            raise TransientError(f"{self.name}: the service answered with a job that has no id")
        return JobRef(id=record["id"], url=JOB_PAGE.format(id=record["id"]), data={"suffix": record.get("suffix")})


if TYPE_CHECKING:
    _: Provider = TogetherProvider()
