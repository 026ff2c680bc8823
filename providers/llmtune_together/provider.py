"""The Together AI backend."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import llmtune.provider as core
from llmtune import _clock
from llmtune.config import require_secret
from llmtune.errors import (
    InvalidData,
    NotTranslatable,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune_together import declarations, inference, preflight, requests, responses, weights
from llmtune_together.client import KEYS, SDK, Connection
from llmtune_together.settings import TogetherOptions, TogetherSettings

if TYPE_CHECKING:
    from together import Together

    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.rendering.preview import Peek

#: Where a person can look at a job.
JOB_PAGE = "https://api.together.ai/fine-tuning/{id}"


class TogetherProvider(core.BaseProvider):
    """Open models tuned at Together AI, through the `together` SDK.

    A job carries its run key at the end of its suffix, the only label the service keeps.
    """

    kind = "together"
    parameters = declarations.PARAMETERS
    catalog = Path(__file__).with_name("catalog.toml")
    limits = declarations.LIMITS
    methods = declarations.METHODS
    adapters = declarations.ADAPTERS
    abilities = declarations.ABILITIES
    submit_safety = core.SubmitSafety(kind="searchable", window=60.0)
    Options: type[BaseModel] = TogetherOptions
    Settings: type[BaseModel] = TogetherSettings
    requirements = (SDK,)

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        self._connection = Connection(self.name, self.settings)
        self._endpoints = inference.Endpoints(self._connection)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """What this target can express. Pure; the model's live limits are asked for in `preflight`."""
        return replace(super().capabilities(target), parameters=declarations.declarations(target.options))

    def find_credentials(self) -> core.Credentials:
        """Whether the key is there, and where one is made."""
        status, command = super().find_credentials()
        return status, command and f"{command}  {KEYS}"

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """The exact body that the SDK will send. Pure."""
        return core.Request(operation="POST /v1/fine-tunes", body=requests.build(receipt, files))

    # --- online: before money is spent -------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Hold the request to the model's live limits and the account's own; nothing is changed or spent."""
        findings = preflight.evaluations(request.body)
        limits = self._limits(self._connection.sdk, request.body)
        findings += preflight.against_limits(request.body, self._connection.plain(limits, "ask for the model's limits"))
        if not request.body["training_file"].startswith("<"):
            findings += preflight.over_limit(self._estimate(request.body))
        return findings

    def quote(self, request: core.Request) -> core.CostEstimate:
        """The service's own estimate of the price, once the files are uploaded."""
        return preflight.estimate(self._estimate(request.body), _clock.today())

    def preview(self, model: str, file_id: str, *, rows: int = 5, prompts_too: bool | None = None) -> list[Peek]:
        """The first rows of an uploaded file as this model will be trained on them, token by token.

        Args:
            model: the base model, whose tokenizer and template are used.
            file_id: an uploaded training file.
            rows: how many rows, from the start.
            prompts_too: whether prompt tokens are trained; None is the service's choice for the rows' format.
        """
        options: dict[str, Any] = {} if prompts_too is None else {"train_on_inputs": prompts_too}
        answer = self._connection.ask(
            "preview the training rows",
            lambda sdk: sdk.fine_tuning.preview(model=model, training_file=file_id, top_k=rows, **options),
        )
        return responses.previews(answer, self.name)

    def peek(self, model: str, examples: Sequence[Example]) -> list[Peek]:
        """The service's own view of these rows, to stand beside ours: they are uploaded, previewed and deleted."""
        from llmtune.data.convert import write

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "llmtune-preview.jsonl"
            write(examples, path, declarations.ROW_FORMAT)
            content = path.read_bytes()
            file = core.EncodedFile(
                role="train",
                path=path,
                sha256=hashlib.sha256(content).hexdigest(),
                rows=len(examples),
                bytes=len(content),
                format=declarations.ROW_FORMAT,
            )
            ref = self.upload(file)
        try:
            previews = self.preview(model, ref.id, rows=len(examples))
        finally:
            self.delete(ref)
        return [preview._replace(line=row.line) for preview, row in zip(previews, examples, strict=False)]

    # --- online: files -----------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> core.UploadRef | None:
        """A file of ours with this content: its name holds the first 16 digits of the hash."""
        for file in self._connection.ask("list the files", lambda sdk: sdk.files.list()).get("data") or ():
            named = digest[:16] in str(file.get("filename"))
            if named and file.get("processing_status") in (None, "COMPLETED"):
                return core.UploadRef(id=file["id"], digest=digest, data={"filename": file["filename"]})
        return None

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Upload one file and wait until the service has checked it."""
        SDK.require(f"provider {self.name}")
        import together

        try:
            answer = self._connection.ask(
                f"upload {file.path.name}",
                lambda sdk: sdk.files.upload(file.path, purpose="fine-tune", check=True),
            )
        except together.lib.FileTypeError as error:
            raise InvalidData(f"{self.name}: Together's checker refused {file.path.name}: {error}") from error
        self._wait_until_checked(file.path.name, answer)
        filename = answer.get("filename", file.path.name)
        return core.UploadRef(id=answer["id"], digest=file.sha256, role=file.role, data={"filename": filename})

    def _wait_until_checked(self, filename: str, answer: dict[str, Any]) -> None:
        limit, pause = self.settings.file_wait, self.settings.poll_interval
        for _ in core.growing_pauses(limit, first=pause, longest=pause):
            if answer.get("processing_status") in (None, "COMPLETED"):
                return
            if answer["processing_status"] in ("FAILED", "INVALID_FORMAT") and "validation_report" in answer:
                raise responses.invalid_file(self.name, filename, answer)
            refused = answer["processing_status"] in ("FAILED", "INVALID_FORMAT")
            answer = self._connection.ask(f"look at {filename}", lambda sdk, id=answer["id"]: sdk.files.retrieve(id))  # type: ignore[misc]
            if refused:  # the answer to the upload itself has no report
                raise responses.invalid_file(self.name, filename, answer)
        raise TransientError(f"{self.name}: {filename} is still being checked after {limit:.0f} s")

    # --- online: the job ---------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one paid call, after the SDK's two questions (limits, price); nothing is retried."""
        # A connection kept open may be dead by now; on a fresh one a failure says more about what arrived.
        sdk = self._connection.open()
        action = "create the fine-tuning job"
        body = self._with_key(request.body, key)
        limits = self._limits(sdk, body)
        self._check_price(sdk)
        try:
            arguments = requests.arguments(body)
            # The SDK prints for SimPO.
            with self._connection.translate_errors(action), contextlib.redirect_stdout(io.StringIO()):
                answer = sdk.fine_tuning.create(**arguments, model_limits=limits)
        except ValueError as error:  # our own check of the body or the SDK's, before anything was sent
            raise NotTranslatable(f"{self.name} cannot run this job: {error}", provider=self.name) from error
        except (AttributeError, TypeError) as error:  # an estimate that is no JSON breaks the SDK
            raise TransientError(f"{self.name}: {action}: an answer that cannot be read ({error})") from error
        return self._ref(self._connection.plain(answer, action))

    def _check_price(self, sdk: Together) -> None:
        """Let the SDK's own question for the price refuse a job that the account could not pay; it ignores that."""
        tuning = sdk.fine_tuning
        estimate_price = tuning.estimate_price

        def checked(**arguments: Any) -> Any:
            answer = estimate_price(**arguments)
            findings = preflight.over_limit(self._connection.plain(answer, "ask for the price", question=True))
            if findings:
                raise QuotaExceeded(f"{self.name}: {findings[0].message}", hint=findings[0].remedy)
            return answer

        setattr(tuning, "estimate_price", checked)  # noqa: B010 - this client serves this one submit

    def _with_key(self, body: Mapping[str, Any], key: core.RunKey) -> dict[str, Any]:
        """The body with the run key in its suffix and the secrets that it names by variable."""
        sent = {**body, "suffix": f"{body['suffix']}-{key}" if body.get("suffix") else key}
        for field in requests.SECRETS:
            if field in sent:
                variable = str(sent[field]).removeprefix("${").removesuffix("}")
                sent[field] = require_secret(variable, f"provider {self.name}: no {field}")
        return sent

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """The job whose suffix (or output name) carries this key; the oldest, if there were several."""
        jobs = [
            job for job in self._jobs() if key in str(job.get("suffix")) or key in str(job.get("model_output_name"))
        ]
        return self._ref(min(jobs, key=lambda job: str(job.get("created_at")))) if jobs else None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """The job's record, the metrics since the cursor, its events and its checkpoints."""
        action = f"look at job {job.id}"
        record = self._job(job.id)
        if "status" not in record:
            raise TransientError(f"{self.name}: {action}: an answer without a status")
        step = (since or {}).get("step")
        first = {} if step is None else {"global_step_from": step}
        metrics = self._connection.ask(action, lambda sdk: sdk.fine_tuning.list_metrics(job.id, **first))
        events = self._connection.ask(action, lambda sdk: sdk.fine_tuning.list_events(job.id))
        checkpoints: dict[str, Any] = {}
        if responses.state(record["status"])[0].final:
            checkpoints = self._connection.ask(action, lambda sdk: sdk.fine_tuning.list_checkpoints(job.id))
        return responses.snapshot(
            record,
            metrics=metrics.get("metrics") or (),
            events=events.get("data") or (),
            checkpoints=checkpoints.get("data") or (),
            since=since,
        )

    def cancel(self, job: core.JobRef) -> None:
        """Ask the service to stop; a job that has ended already is left as it is."""
        try:
            with self._connection.translate_errors(f"cancel job {job.id}"):
                self._connection.sdk.fine_tuning.cancel(job.id)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status not in (400, 409):
                raise
            if not responses.state(str(self._job(job.id).get("status")))[0].final:
                raise

    # --- online: the model -------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """A dedicated endpoint for a tuned model, billed by the minute; it stops by itself when idle."""
        return self._endpoints.deploy(model, key) if model.tuned else None

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """The endpoint that carries this key. Raises `InvalidSettings` while the account's project is not known."""
        return self._endpoints.find(key)

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Stop and remove a dedicated endpoint; quietly done when it is gone already."""
        self._endpoints.undeploy(ref)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """A deployment or a serverless base model, over chat completions."""
        if isinstance(ref, core.ModelRef) and ref.tuned:
            return core.Unavailable("a tuned model answers from a dedicated endpoint, billed by the minute")
        return inference.ChatGenerator(self._connection, ref.id)

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """The base model, where it is served without an endpoint."""
        model = receipt.target.model
        if model.endswith("-Reference"):
            return core.Unavailable(f"{model} can be tuned and is not served (a -Reference model)")
        return super().base_model(receipt)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """The base model, with the job (or one of its steps) as the checkpoint to go on from."""
        step = model.data.get("step")
        job = str(model.data["job"])
        return str(model.base or model.id), {"from_checkpoint": f"{job}:{step}" if step is not None else job}

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """A few lines that call this model through the SDK."""
        deployed = "# A tuned model answers from a dedicated endpoint: deploy it, and put its name here.\n"
        note = deployed if getattr(ref, "tuned", False) else ""
        return (
            "from together import Together\n\n"
            f"client = Together()  # reads {self.key_variable}\n"
            f"{note}answer = client.chat.completions.create(\n"
            f'    model="{ref.id}",\n'
            '    messages=[{"role": "user", "content": "Hello!"}],\n'
            ")\nprint(answer.choices[0].message.content)\n"
        )

    def download_adapter(self, model: core.ModelRef, into: Path) -> Path:
        """The LoRA adapter of a tuned model or checkpoint, unpacked in PEFT's layout."""
        return weights.download_adapter(self._connection, model, into)

    # --- online: what the account owns -------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Every tuned model the account owns."""

        def read(job: Mapping[str, Any]) -> core.RemoteModel | None:
            return responses.remote_model(job) if job.get("status") == "completed" else None

        yield from core.read_each(self._jobs(), read, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """The job behind a tuned model."""
        if remote.job is None:
            raise VendorError(f"{self.name}: no job is known behind {remote.id}")
        return responses.remote_job(self._job(remote.job))

    def download(self, file_id: str, into: Path) -> Path:
        """Bring an uploaded file here; `into` is a folder, or the file to write."""
        file = self._connection.ask(f"look at {file_id}", lambda sdk: sdk.files.retrieve(file_id))
        path = into / Path(str(file.get("filename") or file_id)).name if into.is_dir() else into
        with self._connection.translate_errors(f"download {file_id}"):
            with self._connection.sdk.files.with_streaming_response.content(file_id) as answer:
                answer.stream_to_file(path)
        return path

    def delete(self, ref: core.AnyRef) -> None:
        """Remove a file, a job with its model, or an endpoint; quietly done when it is gone already."""
        if isinstance(ref, core.DeploymentRef):
            self.undeploy(ref)
            return
        with core.ignore_not_found(), self._connection.translate_errors(f"delete {ref.id}"):
            if isinstance(ref, core.UploadRef):
                self._connection.sdk.files.delete(ref.id)
            else:
                self._connection.sdk.fine_tuning.delete(str(ref.data.get("job", ref.id)))

    # --- pieces ------------------------------------------------------------------------------------------------------
    def _limits(self, sdk: Together, body: Mapping[str, Any]) -> Any:
        """The model's live limits, as the SDK's `create` takes them."""
        model = body.get("model") or str(body["from_checkpoint"]).split(":")[0]
        action = f"ask for the limits of {model}"
        with self._connection.translate_errors(action):
            limits = sdk.fine_tuning.model_limits(model_name=model)
        self._connection.plain(limits, action, question=True)
        return limits

    def _estimate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        arguments = {name: body[name] for name in ("model", "from_checkpoint", "validation_file") if body.get(name)}
        training_type = body["training_type"]
        if training_type["type"] == "Full" or {"lora_r", "lora_alpha"} <= set(training_type):
            arguments["training_type"] = training_type
        for name in ("training_file", "n_epochs", "n_evals", "training_method"):
            arguments[name] = body[name]
        return self._connection.ask("ask for the price", lambda sdk: sdk.fine_tuning.estimate_price(**arguments))

    def _jobs(self) -> list[dict[str, Any]]:
        answer = self._connection.ask("list the fine-tuning jobs", lambda sdk: sdk.fine_tuning.list())
        return list(answer.get("data") or ())

    def _job(self, id: str) -> dict[str, Any]:
        return self._connection.ask(f"look at job {id}", lambda sdk: sdk.fine_tuning.retrieve(id))

    def _ref(self, record: Mapping[str, Any]) -> core.JobRef:
        if not record.get("id"):
            raise TransientError(f"{self.name}: the service answered with a job that has no id")
        data = {"suffix": record.get("suffix")}
        return core.JobRef(id=record["id"], url=JOB_PAGE.format(id=record["id"]), data=data)
