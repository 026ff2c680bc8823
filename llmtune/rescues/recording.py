"""The step that asks the old model: which rows, whether it answers at all, what that costs, and its answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

from llmtune import _clock
from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.errors import LlmtuneError, OverBudget, TransientError, VendorError
from llmtune.metrics.points import NotReported
from llmtune.planning import support_matrix
from llmtune.provider.declarations import Capabilities
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef, RunKey
from llmtune.redaction.secrets import scrub
from llmtune.rescues import evaluate, golden_set, source
from llmtune.rescues.folder import Folder
from llmtune.rescues.results import GoldenSet, Source
from llmtune.runs.budget import CONFIRM, Bill, check_bill
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.finalize import DEPLOYMENT_LAG
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.store.store import open_store

Say = Callable[[str], None]


@dataclass(frozen=True)
class Consent:
    """Whether money may be spent on answers, and how much."""

    yes: bool
    budget: float | None
    allow_unknown_cost: bool
    confirm: golden_set.Confirm | None = None

    def check(self, cost: float | None, formula: str, sampling: dict[str, Any], spent: float) -> None:
        """Raise `OverBudget` if the answers may not be paid for, besides what was spent before."""
        if cost == 0:
            return
        if self.budget is None and not self.yes and self.confirm is not None:
            self.confirm(cost, formula, sampling)
            return

        def bill(budget: float) -> Bill:
            if cost is None:
                unknown = OverBudget(
                    f"what the old model's answers cost is not known ({formula})", hint="pass --allow-unknown-cost"
                )
                return Bill(0.0, unknown, unknown)
            before = f" besides {spent:,.2f} USD for those on file" if spent else ""
            over = OverBudget(f"the old model's answers may cost {cost:,.2f} USD{before}, over the budget ({formula})")
            return Bill(cost + spent, over)

        check_bill(
            bill,
            budget=self.budget,
            confirmed=self.yes,
            allow_unknown_cost=self.allow_unknown_cost,
            unconfirmed=OverBudget(
                f"the old model's answers are billed ({formula}) and it was not confirmed", hint=CONFIRM
            ),
        )


def rows_to_ask(folder: Folder, kept: Source, prompts: str | os.PathLike[str] | None) -> Sequence[Example]:
    """The rows of the golden set: prompts that were given, now or before, else those that were held out."""
    from llmtune.data.io.reading import load

    # Kept in the folder, so that the golden set stays the same one whatever becomes of the file that was given.
    kept_prompts = folder.data / "prompts.jsonl"
    if prompts is not None:
        given = load(str(prompts))
        if kept_prompts.exists() and folder.golden.exists() and list(load(str(kept_prompts))) != list(given):
            raise LlmtuneError(
                f"the golden set in {folder.path} was begun with other prompts than {prompts}",
                hint="leave --prompts out to go on with those, or name another folder with --out",
            )
        if folder.done("golden") and not kept_prompts.exists():
            raise LlmtuneError(
                f"the golden set in {folder.path} was recorded on the held-out rows, without {prompts}",
                hint="leave --prompts out, or name another folder with --out",
            )
        source.keep_rows(given, kept_prompts)
    if kept_prompts.exists():
        return load(str(kept_prompts))
    held_out = kept.files.get("test")
    return load(str(folder.path / held_out.path)) if held_out is not None else ()


def questions_for(
    folder: Folder, kept: Source, prompts: str | os.PathLike[str] | None, max_rows: int
) -> golden_set.Questions | None:
    """What the old model is asked; None where there are no rows."""
    rows = rows_to_ask(folder, kept, prompts)
    return golden_set.Questions(rows, f"{kept.provider} {kept.model}", evaluate.spec_for(max_rows)) if rows else None


def answers_cost(folder: Folder, found: source.Found, kept: Source, questions: golden_set.Questions | None) -> float:
    """What the answers on file cost at most, in this call or before a kill; 0 where the price is not published."""
    if questions is None:
        return 0.0
    file = golden_set.GoldenFile(folder.golden, questions)
    return golden_set.estimate(questions, found.provider, kept.base, file, answered=True)[0] or 0.0


@dataclass(frozen=True)
class Asking:
    """The old model, about to be asked: what for, and at what cost."""

    questions: golden_set.Questions
    file: golden_set.GoldenFile
    model: ModelRef
    deploy: bool
    """Whether it is deployed for it."""

    cost: float | None
    formula: str


def prepare(
    folder: Folder, found: source.Found, questions: golden_set.Questions | None, *, deploy: bool
) -> Asking | GoldenSet | NotReported:
    """What asking takes; or what there is without asking: the old model does not answer, or has no more to say.

    Nothing is sent that costs money.
    """
    kept = folder.state.source
    assert kept is not None
    if questions is None or not questions.rows:
        return NotReported("there are no rows to ask: neither held-out rows nor --prompts")
    file = golden_set.GoldenFile(folder.golden, questions)
    ended = golden_set.stopped(_answers_until(found, kept), _clock.today())
    if ended is not None:
        return _so_far(NotReported(f"{kept.model}: {ended}"), questions, file)
    ref = _old_model(found, kept)
    cost, formula = golden_set.estimate(questions, found.provider, kept.base, file)
    if all(file.get(key) is not None for key in questions.keys):
        return Asking(questions, file, ref, False, cost, formula)
    answer = found.provider.generator(ref)
    if not isinstance(answer, Unavailable):
        return Asking(questions, file, ref, False, cost, formula)
    able = support_matrix.ask(found.provider, kept.base)
    if able.abilities.deployment == "none":
        return _so_far(NotReported(answer.reason), questions, file)
    if not deploy:
        return _so_far(NotReported(f"{answer.reason}; {_offer(able)}"), questions, file)
    hosting = able.price.hosting
    hours = "price not published" if hosting is None else f"{hosting:,.2f} {able.price.currency} an hour"
    cost = None if cost is None or hosting is None else cost + hosting
    return Asking(questions, file, ref, True, cost, f"{formula}; and a deployment while it is asked ({hours})")


def _offer(able: Capabilities) -> str:
    hosting = able.price.hosting
    price = "whose price is not published" if hosting is None else f"{hosting:,.2f} {able.price.currency} an hour"
    return f"--deploy deploys it ({price}) while it is asked, and removes the deployment afterwards"


def record(
    folder: Folder, found: source.Found, asking: Asking, say: Say, patience: RetryPolicy | None
) -> GoldenSet | NotReported:
    """Ask the old model. `NotReported` where it refuses: what it said before is kept.

    Raises:
        TransientError: its vendor stayed unwell; the same call goes on.
    """
    kept = folder.state.source
    assert kept is not None
    questions, file = asking.questions, asking.file
    sampling = ", ".join(f"{name} {value}" for name, value in questions.sampling.items())
    say(f"asking {kept.model} ({asking.formula}; {sampling})")
    try:
        with _answering(folder, found, asking, say) as target:
            told = golden_set.record(
                questions,
                file,
                found.provider,
                target,
                patience=patience,
                progress=lambda done, total: say(f"golden set: {done}/{total}") if done == total else None,
            )
    except TransientError:
        raise
    except VendorError as error:
        told = NotReported(f"{kept.model} does not answer any more: {scrub(error.message)}")
    return _so_far(told, questions, file)


def keep_golden(folder: Folder, told: GoldenSet | NotReported, say: Say) -> None:
    """Write down what became of the golden set. Without an answer the step stays open: the same call tries again."""
    notes = tuple(note for note in folder.state.notes if not note.startswith("no golden set: "))
    folder.keep(golden=told, notes=notes, done=None if isinstance(told, NotReported) else "golden")
    if isinstance(told, NotReported):
        folder.keep(note=f"no golden set: {told.reason}")
        say(f"no golden set: {told.reason}")
    checkpoint("rescue-recorded")


def _so_far(
    told: GoldenSet | NotReported, questions: golden_set.Questions, file: golden_set.GoldenFile
) -> GoldenSet | NotReported:
    """A model that died half-way leaves the answers it gave."""
    got = file.answers(questions)
    if isinstance(told, NotReported) and got:
        return GoldenSet(
            rows=len(questions.rows),
            answered=len(got),
            refused=len(questions.rows) - len(got),
            sampling=questions.sampling,
        )
    return told


def _old_model(found: source.Found, kept: Source) -> ModelRef:
    if found.record is not None:
        ref = open_store().ref(found.record.id, "model", ModelRef)
        if ref is not None:
            return ref
    data = found.remote.data if found.remote is not None else {}
    return ModelRef(id=kept.model, base=kept.base, data=data)


def _answers_until(found: source.Found, kept: Source) -> date | None:
    """The day on which the old model stops answering, where that is certain; another is found out by asking."""
    try:
        return date.fromisoformat(((found.remote and found.remote.shutdown) or "")[:10])
    except ValueError:
        pass
    try:
        life = support_matrix.ask(found.provider, kept.base).lifecycle
    except LlmtuneError:
        return None
    return None if life.unverified else life.answers_until


# --- a deployment, which costs money while it stands -----------------------------------------------------------------
@contextmanager
def _answering(folder: Folder, found: source.Found, asking: Asking, say: Say) -> Iterator[ModelRef | DeploymentRef]:
    """The old model as something that answers; a deployment stands only inside the `with`.

    Its key is written down before it is made, so that a call that comes after a kill finds it.
    """
    if not asking.deploy:
        remove_leftover(folder, found, say)
        yield asking.model
        return
    ref = None
    try:
        ref = _find_deployment(folder, found)
        if ref is None:
            key = folder.state.deployment or run_key(new_run_id())
            folder.keep(deployment=key)
            checkpoint("rescue-deploying")
            say(f"deploying {asking.model.id}")
            try:
                ref = found.provider.deploy(asking.model, RunKey(key))
            except VendorError as error:
                if not isinstance(error, TransientError):  # refused: nothing stands
                    folder.keep(deployment=None)
                raise
        checkpoint("rescue-deployed")
        yield ref or asking.model
    finally:
        remove_leftover(folder, found, say, ref)


def _find_deployment(folder: Folder, found: source.Found) -> DeploymentRef | None:
    """The deployment that this call or one before it has made, looked for as long as the vendor's lists may lag."""
    if folder.state.deployment is None:
        return None
    deadline = time.monotonic() + (DEPLOYMENT_LAG if found.provider.submit_safety.window else 0.0)
    while True:
        late = time.monotonic() >= deadline
        ref = found.provider.find_deployment(RunKey(folder.state.deployment))
        if ref is not None or late:
            return ref
        time.sleep(1.0)


def remove_leftover(folder: Folder, found: source.Found, say: Say, ref: DeploymentRef | None = None) -> None:
    """Remove the deployment that this rescue has made, if it stands; one that cannot be removed is said."""
    if folder.state.deployment is None:
        return
    try:
        ref = ref or _find_deployment(folder, found)
        if ref is not None:
            found.provider.undeploy(ref)
    except LlmtuneError as error:
        text = (
            f"the deployment llmtune made of {folder.state.asked} (key {folder.state.deployment}) could not be removed"
            f" and costs money while it stands: {scrub(error.message)}; the same command tries again"
        )
        folder.keep(note=text)
        say(text)
        return
    checkpoint("rescue-undeployed")
    folder.keep(deployment=None)
