"""From a job to a planned run: everything that can be checked before anything is sent."""

from __future__ import annotations

import os
import platform
import socket
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from llmtune._safety.private_files import make_private_folder
from llmtune._version import __version__
from llmtune.config import home, redact
from llmtune.errors import InvalidData, LlmtuneError, LlmtuneWarning, MissingCredentials, MissingExtra, ProviderClosed
from llmtune.job.graders import list_judges
from llmtune.provider.abilities import SupportsDeploymentCheck
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import enforce
from llmtune.provider.types import EncodedDataset, RunState
from llmtune.redaction.secrets import refuse_secrets, scrub_error
from llmtune.runs import ids
from llmtune.runs.budget import check_run
from llmtune.runs.store.records import RunRecord, dump_receipt
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.findings import Finding
    from llmtune.graders.scoring import AsksJudge
    from llmtune.job.graders import Grader
    from llmtune.job.spec import TuningJob


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """The options of `llmtune.start`."""

    budget: float | None = None
    yes: bool = True
    allow_unknown_cost: bool = False
    strict: bool | Collection[str] = False
    allow_lossy_data: bool = False
    new: bool = False
    reuse: bool = False
    group: str | None = None
    run_id: str | None = None
    """The id of a new run, from `new_run_id`, where it must be on record before the run is."""


def files_folder(kind: str) -> Path:
    """Return the folder of a provider's encoded files, which are named by their content."""
    return home() / "files" / kind


def prepare_run(
    store: Store, job: TuningJob, provider: Provider, options: StartOptions
) -> tuple[RunRecord, Literal["new", "joined", "reused"]]:
    """Plan, check and encode a job, and write its record; or find the run that is already doing this.

    Nothing has been sent when this returns, except the read-only questions of `preflight`.
    """
    from llmtune.planning.plan import read_dataset
    from llmtune.runs.plans import plan

    if job.evaluation.metrics is not None:
        from llmtune.evaluation.scoring import check_metrics

        check_metrics(job.evaluation.metrics)  # a misspelt metric is found before the training, not after it
    dataset = read_dataset(job)
    receipt = plan(job, provider, dataset=dataset)  # a panel that does not exist ends here
    check_can_run(receipt, options, listed=provider.name)
    refuse_secrets(job.to_dict())
    if isinstance(dataset, InvalidData):
        raise dataset
    encoded = encode(provider, dataset, receipt, allow_lossy=options.allow_lossy_data)
    fingerprint = ids.fingerprint(provider, receipt, encoded.files)
    record = _build_record(job, provider, receipt, encoded, fingerprint, options)
    if not options.new:
        # Somebody may be doing this already: joining costs nothing, so it comes before the question of money.
        existing_run = store.find_by_fingerprint(fingerprint, reuse=options.reuse)
        if existing_run is not None:
            return existing_run, "reused" if existing_run.state.final else "joined"
    # A grader that pays for nothing, or for everything, is found before the training is paid.
    if job.grader is not None and not list_judges(job.grader):
        _try_grader(job.grader, dataset, None)
    check_run(
        receipt,
        hosted=provider.hosted,
        budget=options.budget,
        confirmed=options.yes,
        allow_unknown_cost=options.allow_unknown_cost,
    )
    if job.grader is not None and list_judges(job.grader):  # its trial asks a model, which may cost money
        from llmtune.runs.judge import GraderJudge

        with GraderJudge(options.budget) as judge:
            _try_grader(job.grader, dataset, judge)
    if receipt.request is not None:
        try:
            check_findings(provider, provider.preflight(receipt.request))
            if isinstance(provider, SupportsDeploymentCheck) and _will_deploy(job, provider, receipt):
                check_findings(provider, provider.check_deployment())
        except LlmtuneError as error:
            scrub_error(error)
            raise
    return store.create_or_join(record, join=not options.new, reuse=options.reuse and not options.new)


def _try_grader(grader: Grader, dataset: Dataset, judge: AsksJudge | None) -> None:
    """Try a job's grader on its training rows, and warn of what is found. Raises `InvalidJob` for an unfit one."""
    from llmtune.graders.job_trial import check_grader

    for remark in check_grader(grader, dataset.train, judge):
        warnings.warn(remark, LlmtuneWarning, stacklevel=4)


def check_can_run(receipt: Receipt, options: StartOptions, *, listed: str) -> None:
    """Raise the closest error for whatever the plan knows against this job."""
    if not receipt.lifecycle.open:
        closed = receipt.lifecycle
        alternatives = f"these still take jobs: {', '.join(closed.alternatives)}" if closed.alternatives else ""
        source = f" ({closed.source})" if closed.source else ""
        raise ProviderClosed(
            f"{listed} takes no such job: {closed.sentence}{source}",
            provider=listed,
            since=date.fromisoformat(closed.closes) if closed.closes else None,
            alternatives=closed.alternatives,
            hint="\n".join(filter(None, (closed.note, alternatives))) or None,
        )
    enforce(receipt, strict=options.strict)
    ready = receipt.ready
    if ready.extra == "missing":
        raise MissingExtra(receipt.target.kind, receipt.target.kind, purpose=f"provider {listed}")
    if ready.missing_settings:
        from llmtune.errors import InvalidSettings

        raise InvalidSettings(f"{listed} needs {', '.join(ready.missing_settings)}", hint=ready.hint)
    if ready.credentials == "not found":
        raise MissingCredentials(f"no credentials for {listed} were found", hint=ready.hint)
    if receipt.data.errors:
        raise InvalidData(
            f"{listed} would refuse the dataset ({receipt.data.errors} error{'s' if receipt.data.errors > 1 else ''}):"
            f" {receipt.data.findings[0] if receipt.data.findings else 'see the check'}",
            findings=receipt.data.findings,
            hint=f"llmtune data check PATH --provider {receipt.target.kind}",
        )
    if receipt.judge is not None and receipt.judge.obstacle is not None:
        raise LlmtuneError(
            f"evaluation.judge: {receipt.judge.obstacle}", hint="leave the judge out, or make it reachable"
        )
    check_lossless(receipt.data.lossy, allow=options.allow_lossy_data, listed=listed)


def check_lossless(lossy: Collection[str], *, allow: bool, listed: str) -> None:
    """Refuse rows that the vendor's format cannot carry, unless that was allowed."""
    if lossy and not allow:
        raise InvalidData(
            f"the row format of {listed} cannot carry {len(lossy)} part{'s' if len(lossy) > 1 else ''} of the rows,"
            f" first: {next(iter(lossy))}",
            hint="fix those rows, or leave these parts out with --allow-lossy-data (allow_lossy_data=True)",
        )


def _will_deploy(job: TuningJob, provider: Provider, receipt: Receipt) -> bool:
    from llmtune.planning.plan import needs_deployment

    return needs_deployment(job, provider.capabilities(receipt.target), receipt.data)


def check_findings(provider: Provider, findings: Collection[Finding]) -> None:
    """Refuse when the vendor says that this job cannot run; warn of whatever else it says."""
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise LlmtuneError(
            f"{provider.name} is not ready for this job: {'; '.join(str(finding) for finding in errors)}"
        )
    for finding in findings:
        warnings.warn(f"{provider.name}: {finding}", LlmtuneWarning, stacklevel=3)


def encode(provider: Provider, dataset: Dataset, receipt: Receipt, *, allow_lossy: bool) -> EncodedDataset:
    """Encode the dataset into the vendor's rows, as files in the home folder that are named by their content."""
    folder = files_folder(provider.kind)
    make_private_folder(folder)
    encoded = provider.encode(dataset, receipt, folder)
    check_lossless(encoded.lossy, allow=allow_lossy, listed=provider.name)
    return encoded


def _build_record(
    job: TuningJob,
    provider: Provider,
    receipt: Receipt,
    encoded: EncodedDataset,
    fingerprint: str,
    options: StartOptions,
) -> RunRecord:
    run_id = options.run_id or ids.new_run_id()
    now = time.time()
    return RunRecord(
        id=run_id,
        key=ids.run_key(run_id),
        name=job.name,
        provider=provider.name,
        kind=provider.kind,
        model=receipt.target.model,
        fingerprint=fingerprint,
        state=RunState.PLANNED,
        created=now,
        updated=now,
        job=job.relative_to(Path.cwd()).to_dict() | {"adapter": job.adapter},
        receipt=dump_receipt(receipt),
        settings=dump_settings(provider),
        hosted=provider.hosted,
        host={
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "llmtune": __version__,
        },
        files=encoded.files,
        lossy=encoded.lossy,
        budget=options.budget,
        group=options.group,
        warnings=(*receipt.warnings, *receipt.data.changed),
    )


def dump_settings(provider: Provider) -> dict[str, Any] | None:
    """Return the provider's account settings for the record; None when they hold anything that must not be stored."""
    settings = getattr(provider, "settings", None)
    if not isinstance(settings, BaseModel):
        return None
    values = settings.model_dump(mode="json", exclude_none=True)
    return values if redact("", values) == values else None
