"""Recording of the golden set: choose the rows, check whether the old model answers and at what cost, and ask it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date

from llmtune import _clock
from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.metrics.points import NotReported
from llmtune.planning import support_matrix
from llmtune.provider.declarations import Capabilities
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef, RunKey
from llmtune.redaction.secrets import scrub
from llmtune.rescues import evaluate, golden_set, source
from llmtune.rescues.folder import Folder
from llmtune.rescues.results import GoldenSet, RescueSource
from llmtune.runs.failpoints import failpoint
from llmtune.runs.finalize import DEPLOYMENT_LAG
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.store.store import open_store

Say = Callable[[str], None]


def choose_rows(folder: Folder, old_job: RescueSource, prompts: str | os.PathLike[str] | None) -> Sequence[Example]:
    """Choose the rows of the golden set: the user's prompts, of this call or an earlier one, else the held-out rows.

    Raises:
        LlmtuneError: the golden set in the folder was begun with other prompts.
    """
    from llmtune.data.io.reading import load

    # A copy in the folder, so that the golden set stays the same whatever happens to the user's file.
    saved_prompts = folder.data / "prompts.jsonl"
    if prompts is not None:
        new_prompts = load(str(prompts))
        if saved_prompts.exists() and folder.golden.exists() and list(load(str(saved_prompts))) != list(new_prompts):
            raise LlmtuneError(
                f"the golden set in {folder.path} was begun with other prompts than {prompts}",
                hint="leave --prompts out to go on with those, or name another folder with --out",
            )
        if folder.done("golden") and not saved_prompts.exists():
            raise LlmtuneError(
                f"the golden set in {folder.path} was recorded on the held-out rows, without {prompts}",
                hint="leave --prompts out, or name another folder with --out",
            )
        source.keep_rows(new_prompts, saved_prompts)
    if saved_prompts.exists():
        return load(str(saved_prompts))
    held_out = old_job.files.get("test")
    return load(str(folder.path / held_out.path)) if held_out is not None else ()


def build_questions(
    folder: Folder, old_job: RescueSource, prompts: str | os.PathLike[str] | None, max_rows: int
) -> golden_set.Questions | None:
    """Build the questions for the old model; None when there are no rows."""
    rows = choose_rows(folder, old_job, prompts)
    if not rows:
        return None
    return golden_set.Questions(rows, f"{old_job.provider} {old_job.model}", evaluate.evaluation_spec(max_rows))


def estimate_answers_cost(
    folder: Folder, old_model: source.OldModel, old_job: RescueSource, questions: golden_set.Questions | None
) -> float:
    """Estimate the most that the answers on file have cost, in USD; 0 where the price is not published."""
    if questions is None:
        return 0.0
    file = golden_set.GoldenFile(folder.golden, questions)
    return golden_set.estimate_cost(questions, old_model.provider, old_job.base, file, answered=True)[0] or 0.0


@dataclass(frozen=True)
class PreparedQuestions:
    """The questions for an old model that answers, and their cost."""

    questions: golden_set.Questions
    file: golden_set.GoldenFile
    model: ModelRef
    deploy: bool
    """Whether the model is deployed to answer them."""

    cost: float | None
    """Of the open questions, in USD; None: not known."""

    formula: str
    """How the cost was computed, in words."""


def prepare(
    folder: Folder, old_model: source.OldModel, questions: golden_set.Questions | None, *, deploy: bool
) -> PreparedQuestions | GoldenSet | NotReported:
    """Prepare the questions for the old model, or return the golden set as it is when the model cannot be asked.

    Nothing is sent that costs money.
    """
    if questions is None or not questions.rows:
        return NotReported("there are no rows to ask: neither held-out rows nor --prompts")
    old_job = folder.state.source
    assert old_job is not None
    file = golden_set.GoldenFile(folder.golden, questions)
    ended = golden_set.stop_reason(_find_end_date(old_model, old_job), _clock.today())
    if ended is not None:
        return _add_answers_on_file(NotReported(f"{old_job.model}: {ended}"), questions, file)
    ref = _get_model_ref(old_model, old_job)
    cost, formula = golden_set.estimate_cost(questions, old_model.provider, old_job.base, file)
    if all(file.get(key) is not None for key in questions.keys):
        return PreparedQuestions(questions, file, ref, False, cost, formula)
    generator = old_model.provider.generator(ref)
    if not isinstance(generator, Unavailable):
        return PreparedQuestions(questions, file, ref, False, cost, formula)
    capabilities = support_matrix.get_capabilities(old_model.provider, old_job.base)
    if capabilities.abilities.deployment == "none":
        return _add_answers_on_file(NotReported(generator.reason), questions, file)
    price = _describe_hosting_price(capabilities)
    if not deploy:
        offer = f"--deploy deploys it ({price}) while it is asked, and removes the deployment afterwards"
        return _add_answers_on_file(NotReported(f"{generator.reason}; {offer}"), questions, file)
    hosting = capabilities.price.hosting
    cost = None if cost is None or hosting is None else cost + hosting  # one hour of hosting
    formula = f"{formula}; and a deployment while it is asked ({price})"
    return PreparedQuestions(questions, file, ref, True, cost, formula)


def _describe_hosting_price(capabilities: Capabilities) -> str:
    hosting = capabilities.price.hosting
    return "price not published" if hosting is None else f"{hosting:,.2f} {capabilities.price.currency} an hour"


def record(
    folder: Folder, old_model: source.OldModel, prepared: PreparedQuestions, say: Say, patience: RetryPolicy | None
) -> GoldenSet | NotReported:
    """Ask the old model the open questions. Returns `NotReported` when it refuses and no answer is on file.

    Raises:
        TransientError: its vendor stayed unavailable; the same call goes on from the answers on file.
    """
    old_job = folder.state.source
    assert old_job is not None
    questions, file = prepared.questions, prepared.file
    sampling = ", ".join(f"{name} {value}" for name, value in questions.sampling.items())
    say(f"asking {old_job.model} ({prepared.formula}; {sampling})")
    try:
        with _open_target(folder, old_model, prepared, say) as target:
            golden = golden_set.record(
                questions,
                file,
                old_model.provider,
                target,
                patience=patience,
                progress=lambda done, total: say(f"golden set: {done}/{total}") if done == total else None,
            )
    except TransientError:
        raise
    except VendorError as error:
        golden = NotReported(f"{old_job.model} does not answer any more: {scrub(error.message)}")
    return _add_answers_on_file(golden, questions, file)


def save_golden_set(folder: Folder, golden: GoldenSet | NotReported, say: Say) -> None:
    """Save the outcome of the golden set in the folder. Without an answer the step stays open for the next call."""
    notes = tuple(note for note in folder.state.notes if not note.startswith("no golden set: "))
    folder.keep(golden=golden, notes=notes, done=None if isinstance(golden, NotReported) else "golden")
    if isinstance(golden, NotReported):
        folder.keep(note=f"no golden set: {golden.reason}")
        say(f"no golden set: {golden.reason}")
    failpoint("rescue-recorded")


def _add_answers_on_file(
    golden: GoldenSet | NotReported, questions: golden_set.Questions, file: golden_set.GoldenFile
) -> GoldenSet | NotReported:
    """Return the golden set of the answers on file, where the model can answer no more; else `golden` as it is."""
    generations = file.answers(questions)
    if isinstance(golden, NotReported) and generations:
        return GoldenSet(
            rows=len(questions.rows),
            answered=len(generations),
            refused=len(questions.rows) - len(generations),
            sampling=questions.sampling,
        )
    return golden


def _get_model_ref(old_model: source.OldModel, old_job: RescueSource) -> ModelRef:
    if old_model.record is not None:
        ref = open_store().ref(old_model.record.id, "model", ModelRef)
        if ref is not None:
            return ref
    data = old_model.remote.data if old_model.remote is not None else {}
    return ModelRef(id=old_job.model, base=old_job.base, data=data)


def _find_end_date(old_model: source.OldModel, old_job: RescueSource) -> date | None:
    """Return the day on which the old model stops answering; None where it is not certain, and asking will show."""
    shutdown = old_model.remote.shutdown if old_model.remote is not None else None
    with suppress(ValueError):  # the vendor gives no day
        return date.fromisoformat((shutdown or "")[:10])
    try:
        lifecycle = support_matrix.get_capabilities(old_model.provider, old_job.base).lifecycle
    except LlmtuneError:
        return None
    return None if lifecycle.unverified else lifecycle.answers_until


# --- a deployment, which costs money while it stands -----------------------------------------------------------------
@contextmanager
def _open_target(
    folder: Folder, old_model: source.OldModel, prepared: PreparedQuestions, say: Say
) -> Iterator[ModelRef | DeploymentRef]:
    """Yield the old model or a deployment of it, which is removed at the end of the `with`.

    The deployment's key is saved before it is created, so that a call after a kill finds it.
    """
    if not prepared.deploy:
        remove_leftover(folder, old_model, say)
        yield prepared.model
        return
    ref = None
    try:
        ref = _find_deployment(folder, old_model)
        if ref is None:
            key = folder.state.deployment or run_key(new_run_id())
            folder.keep(deployment=key)
            failpoint("rescue-deploying")
            say(f"deploying {prepared.model.id}")
            try:
                ref = old_model.provider.deploy(prepared.model, RunKey(key))
            except VendorError as error:
                if not isinstance(error, TransientError):  # refused: there is no deployment
                    folder.keep(deployment=None)
                raise
        failpoint("rescue-deployed")
        yield ref or prepared.model
    finally:
        remove_leftover(folder, old_model, say, ref)


def _find_deployment(folder: Folder, old_model: source.OldModel) -> DeploymentRef | None:
    """Find the deployment that this call or an earlier one has created, for as long as the vendor's lists may lag."""
    if folder.state.deployment is None:
        return None
    deadline = time.monotonic() + (DEPLOYMENT_LAG if old_model.provider.submit_safety.window else 0.0)
    while True:
        past_deadline = time.monotonic() >= deadline
        ref = old_model.provider.find_deployment(RunKey(folder.state.deployment))
        if ref is not None or past_deadline:
            return ref
        time.sleep(1.0)


def remove_leftover(folder: Folder, old_model: source.OldModel, say: Say, ref: DeploymentRef | None = None) -> None:
    """Remove the deployment that this rescue has created, if any. A failure becomes a note in the folder."""
    if folder.state.deployment is None:
        return
    try:
        ref = ref or _find_deployment(folder, old_model)
        if ref is not None:
            old_model.provider.undeploy(ref)
    except LlmtuneError as error:
        text = (
            f"the deployment llmtune made of {folder.state.asked} (key {folder.state.deployment}) could not be removed"
            f" and costs money while it stands: {scrub(error.message)}; the same command tries again"
        )
        folder.keep(note=text)
        say(text)
        return
    failpoint("rescue-undeployed")
    folder.keep(deployment=None)
