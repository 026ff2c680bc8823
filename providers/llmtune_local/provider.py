"""The local trainer as a provider like any other: submit starts a worker process, poll reads its folder.

The folder is named by the run key, so a repeated submit finds the first run: the worker's lock makes sure that no two
processes ever train in it. A worker that died without reporting an end is started again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

import llmtune.provider as core
from llmtune import config
from llmtune.errors import LlmtuneError
from llmtune_local import declarations, preflight, requests, responses
from llmtune_local.default_settings import choose_adapter
from llmtune_local.run_state.damage import artefact_fault
from llmtune_local.run_state.run_dir import DECISIONS_FILE, RunDir, now, write_atomically
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.settings import LocalOptions, LocalSettings
from llmtune_local.worker import supervisor
from llmtune_local.worker.fork_server import CAN_FORK, ForkServer

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.facts import DatasetFacts
    from llmtune.data.findings import Finding
    from llmtune.job.spec import Adapter

#: The libraries that train and answer.
LIBRARIES = tuple(
    core.Requirement(extra="local", module=module, distribution=module) for module in ("torch", "transformers", "peft")
)


class LocalProvider(core.BaseProvider):
    """The provider that trains on this machine, in a process of its own."""

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
        self._fork_server: ForkServer | None = None

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return everything the trainer can express for this model, with its defaults for it."""
        return declarations.capabilities(target)

    def suggest_adapter(self, target: core.Target) -> Adapter:
        """Return all weights for small models, LoRA for the others, and for an adapter's folder its own kind."""
        return choose_adapter(target.model, target.method, target.options.get("revision"))

    def list_local_models(self) -> Sequence[str]:
        """Return the embedded models and those of the hub's cache."""
        from llmtune_local.candidates import list_local_models

        return list_local_models()

    def suggest_models(self, facts: DatasetFacts, named: str | None = None) -> Sequence[core.ModelSuggestion]:
        """Return the embedded models, those of the hub's cache, and well-known ones that this machine could train."""
        from llmtune_local.candidates import suggest_models

        return suggest_models(facts, named)

    def describe_hardware(self) -> dict[str, str]:
        """Return device, cores and memory that a run would find here."""
        from llmtune_local.models.hardware import describe_hardware as describe

        return describe()

    def footprint(self, receipt: core.Receipt, dataset: Dataset) -> core.Footprint:
        """Estimate the peak from the model's files and the dataset's size; nothing is loaded or downloaded."""
        from llmtune_local.models import memory_estimate

        (tokens, longest), budget = preflight.count_tokens(receipt, dataset), receipt.target.options.get("token_budget")
        return memory_estimate.footprint(receipt, len(dataset.train), tokens, longest, budget)

    def estimate_duration(self, receipt: core.Receipt, find_speed: core.FindSpeed) -> core.Duration:
        """Estimate the time from an earlier run's speed, else from parameters and cores; nothing is loaded."""
        from llmtune_local.duration import estimate_duration

        return estimate_duration(receipt, find_speed)

    def plan_notes(self, receipt: core.Receipt) -> Sequence[str]:
        """Return what an adapter will cover and leave out, why a run will be refused, and how much is sampled."""
        sampling_notes = preflight.sampling_notes(receipt)
        if self.ready().extra != "installed":
            return sampling_notes
        notes = (*preflight.adapter_notes(receipt), *preflight.margin_notes(receipt), *sampling_notes)
        return (*notes, *preflight.sharding_notes(receipt))

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Encode canonical rows of the method's kind, after each was rendered once with the model's own template."""
        self._need_libraries()
        preflight.check_rows(data, receipt)
        return super().encode(data, receipt, into)

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the request that the worker reads."""
        body = requests.build(receipt, files)
        return core.Request(operation="start a worker process on this machine", body=body)

    # --- the run -----------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Raise where model or device are missing, or do not fit each other, before a folder is made."""
        self._need_libraries()
        preflight.check_request(request.body)
        return []

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Return the encoded file itself, named by its content: files stay where they are."""
        return core.UploadRef(id=str(file.path), digest=file.sha256, role=file.role, data={"path": str(file.path)})

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Write the request and start the worker; for a known key, the run that is there continues."""
        folder = self._folder(key)
        with supervisor.full_disk_reported(folder.path):
            if folder.find_request() is None:
                folder.write_request(RunRequest.model_validate(request.body))
            supervisor.keep_alive(folder, self._fork_server)
        return responses.job_ref(key, folder)

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Return the run of that key; None where there is none."""
        folder = self._folder(key)
        return responses.job_ref(key, folder) if folder.exists else None

    @contextlib.contextmanager
    def warm(self) -> Iterator[None]:
        """Fork workers from one process that keeps imports, base model and token rows, while the context lasts."""
        if not CAN_FORK or self._fork_server is not None:
            yield
            return
        self._need_libraries()
        self._fork_server = ForkServer()
        try:
            yield
        finally:
            self._fork_server.close()
            self._fork_server = None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Return the state of the run folder; restart a dead worker, up to `supervisor.ATTEMPTS` workers in all."""
        folder = self._folder_of(job)
        # The order matters: what was written before the final status is read after it, so nothing is missed.
        status = folder.read_status()
        verdict = supervisor.assess(folder, status, fork_server=self._fork_server, at=now())
        return responses.snapshot(folder, status, verdict, since)

    def cancel(self, job: core.JobRef) -> None:
        """Have the worker stop after its current step and keep a checkpoint."""
        self._folder_of(job).cancel()

    def resume_point(self, job: core.JobRef) -> str | None:
        """Return where a run that has ended would continue; None where the same request would fail in the same way."""
        folder = self._folder_of(job)
        return supervisor.resume_point(folder) if supervisor.may_resume(folder) else None

    def restart(self, job: core.JobRef, request: core.Request) -> str:
        """Start a worker that continues from the last complete checkpoint, with all attempts allowed again."""
        folder = self._folder_of(job)
        with supervisor.full_disk_reported(folder.path):
            return supervisor.restart(folder, RunRequest.model_validate(request.body), self._fork_server)

    # --- the model ---------------------------------------------------------------------------------------------------
    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Do nothing: a local model needs no deployment."""

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Return the model, which is loaded at its first use."""
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
        """Return the model that training started from: the untuned base, or an earlier run's model."""
        return responses.base_model(receipt)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """Return the folder of an earlier run's model, with the revision of its base and its template's options."""
        options = model.data.get("options", {})
        template = {
            name: options[name]
            for name in ("chat_template", "template_options", "mask_empty_thinking")
            if options.get(name) is not None
        }
        adapter = (Path(model.id) / "adapter_config.json").is_file()
        revision = {"revision": model.data["revision"]} if adapter and model.data.get("revision") else {}
        return model.id, revision | template

    def prompt_renderer(self, model: core.ModelRef) -> core.PromptRenderer | None:
        """Return the template and tokenizer of a tuned model; None for a classifier, which is given no conversation."""
        if model.data.get("method") == "classification":
            return None
        self._need_libraries()
        from llmtune_local.inference.prompts import LocalPrompts

        named = {name: model.data[name] for name in ("model", "revision", "options") if name in model.data}
        return LocalPrompts(artefact=Path(model.id) if model.data.get("tuned") else None, **named)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return Python that uses the model through transformers and PEFT, without llmtune."""
        from llmtune_local.snippet import snippet

        return snippet(ref)

    def export(self, model: core.ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Write the tuned model to a folder; return how to serve it."""
        self._need_libraries()
        from llmtune_local.export import artefact_of, export

        return export(artefact_of(model.id), model.data, format, into)

    def export_for_server(
        self, model: core.ModelRef, format: core.ServerFormat, into: Path, precision: core.Precision
    ) -> Sequence[str]:
        """Write the tuned model in the files of an inference server; return how to serve it, and what will differ."""
        self._need_libraries()
        from llmtune_local.export import artefact_of
        from llmtune_local.serving.export import export_for_server

        return export_for_server(artefact_of(model.id), model.data, format, into, precision)

    def serve_export(
        self, model: core.ModelRef, folder: Path
    ) -> Callable[[int], AbstractContextManager[core.ServedExport]] | core.Unavailable:
        """Return what serves an exported model here: llama.cpp for GGUF files, transformers for one model."""
        self._need_libraries()
        from llmtune_local.serving.serve import serve_export

        return serve_export(model.data, folder)

    def serving_command(self, model: core.ModelRef, name: str) -> str | None:
        """Return how vLLM serves the tuned model; None for an untuned one."""
        from llmtune_local.export import artefact_of, serving_command

        return serving_command(artefact_of(model.id), model.data, name) if model.data.get("tuned") else None

    def write_decision_rules(self, model: core.ModelRef, text: str) -> None:
        """Write `decisions.json` beside the adapter or the whole model."""
        if model.data.get("tuned"):
            write_atomically(Path(model.id) / DECISIONS_FILE, text)

    def read_decision_rules(self, model: core.ModelRef) -> str | None:
        """Return what is in `decisions.json`; None where there is no such file."""
        path = Path(model.id) / DECISIONS_FILE
        return path.read_text(encoding="utf-8") if model.data.get("tuned") and path.is_file() else None

    def check(self, model: core.ModelRef, examples: Sequence[Example]) -> list[core.CheckResult]:
        """Check that training rendered what inference renders, and that the model ends its turn."""
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
                result = logits_agree(generator, Path(model.data["folder"]))
            return [result] if result is not None else []
        rows = [example for example in examples if example.messages and example.preference is None]
        return [templates_agree(model.data, rows), answers_end(model.data, Path(model.id), rows)] if rows else []

    # --- what is there -----------------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield the model of every finished run folder."""
        root = self._root()
        folders = map(RunDir, sorted(root.iterdir()) if root.is_dir() else ())
        yield from core.read_each(folders, responses.remote_model, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Return the request of a run folder, by llmtune's own names."""
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
            raise LlmtuneError(f"{folder}: a worker is running there; cancel the run first")
        shutil.rmtree(folder, ignore_errors=True)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _root(self) -> Path:
        return Path(self.settings.runs) if self.settings.runs else config.home() / "local"

    def _folder_of(self, job: core.JobRef) -> RunDir:
        """Return the folder of a job; one that was adopted by its id alone lies with the others, under that id."""
        if folder := job.data.get("folder"):
            return RunDir(folder)
        return self._folder(Path(job.id).name)

    def _folder(self, key: str) -> RunDir:
        return RunDir(self._root() / key)

    def _need_libraries(self) -> None:
        for library in self.requirements:
            library.require("training on this machine")
