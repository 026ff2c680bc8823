"""`probe`: train a job on 10, 20, 40 and 80 % of its rows, to see whether more rows or more epochs would help."""

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
from llmtune.runs.budget import ALLOW_UNKNOWN, CONFIRM, CostTotal, check_budget
from llmtune.runs.options import check_keywords
from llmtune.runs.plans import plan
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.sweeps.sweep_plan import SweepTarget
from llmtune.sweeps.trial_job import without_test
from llmtune.sweeps.worker import cost_of, keep_model_loaded, parallel_runs

if TYPE_CHECKING:
    from pathlib import Path

    from llmtune.data.example import Example

#: Twice the rows are worth collecting where they lower the loss by this share or more.
WORTH = 0.02

#: What would help more.
ProbeAnswer = Literal["more epochs", "more data", "both", "neither", "cannot tell"]


class Rung(DocumentedModel):
    """One run of a probe: the job on a share of its training rows. Larger shares contain the rows of smaller ones."""

    share: float
    rows: int
    loss: float | None
    """Validation loss at the end, in nats per token; None when the run reported none."""

    falling: float | None = None
    """How much the validation loss fell over the last quarter of the steps, as a share of it."""

    run: str | None = None
    note: str = ""


class Probe(DocumentedModel):
    """The answer of `probe`, and the runs at `provider` it is based on: one of `rungs` for each share of the rows."""

    name: str
    provider: str
    answer: ProbeAnswer
    says: str
    """The answer in a sentence or two, with its figures."""

    rungs: tuple[Rung, ...]
    doubled: tuple[float, float] | None = None
    """Predicted validation loss with twice all rows, lowest and highest: of the power laws through all points and
    through all but one. None where no law fits."""

    spent: float | NotReported = 0.0
    """USD, billed or estimated."""

    def to_json(self) -> str:
        """Return the result as JSON; `Probe.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))


@check_keywords()
def probe(
    job: TuningJob,
    provider: str | Provider = "local",
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.4, 0.8),
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    on_rung: Callable[[Rung], None] | None = None,
    pace: PollInterval | None = None,
) -> Probe:
    """Train on growing shares of the rows, and predict whether more rows or more epochs would help.

    Every rung is an ordinary run on the same validation rows; the same call made again continues where it stopped. The
    validation loss is extrapolated to twice the rows by a power law (Hestness et al., arXiv:1712.00409, 2017).

    Args:
        job: the job; its split says which rows are validation. The test rows are not used.
        provider: backend of the runs.
        shares: shares of the training rows, each above 0 and at most 1; at least three.
        budget: the most that all runs may cost, in USD.
        yes: whether you agree to spend money.
        allow_unknown_cost: accept unknown prices under a budget.
        on_rung: called with each run that ends.
        pace: how often the backend is polled.

    Raises:
        InvalidJob: there are fewer than three shares, no validation rows, or a share of fewer than two rows.
        OverBudget: the runs cost more than the budget, a price is unknown, or spending was not confirmed.
        LlmtuneError: fewer than three of the runs have a validation loss.
    """
    backend = get_provider(provider)
    distinct_shares = sorted(set(shares))
    if len(distinct_shares) < 3 or not all(0 < share <= 1 for share in distinct_shares):
        raise InvalidJob("a probe needs three shares or more, each above 0 and at most 1", where="shares")
    dataset = read_dataset(job)
    if isinstance(dataset, InvalidData):
        raise dataset
    if not dataset.validation:
        raise InvalidJob("a probe compares validation losses, and there are no validation rows", where="dataset.split")
    fingerprint = json.dumps([job.to_dict(), backend.name, dataset.sha256], sort_keys=True, default=str)
    group = f"probe {hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    full_job = without_test(job, dataset, group)
    order = sorted(dataset.train, key=_row_digest)
    kind = {"preference": "preference", "text": "text"}.get(dataset.kind, "chat")
    jobs = [
        _build_job(full_job, order, share, kind, home() / "sweeps" / group.replace(" ", "-"))
        for share in distinct_shares
    ]
    _check_budget(backend, jobs, budget=budget, yes=yes, allow_unknown=allow_unknown_cost)
    with (
        keep_model_loaded([SweepTarget(backend, None, frozenset())]),
        ThreadPoolExecutor(parallel_runs(backend)) as pool,
    ):
        futures = [
            pool.submit(_run_rung, share, rung_job, backend, group, len(order), on_rung, pace)
            for share, rung_job in zip(distinct_shares, jobs, strict=True)
        ]
        rungs = [future.result() for future in futures]
    return build_probe(job.name, backend, rungs).model_copy(update={"spent": _sum_costs(rungs)})


def _row_digest(example: Example) -> str:
    """Return the key that rows are sorted by: their content, so that the order of the file does not matter."""
    return hashlib.sha256(repr((example.messages, example.preference)).encode()).hexdigest()


def _build_job(full_job: TuningJob, order: Sequence[Example], share: float, kind: str, folder: Path) -> TuningJob:
    from llmtune.data.convert import write

    count = max(1, round(share * len(order)))
    if count < 2:
        raise InvalidJob(f"{share:.0%} of {len(order)} training rows is one row", where="shares")
    path = folder / f"train-{count}.jsonl"
    if not path.exists():
        write(order[:count], path, kind)
    spec = DatasetSpec(
        train=str(path),
        validation=full_job.dataset.validation,
        split=(1.0, 0.0, 0.0),
        on_too_long=full_job.dataset.on_too_long,
        on_empty=full_job.dataset.on_empty,
        system=full_job.dataset.system,
    )
    return full_job.model_copy(update={"dataset": spec})


def _check_budget(
    backend: Provider, jobs: Sequence[TuningJob], *, budget: float | None, yes: bool, allow_unknown: bool
) -> None:
    if not backend.hosted:
        return

    def bill(budget: float) -> CostTotal:
        costs = [plan(job, backend).cost for job in jobs]
        total = sum(cost.total for cost in costs if cost.total is not None)
        over = OverBudget(f"the {len(jobs)} runs cost about {total:,.2f} USD and the budget is {budget:,.2f}")
        unknown = next(
            (
                OverBudget(
                    f"what the runs cost is not known ({missing}), which counts as over the budget",
                    hint=ALLOW_UNKNOWN,
                )
                for cost in costs
                if (missing := cost.why_incomplete()) is not None
            ),
            None,
        )
        return CostTotal(total, over, unknown)

    check_budget(
        bill,
        budget=budget,
        confirmed=yes,
        allow_unknown_cost=allow_unknown,
        unconfirmed=OverBudget(f"{backend.name} bills every run and it was not confirmed", hint=CONFIRM),
    )


def _run_rung(
    share: float,
    job: TuningJob,
    backend: Provider,
    group: str,
    rows: int,
    on_rung: Callable[[Rung], None] | None,
    pace: PollInterval | None,
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


def _sum_costs(rungs: Sequence[Rung]) -> float | NotReported:
    store, total = open_store(), 0.0
    for rung in rungs:
        cost = cost_of(store.get(rung.run)) if rung.run else 0.0
        if isinstance(cost, NotReported):
            return cost
        total += cost
    return total


def build_probe(name: str, backend: Provider, rungs: Sequence[Rung]) -> Probe:
    """Derive the answer from the losses. Raises `LlmtuneError` where fewer than three runs have one."""
    points = [(rung.rows, rung.loss) for rung in rungs if rung.loss is not None and math.isfinite(rung.loss)]
    if len(points) < 3:
        first = next((rung.note for rung in rungs if rung.note), "")
        raise LlmtuneError(f"fewer than three runs of the probe have a validation loss: {first}")
    last = next(rung for rung in reversed(rungs) if rung.loss is not None)
    everything = last.rows / last.share
    doubled = _extrapolate(points, 2 * everything)
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
    answer: ProbeAnswer
    if last.falling is None or data is None:
        answer = "more epochs" if epochs else "cannot tell" if not data else "more data"
    else:
        answer = "both" if epochs and data else "more epochs" if epochs else "more data" if data else "neither"
    says = f"{answer}: {'; '.join(parts)}".replace("cannot tell:", "More rows: cannot tell:")
    if epochs:
        says += ". Epochs first: a run on fewer rows also took fewer steps, so that the curve over rows mixes both"
    return Probe(name=name, provider=backend.name, answer=answer, says=f"{says}.", rungs=tuple(rungs), doubled=doubled)


def _extrapolate(points: Sequence[tuple[int, float]], rows: float) -> tuple[float, float] | None:
    """Predict the loss at `rows`: lowest and highest of the power laws through all points and through all but one."""
    subsets = [list(points)]
    if len(points) > 3:
        subsets += [[*points[:at], *points[at + 1 :]] for at in range(len(points))]
    losses = [loss for subset in subsets if (loss := _fit_power_law(subset, rows)) is not None]
    return (min(losses), max(losses)) if losses else None


def _fit_power_law(points: Sequence[tuple[int, float]], rows: float) -> float | None:
    """Fit loss = floor + scale * size ** -power to (size, loss) points, and return the loss at `rows`.

    Least squares, floor and scale not negative, power in 0.05..1 (arXiv:1712.00409 reports 0.07 to 0.35 for real
    tasks). None where the loss does not fall as rows are added.
    """
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
