"""Evaluation and report of a run: what is asked of the models, and what is stored."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder
from llmtune.config import home
from llmtune.errors import InvalidData, LlmtuneError, StillRunning, StoreError
from llmtune.provider.abilities import KeepsDecisionRules, SelfChecking
from llmtune.provider.generation import Generator, LabelScorer, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, ModelRef, Ref, RunState, Target
from llmtune.redaction.secrets import scrub_leaves
from llmtune.runs import seed_spread, settling, verifications
from llmtune.runs.evaluation_progress import EvaluationProgress, store_progress
from llmtune.runs.judge import open_judge
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.samples import read_samples
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.evaluation.panel.measure import PanelRun
    from llmtune.evaluation.results import EvaluationResult
    from llmtune.job.spec import EvaluationSpec
    from llmtune.metrics.decisions import DecisionRules
    from llmtune.metrics.points import NotReported
    from llmtune.report.schema import EarlierEvaluation, Environment, Identity, Report

log = logging.getLogger("llmtune")

#: How the warning begins that says why a run was not evaluated.
NOT_EVALUATED = "not evaluated: "

#: The rest of that warning where there is no model to ask.
UNNAMED = "the job has succeeded, and its tuned model has not been named"

#: Training and validation rows that a local model is asked too, to tell underfit from overfit. At a vendor they cost.
FIT_ROWS = 50
LEAST_FIT_ROWS = 10

#: Held-out rows for a provider's checks of its own model.
SELF_CHECK_ROWS = 20


def is_unnamed(warning: str) -> bool:
    """Return whether a warning says that the run was not evaluated because no model was named."""
    return warning.startswith(NOT_EVALUATED + UNNAMED)


def stored_evaluation(store: Store, record: RunRecord) -> EvaluationResult | None:
    """Return the stored evaluation of this run; None when there is none, or it is damaged."""
    from llmtune.evaluation.results import EvaluationResult

    try:
        ref = store.ref(record.id, "evaluation", Ref)
        return None if ref is None else EvaluationResult.model_validate(ref.data["result"])
    except (StoreError, ValueError, KeyError):  # damaged: evaluated again, from the stored answers
        return None


def evaluate(
    store: Store, record: RunRecord, provider: Provider, target: ModelRef | DeploymentRef, say: Callable[[str], None]
) -> EvaluationResult | None:
    """Evaluate base and tuned model on the test rows, and store the result. None when there are no test rows.

    Answers are cached one by one, by model and question, and shared by all runs of one base model.
    """
    planned = record.receipt.get("data", {})
    dataset = load_same_dataset(record) if not planned.get("checked") or planned.get("rows", {}).get("test") else None
    if dataset is None or not dataset.test:
        store.warn(record.id, NOT_EVALUATED + "the dataset has no test rows")
        return None
    request = EvaluationRequest(dataset, record.tuning_job.evaluation, store_progress(store, record.id, say))
    result, data = evaluate_dataset(store, record, provider, target, say, request)
    keep_evaluation(store, record, data)
    return result


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate: the test rows of `dataset`, as `spec` says; `progress` is called after each answer."""

    dataset: Dataset
    spec: EvaluationSpec
    progress: EvaluationProgress


def evaluate_dataset(
    store: Store,
    record: RunRecord,
    provider: Provider,
    target: ModelRef | DeploymentRef,
    say: Callable[[str], None],
    request: EvaluationRequest,
) -> tuple[EvaluationResult, dict[str, Any]]:
    """Evaluate base and tuned model as `request` says. Returns the result, and the data to store."""
    from llmtune.evaluation.cache import FileCache
    from llmtune.evaluation.evaluate import AnswerOptions, model_identity
    from llmtune.evaluation.evaluate import evaluate as ask_and_score
    from llmtune.evaluation.few_shot import SHOTS, few_shot, few_shot_identity, select_shots
    from llmtune.evaluation.panel.measure import PanelRun
    from llmtune.evaluation.task import ScoringOptions

    job, dataset, spec = record.tuning_job, request.dataset, request.spec
    generators: dict[str, Generator | Unavailable] = {}
    models: dict[str, str] = {}
    with_examples = spec.measures("few_shot", free=not provider.hosted) and job.method == "sft"
    panel = _open_panel(spec, job.seed or 0)
    if spec.measures("base") or with_examples or isinstance(panel, PanelRun):
        base = provider.base_model(record.plan)
        generator = base if isinstance(base, Unavailable) else provider.generator(base)
        if spec.measures("base"):
            generators["base"] = generator
        elif isinstance(panel, PanelRun):
            panel.base = generator
        if isinstance(base, ModelRef):
            models["base"] = model_identity(record.provider, base)
        examples = select_shots(dataset.train, SHOTS) if with_examples else ()
        if examples and not isinstance(generator, Unavailable):
            generators["few_shot"] = few_shot(generator, examples)
            if "base" in models:
                models["few_shot"] = few_shot_identity(models["base"], examples)
    generators["tuned"] = settling.open_generator(store, record, provider, target, say)
    tuned = store.ref(record.id, "model", ModelRef) or target
    models["tuned"] = model_identity(record.provider, tuned)  # a deployment is temporary, the model is not

    fit_rows = count_fit_rows(record, dataset, spec, hosted=provider.hosted)
    calibration_rows = count_calibration_rows(dataset, spec, hosted=provider.hosted)
    spec = spec.model_copy(update={"calibration_rows": calibration_rows})
    panel_questions = len(panel.panel.questions) if isinstance(panel, PanelRun) else 0
    judge = open_judge(spec.judge, record)
    request.progress.expect(_count_questions(generators, dataset, spec, fit_rows, panel_questions))
    began = time.monotonic()
    result = ask_and_score(
        dataset.test,
        generators,
        spec,
        train=dataset.train,
        validation=dataset.validation,
        fit_rows=fit_rows,
        scoring=ScoringOptions(
            labels=dataset.labels, rule="likelihood" if job.method == "classification" else None, seed=job.seed or 0
        ),
        answering=AnswerOptions(
            models=models,
            cache=FileCache(answers_folder(record)),
            on_progress=request.progress,
            panel=panel,
            judge=judge,
        ),
    )
    if result.fit is not None and spec.fit_rows is None and fit_rows < FIT_ROWS:
        note = (
            f"the fit was measured on {fit_rows} training rows at most, and as many validation rows, chosen by a hash"
        )
        result = result.model_copy(update={"warnings": (*result.warnings, f"{note} (evaluation.fit_rows)")})
    _write_decision_rules(store, record, provider, tuned, result)
    data = {
        "result": result.model_dump(mode="json"),
        "seconds": time.monotonic() - began,
        "checks": _run_self_checks(store, record, provider, tuned, dataset),
        "finished": time.time(),
        "source": dataset.source,
    }
    return result, data


def _open_panel(spec: EvaluationSpec, seed: int) -> PanelRun | NotReported | None:
    """Return the panel that the job asks for; why it cannot be asked where its file is gone or damaged."""
    from llmtune.evaluation.panel.measure import PanelRun
    from llmtune.evaluation.panel.questions import load_panel
    from llmtune.metrics.points import NotReported

    if spec.panel is False:
        return None
    try:
        return PanelRun(load_panel(spec.panel), spec, seed)
    except LlmtuneError as error:  # it was there when the run was planned; the test rows are evaluated all the same
        return NotReported(error.message)


def count_fit_rows(record: RunRecord, dataset: Dataset, spec: EvaluationSpec, *, hosted: bool) -> int:
    """Return how many training and validation rows the tuned model is asked, beside the test rows.

    Unless the job says: none of a vendor's model, and of one on this machine so few that they cost less than the rest
    of the run, half as many as test rows and a twentieth of the rows trained on.
    """
    if spec.fit_rows is not None:
        return spec.fit_rows
    if hosted:
        return 0
    plan = record.plan
    epochs, steps, batch = (plan.effective(name) for name in ("epochs", "max_steps", "batch_size"))
    trained = len(dataset.train) * (epochs if isinstance(epochs, int) else 1)
    if isinstance(steps, int) and isinstance(batch, int):
        trained = min(trained, steps * batch)
    test_rows = min(len(dataset.test), spec.max_rows)
    return min(FIT_ROWS, max(LEAST_FIT_ROWS, min(test_rows // 2, trained // 20)))


def count_calibration_rows(dataset: Dataset, spec: EvaluationSpec, *, hosted: bool) -> int:
    """Return on how many validation rows the probabilities of the tuned model's labels are calibrated.

    Unless the job says: none of a vendor's model, and of one on this machine as many as test rows are asked; with a
    promise more, for it takes hundreds of them.
    """
    from llmtune.evaluation.decisions import PROMISE_ROWS

    if spec.calibration_rows is not None:
        return spec.calibration_rows
    if hosted:
        return 0
    rows = min(len(dataset.test), spec.max_rows)
    return min(len(dataset.validation), rows if spec.abstain is None else max(rows, PROMISE_ROWS))


def _write_decision_rules(
    store: Store, record: RunRecord, provider: Provider, model: Ref, result: EvaluationResult
) -> None:
    """Store the rules of a model's decisions beside it, where the provider can; an error becomes a warning."""
    rules = result.decision_rules()
    if rules is None or not (isinstance(provider, KeepsDecisionRules) and isinstance(model, ModelRef)):
        return
    try:
        provider.write_decision_rules(model, rules.to_json())
    except (LlmtuneError, OSError) as error:
        store.warn(record.id, f"the rules of its decisions are not stored beside the model: {error}")


def read_decision_rules(
    store: Store, record: RunRecord, provider: Provider, model: ModelRef, *, final: bool
) -> DecisionRules | None:
    """Return how a model's labels are decided: as stored beside it, else by the run's evaluation; None if by neither.

    Args:
        store: the store.
        record: the run.
        provider: its backend.
        model: the final model, or a checkpoint.
        final: whether it is the final one, which is the one that was evaluated.

    Raises:
        InvalidData: what is stored beside the model is damaged.
    """
    from llmtune.metrics.decisions import DecisionRules

    if isinstance(provider, KeepsDecisionRules):
        text = provider.read_decision_rules(model)
        if text is not None:
            return DecisionRules.from_json(text, f"decisions.json of run {record.id}")
    evaluated = stored_evaluation(store, record) if final else None
    return None if evaluated is None else evaluated.decision_rules()


def _count_questions(
    generators: Mapping[str, Generator | Unavailable],
    dataset: Dataset,
    spec: EvaluationSpec,
    fit_rows: int,
    panel_questions: int = 0,
) -> dict[str, int]:
    """Return how many rows each system is asked, in that order."""
    test_rows = min(len(dataset.test), spec.max_rows)
    questions: dict[str, int] = {}
    if panel_questions and "base" not in generators:
        questions["base on panel questions"] = panel_questions
    for name, generator in generators.items():
        if not isinstance(generator, Unavailable):
            questions[name] = test_rows
            if panel_questions and name in ("base", "tuned"):
                questions[f"{name} on panel questions"] = panel_questions
    labelled = bool(dataset.labels if spec.labels is None else spec.labels)
    if labelled and spec.calibration_rows and isinstance(generators.get("tuned"), LabelScorer):
        questions["tuned on calibration rows"] = min(len(dataset.validation), spec.calibration_rows)
    if "tuned" in questions:
        for part, rows in (("train", dataset.train), ("validation", dataset.validation)):
            if count := min(len(rows), fit_rows):
                questions[f"tuned on {part} rows"] = count
    return questions


#: Set in an evaluation that asked the rows of a file of its own, not the job's test rows.
OTHER_ROWS = "other_rows"

#: Prefix of the references that hold evaluations which a later one has replaced: "evaluation:1", ...
EARLIER = "evaluation:"


def keep_evaluation(store: Store, record: RunRecord, data: dict[str, Any]) -> None:
    """Store an evaluation as the run's; a previous one is kept beside it, with the tokens it took."""
    try:
        before = store.ref(record.id, "evaluation", Ref)
    except StoreError:  # damaged: nothing of it can be kept
        before = None
    if before is not None:
        number = 1 + sum(name.startswith(EARLIER) for name in store.refs(record.id))
        store.set_ref(record.id, f"{EARLIER}{number}", before)
    store.set_ref(record.id, "evaluation", Ref(id="done", data=scrub_leaves(data)))


def earlier_evaluations(store: Store, record: RunRecord) -> list[EarlierEvaluation]:
    """Return the evaluations that a later one has replaced, oldest first; damaged ones are left out."""
    from llmtune.evaluation.results import EvaluationResult
    from llmtune.report.schema import EarlierEvaluation

    refs = store.refs(record.id)
    current = refs.get("evaluation", {}).get("data")
    names = sorted((name for name in refs if name.startswith(EARLIER)), key=lambda name: int(name.split(":")[1]))
    evaluations = []
    for name in names:
        data = refs[name].get("data", {})
        if data == current:  # a process died between the two steps of keeping the next one
            continue
        try:
            result = EvaluationResult.model_validate(data["result"])
        except (ValueError, KeyError):
            continue
        evaluations.append(
            EarlierEvaluation.of(
                result, source=data.get("source", ""), finished=data.get("finished"), seconds=data.get("seconds")
            )
        )
    return evaluations


def _run_self_checks(
    store: Store, record: RunRecord, provider: Provider, model: Ref, dataset: Dataset
) -> list[dict[str, Any]]:
    """Run the provider's checks of its own model, where it has any; an error becomes a warning."""
    if not (isinstance(provider, SelfChecking) and isinstance(model, ModelRef)):
        return []
    try:
        return [check.model_dump() for check in provider.check(model, dataset.test[:SELF_CHECK_ROWS])]
    except LlmtuneError as error:
        store.warn(record.id, f"not checked: {error.message}")
        return []


def load_same_dataset(record: RunRecord) -> Dataset:
    """Load the dataset the run was planned with. Raises when it has changed: its test rows may have been trained on."""
    from llmtune.data.dataset import Dataset

    job = record.tuning_job
    dataset = Dataset.from_spec(job.dataset, method=job.method, reference=job.reference_field)
    planned = record.receipt.get("data", {}).get("sha256")
    if planned and dataset.sha256 != planned:
        raise LlmtuneError(
            "the dataset has changed since the run was planned, so its test rows are not the same",
            hint=f"llmtune evaluate {record.id} --dataset FILE evaluates on other rows",
        )
    return dataset


def answers_folder(record: RunRecord) -> Path:
    """Return the folder of the answers of a run's models: one per provider and base model."""
    name = hashlib.sha256(f"{record.provider} {record.model}".encode()).hexdigest()[:16]
    return home() / "answers" / name


# --- the report ------------------------------------------------------------------------------------------------------
def write_report(store: Store, record: RunRecord, provider: Provider) -> Report:
    """Build the report from everything the store knows, and store it."""
    model = store.ref(record.id, "model", ModelRef)
    ended = record.state if record.state.final else record.outcome or record.state
    report = _build_report(
        store, record, ended, model, _build_reproduce_command(record), _render_snippet(provider, model)
    )
    store.keep_report(record.id, report.to_json())
    return report


def draft_report(store: Store, record: RunRecord) -> Report:
    """Build a report of a run as it stands now. It is not stored, and nothing is requested."""
    return _build_report(store, record, record.state, store.ref(record.id, "model", ModelRef), "", None)


def _build_report(
    store: Store, record: RunRecord, ended: RunState, model: ModelRef | None, reproduce: str, snippet: str | None
) -> Report:
    from llmtune.report.builder import RunFacts, build_report
    from llmtune.report.schema import Check

    try:
        evaluation_ref = store.ref(record.id, "evaluation", Ref)
    except StoreError:  # damaged; `stored_evaluation` is None then too
        evaluation_ref = None
    transitions = [(transition.state, transition.time) for transition in store.transitions(record.id)]
    if not record.state.final:
        transitions.append((ended, time.time()))
    plan = record.plan
    refs = store.refs(record.id)
    evaluated = stored_evaluation(store, record)
    elsewhere = evaluation_ref is not None and evaluated is not None and evaluation_ref.data.get(OTHER_ROWS)
    facts = RunFacts(
        identity=_build_identity(record, plan.target, refs, ended, model, transitions[-1][1]),
        receipt=plan,
        job=record.job,
        points=store.points(record.id),
        samples=read_samples(refs),
        not_reported=record.not_reported,
        transitions=transitions,
        evaluation=evaluated or _explain_not_evaluated(record, model),
        evaluated_on=evaluation_ref.data.get("source", "") if evaluation_ref is not None and elsewhere else "",
        earlier_evaluations=earlier_evaluations(store, record),
        billed=record.billed,
        tokens_per_second=record.progress.tokens_per_second,
        evaluation_seconds=evaluation_ref.data["seconds"] if evaluation_ref is not None else None,
        resolved=record.resolved,
        lossy=record.lossy,
        warnings=[warning for warning in record.warnings if evaluated is None or not warning.startswith(NOT_EVALUATED)],
        error=record.error,
        checks=[
            Check.model_validate(check)
            for check in (evaluation_ref.data.get("checks", ()) if evaluation_ref is not None else ())
        ],
        verifications=verifications.read(refs),
        seeds=seed_spread.read(refs, record.id, evaluated),
        environment=_build_environment(record),
        reproduce=reproduce,
        snippet=snippet,
        artifacts=_list_artifacts(refs, model),
    )
    return build_report(facts)


def read_report(store: Store, record: RunRecord, provider: Callable[[], Provider]) -> Report:
    """Return the stored report; a run that ended without one gets its report now."""
    from llmtune.report.schema import Report

    report_json = store.report(record.id)
    if report_json is not None and record.state.final:
        try:
            return Report.from_json(report_json)
        except InvalidData:  # damaged, or of another version
            return write_report(store, record, provider())
    if record.state.final:
        return write_report(store, record, provider())
    raise StillRunning(
        f"run {record.id} has no report yet: it is {record.state}", hint=f"llmtune runs attach {record.id}"
    )


def _build_identity(
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


def _explain_not_evaluated(record: RunRecord, model: ModelRef | None) -> NotReported:
    from llmtune.metrics.points import NotReported

    if record.state is RunState.SUCCEEDED and model is not None and any(map(is_unnamed, record.warnings)):
        return NotReported(f"its model was named after the run had ended; llmtune evaluate {record.id} evaluates it")
    reasons = [warning.removeprefix(NOT_EVALUATED) for warning in record.warnings if warning.startswith(NOT_EVALUATED)]
    return NotReported(reasons[-1] if reasons else "the run was not evaluated")


def _build_environment(record: RunRecord) -> Environment:
    from llmtune.report.schema import Environment

    details = {name: value for name, value in record.host.items() if name in ("llmtune", "python", "platform", "host")}
    if device := record.resolved.get("device"):
        details["device"] = str(device)
    return Environment.model_validate(details)


def _build_reproduce_command(record: RunRecord) -> str:
    """Write the job to a file, and return the command that runs it again."""
    path = home() / "runs" / record.id / "job.json"
    try:
        make_private_folder(path.parent)
        record.tuning_job.save(path)
    except OSError as error:
        log.warning("the job file %s could not be written: %s", path, error)
    return f"llmtune tune {shlex.quote(str(path))} --provider {shlex.quote(record.provider)} --new"


def _render_snippet(provider: Provider, model: ModelRef | None) -> str | None:
    if model is None:
        return None
    try:
        return provider.snippet(model)
    except Exception:  # a bug in a provider's example of code must not lose a finished run: the log has it
        log.exception("the snippet for %s could not be made", model.id)
        return None


def _list_artifacts(refs: dict[str, dict[str, Any]], model: ModelRef | None) -> dict[str, str]:
    artifacts = {name: str(ref["id"]) for name, ref in refs.items() if name == "job" or name.startswith("checkpoint:")}
    return artifacts | ({"model": model.id} if model is not None else {})
