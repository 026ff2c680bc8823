"""The OpenAI backend, which is also the way to every service that speaks OpenAI's fine-tuning API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

import llmtune.provider as core
from llmtune import _clock
from llmtune.config import read_secret
from llmtune.errors import LlmtuneError, ProviderClosed, TransientError, VendorError, did_you_mean
from llmtune_openai import errors, inference, responses
from llmtune_openai import files as transfer
from llmtune_openai import requests as bodies
from llmtune_openai.client import TIMEOUT, Connection
from llmtune_openai.declarations import KEY_TAG
from llmtune_openai.services import OPENAI, Service, base_of, leave_out_fields, service_of
from llmtune_openai.settings import OpenAIOptions, OpenAISettings

if TYPE_CHECKING:
    from llmtune.data.findings import Finding


class OpenAIProvider(core.BaseProvider):
    """Tuning at OpenAI through the `openai` SDK: supervised and preference jobs, served under the model's id.

    With a `base_url` in its settings it is the way to another service of the same API; `profile` says whose facts
    hold there.
    """

    kind = "openai"
    Options: type[BaseModel] = OpenAIOptions
    Settings: type[BaseModel] = OpenAISettings
    requirements: tuple[core.Requirement, ...] = (
        core.Requirement(extra="openai", module="openai", distribution="openai"),
    )
    paused_hint = "resume it on its page, or by POST /fine_tuning/jobs/{job}/resume"
    service: Service = OPENAI
    """The facts that hold; a service of the same API derives from this class and gives its own."""

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        if isinstance(self.settings, OpenAISettings):
            self.service = service_of(self.settings.value_of("base_url"), self.settings.profile)
            if self.settings.leave_out:
                reason = f"not sent: the service {self.name} does not take it (leave_out)"
                self.service = leave_out_fields(self.service, self.settings.leave_out, reason)
        self.catalog = self.service.catalog
        self.abilities = self.service.abilities
        if self.service.own_kind and self.kind != self.service.own_kind:
            elsewhere = core.NotOffered(
                f"{self.service.title} serves a tuned model only once it is registered, which the provider"
                f" {self.service.own_kind!r} does"
            )
            self.abilities = replace(self.abilities, serving=elsewhere, deployment="none")
        self.submit_safety = self.service.safety
        self._connection = Connection(
            self.name,
            self.service.title,
            self.requirements[0],
            self.key_variable,
            self._client_arguments,
            self.settings.timeout,
        )

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key."""
        return str(self.settings.api_key_env or self.service.key_env)

    def _client_arguments(self) -> dict[str, Any]:
        address = self.address or self.service.base_url
        key: Any = read_secret(self.key_variable)
        if key is None and self.service.make_key is not None:
            key = self.service.make_key(address or "")
        arguments: dict[str, Any] = {
            "api_key": key,
            "base_url": address,
            "organization": getattr(self.settings, "organization", None),
            "project": getattr(self.settings, "project", None),
            "timeout": self.settings.timeout or TIMEOUT,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def find_credentials(self) -> core.Credentials:
        """Return whether the key is there, or can be made when it is needed."""
        credentials = super().find_credentials()
        if credentials[0] == "not found" and self.service.make_key is not None:
            can_make = self.service.make_key(self.address or self.service.base_url or "") is not None
            return ("not checked", None) if can_make else credentials
        return credentials

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports. Pure."""
        return replace(self.service.capabilities(target), abilities=self.abilities)

    def read_catalog(self) -> core.Catalog:
        """Return the catalogue of the service behind the address, with what the user laid over it."""
        return self.service.known()

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact body, without the run key. Pure."""
        return bodies.build(self.service, receipt, files)

    # --- before money is spent ---------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Ask whether this account sees the model, and when it shuts down."""
        from llmtune.data.findings import error, warning

        model = str(request.body.get("model"))
        try:
            facts = self._connection.request(lambda sdk: sdk.models.with_raw_response.retrieve(model))
        except VendorError as fault:
            if isinstance(fault, TransientError) or fault.status not in (403, 404):
                raise
            remedy = self._suggest_model(model) or "check the id"
            return [warning("model", f"{self.service.title} does not show {model}: {fault.message}", remedy)]
        shutdown = facts.get("shutdown_date")
        if not shutdown:
            return []
        if date.fromisoformat(str(shutdown)) <= _clock.today():
            return [error("shutdown", f"{model} was shut down on {shutdown}", "choose another model")]
        message = f"{model} shuts down on {shutdown}, and every model tuned from it with it"
        return [warning("shutdown", message, "plan its replacement")]

    def find_upload(self, digest: str) -> core.UploadRef | None:
        """Find a usable file of that content."""
        return transfer.find_upload(self._connection, self.service, digest)

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Send one file and wait until it can be used; it expires as the settings say, where the service has that."""
        expires_days: int | Literal["never"] = getattr(self.settings, "upload_expires_days", "never")
        return transfer.upload(self._connection, self.service, file, expires_days)

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one call, never repeated here."""
        arguments = bodies.for_sdk(bodies.keyed(self.service, request.body, key))
        try:
            job = self._connection.request(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.create(**arguments))
        except (ProviderClosed, VendorError) as refused:
            is_about_model = isinstance(refused, ProviderClosed) or errors.names_no_model(refused)
            if is_about_model and (suggestion := self._suggest_model(str(request.body.get("model")))):
                refused.hint = "; ".join(filter(None, (suggestion, refused.hint)))
            raise
        try:
            return self._ref(responses.check_is_job(job))
        except VendorError as error:  # an answer with a good status: the job may well be there
            raise TransientError(f"{self.service.title}: {error.message}", code=error.code, raw=error.raw) from error

    def _suggest_model(self, model: str) -> str:
        """Return what a model's id may be a misspelling of, as a question; "" where it is in the catalogue."""
        ids = self.service.known().models
        nearest = [] if base_of(model) in ids else did_you_mean(model, ids)
        return f"{model} may be misspelt: did you mean {' or '.join(nearest)}?" if nearest else ""

    def _ref(self, job: Mapping[str, Any]) -> core.JobRef:
        page = self.service.job_page
        return core.JobRef(id=str(job["id"]), url=page.format(job["id"]) if page and not self.address else None)

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job that carries this key. OpenAI filters by metadata; elsewhere all jobs are read."""
        searches: list[dict[str, Any]] = []
        if "metadata" in self.service.key_in:
            searches.append({"metadata": {KEY_TAG: key}})
        if self.service.key_in != ("metadata",) or self.service.safety.kind == "none":
            searches.append({})
        for search in searches:
            for job in self._jobs(**search):
                # A service may not know the filter and answer with everything.
                if bodies.carries(job, key):
                    if not job.get("id"):
                        raise VendorError(f"{self.service.title} lists the run's job without an id that can be read")
                    return self._ref(job)
        return None

    def _jobs(self, **search: Any) -> Iterator[dict[str, Any]]:
        return self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.with_raw_response.list(**search, **paging)
        )

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read state, new events and points, checkpoints, and the result file once there is one."""
        cursor = dict(since or {})
        payload = self._job(job.id)
        state, _ = responses.read_state(payload)
        not_reported: dict[str, str] = {}
        optional = core.OptionalReads()
        events: list[dict[str, Any]] = []
        checkpoints: list[dict[str, Any]] = []
        results: dict[str, bytes | None] = {}
        with optional.reading("its events"):
            events = self._events(job.id, cursor.get("event"), not_reported)
        if state.final or state in (core.RunState.RUNNING, core.RunState.PAUSED):
            with optional.reading("its checkpoints"):
                checkpoints = self._checkpoints(job.id, not_reported)
        # A file that is listed while the job runs (at Azure) grows until it has ended: then it is read again.
        when = "final_results" if state.final else "results"
        listed = [str(id) for id in payload.get("result_files") or ()]
        for id in listed:
            if id not in cursor.get(when, ()):
                with optional.reading(f"its result file {id}"):
                    results[id] = self._result_file(id)
        if blocked := responses.blocked_by(events):
            cursor["blocked"] = blocked
        snapshot = responses.snapshot(
            payload,
            events=events,
            checkpoints=checkpoints,
            results=results,
            not_reported=not_reported,
            blocked=cursor.get("blocked"),
        )
        snapshot = self.add_models(snapshot, payload, checkpoints)
        cursor[when] = [*cursor.get(when, ()), *(id for id, content in results.items() if content is not None)]
        if events:
            cursor["event"] = events[-1]["id"]
        return optional.complete(snapshot.model_copy(update={"cursor": cursor}))

    def add_models(
        self, snapshot: core.Snapshot, job: Mapping[str, Any], checkpoints: list[dict[str, Any]]
    ) -> core.Snapshot:
        """Return the snapshot with the models that neither the job nor its checkpoints name; override for a service
        whose tuned models have other names."""
        return snapshot

    def _result_file(self, id: str) -> bytes | None:
        try:
            return self._connection.content(lambda sdk: sdk.files.with_raw_response.content(id))
        except VendorError as error:
            if error.status != 404:
                raise
            return None  # somebody has deleted it; that is no reason to lose sight of the run

    def _job(self, id: str) -> dict[str, Any]:
        return responses.check_is_job(
            self._connection.request(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.retrieve(id))
        )

    def _events(self, id: str, last: str | None, not_reported: dict[str, str]) -> list[dict[str, Any]]:
        """Return the events after the one with the id `last`, oldest first. The service lists the newest first."""
        events: list[dict[str, Any]] = []
        pages = self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.with_raw_response.list_events(id, **paging)
        )
        for event in self._items_if_listed(pages, "events", not_reported):
            events.append(event)
            if event.get("id") == last and _is_newest_first(events):
                break
        if _is_newest_first(events):
            events.reverse()
        reported = next((index for index, event in enumerate(events) if last and event.get("id") == last), -1)
        return events[reported + 1 :]

    def _checkpoints(self, id: str, not_reported: dict[str, str]) -> list[dict[str, Any]]:
        pages = self._connection.pages(
            lambda sdk, paging: sdk.fine_tuning.jobs.checkpoints.with_raw_response.list(id, **paging)
        )
        return list(self._items_if_listed(pages, "checkpoints", not_reported))

    def _items_if_listed(
        self, pages: Iterator[dict[str, Any]], what: str, not_reported: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a list that compatible services may lack; elsewhere a missing list is an error."""
        try:
            yield from pages
        except VendorError as error:
            if (
                not self.service.may_lack_lists
                or isinstance(error, TransientError)
                or error.status not in (404, 405, 501)
            ):
                raise
            not_reported[what] = f"{self.service.title} has no list of {what}"

    def cancel(self, job: core.JobRef) -> None:
        """Ask the service to stop the job; quietly done when it has ended already."""
        try:
            self._connection.request(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.cancel(job.id))
        except VendorError as error:
            if isinstance(error, TransientError) or not responses.read_state(self._job(job.id))[0].final:
                raise

    def pause(self, job: core.JobRef) -> None:
        """Ask the service to pause the job."""
        self._connection.request(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.pause(job.id))

    def resume(self, job: core.JobRef) -> None:
        """Ask the service to go on with a paused job."""
        self._connection.request(lambda sdk: sdk.fine_tuning.jobs.with_raw_response.resume(job.id))

    # --- the model ---------------------------------------------------------------------------------------------------
    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open the model under its id, through the chat API."""
        fields = {**core.CHAT_FIELDS, "max_tokens": self.service.max_tokens_word}
        taken = {name: field for name, field in fields.items() if field not in self.service.left_out}
        return core.ChatGenerator(ref.id, self._complete, fields=taken)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._connection.request(lambda sdk: sdk.chat.completions.with_raw_response.create(**body))

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that call this model through the `openai` package."""
        key = self.key_variable if self.key_variable != "OPENAI_API_KEY" else None
        return inference.snippet(ref.id, base_url=self.address or self.service.base_url, key_variable=key)

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every tuned model: those of the account's jobs, then any other that the service lists, checkpoints too.

        Raises `VendorError` at the end where a record of the lists could not be read.
        """
        answer = self._connection.request(lambda sdk: sdk.models.with_raw_response.list()).get("data") or ()
        models = {str(model["id"]): model for model in answer if isinstance(model, Mapping) and model.get("id")}
        tuned: dict[str, core.RemoteModel] = {}
        checkpoints: dict[str, set[str]] = {}

        def readers() -> Iterator[Callable[[], core.RemoteModel | None]]:
            for job in self._jobs():
                yield partial(responses.remote_model, job, models)
            for id, model in models.items():
                if id not in tuned and base_of(id) != id:
                    yield partial(self._listed_model, model, models, list(tuned.values()), checkpoints)

        for model in core.read_each(readers(), lambda read: read(), self.service.title):
            if model.id not in tuned:
                tuned[model.id] = model
                yield model

    def _listed_model(
        self,
        model: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
        tuned: Iterable[core.RemoteModel],
        checkpoints: dict[str, set[str]],
    ) -> core.RemoteModel:
        """Convert a model that no job names: a checkpoint of a job's model, or an older model."""
        id = str(model["id"])
        return core.RemoteModel(
            id=id,
            base=base_of(id),
            created=core.unix_seconds(model.get("created")),
            shutdown=responses.shutdown_of(id, base_of(id), models),
            checkpoint_of=self._model_of_checkpoint(id, tuned, checkpoints),
        )

    def _model_of_checkpoint(
        self, id: str, tuned: Iterable[core.RemoteModel], checkpoints: dict[str, set[str]]
    ) -> str | None:
        """Return the tuned model whose job made this checkpoint. Jobs are queried, because the ids share only a
        part."""
        stem, mark, _ = id.partition(":ckpt-step-")
        for model in tuned if mark else ():
            if model.id == stem:
                return model.id
            if model.job is None or model.id.rpartition(":")[0] != stem.rpartition(":")[0]:
                continue
            if model.job not in checkpoints:
                try:
                    listed = self._checkpoints(model.job, {})
                except VendorError:  # then it stands beside its model, which hurts nobody
                    listed = []
                checkpoints[model.job] = {str(checkpoint.get("fine_tuned_model_checkpoint")) for checkpoint in listed}
            if id in checkpoints[model.job]:
                return model.id
        return None

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model. Raises `VendorError` if the account has none."""
        if remote.job:
            return responses.remote_job(self._job(remote.job), remote.id)
        for job in self._jobs():
            if job.get("fine_tuned_model") == remote.id or job.get("id") == remote.id:
                return responses.remote_job(job, remote.id)
        raise VendorError(f"{self.service.title} shows no job that made {remote.id}", code="not_found")

    def download(self, file_id: str, into: Path) -> Path:
        """Download a file; a result file becomes plain CSV."""
        return transfer.download(self._connection, file_id, into)

    def delete(self, ref: core.AnyRef) -> None:
        """Delete a file or a tuned model; quietly done when it is gone. Job records cannot be deleted."""
        if isinstance(ref, core.UploadRef):
            with core.ignore_not_found():
                self._connection.request(lambda sdk: sdk.files.with_raw_response.delete(ref.id))
        elif isinstance(ref, core.ModelRef):
            if not ref.tuned:
                raise LlmtuneError(f"{ref.id} is a base model; only tuned models are deleted")
            with core.ignore_not_found():
                self._connection.request(lambda sdk: sdk.models.with_raw_response.delete(ref.id))
        elif isinstance(ref, core.JobRef):
            raise LlmtuneError(f"{self.service.title} keeps its job records: {ref.id} cannot be deleted")


def _is_newest_first(events: list[dict[str, Any]]) -> bool:
    return not events or (events[0].get("created_at") or 0) >= (events[-1].get("created_at") or 0)
