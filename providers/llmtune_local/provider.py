"""The local trainer as a backend like any other: submit starts a worker process, poll reads its folder.

The folder is named by the run key, so a repeated submit finds the first one: the worker's lock makes sure that no
two processes ever train in it. A worker that died without a word is started again from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtune import config as settings
from llmtune.errors import LlmtuneError, MissingExtra, VendorError
from llmtune.provider import (
    AnyRef,
    Capabilities,
    CheckResult,
    Converted,
    Cursor,
    DeploymentRef,
    EncodedDataset,
    EncodedFile,
    Event,
    Files,
    Generator,
    JobRef,
    MetricPoint,
    ModelRef,
    Progress,
    Readiness,
    Receipt,
    RemoteJob,
    RemoteModel,
    Request,
    Requirement,
    RunKey,
    RunState,
    Sent,
    Snapshot,
    SubmitSafety,
    Target,
    Unavailable,
    UploadRef,
    encode_dataset,
    read_each,
)
from llmtune.provider.receipt import place
from llmtune_local import declarations
from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import Cursor as FileCursor
from llmtune_local.run_state.schema import RunRequest, Status
from llmtune_local.settings import LocalOptions, LocalSettings
from llmtune_local.worker.fork_server import POSSIBLE, Forker
from llmtune_local.worker.launch import launch

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.provider import Footprint

#: A worker that dies this often without finishing is not started again.
ATTEMPTS = 3

_STATES: dict[str, RunState] = {
    "starting": RunState.QUEUED,
    "running": RunState.RUNNING,
    "finalizing": RunState.FINALIZING,
    "succeeded": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
    "cancelled": RunState.CANCELLED,
}


class LocalProvider:
    """Trains on this machine, in a process of its own."""

    kind = "local"
    hosted = False
    listed = True
    submit_safety = SubmitSafety(kind="token")
    Options = LocalOptions
    Settings = LocalSettings
    requirements = (Requirement(extra="local", module="peft", distribution="peft"),)

    def __init__(self, name: str, settings: LocalSettings) -> None:
        self.name = name
        self.settings = settings
        self._forker: Forker | None = None

    # offline

    def capabilities(self, target: Target) -> Capabilities:
        """Everything the trainer can express with this adapter."""
        return declarations.capabilities(target.adapter, target.method)

    def ready(self) -> Readiness:
        """Whether the trainer's libraries are installed; it needs no credentials."""
        if importlib.util.find_spec("torch") and importlib.util.find_spec("peft"):
            return Readiness(extra="installed", credentials="not needed")
        return Readiness(extra="missing", credentials="not needed", hint="pip install 'llmtune-sdk[local]'")

    def machine(self) -> dict[str, str]:
        """Device, cores and memory that a run would find here."""
        from llmtune_local.models.hardware import equipment

        return equipment()

    def footprint(self, receipt: Receipt, dataset: Dataset) -> Footprint:
        """An estimate of the peak from the model's files and the dataset's size; nothing is loaded or downloaded."""
        from llmtune_local.models import memory_estimate

        sizes = dataset.estimated_tokens
        options = receipt.target.options
        return memory_estimate.footprint(
            receipt, len(dataset.train), sizes["train"], sizes["longest"], options.get("token_budget")
        )

    def plan_notes(self, receipt: Receipt) -> Sequence[str]:
        """What an adapter will cover and leave out, where the model is on this machine and of a shape in which that
        does not go without saying."""
        from llmtune_local.models.shape import is_plain_decoder
        from llmtune_local.models.targets import PRESETS

        target, wanted = receipt.target, receipt.effective("lora_target_modules", "all-linear")
        revision = target.options.get("revision")
        if target.method == "classification" or target.adapter == "full" or self.ready().extra != "installed":
            return ()
        plain = is_plain_decoder(target.model, revision)
        if plain is None or (plain and wanted in PRESETS):
            return ()
        from llmtune_local.models.peft_adapter import planned_targets

        dropout = float(receipt.effective("lora_dropout", 0.0) or 0.0)
        try:
            found = planned_targets(target.model, revision, wanted, adapter=target.adapter, dropout=dropout)
        except LlmtuneError as problem:
            hint = f" ({problem.hint})" if problem.hint else ""
            return (f"the run will be refused: {problem.message}{hint}",)
        return found.notes if found is not None else ()

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Canonical rows of the method's kind. Every row is rendered once with the model's own template, so that one
        that is too long or has nothing to learn is found before anything starts."""
        self._need_libraries()
        if receipt.target.method == "classification":
            from llmtune_local.models import encoder

            encoder.check_rows(
                receipt.target.model,
                (data.train, data.validation),
                source=data.source,
                revision=LocalOptions.model_validate(receipt.target.options).revision,
                labels=receipt.effective("evaluation.labels"),
                max_sequence_length=receipt.effective("max_sequence_length"),
                on_too_long=receipt.effective("dataset.on_too_long", "error"),
            )
            return encode_dataset(data, declarations.row_format("classification"), into, target=receipt.target)
        from llmtune_local.models.loading import check_rows

        options = LocalOptions.model_validate(receipt.target.options)
        check_rows(
            receipt.target.model,
            {"train": data.train, "validation": data.validation},
            source=data.source,
            revision=options.revision,
            chat_template=options.chat_template,
            template_options=options.template_options,
            max_sequence_length=receipt.effective("max_sequence_length"),
            on_too_long=receipt.effective("dataset.on_too_long", "error"),
        )
        return encode_dataset(data, declarations.row_format(receipt.target.method), into, target=receipt.target)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """What the worker reads: the receipt's values, with our own defaults where the job left a field open."""
        options = dict(receipt.target.options)
        body: dict[str, Any] = {
            "schema": 1,
            "model": receipt.target.model,
            "method": receipt.target.method,
            "adapter": receipt.target.adapter,
            "files": {role: str(ref.data.get("path", ref.id)) for role, ref in files.items()},
            "on_too_long": receipt.effective("dataset.on_too_long", "error"),
            "hyperparameters": {},
        }
        if receipt.target.method == "classification" and (labels := receipt.effective("evaluation.labels")):
            body["labels"] = list(labels)
        if revision := options.pop("revision", None):
            body["revision"] = revision
        body["options"] = options
        declared = declarations.capabilities(receipt.target.adapter, receipt.target.method).parameters
        for name, entry in declared.items():
            unset = receipt[name].support == "default"
            if isinstance(entry, Sent) and entry.where == "training" and unset and entry.default is not None:
                place(body, entry.wire, entry.default)
        for row in receipt.fields:
            entry_ = declared.get(row.field)
            if isinstance(entry_, (Sent, Converted)) and row.moves and row.where == "training" and row.wire:
                place(body, row.wire, row.encoded)
        return Request(operation="start a worker process on this machine", body=body)

    # the run

    def preflight(self, request: Request) -> list[Finding]:
        """Whether model and device are there, and the one fits the other, before a folder is made."""
        self._need_libraries()
        from llmtune_local.models.hardware import check_device
        from llmtune_local.models.hub import check_model
        from llmtune_local.models.memory_estimate import refuse_what_cannot_fit
        from llmtune_local.models.peft_adapter import planned_targets
        from llmtune_local.models.quantization import check_adapter
        from llmtune_local.training.distributed import check_team

        check_model(request.body["model"], request.body.get("revision"), request.body["method"])
        device = check_device(request.body["options"].get("device", "auto"))
        check_adapter(request.body["adapter"], device)
        run = RunRequest.model_validate(request.body)
        check_team(run.options, device)
        if run.method != "classification":
            recipe = run.hyperparameters
            planned_targets(
                run.model,
                run.revision,
                recipe.lora_target_modules,
                adapter=run.adapter,
                dropout=recipe.lora_dropout,
            )
        refuse_what_cannot_fit(request.body, device)
        return []

    def find_upload(self, digest: str) -> UploadRef | None:
        """Files stay where they are; nothing is ever uploaded."""
        return None

    def upload(self, file: EncodedFile) -> UploadRef:
        """The encoded file itself, named by its content."""
        return UploadRef(id=str(file.path), digest=file.sha256, role=file.role, data={"path": str(file.path)})

    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Write the request and start the worker; with a key that is known, the run that is there goes on."""
        folder = self._folder(key)
        if not (folder.path / "request.json").exists():
            folder.write_request(RunRequest.model_validate(request.body))
        self._keep_alive(folder)
        return self._job(key, folder)

    def find(self, key: RunKey) -> JobRef | None:
        """The run folder of that key."""
        folder = self._folder(key)
        return self._job(key, folder) if (folder.path / "request.json").exists() else None

    @contextlib.contextmanager
    def warm(self) -> Iterator[None]:
        """Until it is left, workers are forked from one process that keeps imports, base model and token rows."""
        if not POSSIBLE or self._forker is not None:
            yield
            return
        self._need_libraries()
        self._forker = Forker()
        try:
            yield
        finally:
            self._forker.close()
            self._forker = None

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """What the folder says; a worker that died is started again, up to `ATTEMPTS` times in all."""
        folder = RunDir(job.data["folder"])
        if not (folder.path / "request.json").exists():
            raise VendorError(f"the run folder {folder.path} is gone")
        # The order matters: what was written before the final status is read after it, so nothing is missed.
        status = folder.read_status()
        seen = since or {}
        metrics, metrics_at = folder.read_metrics(FileCursor.model_validate(seen.get("metrics", {})))
        events, events_at = folder.read_events(FileCursor.model_validate(seen.get("events", {})))
        state, error, warnings = self._judge(folder, status)
        validated = folder.read_request().files.validation is not None
        return Snapshot(
            state=state,
            raw_state=status.state if status else "starting",
            progress=_progress(status),
            points=tuple(
                MetricPoint(
                    step=line.step,
                    series=line.series,
                    value=line.value,
                    epoch=line.epoch,
                    time=line.time,
                    source="computed",
                    raw_name=line.series,
                )
                for line in metrics
            ),
            events=tuple(Event(id=line.id, time=line.time, level=line.level, message=line.message) for line in events),
            model=self._tuned(folder) if state is RunState.SUCCEEDED else None,
            error=error,
            warnings=warnings,
            resolved=_resolved(status),
            not_reported={} if validated else {"validation/loss": "the dataset has no validation rows"},
            cursor={"metrics": metrics_at.model_dump(), "events": events_at.model_dump()},
        )

    def cancel(self, job: JobRef) -> None:
        """The worker stops after the step it is in and keeps a checkpoint."""
        RunDir(job.data["folder"]).cancel()

    # the model

    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """A local model needs no deployment."""
        return None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """A local model needs no deployment."""
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """A local model needs no deployment."""

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """The model, loaded when it is first asked."""
        self._need_libraries()
        if ref.data.get("tuned") and not Path(ref.id).exists():
            return Unavailable(f"the folder {ref.id} is gone")
        if ref.data.get("method") == "classification":
            from llmtune_local.inference.classifier import classifier

            folder = ref.data.get("folder")
            return classifier(
                model=ref.data["model"],
                artefact=Path(ref.id),
                revision=ref.data.get("revision"),
                options=ref.data.get("options", {}),
                keep=Path(folder) / "logits" / "asked.jsonl" if folder else None,
            )
        from llmtune_local.inference.generator import LocalGenerator

        return LocalGenerator(
            model=ref.data["model"],
            artefact=Path(ref.id) if ref.data.get("tuned") else None,
            revision=ref.data.get("revision"),
            options=ref.data.get("options", {}),
        )

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The model that training began with, loaded with the same options: the untuned base, or an earlier run's model
        that the run went on with."""
        from llmtune_local.models.hub import adapter_of

        options = dict(receipt.target.options)
        revision = options.pop("revision", None)
        model = receipt.target.model
        data: dict[str, Any] = {
            "tuned": False,
            "model": model,
            "revision": revision,
            "options": options,
            "weights": _stamp(model),
        }
        if receipt.target.method == "classification":
            if not (Path(model) / "labels.json").is_file():
                return Unavailable("an encoder that is not tuned has no head for these labels")
            data |= {"model": adapter_of(model)[0], "method": "classification"}
        return ModelRef(id=model, tuned=False, data=data)

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """The folder of an earlier run's model, with the revision of its base and what its template was given."""
        options = model.data.get("options", {})
        template = {
            name: options[name]
            for name in ("chat_template", "template_options", "mask_empty_thinking")
            if options.get(name) is not None
        }
        adapter = (Path(model.id) / "adapter_config.json").is_file()
        revision = {"revision": model.data["revision"]} if adapter and model.data.get("revision") else {}
        return model.id, revision | template

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """The model through transformers and PEFT, without llmtune."""
        from llmtune_local.snippet import snippet

        return snippet(ref)

    def export(self, model: ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """The tuned model as a folder."""
        self._need_libraries()
        from llmtune_local.export import artefact_of, export

        return export(artefact_of(model.id), model.data, format, into)

    def serving_command(self, model: ModelRef, name: str) -> str | None:
        """How vLLM serves the tuned model."""
        from llmtune_local.export import artefact_of, serving_command

        return serving_command(artefact_of(model.id), model.data, name) if model.data.get("tuned") else None

    def check(self, model: ModelRef, examples: Sequence[Example]) -> list[CheckResult]:
        """Whether training rendered what inference renders, and whether the model ends its turn."""
        self._need_libraries()
        from llmtune_local.self_checks import answers_end, templates_agree

        generator = self.generator(model)
        if isinstance(generator, Unavailable):
            return []
        if model.data.get("method") == "classification":
            from llmtune_local.inference.classifier import LocalClassifier, logits_agree

            assert isinstance(generator, LocalClassifier)
            generator.keep = None
            with generator:
                found = logits_agree(generator, Path(model.data["folder"]))
            return [found] if found is not None else []
        asked = [example for example in examples if example.messages and example.preference is None]
        return [templates_agree(model.data, asked), answers_end(model.data, Path(model.id), asked)] if asked else []

    # what is there

    def inventory(self) -> Iterator[RemoteModel]:
        """Every finished run folder."""
        root = self._root()
        yield from read_each(sorted(root.iterdir()) if root.is_dir() else (), self._remote_model, self.name)

    def _remote_model(self, path: Path) -> RemoteModel | None:
        folder = RunDir(path)
        status = folder.read_status()
        if not status or status.state != "succeeded":
            return None
        return RemoteModel(
            id=str(folder.artefact),
            base=folder.read_request().model,
            job=path.name,
            created=status.heartbeat,
            data={"folder": str(path)},
        )

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The request of a run folder, by our own names."""
        request = RunDir(remote.data["folder"]).read_request()
        values = request.hyperparameters.model_dump(exclude_none=True)
        files = request.files.model_dump(exclude_none=True)
        return RemoteJob(
            id=remote.job or remote.id,
            model=remote.id,
            base=request.model,
            method=request.method,
            hyperparameters=values,
            seed=request.seed,
            files=files,
        )

    def download(self, file_id: str, into: Path) -> Path:
        """Copy a dataset file of a run."""
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(file_id, into))

    def delete(self, ref: AnyRef) -> None:
        """Remove a run folder, or an encoded dataset file of ours."""
        if isinstance(ref, UploadRef):
            Path(ref.id).unlink(missing_ok=True)
            return
        folder = Path(ref.data.get("folder", ref.id))
        if RunDir(folder).alive():
            raise LlmtuneError(f"{folder}: a worker is at work there; cancel the run first")
        shutil.rmtree(folder, ignore_errors=True)

    # inside

    def _root(self) -> Path:
        return Path(self.settings.runs) if self.settings.runs else settings.home() / "local"

    def _folder(self, key: str) -> RunDir:
        return RunDir(self._root() / key)

    def _job(self, key: str, folder: RunDir) -> JobRef:
        return JobRef(id=key, url=None, data={"folder": str(folder.path.absolute())})

    def _tuned(self, folder: RunDir) -> ModelRef:
        request = folder.read_request()
        return ModelRef(
            id=str(folder.artefact.absolute()),
            base=request.model,
            data={
                "tuned": True,
                "model": request.model,
                "revision": request.revision,
                "options": request.options.model_dump(exclude_defaults=True),
                "folder": str(folder.path.absolute()),
                "weights": _stamp(request.model),
                **({"method": request.method} if request.method == "classification" else {}),
            },
        )

    def _judge(self, folder: RunDir, status: Status | None) -> tuple[RunState, str | None, tuple[str, ...]]:
        """The state, why it failed, and what should be known; starts a dead worker again."""
        if status is not None and _STATES[status.state].final:
            return _STATES[status.state], status.error, ()
        started = process.launches(folder.path)
        coming = bool(started) and process.alive(started[-1]) is True
        alive = True if coming else folder.alive()
        if alive is None and status is not None:
            host = status.host or "another machine"
            return _STATES[status.state], None, (f"the worker is on {host}, which cannot be asked from here",)
        if alive:
            cancelling = folder.cancelling
            return (RunState.CANCELLING if cancelling else _STATES[status.state if status else "starting"]), None, ()
        if folder.cancelling:
            return RunState.CANCELLED, None, ()
        if status is not None and status.attempt >= ATTEMPTS:
            said = f"its last word was: {status.message}" if status.message else "see worker.log"
            return RunState.FAILED, f"the worker died {status.attempt} times without a word ({said})", ()
        if status is None and len(started) >= ATTEMPTS:
            return RunState.FAILED, f"the worker could not be started ({folder.last_words()})", ()
        if self._keep_alive(folder) and status is not None:
            return RunState.RUNNING, None, ("the worker died and was started again from its last checkpoint",)
        return RunState.QUEUED, None, ()

    def _keep_alive(self, folder: RunDir) -> bool:
        """Start a worker unless one runs or the run is over; whether one was started. Two starts do no harm: the
        folder's lock lets one of them work."""
        status = folder.read_status()
        if status is not None and _STATES[status.state].final:
            return False
        started = process.launches(folder.path)
        if folder.alive() or (started and process.alive(started[-1])):
            return False
        launch(folder.path, resume=status is not None, forker=self._forker)
        return True

    @staticmethod
    def _need_libraries() -> None:
        for module in ("torch", "transformers", "peft"):
            if importlib.util.find_spec(module) is None:
                raise MissingExtra("local", module, purpose="training on this machine")


def _stamp(model: str) -> str | None:
    """What tells one state of a model in a folder from another, so that answers of a replaced one are not reused."""
    from llmtune_local.models.hub import locate

    files = sorted(Path(locate(model)).glob("*.safetensors")) if Path(locate(model)).is_dir() else []
    facts = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16] if facts else None


def _resolved(status: Status | None) -> dict[str, Any]:
    """What was left to the worker and it has told since, the device among it."""
    if status is None:
        return {}
    device = {"device": f"{status.device} ({status.dtype})"} if status.device else {}
    return {**status.resolved, **device}


def _progress(status: Status | None) -> Progress:
    if status is None:
        return Progress()
    return Progress(
        step=status.step,
        total_steps=status.total_steps,
        epoch=status.epoch,
        seconds_left=status.eta_seconds,
        tokens_per_second=status.tokens_per_second,
    )
