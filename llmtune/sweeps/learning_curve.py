"""`probe`: the same job on 10, 20, 40 and 80 % of its rows, to tell whether more rows or more epochs would help."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from llmtune._models import DocumentedModel
from llmtune.config import home
from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, OverBudget, RunFailed
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.metrics.diagnosis import STILL_FALLING, late_fall
from llmtune.metrics.points import NotReported, Series
from llmtune.planning.plan import read_dataset
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.redaction.documents import dump_json
from llmtune.runs.api import start
from llmtune.runs.budget import ALLOW_UNKNOWN, CONFIRM, Bill, check_bill
from llmtune.runs.plans import plan
from llmtune.runs.poller import Pace
from llmtune.runs.store.store import open_store
from llmtune.sweeps.sweep_plan import Place
from llmtune.sweeps.trial_job import without_test
from llmtune.sweeps.worker import at_once, cost_of, kept_warm

if TYPE_CHECKING:
    from pathlib import Path

    from llmtune.data.example import Example

#: A loss that twice the rows would lower by less than this share is not worth collecting rows for.
WORTH = 0.02

Answer = Literal["more epochs", "more data", "both", "neither", "cannot tell"]


class Rung(DocumentedModel):
    """The job on a share of its training rows. The rows of a smaller share are among those of a larger one."""

    share: float
    rows: int
    loss: float | None
    """Validation loss at the end, in nats per token; None when the run came to none."""

    falling: float | None = None
    """How much the validation loss fell over the last quarter of the steps, as a share of it."""

    run: str | None = None
    note: str = ""


class Probe(DocumentedModel):
    """The answer and what it rests on."""

    name: str
    provider: str
    answer: Answer
    says: str
    """The answer in a sentence or two, with its figures."""

    rungs: tuple[Rung, ...]
    doubled: tuple[float, float] | None = None
    """Validation loss that twice all rows would lead to: lowest and highest of the power laws through all but one of
    the points (and through all). None where no law fits."""

    spent: float | NotReported = 0.0
    """USD, billed or estimated."""

    def to_json(self) -> str:
        """As JSON; `Probe.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))


def probe(
    job: TuningJob,
    provider: str | Provider = "local",
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.4, 0.8),
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    on_rung: Callable[[Rung], None] | None = None,
    pace: Pace | None = None,
) -> Probe:
    """Train on growing shares of the rows, and tell whether more rows or more epochs would help before paying for them.

    Every rung is an ordinary run on the same validation rows; the same call again goes on where it was. The validation
    loss is extrapolated to twice the rows by a power law (Hestness et al., arXiv:1712.00409, 2017).

    Args:
        job: the job; its split says which rows are validation. The test rows are not looked at.
        provider: where the runs are.
        shares: of the training rows, 0..1, at least three.
        budget: the most that all runs may cost, in USD.
        yes: whether spending money is agreed to.
        allow_unknown_cost: let unknown prices pass under a budget.
        on_rung: called with each run that ends.
        pace: how often the backend is asked.

    Raises:
        InvalidJob: fewer than three shares, no validation rows, or shares of fewer than two rows.
        OverBudget: the runs cost more than the budget, or nobody agreed to spend money.
        LlmtuneError: fewer than three of the runs came to a validation loss.
    """
    backend = get_provider(provider)
    wanted = sorted(set(shares))
    if len(wanted) < 3 or not all(0 < share <= 1 for share in wanted):
        raise InvalidJob("a probe needs three shares or more, each above 0 and at most 1", where="shares")
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a probe compares validation losses, and there are no validation rows", where="dataset.split")
    told = json.dumps([job.to_dict(), backend.name, dataset.sha256], sort_keys=True, default=str)
    group = f"probe {hashlib.sha256(told.encode()).hexdigest()[:12]}"
    whole = without_test(job, dataset, group)
    order = sorted(dataset.train, key=_place)
    kind = {"preference": "preference", "text": "text"}.get(dataset.kind, "chat")
    jobs = [_job(whole, order, share, kind, home() / "sweeps" / group.replace(" ", "-")) for share in wanted]
    _check_budget(backend, jobs, budget=budget, yes=yes, allow_unknown=allow_unknown_cost)
    with kept_warm([Place(backend, None, frozenset())]), ThreadPoolExecutor(at_once(backend)) as pool:
        climbed = [
            pool.submit(_climb, share, each, backend, group, len(order), on_rung, pace)
            for share, each in zip(wanted, jobs, strict=True)
        ]
        rungs = [each.result() for each in climbed]
    return judge(job.name, backend, rungs).model_copy(update={"spent": _spent(rungs)})


def _place(example: Example) -> str:
    """Where a row stands, whatever the order of the file."""
    return hashlib.sha256(repr((example.messages, example.preference)).encode()).hexdigest()


def _job(whole: TuningJob, order: Sequence[Example], share: float, kind: str, folder: Path) -> TuningJob:
    from llmtune.data.convert import write

    count = max(1, round(share * len(order)))
    if count < 2:
        raise InvalidJob(f"{share:.0%} of {len(order)} training rows is one row", where="shares")
    path = folder / f"train-{count}.jsonl"
    if not path.exists():
        write(order[:count], path, kind)
    spec = DatasetSpec(
        train=str(path),
        validation=whole.dataset.validation,
        split=(1.0, 0.0, 0.0),
        on_too_long=whole.dataset.on_too_long,
        on_empty=whole.dataset.on_empty,
        system=whole.dataset.system,
    )
    return whole.model_copy(update={"dataset": spec})


def _check_budget(
    backend: Provider, jobs: Sequence[TuningJob], *, budget: float | None, yes: bool, allow_unknown: bool
) -> None:
    if not backend.hosted:
        return

    def bill(budget: float) -> Bill:
        costs = [plan(job, backend).cost for job in jobs]
        total = sum(cost.total for cost in costs if cost.total is not None)
        over = OverBudget(f"the {len(jobs)} runs cost about {total:,.2f} USD and the budget is {budget:,.2f}")
        unknown = next(
            (
                OverBudget(
                    f"what the runs cost is not known ({cost.unknown}), which counts as over the budget",
                    hint=ALLOW_UNKNOWN,
                )
                for cost in costs
                if cost.total is None
            ),
            None,
        )
        return Bill(total, over, unknown)

    check_bill(
        bill,
        budget=budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(f"{backend.name} bills every run and it was not confirmed", hint=CONFIRM),
    )


def _climb(
    share: float,
    job: TuningJob,
    backend: Provider,
    group: str,
    rows: int,
    on_rung: Callable[[Rung], None] | None,
    pace: Pace | None,
) -> Rung:
    count = max(1, round(share * rows))
    run = start(job, backend, yes=True, reuse=True, group=f"{group}/{count}")
    rung = Rung(share=share, rows=count, loss=None, run=run.id)
    try:
        run.wait(pace=pace)
    except RunFailed as error:
        rung = rung.model_copy(update={"note": error.message})
    else:
        points = tuple(point for point in run.metrics() if point.series == "validation/loss")
        if points:
            curve = Series(name="validation/loss", points=points)
            rung = rung.model_copy(update={"loss": float(points[-1].value), "falling": late_fall(curve)})
        else:
            rung = rung.model_copy(update={"note": f"{backend.name} reported no validation/loss"})
    if on_rung is not None:
        on_rung(rung)
    return rung


def _spent(rungs: Sequence[Rung]) -> float | NotReported:
    store, total = open_store(), 0.0
    for rung in rungs:
        cost = cost_of(store.get(rung.run)) if rung.run else 0.0
        if isinstance(cost, NotReported):
            return cost
        total += cost
    return total


def judge(name: str, backend: Provider, rungs: Sequence[Rung]) -> Probe:
    """The answer, from the losses. Raises `LlmtuneError` where fewer than three runs came to one."""
    points = [(rung.rows, rung.loss) for rung in rungs if rung.loss is not None and math.isfinite(rung.loss)]
    if len(points) < 3:
        first = next((rung.note for rung in rungs if rung.note), "")
        raise LlmtuneError(f"fewer than three runs of the probe came to a validation loss: {first}")
    last = next(rung for rung in reversed(rungs) if rung.loss is not None)
    everything = last.rows / last.share
    doubled = _extrapolated(points, 2 * everything)
    epochs = last.falling is not None and last.falling > STILL_FALLING
    parts = []
    if last.falling is not None:
        verb = "was still falling" if epochs else "had levelled off"
        parts.append(
            f"on {last.rows:,} rows the validation loss {verb} at the end ({last.falling:.0%} over the last quarter of"
            " the steps)"
        )
    else:
        parts.append(f"{backend.name} reports too few validation losses to say whether more epochs would help")
    data: bool | None = None
    if doubled is None:
        parts.append("the losses follow no law that could be extrapolated to more rows")
    else:
        assert last.loss is not None
        gain = [(last.loss - loss) / last.loss for loss in doubled]
        data = True if min(gain) > WORTH else False if max(gain) < WORTH else None
        spread = f"{doubled[0]:.3f} to {doubled[1]:.3f}, from {last.loss:.3f}"
        parts.append(f"twice all rows ({2 * everything:,.0f}) would lead to {spread}")
    answer: Answer
    if last.falling is None or data is None:
        answer = "more epochs" if epochs else "cannot tell" if not data else "more data"
    else:
        answer = "both" if epochs and data else "more epochs" if epochs else "more data" if data else "neither"
    says = f"{answer}: {'; '.join(parts)}".replace("cannot tell:", "More rows: cannot tell:")
    if epochs:
        says += ". Epochs first: a run on fewer rows also took fewer steps, so that the curve over rows mixes both"
    return Probe(name=name, provider=backend.name, answer=answer, says=f"{says}.", rungs=tuple(rungs), doubled=doubled)


def _extrapolated(points: Sequence[tuple[int, float]], rows: float) -> tuple[float, float] | None:
    """Lowest and highest loss at so many rows, of the power laws through all points and through all but one."""
    subsets = [list(points)]
    if len(points) > 3:
        subsets += [[*points[:at], *points[at + 1 :]] for at in range(len(points))]
    found = [loss for subset in subsets if (loss := _power_law(subset, rows)) is not None]
    return (min(found), max(found)) if found else None


def _power_law(points: Sequence[tuple[int, float]], rows: float) -> float | None:
    """loss = floor + scale * rows ** -power, power in 0.05..1 (arXiv:1712.00409 reports 0.07 to 0.35 for real tasks),
    least squares with floor and scale not negative; None where the loss does not fall with the rows."""
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array([size for size, _ in points], dtype=float)
    losses = np.array([loss for _, loss in points], dtype=float)
    best: tuple[float, float] | None = None
    for power in np.linspace(0.05, 1.0, 39):
        basis = np.stack([np.ones_like(sizes), sizes**-power], axis=1)
        (floor, scale), error = nnls(basis, losses)
        if scale > 0 and (best is None or error < best[0]):
            best = (float(error), float(floor + scale * rows**-power))
    return best[1] if best is not None else float(losses.mean()) if losses.std() < WORTH * losses.mean() else None
