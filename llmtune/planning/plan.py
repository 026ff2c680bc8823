"""Plan before apply: what each backend would do with a job, found out without sending anything.

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
from llmtune.provider import cost
from llmtune.provider.abilities import SupportsPlanNotes, Weighed
from llmtune.provider.declarations import Capabilities
from llmtune.provider.limits import Lifecycle
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import DataVerdict, LifecycleVerdict, Receipt
from llmtune.provider.registry import check_options, get_provider, open_providers
from llmtune.provider.translate import translate
from llmtune.provider.types import Request, Target, UploadRef

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

#: From `run:ID` and the provider of the new job: the provider's own name for that model, and options it needs.
FindModel = Callable[[str, Provider], tuple[str, dict[str, Any]]]

#: A standing deployment that an evaluation needs is assumed to stand this long.
EVALUATION_HOURS = 1.0


def plan(
    job: TuningJob,
    provider: str | Provider,
    *,
    dataset: Dataset | InvalidData | None = None,
    today: date | None = None,
    earlier_model: FindModel | None = None,
) -> Receipt:
    """What this backend will do with the job, field by field, with the exact request and an estimate of its cost.

    Args:
        job: the job.
        provider: a provider's name, a configured instance's name, or a provider.
        dataset: the dataset when it was read already; else it is read here. A dataset that cannot be read does not
            stop the plan: the verdict on the data says why.
        today: the day on which the plan is made, for lifecycles; None is today.
        earlier_model: finds what `model: run:ID` means; the runs know (`llmtune.runs.plans`).

    Raises:
        InvalidJob: the job names no model for this provider, or its options are wrong.
        UnknownName: there is no such provider.
    """
    backend = get_provider(provider)
    target = target_of(job, backend, earlier_model)
    capabilities = backend.capabilities(target)
    if dataset is None:
        dataset = read_dataset(job)
    verdict = judge_data(dataset, capabilities, target, job)
    if verdict.rows.get("test"):
        verdict = verdict.model_copy(update={"evaluated": min(verdict.rows["test"], job.evaluation.max_rows)})
    receipt = translate(job, target, capabilities, rows=verdict.rows.get("train"))
    lifecycle = judge_lifecycle(capabilities.lifecycle, today or _clock.today())
    if missing := missing_model(target, backend):
        receipt = receipt.model_copy(update={"refusals": (*receipt.refusals, missing)})
    receipt = receipt.model_copy(
        update={
            "data": verdict,
            "lifecycle": lifecycle,
            "cost": estimate_cost(job, backend, receipt, capabilities, verdict),
            "ready": backend.ready(),
        }
    )
    if isinstance(backend, Weighed) and not isinstance(dataset, InvalidData):
        receipt = receipt.model_copy(update={"memory": backend.footprint(receipt, dataset)})
    if isinstance(backend, SupportsPlanNotes):
        receipt = receipt.model_copy(update={"warnings": (*receipt.warnings, *backend.plan_notes(receipt))})
    return receipt.model_copy(update={"request": build_request(backend, receipt)})


def plan_all(
    job: TuningJob,
    providers: Iterable[str | Provider],
    *,
    today: date | None = None,
    earlier_model: FindModel | None = None,
) -> dict[str, Receipt | LlmtuneError]:
    """One receipt per backend, the dataset read once; a backend that cannot be asked answers with its error."""
    dataset = read_dataset(job)
    answers: dict[str, Receipt | LlmtuneError] = {}
    for provider in providers:
        name = provider if isinstance(provider, str) else provider.name
        try:
            answers[name] = plan(job, provider, dataset=dataset, today=today, earlier_model=earlier_model)
        except LlmtuneError as error:
            answers[name] = error
    return answers


def to_json(answers: dict[str, Receipt | LlmtuneError]) -> dict[str, Any]:
    """All plans in the published shape: {"schema": 1, "plans": {NAME: {...}}}."""
    plans: dict[str, Any] = {}
    for name, answer in answers.items():
        if isinstance(answer, Receipt):
            plans[name] = answer.to_json()
        else:
            plans[name] = {"error": {"kind": type(answer).__name__, "message": answer.message, "hint": answer.hint}}
    return {"schema": 1, "plans": plans}


def target_of(job: TuningJob, provider: Provider, earlier_model: FindModel | None = None) -> Target:
    """The capability question that this job asks of this provider; `earlier_model` finds what `run:ID` means.

    Raises:
        InvalidJob: the job names no model for this provider, or one that only the run store knows.
    """
    try:
        model = job.model_for(provider.name)
    except InvalidJob:
        # Of a service that is gone this is the lesser news: it says so itself, and needs no model for that.
        nothing = Target(provider=provider.name, kind=provider.kind, model="")
        if not provider.capabilities(nothing).lifecycle.closed_on(_clock.today()):
            raise
        model = ""
    options = dict(job.provider_options.get(provider.name, {}))
    if model.startswith("run:"):
        if earlier_model is None:
            raise InvalidJob(f"{model} is the model of a run, and no run store was given to look it up", where="model")
        model, needed = earlier_model(model, provider)
        options = needed | options
    return Target(
        provider=provider.name,
        kind=provider.kind,
        model=model,
        method=job.method,
        adapter=job.adapter,
        options=check_options(provider, options),
    )


def missing_model(target: Target, backend: Provider) -> str | None:
    """Return why a model named by its folder cannot be trained here: the folder is not there."""
    model = target.model
    if backend.hosted or not model.startswith(("./", "../", "/", "~")) or Path(model).expanduser().exists():
        return None
    return f"model: there is no folder {model}"


def read_dataset(job: TuningJob) -> Dataset | InvalidData:
    """The dataset, or what is wrong with it."""
    from llmtune.data.dataset import Dataset

    try:
        return Dataset.from_spec(job.dataset, method=job.method)
    except InvalidData as error:
        return error


def judge_lifecycle(lifecycle: Lifecycle, today: date) -> LifecycleVerdict:
    """Whether the service takes a job on that day, in words."""
    return LifecycleVerdict(
        status=lifecycle.status,
        sentence=lifecycle.sentence(today),
        open=not lifecycle.closed_on(today),
        closes=lifecycle.closes.isoformat() if lifecycle.closes else None,
        answers_until=lifecycle.answers_until.isoformat() if lifecycle.answers_until else None,
        note=lifecycle.note,
        source=lifecycle.source,
        alternatives=lifecycle.alternatives or (open_providers(today) if lifecycle.closed_on(today) else ()),
    )


def judge_data(
    dataset: Dataset | InvalidData, capabilities: Capabilities, target: Target, job: TuningJob
) -> DataVerdict:
    """What the backend would say of the dataset; one that could not be read is answered with its findings."""
    if isinstance(dataset, InvalidData):
        lines = tuple(str(finding) for finding in dataset.findings[:5]) or (dataset.message,)
        return DataVerdict(
            errors=max(1, len(dataset.findings)), findings=lines, format=capabilities.limits.format, checked=False
        )
    from llmtune.planning.dataset_limits import judge

    return judge(
        dataset,
        capabilities.limits,
        target,
        max_tokens=job.hyperparameters.max_sequence_length,
        on_too_long=job.dataset.on_too_long,
    )


def estimate_cost(
    job: TuningJob, backend: Provider, receipt: Receipt, capabilities: Capabilities, verdict: DataVerdict
) -> cost.CostEstimate:
    """What the job will cost, with what is not known said."""
    if not backend.hosted:
        return cost.FREE
    epochs = receipt.effective("epochs")
    deploys = capabilities.abilities.deployment == "required" and job.evaluation.deploy
    rows = min(job.evaluation.max_rows, verdict.rows.get("test", 0))
    per_row = (verdict.tokens or 0) / max(1, verdict.rows.get("train", 1))
    asked = rows * (1 + sum(job.evaluation.measures(each) for each in ("base", "few_shot")))
    served = capabilities.abilities.deployment != "required" or deploys
    return cost.estimate(
        capabilities,
        training_tokens=verdict.tokens,
        tokens_estimated=verdict.tokens_estimated,
        epochs=epochs if isinstance(epochs, int) else None,
        evaluation_tokens=round(asked * per_row) if served and capabilities.price.input is not None else 0,
        hosting_hours=EVALUATION_HOURS if deploys else 0.0,
    )


def build_request(backend: Provider, receipt: Receipt) -> Request | None:
    """The exact request with placeholders for the files; None when the job is refused anyway."""
    if receipt.refusals:
        return None
    files = {"train": UploadRef(id="<train file>", role="train")}
    if receipt.data.rows.get("validation"):
        files["validation"] = UploadRef(id="<validation file>", role="validation")
    return backend.build(receipt, files)
