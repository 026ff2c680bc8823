"""Plan before apply: what each backend would do with a job, computed without sending anything.

Pure: no network, no vendor SDK. The dataset is read once for all backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune import _clock
from llmtune.errors import InvalidData, InvalidJob, LlmtuneError
from llmtune.job.spec import TuningJob
from llmtune.planning.job_cost import estimate_cost
from llmtune.planning.judge import FindRun, plan_grader, plan_judge
from llmtune.planning.panel import plan_panel
from llmtune.planning.rented import suggest_machines
from llmtune.provider.abilities import (
    SuggestsAdapter,
    SupportsCostEstimate,
    SupportsDeploymentCheck,
    SupportsMemoryEstimate,
    SupportsPlanNotes,
    SupportsTimeEstimate,
)
from llmtune.provider.declarations import Capabilities
from llmtune.provider.duration import MeasuredSpeed
from llmtune.provider.limits import Lifecycle
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import DatasetStatus, LifecycleStatus, Receipt
from llmtune.provider.registry import check_options, get_provider, open_providers
from llmtune.provider.translate import ONLY_WITH_ADAPTER, translate
from llmtune.provider.types import Request, Target, UploadRef

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

#: From `run:ID` and the provider of the new job: the provider's own name for that model, and options it needs.
FindModel = Callable[[str, Provider], tuple[str, dict[str, Any]]]

#: From a target and a device to the speed of an earlier run; None where there was none.
RecallSpeed = Callable[[Target, str], MeasuredSpeed | None]

#: Of vendors that do not say beforehand whether an account may deploy.
UNCHECKED_DEPLOYMENT = (
    "evaluation.deploy: whether this account may deploy cannot be asked beforehand here; a permission that is missing"
    " shows only after the training is paid, and the run is then evaluated again by llmtune evaluate"
)


def plan(
    job: TuningJob,
    provider: str | Provider,
    *,
    dataset: Dataset | InvalidData | None = None,
    today: date | None = None,
    earlier_model: FindModel | None = None,
    recall_speed: RecallSpeed = lambda *_: None,
    find_run: FindRun | None = None,
) -> Receipt:
    """Plan a job on one backend: the receipt says what becomes of each field, with the exact request and the cost.

    Args:
        job: the job.
        provider: a provider's name, a configured instance's name, or a provider.
        dataset: the dataset, where it has been read already; None reads it. A dataset that cannot be read does not
            stop the plan: the receipt's `data` says why.
        today: the day on which the plan is made, for lifecycles; None is today.
        earlier_model: looks up the model of `model: run:ID` in the run store (see `llmtune.runs.plans`).
        recall_speed: looks up how fast an earlier run on this machine was.
        find_run: looks up the tuned model of `evaluation.judge.model: run:ID` in the run store.

    Raises:
        InvalidJob: the job names no model for this provider, or its options are wrong.
        UnknownName: there is no such provider, or no panel of that name.
        InvalidData: the file of the panel, or of the judge's labels, cannot be read.
    """
    backend = get_provider(provider)
    if dataset is None:
        dataset = read_dataset(job)
    target = build_target(job, backend, earlier_model)
    if not isinstance(dataset, InvalidData):
        rows = {"train": len(dataset.train), "validation": len(dataset.validation)}
        target = target.model_copy(update={"rows": rows})
    capabilities = backend.capabilities(target)
    status = get_dataset_status(dataset, capabilities, target, job)
    if status.rows.get("test"):
        status = status.model_copy(update={"evaluated": min(status.rows["test"], job.evaluation.max_rows)})
    receipt = translate(job, target, capabilities, rows=status.rows.get("train"))
    receipt = receipt.model_copy(update=plan_panel(job, status, receipt.warnings))
    lifecycle = get_lifecycle_status(capabilities.lifecycle, today or _clock.today())
    if missing := explain_missing_model(target, backend):
        receipt = receipt.model_copy(update={"refusals": (*receipt.refusals, missing)})
    receipt = receipt.model_copy(
        update={
            "data": status,
            "lifecycle": lifecycle,
            "cost": estimate_cost(job, backend, receipt, capabilities, status),
            "ready": backend.ready(),
        }
    )
    if isinstance(backend, SupportsMemoryEstimate) and not isinstance(dataset, InvalidData):
        receipt = receipt.model_copy(update={"memory": backend.footprint(receipt, dataset)})
        rented = suggest_machines(backend, receipt, dataset)
        receipt = receipt.model_copy(update={"warnings": (*receipt.warnings, *rented)})
    if isinstance(backend, SupportsTimeEstimate) and not isinstance(dataset, InvalidData):
        duration = backend.estimate_duration(receipt, lambda device: recall_speed(target, device))
        receipt = receipt.model_copy(update={"duration": duration})
    if isinstance(backend, SupportsCostEstimate):
        receipt = receipt.model_copy(update={"cost": backend.estimate_cost(receipt)})
    receipt = receipt.model_copy(update=plan_judge(job, status, receipt, find_run))
    receipt = receipt.model_copy(update=plan_grader(job, status, receipt, find_run))
    if isinstance(backend, SupportsPlanNotes):
        receipt = receipt.model_copy(update={"warnings": (*receipt.warnings, *backend.plan_notes(receipt))})
    if needs_deployment(job, capabilities, status) and not isinstance(backend, SupportsDeploymentCheck):
        receipt = receipt.model_copy(update={"warnings": (*receipt.warnings, UNCHECKED_DEPLOYMENT)})
    return receipt.model_copy(update={"request": build_request(backend, receipt)})


def needs_deployment(job: TuningJob, capabilities: Capabilities, status: DatasetStatus) -> bool:
    """Return whether the evaluation will deploy the tuned model: there it must be, and the job allows it."""
    return capabilities.abilities.deployment == "required" and job.evaluation.deploy and bool(status.rows.get("test"))


def plan_all(
    job: TuningJob,
    providers: Iterable[str | Provider],
    *,
    today: date | None = None,
    earlier_model: FindModel | None = None,
    recall_speed: RecallSpeed = lambda *_: None,
    find_run: FindRun | None = None,
) -> dict[str, Receipt | LlmtuneError]:
    """Plan a job on each backend, reading the dataset once. A backend that cannot plan it is given its error."""
    dataset = read_dataset(job)
    plans: dict[str, Receipt | LlmtuneError] = {}
    for provider in providers:
        name = provider if isinstance(provider, str) else provider.name
        try:
            plans[name] = plan(
                job,
                provider,
                dataset=dataset,
                today=today,
                earlier_model=earlier_model,
                recall_speed=recall_speed,
                find_run=find_run,
            )
        except LlmtuneError as error:
            plans[name] = error
    return plans


def to_json(answers: dict[str, Receipt | LlmtuneError]) -> dict[str, Any]:
    """Return all plans in the published shape: {"schema": 1, "plans": {NAME: {...}}}."""
    plans: dict[str, Any] = {}
    for name, answer in answers.items():
        if isinstance(answer, Receipt):
            plans[name] = answer.to_json()
        else:
            plans[name] = {"error": {"kind": type(answer).__name__, "message": answer.message, "hint": answer.hint}}
    return {"schema": 1, "plans": plans}


def build_target(job: TuningJob, provider: Provider, earlier_model: FindModel | None = None) -> Target:
    """Return what this job asks of the provider; `earlier_model` looks up the model of `run:ID`.

    Raises:
        InvalidJob: the job names no model for this provider, or a run's model without `earlier_model`.
    """
    try:
        model = job.model_for(provider.name)
    except InvalidJob:
        # A service that has closed reports that itself, whatever the model: it is the more important message.
        no_model = Target(provider=provider.name, kind=provider.kind, model="")
        if not provider.capabilities(no_model).lifecycle.closed_on(_clock.today()):
            raise
        model = ""
    options = dict(job.provider_options.get(provider.name, {}))
    if model.startswith("run:"):
        if earlier_model is None:
            raise InvalidJob(f"{model} is the model of a run, and no run store was given to look it up", where="model")
        model, model_options = earlier_model(model, provider)
        options = model_options | options
    target = Target(
        provider=provider.name,
        kind=provider.kind,
        model=model,
        method=job.method,
        options=check_options(provider, options),
    )
    return target.model_copy(update={"adapter": job.adapter or _choose_adapter(job, provider, target)})


def _choose_adapter(job: TuningJob, provider: Provider, target: Target) -> str:
    """Return the adapter for a job that names none: one that its settings of an adapter apply to, where it has any."""
    suggested = suggest_adapter(provider, target)
    hyperparameters = job.hyperparameters_for(provider.name)
    needed = [kinds for name, kinds in ONLY_WITH_ADAPTER.items() if getattr(hyperparameters, name) is not None]
    if all(suggested in kinds for kinds in needed):
        return suggested
    return "lora" if provider.capabilities(target).adapters.get("lora") is True else suggested


def suggest_adapter(provider: Provider, target: Target) -> str:
    """Return the adapter for a job that names none: the provider's choice, else lora, else the first on offer."""
    if isinstance(provider, SuggestsAdapter):
        return provider.suggest_adapter(target)
    adapters = provider.capabilities(target).adapters
    offered = [name for name, ability in adapters.items() if ability is True]
    return "lora" if "lora" in offered or not offered else offered[0]


def explain_missing_model(target: Target, backend: Provider) -> str | None:
    """Return why a model named by its folder cannot be trained here: the folder is not there."""
    model = target.model
    if backend.hosted or not model.startswith(("./", "../", "/", "~")) or Path(model).expanduser().exists():
        return None
    return f"model: there is no folder {model}"


def read_dataset(job: TuningJob) -> Dataset | InvalidData:
    """Read the job's dataset; return the error where it cannot be read, so that the other parts are planned."""
    from llmtune.data.dataset import Dataset

    try:
        return Dataset.from_spec(job.dataset, method=job.method, reference=job.reference_field)
    except InvalidData as error:
        return error


def get_lifecycle_status(lifecycle: Lifecycle, today: date) -> LifecycleStatus:
    """Return whether the service takes jobs on that day, and until when."""
    return LifecycleStatus(
        status=lifecycle.status,
        sentence=lifecycle.sentence(today),
        open=not lifecycle.closed_on(today),
        closes=lifecycle.closes.isoformat() if lifecycle.closes else None,
        answers_until=lifecycle.answers_until.isoformat() if lifecycle.answers_until else None,
        note=lifecycle.note,
        source=lifecycle.source,
        alternatives=lifecycle.alternatives or (open_providers(today) if lifecycle.closed_on(today) else ()),
    )


def get_dataset_status(
    dataset: Dataset | InvalidData, capabilities: Capabilities, target: Target, job: TuningJob
) -> DatasetStatus:
    """Return how the dataset fits the backend; for one that could not be read, its findings."""
    if isinstance(dataset, InvalidData):
        lines = tuple(str(finding) for finding in dataset.findings[:5]) or (dataset.message,)
        return DatasetStatus(
            errors=max(1, len(dataset.findings)), findings=lines, format=capabilities.limits.format, checked=False
        )
    from llmtune.planning.dataset_limits import build_dataset_status

    return build_dataset_status(
        dataset,
        capabilities.limits,
        target,
        max_tokens=job.hyperparameters.max_sequence_length,
        on_too_long=job.dataset.on_too_long,
        prompt_loss_weight=job.hyperparameters.prompt_loss_weight or 0.0,
    )


def build_request(backend: Provider, receipt: Receipt) -> Request | None:
    """Build the exact request, with placeholders for the files; None when the job is refused."""
    if receipt.refusals:
        return None
    files = {"train": UploadRef(id="<train file>", role="train")}
    if receipt.data.rows.get("validation"):
        files["validation"] = UploadRef(id="<validation file>", role="validation")
    return backend.build(receipt, files)
