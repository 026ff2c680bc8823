"""The OpenAI backend, which is also the way to every service that speaks OpenAI's fine-tuning API."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from llmtune import _clock
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.provider import (
    DeploymentRef,
    JobRef,
    ModelRef,
    Readiness,
    RemoteJob,
    RemoteModel,
    Request,
    Requirement,
    RunState,
    UploadRef,
)
from llmtune_openai import files as transfer
from llmtune_openai import requests as bodies
from llmtune_openai import responses
from llmtune_openai.client import PATIENCE, Connection, key_of
from llmtune_openai.declarations import KEY_TAG
from llmtune_openai.inference import ChatGenerator
from llmtune_openai.services import Service, service_of
from llmtune_openai.settings import OpenAIOptions, OpenAISettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.provider import (
        AnyRef,
        Capabilities,
        Cursor,
        EncodedDataset,
        EncodedFile,
        Files,
        Generator,
        Receipt,
        RunKey,
        Snapshot,
        SubmitSafety,
        Target,
        Unavailable,
    )


class OpenAIProvider:
    """Tuning at OpenAI through the `openai` SDK: supervised and preference jobs, served under the model's id.

    With a `base_url` in its settings it is the way to another service of the same API; `profile` says whose facts
    hold there.
    """

    kind = "openai"
    hosted = True
    listed = True
    Options: type[BaseModel] = OpenAIOptions
    Settings: type[BaseModel] = OpenAISettings
    requirements: tuple[Requirement, ...] = (Requirement(extra="openai", module="openai", distribution="openai"),)

    def __init__(self, name: str = "openai", settings: Any = None) -> None:
        self.name = name
        self.settings: Any = settings if settings is not None else self.Settings()
        self.service: Service = self._service()
        self.submit_safety: SubmitSafety = self.service.safety
        self._connection = Connection(
            name,
            self.service.title,
            self.extra,
            self.key_env,
            self._client_arguments,
            getattr(self.settings, "timeout", None),
        )

    # --- what another service changes --------------------------------------------------------------------------------
    def _service(self) -> Service:
        return service_of(self.base_url, self.settings.profile)

    @property
    def extra(self) -> str:
        """The extra that installs the SDK."""
        return self.requirements[0].extra

    @property
    def base_url(self) -> str | None:
        """The address that is configured; None leaves it to the service's own."""
        return self.settings.base_url or os.environ.get("OPENAI_BASE_URL") or None

    @property
    def key_env(self) -> str:
        """The environment variable that holds the key."""
        return str(self.settings.api_key_env or self.service.key_env)

    def _client_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "api_key": key_of(self.key_env),
            "base_url": self.base_url or self.service.base_url,
            "organization": getattr(self.settings, "organization", None),
            "project": getattr(self.settings, "project", None),
            "timeout": self.settings.timeout or PATIENCE,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        return self.service.capabilities(target)

    def ready(self) -> Readiness:
        """Whether the SDK and the key are there."""
        installed = importlib.util.find_spec("openai") is not None
        found = key_of(self.key_env) is not None
        hint = None
        if not installed:
            hint = f"pip install 'llmtune-sdk[{self.extra}]'"
        elif not found:
            hint = f"export {self.key_env}=..."
        return Readiness(
            extra="installed" if installed else "missing", credentials="found" if found else "not found", hint=hint
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows as chat or preference rows to content-named files in `into`."""
        from llmtune.provider import encode_dataset

        return encode_dataset(data, self.capabilities(receipt.target).limits.format, into)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body, without the run key. Pure."""
        return bodies.build(self.service, receipt, files)

    # --- before money is spent ---------------------------------------------------------------------------------------
    def preflight(self, request: Request) -> list[Finding]:
        """Ask whether this account sees the model, and when it shuts down."""
        from llmtune.data.findings import error, warning

        model = str(request.body.get("model"))
        try:
            facts = self._connection.ask(lambda sdk: sdk.models.with_raw_response.retrieve(model))
        except VendorError as fault:
            if isinstance(fault, TransientError) or fault.status not in (403, 404):
                raise
            return [warning("model", f"{self.service.title} does not show {model}: {fault.raw}", "check the id")]
        shutdown = facts.get("shutdown_date")
        if not shutdown:
            return []
        if date.fromisoformat(str(shutdown)) <= _clock.today():
            return [error("shutdown", f"{model} was shut down on {shutdown}", "choose another model")]
        message = f"{model} shuts down on {shutdown}, and every model tuned from it with it"
        return [warning("shutdown", message, "plan its replacement")]

    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of that content which is there and usable."""
        return transfer.find_upload(self._connection, self.service, digest)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Send one file and wait until it can be used."""
        return transfer.upload(self._connection, self.service, file)

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one call, never repeated here."""
        arguments = bodies.for_sdk(bodies.keyed(self.service, request.body, key))
        job = self._connection.ask(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.create(**arguments))
        return self._ref(responses.check_is_job(job))

    def _ref(self, job: Mapping[str, Any]) -> JobRef:
        page = self.service.job_page
        own = self.base_url is None
        return JobRef(id=str(job["id"]), url=page.format(job["id"]) if page and own else None)

    def find(self, key: RunKey) -> JobRef | None:
        """The job that carries this key. OpenAI filters by metadata; elsewhere all jobs are looked through."""
        searches: list[dict[str, Any]] = []
        if "metadata" in self.service.key_in:
            searches.append({"metadata": {KEY_TAG: key}})
        if self.service.key_in != ("metadata",) or self.service.safety.kind == "none":
            searches.append({})
        for search in searches:
            for job in self._jobs(**search):
                if bodies.carries(job, key):  # a service may not know the filter and answer with everything
                    return self._ref(job)
        return None

    def _jobs(self, **search: Any) -> Iterator[dict[str, Any]]:
        return self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.with_raw_response.list(**search, **paging)
        )

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """State, new events and points, checkpoints, and the result file once there is one."""
        cursor = dict(since or {})
        payload = self._job(job.id)
        state, _ = responses.state_of(payload)
        untold: dict[str, str] = {}
        events = self._events(job.id, cursor.get("event"), untold)
        begun = state.final or state in (RunState.RUNNING, RunState.PAUSED)
        checkpoints = self._checkpoints(job.id, untold) if begun else []
        results = {
            str(id): self._result_file(str(id))
            for id in payload.get("result_files") or ()
            if id not in cursor.get("results", ())
        }
        seen = responses.snapshot(payload, events=events, checkpoints=checkpoints, results=results, not_reported=untold)
        cursor["results"] = [*cursor.get("results", ()), *results]
        if events:
            cursor["event"] = events[-1]["id"]
        return seen.model_copy(update={"cursor": cursor})

    def _result_file(self, id: str) -> bytes | None:
        try:
            return self._connection.content(lambda sdk: sdk.files.with_raw_response.content(id))
        except VendorError as error:
            if error.status != 404:
                raise
            return None  # somebody has deleted it; that is no reason to lose sight of the run

    def _job(self, id: str) -> dict[str, Any]:
        return responses.check_is_job(
            self._connection.ask(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.retrieve(id))
        )

    def _events(self, id: str, seen: str | None, untold: dict[str, str]) -> list[dict[str, Any]]:
        """The events after the one already seen, oldest first. The service lists the newest first."""
        found: list[dict[str, Any]] = []
        pages = self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.with_raw_response.list_events(id, **paging)
        )
        for event in self._where_there_is_one(pages, "events", untold):
            found.append(event)
            if event.get("id") == seen and _newest_first(found):
                break
        if _newest_first(found):
            found.reverse()
        known = next((at for at, event in enumerate(found) if seen and event.get("id") == seen), -1)
        return found[known + 1 :]

    def _checkpoints(self, id: str, untold: dict[str, str]) -> list[dict[str, Any]]:
        pages = self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.checkpoints.with_raw_response.list(id, **paging)
        )
        return list(self._where_there_is_one(pages, "checkpoints", untold))

    def _where_there_is_one(
        self, pages: Iterator[dict[str, Any]], what: str, untold: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """The items of a list that compatible services may lack; elsewhere a missing list is an error."""
        try:
            yield from pages
        except VendorError as error:
            if (
                not self.service.may_lack_lists
                or isinstance(error, TransientError)
                or error.status not in (404, 405, 501)
            ):
                raise
            untold[what] = f"{self.service.title} has no list of {what}"

    def cancel(self, job: JobRef) -> None:
        """Ask the service to stop the job; quietly done when it has ended already."""
        try:
            self._connection.ask(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.cancel(job.id))
        except VendorError as error:
            if isinstance(error, TransientError) or not responses.state_of(self._job(job.id))[0].final:
                raise

    def pause(self, job: JobRef) -> None:
        """Ask the service to pause the job."""
        self._connection.ask(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.pause(job.id))

    def resume(self, job: JobRef) -> None:
        """Ask the service to go on with a paused job."""
        self._connection.ask(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.resume(job.id))

    # --- the model ---------------------------------------------------------------------------------------------------
    def deploy(self, model: ModelRef, key: RunKey) -> DeploymentRef | None:
        """Nothing to do: a tuned model answers under its id."""
        return None

    def find_deployment(self, key: RunKey) -> DeploymentRef | None:
        """There are no deployments here."""
        return None

    def undeploy(self, ref: DeploymentRef) -> None:
        """There are no deployments here."""

    def generator(self, ref: ModelRef | DeploymentRef) -> Generator | Unavailable:
        """The model under its id, through the chat API."""
        return ChatGenerator(self._connection, ref.id, self.service.max_tokens_word)

    def base_model(self, receipt: Receipt) -> ModelRef | Unavailable:
        """The model that the job starts from."""
        return ModelRef(id=receipt.target.model, tuned=False)

    def snippet(self, ref: ModelRef | DeploymentRef) -> str:
        """A few lines of Python that call this model through the `openai` package."""
        where = self.base_url or self.service.base_url
        own_key = self.key_env != "OPENAI_API_KEY"
        arguments = ([f"base_url={where!r}"] if where else []) + (
            [f"api_key=os.environ[{self.key_env!r}]"] if own_key else []
        )
        return "\n".join(
            [
                *(["import os", ""] if own_key else []),
                "from openai import OpenAI",
                "",
                f"client = OpenAI({', '.join(arguments)})",
                "answer = client.chat.completions.create(",
                f"    model={ref.id!r},",
                '    messages=[{"role": "user", "content": "Hello"}],',
                ")",
                "print(answer.choices[0].message.content)",
            ]
        )

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model: those of the account's jobs, then any other that the service lists."""
        models = {
            str(model.get("id")): model
            for model in self._connection.ask(lambda sdk: sdk.models.with_raw_response.list()).get("data") or ()
        }
        told: set[str] = set()
        for job in self._jobs():
            id = job.get("fine_tuned_model")
            if not id or id in told:
                continue
            told.add(id)
            base = str(job.get("model") or "")
            listed = models.get(id, {})
            yield RemoteModel(
                id=id,
                base=base or None,
                job=str(job["id"]),
                created=job.get("finished_at") or listed.get("created"),
                shutdown=listed.get("shutdown_date") or models.get(base, {}).get("shutdown_date"),
                data={"status": job.get("status"), "listed": id in models},
            )
        from llmtune_openai.services import base_of

        for id, model in models.items():
            if id not in told and base_of(id) != id:
                base = base_of(id)
                shutdown = model.get("shutdown_date") or models.get(base, {}).get("shutdown_date")
                yield RemoteModel(id=id, base=base, created=model.get("created"), shutdown=shutdown)

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model. Raises `VendorError` when the account has none."""
        if remote.job:
            return responses.remote_job(self._job(remote.job), remote.id)
        for job in self._jobs():
            if job.get("fine_tuned_model") == remote.id or job.get("id") == remote.id:
                return responses.remote_job(job, remote.id)
        raise VendorError(f"{self.service.title} shows no job that made {remote.id}", code="not_found")

    def download(self, file_id: str, into: Path) -> Path:
        """Bring a file here; a result file as plain CSV."""
        return transfer.download(self._connection, file_id, into)

    def delete(self, ref: AnyRef) -> None:
        """Delete a file or a tuned model; quietly done when it is gone. Job records cannot be deleted."""
        if isinstance(ref, UploadRef):
            self._gone(lambda: self._connection.ask(lambda sdk: sdk.files.with_raw_response.delete(ref.id)))
        elif isinstance(ref, ModelRef):
            if not ref.tuned:
                raise LlmtuneError(f"{ref.id} is a base model; only tuned models are deleted")
            self._gone(lambda: self._connection.ask(lambda sdk: sdk.models.with_raw_response.delete(ref.id)))
        elif isinstance(ref, JobRef):
            raise LlmtuneError(f"{self.service.title} keeps its job records: {ref.id} cannot be deleted")

    def _gone(self, call: Callable[[], object]) -> None:
        try:
            call()
        except VendorError as error:
            if error.status != 404:
                raise


def _newest_first(events: list[dict[str, Any]]) -> bool:
    return not events or (events[0].get("created_at") or 0) >= (events[-1].get("created_at") or 0)
