"""The local trainer as a backend like any other: submit starts a worker process, poll reads its folder.

The folder is named by the run key, so a repeated submit finds the first one: the worker's lock makes sure that no
two processes ever train in it. A worker that died without a word is started again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

import llmtune.provider as core
from llmtune import config
from llmtune.errors import LlmtuneError
from llmtune_local import declarations, preflight, requests, responses
from llmtune_local.run_state.damage import artefact_fault
from llmtune_local.run_state.run_dir import RunDir, now
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.settings import LocalOptions, LocalSettings
from llmtune_local.worker import supervisor
from llmtune_local.worker.fork_server import POSSIBLE, Forker

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding

#: The libraries that train and answer.
LIBRARIES = tuple(
    core.Requirement(extra="local", module=module, distribution=module) for module in ("torch", "transformers", "peft")
)


class LocalProvider(core.BaseProvider):
    """Trains on this machine, in a process of its own."""

    kind = "local"
    hosted = False
    methods = declarations.METHODS
    adapters = declarations.ADAPTERS
    abilities = declarations.ABILITIES
    submit_safety = core.SubmitSafety(kind="token")
    Options: type[BaseModel] = LocalOptions
    Settings: type[BaseModel] = LocalSettings
    requirements = LIBRARIES

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        self._forker: Forker | None = None

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Everything the trainer can express with this adapter."""
        return declarations.capabilities(target.adapter, target.method)

    def machine(self) -> dict[str, str]:
        """Device, cores and memory that a run would find here."""
        from llmtune_local.models.hardware import equipment

        return equipment()

    def footprint(self, receipt: core.Receipt, dataset: Dataset) -> core.Footprint:
        """An estimate of the peak from the model's files and the dataset's size; nothing is loaded or downloaded."""
        from llmtune_local.models import memory_estimate

        sizes, budget = dataset.estimated_tokens, receipt.target.options.get("token_budget")
        return memory_estimate.footprint(receipt, len(dataset.train), sizes["train"], sizes["longest"], budget)

    def plan_notes(self, receipt: core.Receipt) -> Sequence[str]:
        """What an adapter will cover and leave out, where that does not go without saying."""
        return preflight.adapter_notes(receipt) if self.ready().extra == "installed" else ()

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Canonical rows of the method's kind, after each was rendered once with the model's own template."""
        self._need_libraries()
        preflight.check_rows(data, receipt)
        return super().encode(data, receipt, into)

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """What the worker reads."""
        body = requests.build(receipt, files)
        return core.Request(operation="start a worker process on this machine", body=body)

    # --- the run -----------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Raise where model and device are not there, or do not fit each other, before a folder is made."""
        self._need_libraries()
        preflight.check_request(request.body)
        return []

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """The encoded file itself, named by its content: files stay where they are."""
        return core.UploadRef(id=str(file.path), digest=file.sha256, role=file.role, data={"path": str(file.path)})

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Write the request and start the worker; with a key that is known, the run that is there goes on."""
        folder = self._folder(key)
        with supervisor.full_disk_reported(folder.path):
            if folder.find_request() is None:
                folder.write_request(RunRequest.model_validate(request.body))
            supervisor.keep_alive(folder, self._forker)
        return responses.job_ref(key, folder)

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """The run folder of that key."""
        folder = self._folder(key)
        return responses.job_ref(key, folder) if folder.exists else None

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

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """What the folder says; a worker that died is started again, up to `supervisor.ATTEMPTS` times in all."""
        folder = RunDir(job.data["folder"])
        # The order matters: what was written before the final status is read after it, so nothing is missed.
        status = folder.read_status()
        verdict = supervisor.judge(folder, status, forker=self._forker, at=now())
        return responses.snapshot(folder, status, verdict, since)

    def cancel(self, job: core.JobRef) -> None:
        """The worker stops after the step it is in and keeps a checkpoint."""
        RunDir(job.data["folder"]).cancel()

    def resume_point(self, job: core.JobRef) -> str | None:
        """Where a run that has ended would go on; None where the same request would fail in the same way."""
        folder = RunDir(job.data["folder"])
        return supervisor.resume_point(folder) if supervisor.may_resume(folder) else None

    def restart(self, job: core.JobRef, request: core.Request) -> str:
        """Start a worker that goes on from the last checkpoint that is whole; with all attempts before it."""
        folder = RunDir(job.data["folder"])
        with supervisor.full_disk_reported(folder.path):
            return supervisor.restart(folder, RunRequest.model_validate(request.body), self._forker)

    # --- the model ---------------------------------------------------------------------------------------------------
    def undeploy(self, ref: core.DeploymentRef) -> None:
        """A local model needs no deployment."""

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """The model, loaded when it is first asked."""
        self._need_libraries()
        if ref.data.get("tuned") and (fault := artefact_fault(Path(ref.id))):
            return core.Unavailable(fault)
        model = {name: ref.data[name] for name in ("model", "revision", "options") if name in ref.data}
        if ref.data.get("method") == "classification":
            from llmtune_local.inference.classifier import classifier

            folder = ref.data.get("folder")
            keep = Path(folder) / "logits" / "asked.jsonl" if folder else None
            return classifier(artefact=Path(ref.id), keep=keep, **model)
        from llmtune_local.inference.generator import LocalGenerator

        return LocalGenerator(artefact=Path(ref.id) if ref.data.get("tuned") else None, **model)

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """The model that training began with: the untuned base, or an earlier run's model that the run went on with."""
        return responses.base_model(receipt)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
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

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """The model through transformers and PEFT, without llmtune."""
        from llmtune_local.snippet import snippet

        return snippet(ref)

    def export(self, model: core.ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """The tuned model as a folder."""
        self._need_libraries()
        from llmtune_local.export import artefact_of, export

        return export(artefact_of(model.id), model.data, format, into)

    def serving_command(self, model: core.ModelRef, name: str) -> str | None:
        """How vLLM serves the tuned model."""
        from llmtune_local.export import artefact_of, serving_command

        return serving_command(artefact_of(model.id), model.data, name) if model.data.get("tuned") else None

    def check(self, model: core.ModelRef, examples: Sequence[Example]) -> list[core.CheckResult]:
        """Whether training rendered what inference renders, and whether the model ends its turn."""
        self._need_libraries()
        from llmtune_local.self_checks import answers_end, templates_agree

        generator = self.generator(model)
        if isinstance(generator, core.Unavailable):
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

    # --- what is there -----------------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Every finished run folder."""
        root = self._root()
        folders = map(RunDir, sorted(root.iterdir()) if root.is_dir() else ())
        yield from core.read_each(folders, responses.remote_model, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """The request of a run folder, by our own names."""
        return responses.remote_job(remote)

    def download(self, file_id: str, into: Path) -> Path:
        """Copy a dataset file of a run."""
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(file_id, into))

    def delete(self, ref: core.AnyRef) -> None:
        """Remove a run folder, or an encoded dataset file of ours."""
        if isinstance(ref, core.UploadRef):
            Path(ref.id).unlink(missing_ok=True)
            return
        folder = Path(ref.data.get("folder", ref.id))
        if RunDir(folder).alive():
            raise LlmtuneError(f"{folder}: a worker is at work there; cancel the run first")
        shutil.rmtree(folder, ignore_errors=True)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _root(self) -> Path:
        return Path(self.settings.runs) if self.settings.runs else config.home() / "local"

    def _folder(self, key: str) -> RunDir:
        return RunDir(self._root() / key)

    def _need_libraries(self) -> None:
        for library in self.requirements:
            library.require("training on this machine")
