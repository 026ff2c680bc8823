"""Where a run meets evaluation and report: what is asked of them, and what is kept."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder
from llmtune.config import home
from llmtune.errors import InvalidData, LlmtuneError, StillRunning, StoreError
from llmtune.provider.abilities import SelfChecking
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, ModelRef, Ref, RunState, Target
from llmtune.redaction.secrets import scrub_leaves
from llmtune.runs import settling
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.evaluation.results import EvaluationResult
    from llmtune.job.spec import EvaluationSpec
    from llmtune.metrics.points import NotReported
    from llmtune.report.schema import EarlierEvaluation, Environment, Identity, Report

log = logging.getLogger("llmtune")

#: How the warning begins that says why a run was not evaluated.
NOT_EVALUATED = "not evaluated: "

#: How that warning goes on where there is no model to ask.
UNNAMED = "the job has succeeded, and its tuned model has not been named"

#: Training and validation rows that a local model is asked too, to tell underfit from overfit. At a vendor they cost.
FIT_ROWS = 50

#: Held-out rows with which a provider looks at its own model.
CHECKED_ROWS = 20

#: Seconds between two words about how far an evaluation is.
SAY_EVERY = 2.0


def is_unnamed(warning: str) -> bool:
    """Return whether a warning says that the run was not evaluated because no model was named."""
    return warning.startswith(NOT_EVALUATED + UNNAMED)


def kept_evaluation(store: Store, record: RunRecord) -> EvaluationResult | None:
    """The evaluation of an earlier attempt at finishing this run."""
    from llmtune.evaluation.results import EvaluationResult

    try:
        kept = store.ref(record.id, "evaluation", Ref)
        return None if kept is None else EvaluationResult.model_validate(kept.data["result"])
    except (StoreError, ValueError, KeyError):  # damaged: judged again, from the answers that are kept
        return None


def evaluate(
    store: Store, record: RunRecord, provider: Provider, target: ModelRef | DeploymentRef, say: Callable[[str], None]
) -> EvaluationResult | None:
    """Ask base and tuned model the test rows, and keep what came out. None: there are no test rows.

    Answers are cached one by one, by model and question, and shared by all runs of one base model.
    """
    planned = record.receipt.get("data", {})
    dataset = the_same_dataset(record) if not planned.get("checked") or planned.get("rows", {}).get("test") else None
    if dataset is None or not dataset.test:
        store.warn(record.id, NOT_EVALUATED + "the dataset has no test rows")
        return None
    result, data = judge(store, record, provider, target, say, dataset, record.tuning_job.evaluation)
    keep_evaluation(store, record, data)
    return result


def judge(
    store: Store,
    record: RunRecord,
    provider: Provider,
    target: ModelRef | DeploymentRef,
    say: Callable[[str], None],
    dataset: Dataset,
    spec: EvaluationSpec,
) -> tuple[EvaluationResult, dict[str, Any]]:
    """Ask base and tuned model the test rows of `dataset`; returns what came out, and the same as it is kept."""
    from llmtune.evaluation.cache import FileCache
    from llmtune.evaluation.evaluate import evaluate as ask_and_score
    from llmtune.evaluation.evaluate import model_identity
    from llmtune.evaluation.few_shot import SHOTS, few_shot, model_with, shots

    job = record.tuning_job
    generators: dict[str, Generator | Unavailable] = {}
    models: dict[str, str] = {}
    with_examples = spec.measures("few_shot", free=not provider.hosted) and job.method == "sft"
    if spec.measures("base") or with_examples:
        base = provider.base_model(record.plan)
        generator = base if isinstance(base, Unavailable) else provider.generator(base)
        if spec.measures("base"):
            generators["base"] = generator
        if isinstance(base, ModelRef):
            models["base"] = model_identity(record.provider, base)
        examples = shots(dataset.train, SHOTS) if with_examples else ()
        if examples and not isinstance(generator, Unavailable):
            generators["few_shot"] = few_shot(generator, examples)
            if "base" in models:
                models["few_shot"] = model_with(models["base"], examples)
    generators["tuned"] = settling.wait_for_answers(store, record, provider, target, say)
    tuned = store.ref(record.id, "model", ModelRef) or target
    models["tuned"] = model_identity(record.provider, tuned)  # a deployment comes and goes; the model stays

    began = time.monotonic()
    result = ask_and_score(
        dataset.test,
        generators,
        spec,
        labels=dataset.labels,
        train=dataset.train,
        validation=dataset.validation,
        fit_rows=0 if provider.hosted else FIT_ROWS,
        models=models,
        cache=FileCache(answers_folder(record)),
        rule="likelihood" if job.method == "classification" else None,
        seed=job.seed or 0,
        on_progress=_Progress(say),
    )
    data = {
        "result": result.model_dump(mode="json"),
        "seconds": time.monotonic() - began,
        "checks": _checks(store, record, provider, tuned, dataset),
        "finished": time.time(),
        "source": dataset.source,
    }
    return result, data


#: Set in an evaluation that asked the rows of a file of its own, not the job's test rows.
OTHER_ROWS = "other_rows"

#: Names of the references that hold evaluations which a later one has taken the place of: "evaluation:1", ...
EARLIER = "evaluation:"


def keep_evaluation(store: Store, record: RunRecord, data: dict[str, Any]) -> None:
    """Keep an evaluation as the run's; one that stands there already is kept beside it, with what it asked for."""
    try:
        before = store.ref(record.id, "evaluation", Ref)
    except StoreError:  # damaged: nothing of it can be kept
        before = None
    if before is not None:
        number = 1 + sum(name.startswith(EARLIER) for name in store.refs(record.id))
        store.set_ref(record.id, f"{EARLIER}{number}", before)
    store.set_ref(record.id, "evaluation", Ref(id="done", data=scrub_leaves(data)))


def earlier_evaluations(store: Store, record: RunRecord) -> list[EarlierEvaluation]:
    """The evaluations that a later one has taken the place of, oldest first; damaged ones are left out."""
    from llmtune.evaluation.results import EvaluationResult
    from llmtune.report.schema import EarlierEvaluation

    refs = store.refs(record.id)
    current = refs.get("evaluation", {}).get("data")
    names = sorted((name for name in refs if name.startswith(EARLIER)), key=lambda name: int(name.split(":")[1]))
    found = []
    for name in names:
        data = refs[name].get("data", {})
        if data == current:  # a process died between the two steps of keeping the next one
            continue
        try:
            result = EvaluationResult.model_validate(data["result"])
        except (ValueError, KeyError):
            continue
        found.append(
            EarlierEvaluation.of(
                result, source=data.get("source", ""), finished=data.get("finished"), seconds=data.get("seconds")
            )
        )
    return found


def _checks(store: Store, record: RunRecord, provider: Provider, model: Ref, dataset: Dataset) -> list[dict[str, Any]]:
    """What the provider finds when it looks at its own model; what it cannot look at is a warning."""
    if not (isinstance(provider, SelfChecking) and isinstance(model, ModelRef)):
        return []
    try:
        return [each.model_dump() for each in provider.check(model, dataset.test[:CHECKED_ROWS])]
    except LlmtuneError as error:
        store.warn(record.id, f"not checked: {error.message}")
        return []


def the_same_dataset(record: RunRecord) -> Dataset:
    """The dataset the run was planned with. Raises when it has changed: its test rows may have been trained on."""
    from llmtune.data.dataset import Dataset

    dataset = Dataset.from_spec(record.tuning_job.dataset, method=record.tuning_job.method)
    planned = record.receipt.get("data", {}).get("sha256")
    if planned and dataset.sha256 != planned:
        raise LlmtuneError(
            "the dataset has changed since the run was planned, so its test rows are not the same",
            hint=f"llmtune evaluate {record.id} --dataset FILE evaluates on other rows",
        )
    return dataset


def answers_folder(record: RunRecord) -> Path:
    """Where answers of a run's models are kept: one folder for each provider and base model."""
    name = hashlib.sha256(f"{record.provider} {record.model}".encode()).hexdigest()[:16]
    return home() / "answers" / name


class _Progress:
    """Says how far an evaluation is, now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._at = 0.0

    def __call__(self, title: str, done: int, wanted: int) -> None:
        now = time.monotonic()
        if done == wanted or now - self._at >= SAY_EVERY:
            self._at = now
            self._say(f"evaluating {title}: {done}/{wanted}")


# --- the report ------------------------------------------------------------------------------------------------------
def write_report(store: Store, record: RunRecord, provider: Provider) -> Report:
    """Build the report from everything the store knows, and keep it."""
    model = store.ref(record.id, "model", ModelRef)
    ended = record.state if record.state.final else record.outcome or record.state
    report = _build(store, record, ended, model, _reproduce(record), _snippet(provider, model))
    store.keep_report(record.id, report.to_json())
    return report


def draft_report(store: Store, record: RunRecord) -> Report:
    """What is known of a run now, as a report that is not kept: asks nobody and writes nothing."""
    return _build(store, record, record.state, store.ref(record.id, "model", ModelRef), "", None)


def _build(
    store: Store, record: RunRecord, ended: RunState, model: ModelRef | None, reproduce: str, snippet: str | None
) -> Report:
    from llmtune.report.builder import build_report
    from llmtune.report.schema import Check

    try:
        kept = store.ref(record.id, "evaluation", Ref)
    except StoreError:  # damaged, as `kept_evaluation` finds too
        kept = None
    transitions = [(each.state, each.time) for each in store.transitions(record.id)]
    if not record.state.final:
        transitions.append((ended, time.time()))
    plan = record.plan
    refs = store.refs(record.id)
    evaluated = kept_evaluation(store, record)
    elsewhere = kept is not None and evaluated is not None and kept.data.get(OTHER_ROWS)
    return build_report(
        identity=_identity(record, plan.target, refs, ended, model, transitions[-1][1]),
        receipt=plan,
        job=record.job,
        points=store.points(record.id),
        not_reported=record.not_reported,
        transitions=transitions,
        evaluation=evaluated or _why_not_evaluated(record, model),
        evaluated_on=kept.data.get("source", "") if kept is not None and elsewhere else "",
        earlier_evaluations=earlier_evaluations(store, record),
        billed=record.billed,
        tokens_per_second=record.progress.tokens_per_second,
        evaluation_seconds=kept.data["seconds"] if kept is not None else None,
        resolved=record.resolved,
        lossy=record.lossy,
        warnings=[each for each in record.warnings if evaluated is None or not each.startswith(NOT_EVALUATED)],
        error=record.error,
        checks=[Check.model_validate(each) for each in (kept.data.get("checks", ()) if kept is not None else ())],
        environment=_environment(record),
        reproduce=reproduce,
        snippet=snippet,
        artifacts=_artifacts(refs, model),
    )


def read_report(store: Store, record: RunRecord, provider: Callable[[], Provider]) -> Report:
    """The report that was kept; a run that ended before it came to finishing gets its report now."""
    from llmtune.report.schema import Report

    kept = store.report(record.id)
    if kept is not None and record.state.final:
        try:
            return Report.from_json(kept)
        except InvalidData:  # damaged, or of another version
            return write_report(store, record, provider())
    if record.state.final:
        return write_report(store, record, provider())
    raise StillRunning(
        f"run {record.id} has no report yet: it is {record.state}", hint=f"llmtune runs attach {record.id}"
    )


def _identity(
    record: RunRecord,
    target: Target,
    refs: dict[str, dict[str, Any]],
    ended: RunState,
    model: ModelRef | None,
    finished: float,
) -> Identity:
    from llmtune.metrics.points import NotReported
    from llmtune.report.schema import Identity

    return Identity(
        run_id=record.id,
        job_name=record.name,
        provider=record.provider,
        kind=record.kind,
        model=record.model,
        tuned_model=model.id if model is not None else NotReported("the run made no tuned model"),
        method=target.method,
        adapter=target.adapter,
        state=ended,
        key=record.key,
        url=refs.get("job", {}).get("url"),
        created=record.created,
        finished=finished if ended.final else None,
    )


def _why_not_evaluated(record: RunRecord, model: ModelRef | None) -> NotReported:
    from llmtune.metrics.points import NotReported

    if record.state is RunState.SUCCEEDED and model is not None and any(map(is_unnamed, record.warnings)):
        return NotReported(f"its model was named after the run had ended; llmtune evaluate {record.id} evaluates it")
    said = [each.removeprefix(NOT_EVALUATED) for each in record.warnings if each.startswith(NOT_EVALUATED)]
    return NotReported(said[-1] if said else "the run was not evaluated")


def _environment(record: RunRecord) -> Environment:
    from llmtune.report.schema import Environment

    told = {name: each for name, each in record.host.items() if name in ("llmtune", "python", "platform", "host")}
    if device := record.resolved.get("device"):
        told["device"] = str(device)
    return Environment.model_validate(told)


def _reproduce(record: RunRecord) -> str:
    """The command that runs the same job again, with the job kept as a file."""
    path = home() / "runs" / record.id / "job.json"
    try:
        make_private_folder(path.parent)
        record.tuning_job.save(path)
    except OSError as error:
        log.warning("the job file %s could not be written: %s", path, error)
    return f"llmtune tune {shlex.quote(str(path))} --provider {shlex.quote(record.provider)} --new"


def _snippet(provider: Provider, model: ModelRef | None) -> str | None:
    if model is None:
        return None
    try:
        return provider.snippet(model)
    except Exception:
        log.exception("the snippet for %s could not be made", model.id)
        return None


def _artifacts(refs: dict[str, dict[str, Any]], model: ModelRef | None) -> dict[str, str]:
    found = {name: str(ref["id"]) for name, ref in refs.items() if name == "job" or name.startswith("checkpoint:")}
    return found | ({"model": model.id} if model is not None else {})
