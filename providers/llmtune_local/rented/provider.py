"""The base class of backends that train on a rented machine. A vendor's class gives it a `RentedVendor`.

The local trainer does the work, on the machine; its run folder comes home, and from then on the model is a local one.
A job carries the run's key as a label, by which it is found; the storage holds its folder `runs/KEY`. Nothing here must
survive: any process can go on from the job's reference.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

import llmtune.provider as core
from llmtune import config
from llmtune.data.findings import Finding, warning
from llmtune.errors import InvalidJob, LlmtuneError, SubmitUnknown, TransientError, VendorError
from llmtune.provider import RunState
from llmtune.provider.memory import size
from llmtune_local import requests, responses
from llmtune_local.default_settings import count_parameters
from llmtune_local.models import memory_estimate
from llmtune_local.provider import LocalProvider
from llmtune_local.rented import machines
from llmtune_local.rented.entry import ENDED, LIMITS, LOCAL_ONLY, USED, read_record
from llmtune_local.rented.settings import RentedOptions
from llmtune_local.rented.vendor import (
    DATA_LABEL,
    RATE_LABEL,
    RUN_LABEL,
    VALIDATION_LABEL,
    Launch,
    RentedJob,
    RentedVendor,
    StoredFile,
)
from llmtune_local.rented.wheel import pack_wheel
from llmtune_local.run_state.process import FolderBusy, FolderLock
from llmtune_local.run_state.run_dir import RunDir, now, write_atomically
from llmtune_local.run_state.schema import FINAL, RunRequest, Verdict
from llmtune_local.worker import supervisor

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.facts import DatasetFacts

_T = TypeVar("_T")

#: The storage: datasets and wheels by content, and a folder for each run.
INPUTS, RUNS = "inputs", "runs"
#: The folder of a run that is fetched only when the run is over, and never.
_LARGE, _NEVER = ("adapter/", "model/", "logits/"), ("checkpoints/",)
#: Marks a run folder here whose run is over and whose files are complete.
_SETTLED = "settled.json"
#: What a run folder here notes beside what was fetched: the job that a resume has started, the versions of the files
#: that were fetched, and which process fetches. Nothing of these names is fetched.
_RESUMED, _FETCHED, _FETCHING = "resumed.json", ".fetched.json", ".fetching"
_NOTES = frozenset({_SETTLED, _RESUMED, _FETCHED, _FETCHING}) | LOCAL_ONLY
#: A run's key; others could lead out of the folder of the runs.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: Seconds that the vendor waits beyond the limit before it ends a job itself.
_GRACE = 60
#: Bytes of memory a parameter of a model that is not on this machine, by adapter: a guess.
_BYTES_PER_PARAMETER = {"qlora": 1.0, "lora": 2.6, "dora": 2.8, "full": 17.0}
_ROUGH_REST = 4 << 30


class RentedProvider(LocalProvider):
    """The local trainer on a machine that is rented for the run. Subclasses name the vendor and return `vendor`."""

    hosted = True
    methods = LocalProvider.methods | {"reinforcement": core.NOT_YET_METHODS["reinforcement"]}
    submit_safety = core.SubmitSafety(kind="searchable", window=30.0)
    Options: type[BaseModel] = RentedOptions

    @property
    @abstractmethod
    def vendor(self) -> RentedVendor:
        """The vendor of the machines."""

    def read_secrets(self, machine: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the secrets that the machine of a run with these options gets: none, unless a vendor's class has some.

        They go from here into the one call that starts the job, and are kept nowhere: runs start beside each other.
        """
        return {}

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what the local trainer can express; jobs run beside each other, one a machine."""
        able = super().capabilities(target)
        abilities = replace(able.abilities, billed_cost=True)
        return replace(
            able,
            abilities=abilities,
            methods=self.methods,
            grader=None,
            concurrency=None,
            concurrency_source="",
            price=_BY_THE_MINUTE,
        )

    def find_credentials(self) -> core.Credentials:
        """Return whether the vendor's key is there."""
        return core.BaseProvider.find_credentials(self)

    def describe_hardware(self) -> dict[str, str]:
        """Return nothing: the machine is rented when a run starts."""
        return {}

    def list_local_models(self) -> Sequence[str]:
        """Return nothing: a rented machine reads its model from the hub."""
        return ()

    def suggest_models(self, facts: DatasetFacts, named: str | None = None) -> Sequence[core.ModelSuggestion]:
        """Return nothing: suggestions are by this machine's memory."""
        return ()

    @contextlib.contextmanager
    def warm(self) -> Iterator[None]:
        """Do nothing: each run has a machine of its own."""
        yield

    def footprint(self, receipt: core.Receipt, dataset: Dataset) -> core.Footprint:
        """Estimate the peak on the rented device, by the model's files where they are here, else by its name."""
        options = receipt.target.options
        device = "cpu" if options.get("device") == "cpu" else "cuda"
        sizes, budget = dataset.estimated_tokens, options.get("token_budget")
        estimate = memory_estimate.footprint(
            receipt, len(dataset.train), sizes["train"], sizes["longest"], budget, elsewhere=device
        )
        renamed = tuple(
            hint.replace("provider_options.local.", f"provider_options.{self.name}.") for hint in estimate.advice
        )
        estimate = estimate.model_copy(update={"advice": renamed})
        parameters = count_parameters(receipt.target.model, options.get("revision"))
        if estimate.peak is not None or parameters is None:
            return estimate
        peak = round(parameters * _BYTES_PER_PARAMETER[receipt.target.adapter]) + _ROUGH_REST
        return core.Footprint(device=device, peak=peak)

    def estimate_duration(self, receipt: core.Receipt, find_speed: core.FindSpeed) -> core.Duration:
        """Estimate the time on the machine that would be chosen, by prices that were read before."""
        try:
            choice = self._choose(self._read_prices(), self._need(receipt, receipt.memory), receipt.target.options)
        except LlmtuneError as problem:
            return core.Duration(unknown=problem.message)
        if choice.span is None:
            return core.Duration(unknown="the model's size or the number of tokens is not known")
        return core.Duration(training=choice.span, source=f"a guess, on {choice.machine.name}: no run has measured it")

    def estimate_cost(self, receipt: core.Receipt) -> core.CostEstimate:
        """Estimate what the machine costs, by prices that were read before."""
        read = self._read_prices()
        source, checked = self._prices_source()
        try:
            choice = self._choose(read, self._need(receipt, receipt.memory), receipt.target.options)
        except LlmtuneError as problem:
            return core.CostEstimate(unknown=problem.message, source=source, checked=checked)
        limit = _limit_seconds(receipt.target.options, choice.machine.per_minute)
        most = machines.price(choice.machine.per_minute, limit)
        low, high = choice.cost or (0.0, most)
        high, low = min(high, most), min(low, high, most)
        line = core.CostLine(name="training", low=low, high=most, formula=choice.sentence())
        # The time is a guess: only the limit says what the machine may cost at most, and a budget is held against that.
        return core.CostEstimate(
            training=most,
            evaluation=0.0,
            hosting=0.0,
            total=most,
            low=low,
            range_reason=f"up to {high:,.2f} by a guess of the time; max_cost or max_hours stops it at {most:,.2f}",
            lines=(line,),
            formula=choice.sentence(),
            source=source,
            checked=checked,
        )

    def suggest_machine(self, receipt: core.Receipt, dataset: Dataset) -> str | None:
        """Return which machine would run a job that does not fit on this one, by prices that were read before."""
        options = {name: value for name, value in receipt.target.options.items() if name != "device"}
        target = receipt.target.model_copy(update={"options": options})
        elsewhere = receipt.model_copy(update={"target": target})
        memory = self.footprint(elsewhere, dataset)
        offered = self._read_prices()
        if not offered:
            needed = f"about {size(memory.peak)}" if memory.peak is not None else "an amount that is not known"
            return f"a machine of {self.name} may hold it ({needed}): {self._read_command} reads which"
        try:
            choice = machines.choose_machine(offered, self._need(elsewhere, memory))
        except LlmtuneError:
            return None
        return f"--provider {self.name} would run it on {choice.sentence()}"

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the request that the worker reads, and what its machine is chosen by."""
        body = requests.build(self._for_worker(receipt), files)
        options = {name: receipt.target.options.get(name) for name in self._machine_options}
        body["files"] = {role: ref.id.removeprefix(f"{INPUTS}/") for role, ref in files.items()}
        need = self._need(receipt, receipt.memory)
        body["machine"] = {name: value for name, value in options.items() if value is not None} | {
            name: value for name, value in vars(need).items() if value not in (None, False)
        }
        return core.Request(operation=f"start a job on a machine of {self.name}", body=body)

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Encode the rows as the local trainer does, after each was rendered with the model's own template."""
        return super().encode(data, self._for_worker(receipt), into)

    def base_model(self, receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
        """Return the model that training started from, as it is asked on this machine."""
        return super().base_model(self._for_worker(receipt))

    def plan_notes(self, receipt: core.Receipt) -> Sequence[str]:
        """Return what an adapter will cover and leave out, where the model is on this machine."""
        return super().plan_notes(self._for_worker(receipt))

    # --- the run -----------------------------------------------------------------------------------------------------
    def preflight(self, request: core.Request) -> list[Finding]:
        """Read today's prices, choose the machine, and refuse what cannot run there."""
        self._need_libraries()
        run, machine = self._split(request)
        self._check_run(run)
        choice = self._choose(self._fetch_prices(), _read_need(machine), machine)
        limit = _limit_seconds(machine, choice.machine.per_minute)
        stop = f"it stops with a checkpoint at {machines.price(choice.machine.per_minute, limit):.2f} USD at the latest"
        return [warning("machine", f"{choice.sentence()}; {stop}", "options machine, max_cost and max_hours change it")]

    def find_upload(self, digest: str) -> core.UploadRef | None:
        """Find a dataset in the storage by its content."""
        path = f"{INPUTS}/{digest}.jsonl"
        there = any(file.path == path for file in self.vendor.list_files(INPUTS))
        return core.UploadRef(id=path, digest=digest) if there else None

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Store one file of rows, under its content's digest."""
        path = f"{INPUTS}/{file.sha256}.jsonl"
        self.vendor.put_files({path: file.path})
        return core.UploadRef(id=path, digest=file.sha256, role=file.role)

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Store the run's request, and start one job on the machine that is chosen by today's prices."""
        run, machine = self._split(request)
        self._check_run(run)
        return self._launch(run, machine, key, again=False)

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the job that carries the key; of several, after a resume, the last."""
        jobs = self.vendor.find_jobs({RUN_LABEL: key})
        return self._job_ref(jobs[-1], key) if jobs else None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the job and what its machine has stored; fetch the result of one that has ended, and remove the rest."""
        rented = self._read_job(job)
        folder, key = self._folder_of(job), self._key_of(job, rented)
        if not (folder.path / _SETTLED).is_file():
            self._bring_home(folder, key, ended=rented.state.final)
        verdict = self._assess(folder, rented)
        snapshot = responses.snapshot(folder, folder.read_status(), verdict, since)
        changes: dict[str, Any] = {
            "raw_state": rented.raw_state,
            "warnings": (*snapshot.warnings, *rented.warnings),
        }
        if rented.state.final:
            changes["billed"] = self._bill(key, rented)
            if verdict.state == "succeeded" and not (folder.path / _SETTLED).is_file():
                try:
                    self._settle(folder, key)
                except TransientError:
                    raise
                except LlmtuneError as refused:  # the model is here all the same
                    left = (
                        f"its files in the storage could not be removed, remove {RUNS}/{key} there: {refused.message}"
                    )
                    changes["warnings"] = (*changes["warnings"], left)
        return snapshot.model_copy(update=changes)

    def cancel(self, job: core.JobRef) -> None:
        """Stop every job of the run; its worker writes a checkpoint where its vendor leaves it the time."""
        for rented in self._read_jobs(job):
            if rented.state.final:
                continue
            try:
                self.vendor.stop_job(rented.id)
            except TransientError:
                raise
            except VendorError:
                if not self.vendor.read_job(rented.id).state.final:  # else it has ended meanwhile
                    raise

    def resume_point(self, job: core.JobRef) -> str | None:
        """Return where another machine would continue; None where the same request would fail in the same way."""
        folder = self._folder_of(job)
        if not supervisor.may_resume(folder):
            return None
        step = self._stored_step(self._key_of(job, None))
        return f"the checkpoint of step {step}" if step else "the beginning: it has no checkpoint"

    def restart(self, job: core.JobRef, request: core.Request) -> str:
        """Start another job that continues from the stored checkpoint, with the whole of its limits again.

        Raises `SubmitUnknown` where it may have been started: calls that break are repeated, and this one is paid.
        """
        key = core.RunKey(self._key_of(job, None))
        step = self._stored_step(key)
        run, machine = self._split(request)
        if not any(not rented.state.final for rented in self._read_jobs(job)):
            folder = self._folder_of(job).path
            # What was fetched of the earlier job's end says nothing about this one's.
            for note in (_SETTLED, _FETCHED, ENDED):
                (folder / note).unlink(missing_ok=True)
            try:
                started = self._launch(run, machine, key, again=True)
            except TransientError as broken:
                if not broken.sent:
                    raise
                raise SubmitUnknown(
                    f"{self.name} may have started a machine for run key {key}, or not: {broken.message}",
                    hint="resume the run again in a minute: a machine that runs by then is followed, not started again",
                ) from broken
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(folder / _RESUMED, json.dumps({"job": started.id}))
        return f"the checkpoint of step {step}" if step else "the beginning: it has no checkpoint"

    # --- what is there -----------------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield the models that were fetched; today's prices are read on the way."""
        self._fetch_prices()
        return super().inventory()

    def list_strays(self) -> Sequence[str]:
        """Return a sentence for each job with our label that runs and costs money, whoever started it."""
        strays = []
        for rented in self.vendor.find_jobs({}):
            key = rented.labels.get(RUN_LABEL)
            if key is None or rented.state.final:
                continue
            spent = machines.price(_rate_of(rented), rented.seconds)
            strays.append(
                f"job {rented.id} of run key {key} is {rented.raw_state} on {rented.machine or 'a machine'} and has"
                f" cost {spent:.2f} USD so far"
            )
        return strays

    def delete(self, ref: core.AnyRef) -> None:
        """Remove a dataset or a run's files from the storage, or a fetched model from this machine."""
        if isinstance(ref, core.UploadRef):
            self.vendor.remove_files([ref.id])
            return
        if isinstance(ref, core.JobRef):  # one that was adopted by its id has no folder
            folder, key = self._folder_of(ref).path, self._key_of(ref, None)
            ref = ref.model_copy(update={"data": {"folder": str(folder), "key": key}})
        folder = Path(ref.data.get("folder", ref.id))
        key = ref.data.get("key") or folder.name
        if files := [file.path for file in self.vendor.list_files(f"{RUNS}/{key}")]:
            self.vendor.remove_files(files)
        super().delete(ref)

    # --- inside: the job ---------------------------------------------------------------------------------------------
    def _launch(self, run: RunRequest, machine: Mapping[str, Any], key: core.RunKey, *, again: bool) -> core.JobRef:
        secrets = self.read_secrets(machine)
        choice, limit, wheel = _before(lambda: self._prepare(run, machine, key, again=again))
        per_minute = choice.machine.per_minute
        labels = {
            RUN_LABEL: str(key),
            DATA_LABEL: _digest_label(run.files.train),
            RATE_LABEL: str(round(per_minute * 1e6)),
        }
        if run.files.validation:
            labels[VALIDATION_LABEL] = _digest_label(run.files.validation)
        launch = Launch(
            machine=choice.machine,
            wheel=wheel,
            inputs=INPUTS,
            run=f"{RUNS}/{key}",
            labels=labels,
            seconds=math.ceil(limit) + _GRACE,
            secrets=secrets,
        )
        return self._job_ref(self.vendor.start_job(launch), key)

    def _prepare(
        self, run: RunRequest, machine: Mapping[str, Any], key: core.RunKey, *, again: bool
    ) -> tuple[machines.Choice, float, str]:
        """Do all that comes before the paid call: choose the machine, and store what it needs."""
        choice = self._choose(self._fetch_prices(), _read_need(machine), machine)
        limit = _limit_seconds(machine, choice.machine.per_minute)
        there = {file.path for file in self.vendor.list_files(INPUTS)}
        for name in filter(None, (run.files.train, run.files.validation)):
            if f"{INPUTS}/{name}" not in there:
                raise VendorError(f"the file {INPUTS}/{name} does not exist in the storage any more", status=404)
        name, content = pack_wheel()
        wheel = f"{INPUTS}/{hashlib.sha256(content).hexdigest()[:16]}/{name}"
        folder = f"{RUNS}/{key}"
        used = self._read_stored(f"{folder}/{USED}").get("seconds", 0.0) if again else 0.0
        files: dict[str, Path | bytes] = {
            f"{folder}/request.json": run.model_dump_json(by_alias=True).encode(),
            f"{folder}/{LIMITS}": json.dumps(
                {"seconds": used + limit, "keep_files": bool(machine.get("keep_files"))}
            ).encode(),
        }
        if wheel not in there:
            files[wheel] = content
        if again:
            self.vendor.remove_files([f"{folder}/{ENDED}"])
        self.vendor.put_files(files)
        return choice, limit, wheel

    def _split(self, request: core.Request) -> tuple[RunRequest, Mapping[str, Any]]:
        """Return the worker's part of a request, and the machine's."""
        body = dict(request.body)
        machine = body.pop("machine", {})
        try:
            return RunRequest.model_validate(body), machine
        except ValidationError as problem:
            fault = problem.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise InvalidJob(f"the trainer refuses the request: {fault['msg']}", where=where) from None

    def _check_run(self, run: RunRequest) -> None:
        from llmtune_local.training import panel_check

        panel_check.check_request(run)
        if Path(run.model).expanduser().exists() and ("/" in run.model or "\\" in run.model):
            raise InvalidJob(
                f"{run.model} is a folder of this machine, and a rented machine reads its model from the hub",
                where="model",
                hint="name a model of the hub, or train on from this folder with --provider local",
            )

    def _job_ref(self, rented: RentedJob, key: str) -> core.JobRef:
        folder = self._folder(core.RunKey(key)).path.absolute()
        return core.JobRef(id=rented.id, url=rented.url, data={"key": str(key), "folder": str(folder)})

    def _read_job(self, job: core.JobRef) -> RentedJob:
        """Return the job that the run is at: after a resume, the one that was started then."""
        resumed = read_record(self._folder_of(job).path / _RESUMED).get("job")
        rented = self.vendor.read_job(str(resumed or job.id))
        if not rented.state.final:
            return rented
        return self._latest(self._jobs_of(job, rented))

    def _read_jobs(self, job: core.JobRef) -> Sequence[RentedJob]:
        """Return all jobs of the run, also one that the vendor's list does not have yet."""
        return self._jobs_of(job, self._read_job(job))

    def _jobs_of(self, job: core.JobRef, rented: RentedJob) -> Sequence[RentedJob]:
        jobs = self.vendor.find_jobs({RUN_LABEL: self._key_of(job, rented)})
        return [other for other in jobs if other.id != rented.id] + [rented]

    @staticmethod
    def _latest(jobs: Sequence[RentedJob]) -> RentedJob:
        """Return the last of a run's jobs, before them one that still runs."""
        return max(jobs, key=lambda job: (not job.state.final, job.created))

    def _key_of(self, job: core.JobRef, rented: RentedJob | None) -> str:
        """Return the run's key: from the reference, else from the label of a job that was adopted by its id."""
        if key := job.data.get("key"):
            return str(key)
        label = (rented or self.vendor.read_job(job.id)).labels.get(RUN_LABEL, "")
        if not _KEY.fullmatch(label):
            raise VendorError(f"job {job.id} carries no label {RUN_LABEL} of llmtune's: it is not one of its jobs")
        return label

    def _folder_of(self, job: core.JobRef) -> RunDir:
        if folder := job.data.get("folder"):
            return RunDir(folder)
        return self._folder(core.RunKey(self._key_of(job, None)))

    def _assess(self, folder: RunDir, rented: RentedJob) -> Verdict:
        """Return the state of a run by its job and by what its machine has stored."""
        status = folder.read_status()
        if not rented.state.final:
            if rented.state is not RunState.RUNNING:
                return Verdict(state="starting")
            return Verdict(state="running" if status is None or status.state in FINAL else status.state)
        if status is not None and status.state == "succeeded":
            fault = supervisor.result_fault(folder)
            if fault is not None:
                return Verdict(state="failed", error=f"the result that came from the machine is damaged: {fault}")
            return Verdict(state="succeeded")
        if rented.state is RunState.CANCELLED:
            return Verdict(state="cancelled")
        if status is not None and status.state == "failed":
            return Verdict(state="failed", error=status.error)
        ended = read_record(folder.path / ENDED)
        if ended.get("reason") == "budget":
            step = ended.get("step")
            checkpoint = f"the checkpoint of step {step} is kept" if step else "it had no checkpoint yet"
            return Verdict(
                state="failed",
                error=f"it was stopped at its limit of cost or time; {checkpoint}, and llmtune runs resume continues"
                " from it",
            )
        reason = rented.message or ended.get("error") or folder.error_tail()
        return Verdict(state="failed", error=f"the job ended as {rented.raw_state} without a result: {reason}")

    def _bill(self, key: str, rented: RentedJob) -> core.Billed | None:
        """Return what all jobs of the run have cost: their billed minutes at the rates they were started with."""
        jobs = {job.id: job for job in self.vendor.find_jobs({RUN_LABEL: key})} | {rented.id: rented}
        amount = sum(machines.price(_rate_of(job), job.seconds) for job in jobs.values())
        return core.Billed(amount=round(amount, 6), source="the job's running time at its rate")

    # --- inside: files -----------------------------------------------------------------------------------------------
    def _bring_home(self, folder: RunDir, key: str, *, ended: bool) -> None:
        """Fetch what has changed of a run's folder; the result too where the job has ended.

        One process at a time does: a file of an earlier list would else replace the one of a later list.
        """
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FolderLock(folder.path / _FETCHING):
                self._fetch(folder, key, ended=ended)
        except FolderBusy:
            if ended:  # the end is read from all of its files
                raise TransientError("another process fetches the files of this run", sent=False) from None

    def _fetch(self, folder: RunDir, key: str, *, ended: bool) -> None:
        prefix = f"{RUNS}/{key}/"
        known = read_record(folder.path / _FETCHED)
        wanted: dict[StoredFile, Path] = {}
        versions: dict[str, str] = {}
        for file in self.vendor.list_files(prefix.rstrip("/")):
            name = file.path.removeprefix(prefix)
            if not _is_safe(name) or name in _NOTES or name.startswith(_NEVER):
                continue
            if name.startswith(_LARGE) and not ended:
                continue
            if known.get(name) != file.version or not (folder.path / name).is_file():
                wanted[file] = folder.path / name
                versions[name] = file.version
        if not wanted:
            return
        for path in wanted.values():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.vendor.fetch_files(wanted)
        write_atomically(folder.path / _FETCHED, json.dumps(known | versions))

    def _settle(self, folder: RunDir, key: str) -> None:
        """Remove what is no longer needed from the storage, unless it is to be kept; note that the run is settled."""
        if not read_record(folder.path / LIMITS).get("keep_files"):
            request = folder.read_request()
            paths = [file.path for file in self.vendor.list_files(f"{RUNS}/{key}")]
            datasets = [name for name in (request.files.train, request.files.validation) if name]
            paths += [f"{INPUTS}/{name}" for name in datasets if not self._is_used_elsewhere(name, key)]
            self.vendor.remove_files(paths)
        write_atomically(folder.path / _SETTLED, json.dumps({"time": now()}))

    def _is_used_elsewhere(self, name: str, key: str) -> bool:
        """Return whether another run has a dataset that runs, can be resumed, or keeps its files."""
        digest = _digest_label(name)
        for label in (DATA_LABEL, VALIDATION_LABEL):
            others = [job for job in self.vendor.find_jobs({label: digest}) if job.labels.get(RUN_LABEL) != key]
            if not all(job.state.final for job in others):
                return True
            if any(
                self.vendor.list_files(f"{RUNS}/{other}") for other in {job.labels.get(RUN_LABEL) for job in others}
            ):
                return True
        return False

    def _stored_step(self, key: str) -> int:
        """Return the step of the last checkpoint in the storage whose state is there; 0 for none."""
        steps = [0]
        for file in self.vendor.list_files(f"{RUNS}/{key}"):
            parts = file.path.split("/")
            if (
                parts[2:3] == ["checkpoints"]
                and parts[-1] == "trainer.pt"
                and re.fullmatch(r"step-[0-9]{1,12}", parts[3])
            ):
                steps.append(int(parts[3].removeprefix("step-")))
        return max(steps)

    def _read_stored(self, path: str) -> dict[str, Any]:
        """Return a small JSON file of the storage; empty where there is none."""
        import tempfile

        for file in self.vendor.list_files(path.rpartition("/")[0]):
            if file.path == path:
                with tempfile.TemporaryDirectory() as folder:
                    target = Path(folder) / "record.json"
                    self.vendor.fetch_files({file: target})
                    return read_record(target)
        return {}

    @property
    def _machine_options(self) -> Sequence[str]:
        """Names of the options that are about the machine, and not the worker's."""
        return sorted(set(self.Options.model_fields) - set(LocalProvider.Options.model_fields))

    def _for_worker(self, receipt: core.Receipt) -> core.Receipt:
        """Return the receipt as the worker's own code reads it: without the options of the machine."""
        machine = self._machine_options
        options = {name: value for name, value in receipt.target.options.items() if name not in machine}
        return receipt.model_copy(update={"target": receipt.target.model_copy(update={"options": options})})

    # --- inside: machines --------------------------------------------------------------------------------------------
    def _need(self, receipt: core.Receipt, memory: core.Footprint | None) -> machines.Need:
        """Return what a planned run needs, as far as it can be estimated here."""
        per_epoch, epochs = receipt.data.tokens, receipt.effective("epochs", 1)
        parameters = count_parameters(receipt.target.model, receipt.target.options.get("revision"))
        tokens = None if not per_epoch else float(per_epoch) * float(epochs or 1)
        operations = None
        if tokens and parameters:
            operations = tokens * parameters * (6.0 if receipt.target.adapter == "full" else 4.0)
        return machines.Need(
            memory=memory.peak if memory is not None else None,
            operations=operations,
            tokens=tokens,
            cpu=receipt.target.options.get("device") == "cpu",
        )

    def _choose(
        self, offered: Sequence[machines.Machine], need: machines.Need, options: Mapping[str, Any]
    ) -> machines.Choice:
        if not offered:
            raise LlmtuneError(
                "the machines' prices have not been read yet",
                hint=f"{self._read_command} reads them",
            )
        return machines.choose_machine(offered, need, options.get("machine"))

    @property
    def _read_command(self) -> str:
        return f"llmtune doctor --provider {self.name} --online"

    @property
    def _prices_file(self) -> Path:
        return config.home() / self.kind / "machines.json"

    def _fetch_prices(self) -> Sequence[machines.Machine]:
        """Ask for today's machines and prices, and note them for plans."""
        offered = self.vendor.list_machines()
        self._prices_file.parent.mkdir(parents=True, exist_ok=True)
        record = {"time": now(), "machines": [vars(machine) for machine in offered]}
        write_atomically(self._prices_file, json.dumps(record))
        return offered

    def _read_prices(self) -> Sequence[machines.Machine]:
        """Return the machines as they were read last; none where they never were."""
        try:
            return [machines.Machine(**entry) for entry in read_record(self._prices_file).get("machines", ())]
        except TypeError:
            return ()

    def _prices_source(self) -> tuple[str, Any]:
        from datetime import UTC, datetime

        read = read_record(self._prices_file).get("time")
        checked = datetime.fromtimestamp(read, UTC).date() if isinstance(read, (int, float)) else None
        return f"the machines of {self.name}", checked

    def _root(self) -> Path:
        return Path(self.settings.runs) if self.settings.runs else config.home() / self.kind / "runs"


#: A machine is billed by the minute, whatever its tokens.
_BY_THE_MINUTE = core.Price(note="a rented machine is billed by the minute, not by the token")


def _limit_seconds(options: Mapping[str, Any], per_minute: float) -> float:
    """Return the seconds after which a run must have stopped: whole minutes that the most it may cost pays for."""
    hours = float(options.get("max_hours") or RentedOptions.model_fields["max_hours"].default)
    most = options.get("max_cost")
    if most is None or per_minute <= 0:
        return 3600 * hours
    minutes = math.floor(round(float(most) / per_minute, 6))
    if minutes < 2:
        raise InvalidJob(
            f"max_cost {most:g} pays for {minutes} min at {60 * per_minute:.2f} USD an hour; a run needs 2 at least",
            where="max_cost",
            hint=f"set it to {2 * per_minute:.4f} or more",
        )
    return min(3600 * hours, 60.0 * minutes)


def _read_need(machine: Mapping[str, Any]) -> machines.Need:
    return machines.Need(**{name: machine[name] for name in machines.Need.__dataclass_fields__ if name in machine})


def _rate_of(job: RentedJob) -> float:
    """Return the USD a minute that a job was started at."""
    label = job.labels.get(RATE_LABEL, "")
    return int(label) / 1e6 if label.isdecimal() else 0.0


def _digest_label(name: str) -> str:
    """Return the label of a dataset, by its name in the storage."""
    return Path(name).stem[:32]


def _is_safe(name: str) -> bool:
    """Return whether a file's name stays inside its folder."""
    return (
        name.isprintable()
        and not set(name) & set("\\:")
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _before(call: Callable[[], _T]) -> _T:
    """Make calls that come before the paid one: where they break, no job was sent."""
    try:
        return call()
    except TransientError as broken:
        raise TransientError(
            broken.message, sent=False, retry_after=broken.retry_after, code=broken.code, raw=broken.raw
        ) from broken
