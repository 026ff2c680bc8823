"""The Together AI backend."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import threading
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
    from llmtune.data.rendering.preview import TokenPreview

#: `redirect_stdout` replaces sys.stdout for the whole process: two threads that do it at once may not restore it.
_STDOUT_LOCK = threading.Lock()

#: The page of a job in the service's console.
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
        """Return what this target supports. Pure; the model's live limits are read in `preflight`."""
        return replace(super().capabilities(target), parameters=declarations.declarations(target.options))

    def find_credentials(self) -> core.Credentials:
        """Return whether the key is set, and the page on which to create one."""
        status, command = super().find_credentials()
        return status, command and f"{command}  {KEYS}"

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact body that the SDK will send. Pure."""
        return core.Request(operation="POST /v1/fine-tunes", body=requests.build(receipt, files))

    # --- online: before money is spent -------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Check the request against the live limits of the model and of the account; nothing is changed or spent."""
        findings = preflight.evaluations(request.body)
        limits = self._limits(self._connection.sdk, request.body)
        findings += preflight.against_limits(request.body, self._connection.plain(limits, "ask for the model's limits"))
        if not request.body["training_file"].startswith("<"):
            findings += preflight.over_limit(self._estimate(request.body))
        return findings

    def quote(self, request: core.Request) -> core.CostEstimate:
        """Return the service's own estimate of the price, once the files are uploaded."""
        return preflight.estimate(self._estimate(request.body), _clock.today())

    live_prices_page = "GET /v2/supported-models and /v2/public/inference-instance-types"

    def fetch_prices(self, models: Sequence[str]) -> core.PriceAnswer:
        """Ask for the prices of base models' answers, and of the hardware that a deployment of them needs.

        The price of training is answered for an uploaded file only (`quote`).
        """
        hardware = self._connection.request(
            "ask for the prices of hardware", lambda sdk: sdk.endpoints.hardware.list(), question=True
        )
        supported = self._connection.items("ask for the models' prices", lambda sdk: sdk.models.list_supported())
        return core.PriceAnswer(prices=responses.read_prices(supported, hardware, models))

    def preview(
        self, model: str, file_id: str, *, rows: int = 5, prompts_too: bool | None = None
    ) -> list[TokenPreview]:
        """Return the first rows of an uploaded file as this model will be trained on them, token by token.

        Args:
            model: the base model, whose tokenizer and template are used.
            file_id: an uploaded training file.
            rows: how many rows, from the start.
            prompts_too: whether prompt tokens are trained; None is the service's choice for the rows' format.
        """
        options: dict[str, Any] = {} if prompts_too is None else {"train_on_inputs": prompts_too}
        answer = self._connection.request(
            "preview the training rows",
            lambda sdk: sdk.fine_tuning.preview(model=model, training_file=file_id, top_k=rows, **options),
        )
        return responses.previews(answer, self.name)

    def preview_tokens(self, model: str, examples: Sequence[Example]) -> list[TokenPreview]:
        """Return the service's own view of these rows, for comparison with ours.

        The rows are uploaded, previewed and deleted.
        """
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
        """Find a file of ours with this content: its name holds the first 16 digits of the hash."""
        for file in self._connection.request("list the files", lambda sdk: sdk.files.list()).get("data") or ():
            has_digest = digest[:16] in str(file.get("filename"))
            if has_digest and file.get("processing_status") in (None, "COMPLETED"):
                return core.UploadRef(id=file["id"], digest=digest, data={"filename": file["filename"]})
        return None

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Upload one file and wait until the service has checked it."""
        SDK.require(f"provider {self.name}")
        import together

        try:
            answer = self._connection.request(
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
            is_refused = answer["processing_status"] in ("FAILED", "INVALID_FORMAT")
            answer = self._connection.request(
                f"look at {filename}",
                lambda sdk, id=answer["id"]: sdk.files.retrieve(id),  # type: ignore[misc]
            )
            if is_refused:  # the answer to the upload itself has no report
                raise responses.invalid_file(self.name, filename, answer)
        raise TransientError(f"{self.name}: {filename} is still being checked after {limit:.0f} s")

    # --- online: the job ---------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one paid call, after the SDK has read the limits and the price; nothing is retried."""
        # A reused connection may be dead by now; on a new one a failure says more about what arrived.
        sdk = self._connection.open()
        action = "create the fine-tuning job"
        body = self._with_key(request.body, key)
        limits = self._limits(sdk, body)
        self._check_price(sdk)
        try:
            arguments = requests.arguments(body)
            # For SimPO the SDK prints to stdout, which belongs to the command's own output.
            no_stdout = contextlib.redirect_stdout(io.StringIO())
            with self._connection.translate_errors(action), _STDOUT_LOCK, no_stdout:
                answer = sdk.fine_tuning.create(**arguments, model_limits=limits)
        except ValueError as error:  # our own check of the body or the SDK's, before anything was sent
            raise NotTranslatable(f"{self.name} cannot run this job: {error}", provider=self.name) from error
        except (AttributeError, TypeError) as error:  # an estimate that is no JSON breaks the SDK
            raise TransientError(f"{self.name}: {action}: its answer cannot be read ({error})") from error
        return self._ref(self._connection.plain(answer, action))

    def _check_price(self, sdk: Together) -> None:
        """Make the SDK's own price request raise `QuotaExceeded` above the account's limit, which it ignores."""
        tuning = sdk.fine_tuning
        estimate_price = tuning.estimate_price

        def estimate_within_limit(**arguments: Any) -> Any:
            answer = estimate_price(**arguments)
            findings = preflight.over_limit(self._connection.plain(answer, "ask for the price", question=True))
            if findings:
                raise QuotaExceeded(f"{self.name}: {findings[0].message}", hint=findings[0].remedy, limit="spending")
            return answer

        setattr(tuning, "estimate_price", estimate_within_limit)  # noqa: B010 - this client serves this one submit

    def _with_key(self, body: Mapping[str, Any], key: core.RunKey) -> dict[str, Any]:
        """Return the body with the run key in its suffix and the secrets that it names by variable."""
        keyed = {**body, "suffix": f"{body['suffix']}-{key}" if body.get("suffix") else key}
        for field in requests.SECRETS:
            if field in keyed:
                variable = str(keyed[field]).removeprefix("${").removesuffix("}")
                keyed[field] = require_secret(variable, f"provider {self.name}: no {field}")
        return keyed

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job whose suffix (or output name) carries this key; the oldest, if there are several."""
        jobs = [
            job for job in self._jobs() if key in str(job.get("suffix")) or key in str(job.get("model_output_name"))
        ]
        return self._ref(min(jobs, key=lambda job: str(job.get("created_at")))) if jobs else None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the job's record, the metrics since the cursor, its events and its checkpoints."""
        action = f"look at job {job.id}"
        record = self._job(job.id)
        if "status" not in record:
            raise TransientError(f"{self.name}: {action}: the answer has no status")
        step = (since or {}).get("step")
        step_filter = {} if step is None else {"global_step_from": step}
        optional = core.OptionalReads()
        metrics: dict[str, Any] = {}
        events: dict[str, Any] = {}
        checkpoints: dict[str, Any] = {}
        with optional.reading("its metrics"):
            metrics = self._connection.request(action, lambda sdk: sdk.fine_tuning.list_metrics(job.id, **step_filter))
        with optional.reading("its events"):
            events = self._connection.request(action, lambda sdk: sdk.fine_tuning.list_events(job.id))
        if responses.read_state(record["status"])[0].final:
            with optional.reading("its checkpoints"):
                checkpoints = self._connection.request(action, lambda sdk: sdk.fine_tuning.list_checkpoints(job.id))
        snapshot = responses.snapshot(
            record,
            metrics=metrics.get("metrics") or (),
            events=events.get("data") or (),
            checkpoints=checkpoints.get("data") or (),
            since=since,
        )
        return optional.complete(snapshot)

    def cancel(self, job: core.JobRef) -> None:
        """Ask the service to stop the job; do nothing if it has ended already."""
        try:
            with self._connection.translate_errors(f"cancel job {job.id}"):
                self._connection.sdk.fine_tuning.cancel(job.id)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status not in (400, 409):
                raise
            if not responses.read_state(str(self._job(job.id).get("status")))[0].final:
                raise

    # --- online: the model -------------------------------------------------------------------------------------------
    def deploy(self, model: core.ModelRef, key: core.RunKey) -> core.DeploymentRef | None:
        """Deploy a tuned model on a dedicated endpoint, billed by the minute; it stops by itself when idle."""
        return self._endpoints.deploy(model, key) if model.tuned else None

    def find_deployment(self, key: core.RunKey) -> core.DeploymentRef | None:
        """Find the endpoint that carries this key.

        Raises `InvalidSettings` while the account's project is not known.
        """
        return self._endpoints.find(key)

    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Stop and remove a dedicated endpoint; do nothing if it is gone already."""
        self._endpoints.undeploy(ref)

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open a deployment or a serverless base model over chat completions."""
        if isinstance(ref, core.ModelRef) and ref.tuned:
            return core.Unavailable("a tuned model answers from a dedicated endpoint, billed by the minute")
        return inference.ChatGenerator(self._connection, ref.id)

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the base model if it is served without an endpoint."""
        model = receipt.target.model
        if model.endswith("-Reference"):
            return core.Unavailable(f"{model} can be tuned and is not served (a -Reference model)")
        return super().base_model(receipt)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """Return the base model, with the job (or one of its steps) as the checkpoint to continue from."""
        step = model.data.get("step")
        job = str(model.data["job"])
        return str(model.base or model.id), {"from_checkpoint": f"{job}:{step}" if step is not None else job}

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the SDK."""
        hint = "# A tuned model answers from a dedicated endpoint: deploy it, and put its name here.\n"
        note = hint if getattr(ref, "tuned", False) else ""
        return (
            "from together import Together\n\n"
            f"client = Together()  # reads {self.key_variable}\n"
            f"{note}answer = client.chat.completions.create(\n"
            f'    model="{ref.id}",\n'
            '    messages=[{"role": "user", "content": "Hello!"}],\n'
            ")\nprint(answer.choices[0].message.content)\n"
        )

    def download_adapter(self, model: core.ModelRef, into: Path) -> Path:
        """Download the LoRA adapter of a tuned model or checkpoint, unpacked in PEFT's layout."""
        return weights.download_adapter(self._connection, model, into)

    # --- online: what the account owns -------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every tuned model that the account owns."""

        def read(job: Mapping[str, Any]) -> core.RemoteModel | None:
            return responses.remote_model(job) if job.get("status") == "completed" else None

        yield from core.read_each(self._jobs(), read, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model."""
        if remote.job is None:
            raise VendorError(f"{self.name}: the job of {remote.id} is not known")
        return responses.remote_job(self._job(remote.job))

    def download(self, file_id: str, into: Path) -> Path:
        """Download an uploaded file; `into` is a folder, or the file to write."""
        file = self._connection.request(f"look at {file_id}", lambda sdk: sdk.files.retrieve(file_id))
        path = into / Path(str(file.get("filename") or file_id)).name if into.is_dir() else into
        with self._connection.translate_errors(f"download {file_id}"):
            with self._connection.sdk.files.with_streaming_response.content(file_id) as answer:
                answer.stream_to_file(path)
        return path

    def delete(self, ref: core.AnyRef) -> None:
        """Remove a file, a job with its model, or an endpoint; do nothing if it is gone already."""
        if isinstance(ref, core.DeploymentRef):
            self.undeploy(ref)
            return
        with core.ignore_not_found(), self._connection.translate_errors(f"delete {ref.id}"):
            if isinstance(ref, core.UploadRef):
                self._connection.sdk.files.delete(ref.id)
            else:
                self._connection.sdk.fine_tuning.delete(str(ref.data.get("job", ref.id)))

    # --- requests ----------------------------------------------------------------------------------------------------
    def _limits(self, sdk: Together, body: Mapping[str, Any]) -> Any:
        """Read the model's live limits, as the SDK's `create` takes them."""
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
        return self._connection.request("ask for the price", lambda sdk: sdk.fine_tuning.estimate_price(**arguments))

    def _jobs(self) -> list[dict[str, Any]]:
        answer = self._connection.request("list the fine-tuning jobs", lambda sdk: sdk.fine_tuning.list())
        return list(answer.get("data") or ())

    def _job(self, id: str) -> dict[str, Any]:
        return self._connection.request(f"look at job {id}", lambda sdk: sdk.fine_tuning.retrieve(id))

    def _ref(self, record: Mapping[str, Any]) -> core.JobRef:
        if not record.get("id"):
            raise TransientError(f"{self.name}: the service answered with a job that has no id")
        data = {"suffix": record.get("suffix")}
        return core.JobRef(id=record["id"], url=JOB_PAGE.format(id=record["id"]), data=data)
