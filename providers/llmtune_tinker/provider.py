"""Tinker as a provider like any other: submit opens a session and starts the loop's process, poll reads its folder.

The session carries the run key, so that it is found again after an unclear start; the folder is named by the key, and
its lock lets one process work in it. So a run has one session that is open at a time, and a process that died is
started again from the last saved state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

import llmtune.provider as core
from llmtune import config
from llmtune.data.findings import Finding, error
from llmtune.errors import InvalidJob, LlmtuneError, VendorError
from llmtune_local.run_state.run_dir import now
from llmtune_local.run_state.schema import FINAL
from llmtune_local.worker import supervisor
from llmtune_tinker import capabilities as models
from llmtune_tinker import costs, declarations, requests, responses, weights
from llmtune_tinker.client import ADDRESS, RUN_KEY, SDK, TORCH, TinkerClient
from llmtune_tinker.inference import TinkerGenerator, snippet
from llmtune_tinker.run_folder import LoopFolder, LoopRequest, Session
from llmtune_tinker.settings import TinkerOptions, TinkerSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

#: Seconds after which a new session is found by its key (unverified: the service promises nothing).
SEARCH_SECONDS = 30.0


class TinkerProvider(core.BaseProvider):
    """Training at Tinker: the service runs the passes, and llmtune's own loop runs in a process on this machine."""

    kind = "tinker"
    parameters = declarations.PARAMETERS
    catalog = Path(__file__).with_name("catalog.toml")
    limits = core.Limits(
        format="chat",
        text_format="text",
        min_rows=1,
        source="llmtune's own loop",
        note="rows become tokens on this machine and are sent step by step; no file is uploaded",
    )
    methods = declarations.METHODS
    adapters = declarations.ADAPTERS
    abilities = declarations.ABILITIES
    base_url = ADDRESS
    key_env = "TINKER_API_KEY"
    submit_safety = core.SubmitSafety(kind="searchable", window=SEARCH_SECONDS)
    Options: type[BaseModel] = TinkerOptions
    Settings: type[BaseModel] = TinkerSettings
    requirements = (SDK,)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports: the loop's declarations, and the model as the service listed it last."""
        declared = super().capabilities(target)
        if target.method == "dpo":
            pairs = replace(declared.limits, format=declarations.FORMATS["dpo"], text_format=None)
            declared = replace(declared, parameters=declarations.declarations("dpo"), limits=pairs)
        seen = models.read_kept()
        model = seen.find(target.model) if seen is not None else None
        if seen is None or not target.model:
            return declared
        if model is None or not model.trainable:
            sentence = f"{target.model!r} was not among the models that can be trained on {seen.day}"
            nearest = seen.suggest(target.model)
            sentence += f"; there were {nearest}" if nearest else ""
            return replace(declared, warnings=(*declared.warnings, sentence))
        limits = replace(declared.limits, max_tokens_per_row=model.context)
        return replace(declared, limits=limits, known_model=True, warnings=())

    def plan_notes(self, receipt: core.Receipt) -> Sequence[str]:
        """Return where the loop runs, and how old the list of models is."""
        seen = models.read_kept()
        asked = (
            "asked before the run starts" if seen is None else f"read on {seen.day}, and again before the run starts"
        )
        validated = (
            "each pass over the validation rows is sent too; whether it is billed as training is not documented",
        )
        preferences = []
        if receipt.target.method == "dpo":
            preferences.append(
                "each step sends its pairs twice, once without a gradient, and the reference's likelihoods take one"
                " pass over all pairs before the first step"
            )
            if not TORCH.is_installed:
                preferences.append(
                    f"the loss of a pair is computed on this machine with torch, which is not installed:"
                    f" {TORCH.install_command}"
                )
        return (
            *preferences,
            *(validated if receipt.data.rows.get("validation") else ()),
            "the loop runs in a process on this machine: the run advances while this machine is on, and continues from"
            " its last saved state otherwise",
            f"the service's models are {asked}",
        )

    def estimate_cost(self, receipt: core.Receipt) -> core.CostEstimate:
        """Return the estimate of the tokens that are trained on, and of the passes that preferences need besides."""
        target = receipt.target
        return costs.add_passes(receipt, self.capabilities(target).price.for_target(target.method, target.adapter))

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the request that the loop's process reads. Pure."""
        service = {
            "base_url": self.address,
            "key_variable": self.key_variable,
            "timeout": self.settings.timeout,
            "project_id": self.settings.value_of("project_id"),
        }
        body = requests.build(receipt, files, service)
        return core.Request(operation="tinker create_session, then the loop on this machine", body=body)

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Write the rows in the format that the loop's process reads, after each was rendered once as it will be.

        Raises:
            InvalidData: a row has nothing to learn, or is longer than the job's limit or the model's context.
            MissingExtra: a library is not installed; method dpo needs torch too.
        """
        SDK.require(f"provider {self.name}")
        if receipt.target.method == "dpo":
            TORCH.require(f"method dpo at provider {self.name}")
        from llmtune_local.models.loading import load_tokenizer
        from llmtune_tinker.rows import tokenise_examples

        options = TinkerOptions.model_validate(receipt.target.options)
        tokenizer = load_tokenizer(options.tokenizer or receipt.target.model, None, options.chat_template)
        for rows in (data.train, data.validation):
            tokenise_examples(
                tokenizer,
                rows,
                options,
                limit=receipt.effective("max_sequence_length") or _find_context(receipt.target.model),
                on_too_long=receipt.effective("dataset.on_too_long", "error"),
                file=data.source,
            )
        return super().encode(data, receipt, into)

    # --- before money is spent ---------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Ask whether the model is trained here today."""
        run = _read_request(request)
        seen = models.read_models(self._service.read_capabilities())
        models.keep(seen)
        model = seen.find(run.model)
        if model is None or not model.trainable:
            nearest = seen.suggest(run.model)
            problem = f"the service does not train {run.model!r} today"
            return [error("model", problem, f"choose one that it does: {nearest}" if nearest else "check the id")]
        return []

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Return the encoded file itself, named by its content: rows go out step by step, no file is uploaded."""
        return core.UploadRef(id=str(file.path), digest=file.sha256, role=file.role, data={"path": str(file.path)})

    # --- the run -----------------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Write the request, open the session, and start the loop; for a known key, the run that is there continues."""
        run = _with_limit(_read_request(request))
        folder = self._folder(key)
        sessions = folder.read_sessions()
        if not sessions:
            with supervisor.full_disk_reported(folder.path):
                folder.write_request(run)
            session = self._service.create_session({RUN_KEY: key}, run.name)
            folder.write_sessions([Session(id=session)])
            sessions = folder.read_sessions()
        supervisor.keep_alive(folder)
        return responses.job_ref(sessions[0].id, folder)

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Return the run of that key: the one here, else the session that carries the key.

        A session whose answer was lost is written down here, so that the loop can enter it.
        """
        folder = self._folder(key)
        if sessions := folder.read_sessions():
            return responses.job_ref(sessions[0].id, folder)
        carried = self._service.find_sessions(key)
        if not carried:
            return None
        session = str(carried[-1]["session_id"])
        if folder.exists:
            folder.write_sessions([Session(id=session)])
        return responses.job_ref(session, folder)

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Return the state of the run folder and of its session; restart a dead process, a few times in all."""
        folder = self._folder_of(job)
        sessions = folder.read_sessions()
        session = sessions[-1].id if sessions else job.id
        summary = self._service.read_session(session)
        if not folder.exists:
            raise VendorError(
                f"{self.name}: the loop of this run is not on this machine: {folder.path} is missing",
                hint="attach from the machine that started it",
            )
        word = responses.session_word(summary)
        status = folder.read_status()
        if word == "cancelled" and (status is None or status.state not in FINAL):
            folder.cancel()  # stopped in the service's console: the loop must not open another session
        verdict = supervisor.assess(folder, status, fork_server=None, at=now())
        seen = responses.snapshot(folder, status, verdict, summary, since)
        if seen.state.final and word == "active":
            with suppress(LlmtuneError):  # its process could not say so any more
                self._service.finish_session(session, "interrupted", "the loop's process has ended")
        if not seen.state.final:
            return seen
        optional = core.OptionalReads()
        with optional.reading("the bill"):
            seen = seen.model_copy(update={"billed": self._read_bill(folder, summary)})
        return optional.complete(seen)

    def _read_bill(self, folder: LoopFolder, summary: Any) -> core.Billed | None:
        """Return what the service has billed to the sessions of a run; None where it has noted nothing yet."""
        started = core.unix_seconds(summary.get("created_at"))
        if started is None:
            return None
        tokens, amount, noted = self._service.read_usage({session.id for session in folder.read_sessions()}, started)
        if not noted:
            return None
        return core.Billed(tokens=tokens, amount=amount, source="GET /api/v1/billing/usage/events (an estimate in USD)")

    def cancel(self, job: core.JobRef) -> None:
        """Have the loop stop after its current step and save its state."""
        self._folder_of(job).cancel()

    def resume_point(self, job: core.JobRef) -> str | None:
        """Return where a run that has ended would continue; None where the same request would fail in the same way."""
        folder = self._folder_of(job)
        return supervisor.resume_point(folder) if folder.exists and supervisor.may_resume(folder) else None

    def restart(self, job: core.JobRef, request: core.Request) -> str:
        """Start a process that continues from the last saved state, with all attempts allowed again."""
        folder = self._folder_of(job)
        with supervisor.full_disk_reported(folder.path):
            return supervisor.restart(folder, _read_request(request))

    # --- the model ---------------------------------------------------------------------------------------------------
    def undeploy(self, ref: core.DeploymentRef) -> None:
        """Do nothing: a tuned model answers without a deployment."""

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Return the tuned model behind the service's chat endpoint; base models are not asked there."""
        if isinstance(ref, core.ModelRef) and not ref.tuned:
            return self._unavailable(declarations.ABILITIES.base_serving)
        return TinkerGenerator(ref.id, self._service.complete)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the `openai` package."""
        return snippet(ref.id, self.address, self.key_variable)

    def continue_from(self, model: core.ModelRef) -> tuple[str, dict[str, Any]]:
        """Raise `InvalidJob`: a run starts from a base model, and only its own states are continued."""
        raise InvalidJob(
            f"a run at Tinker starts from a base model, not from {model.id}", hint=f"name its base: {model.base}"
        )

    def export(self, model: core.ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Download the adapter in PEFT's layout to a new folder; return how to load it."""
        return weights.export(self._service, model, format, into)

    def serving_command(self, model: core.ModelRef, name: str) -> str | None:
        """Return None: the weights are at the service until they are exported."""
        return None

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every checkpoint of the account that answers."""
        runs: dict[str, dict[str, Any]] = {}

        def read(checkpoint: dict[str, Any]) -> core.RemoteModel | None:
            if checkpoint.get("checkpoint_type") != "sampler":
                return None
            run = responses.training_run_of(str(checkpoint.get("tinker_path") or ""))
            if run not in runs:
                runs[run] = self._service.read_training_run(run)
            return responses.remote_model(checkpoint, runs[run])

        yield from core.read_each(self._service.list_checkpoints(), read, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Return the training run behind a model: the service remembers its base and its rank."""
        run = self._service.read_training_run(remote.job or responses.training_run_of(remote.id))
        return responses.remote_job(run, remote.id)

    def delete(self, ref: core.AnyRef) -> None:
        """Remove an encoded file of ours, or all that a model has left at the service; quietly done when it is gone."""
        if isinstance(ref, core.UploadRef):
            Path(ref.id).unlink(missing_ok=True)
        elif isinstance(ref, core.ModelRef) and ref.tuned:
            for address in (ref.id, ref.data.get("files"), ref.data.get("state")):
                if address:
                    self._service.delete_checkpoint(str(address))
        else:
            super().delete(ref)

    # --- inside ------------------------------------------------------------------------------------------------------
    @cached_property
    def _service(self) -> TinkerClient:
        SDK.require(f"provider {self.name}")
        settings = self.settings
        return TinkerClient(
            self.name,
            self.address,
            self.key_variable,
            timeout=settings.timeout,
            project_id=settings.value_of("project_id"),
        )

    def _root(self) -> Path:
        return Path(self.settings.runs) if self.settings.runs else config.home() / "tinker" / "runs"

    def _folders(self) -> Iterator[LoopFolder]:
        root = self._root()
        yield from map(LoopFolder, sorted(root.iterdir()) if root.is_dir() else ())

    def _folder(self, key: str) -> LoopFolder:
        return self._open_folder(self._root() / key)

    def _folder_of(self, job: core.JobRef) -> LoopFolder:
        """Return the folder of a job; one that was adopted by its id alone is looked for by its session."""
        if folder := job.data.get("folder"):
            return self._open_folder(Path(folder))
        for candidate in self._folders():
            if any(session.id == job.id for session in candidate.read_sessions()):
                return self._open_folder(candidate.path)
        return self._open_folder(self._root() / Path(job.id).name)

    def _open_folder(self, path: Path) -> LoopFolder:
        """Open a run folder whose process will get the service's key, where there is one."""
        key = config.read_secret(self.key_variable)
        return LoopFolder(path, {self.key_variable: key} if key else {})


def _read_request(request: core.Request) -> LoopRequest:
    """Return the body as the loop's process reads it. Raises `InvalidJob`."""
    try:
        return LoopRequest.model_validate(request.body)
    except ValidationError as problem:
        fault = problem.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidJob(str(fault["msg"]), where=f"the request's {where}") from None


def _find_context(model: str) -> int | None:
    """Return the longest row of a model in tokens, as the service said last; None where it did not."""
    seen = models.read_kept()
    entry = seen.find(model) if seen is not None else None
    return entry.context if entry is not None else None


def _with_limit(run: LoopRequest) -> LoopRequest:
    """Return the request with the model's context as the limit of a row, where the job sets none."""
    recipe, context = run.hyperparameters, _find_context(run.model)
    if recipe.max_sequence_length is not None or context is None:
        return run
    return run.model_copy(update={"hyperparameters": recipe.model_copy(update={"max_sequence_length": context})})
