"""The spread over seeds, as the store has it: one record with each run that was trained for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtune.metrics.points import NotReported
from llmtune.provider.types import Ref
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.evaluation.results import EvaluationResult
    from llmtune.report.schema import SeedResult, SeedSpread

#: Name of the reference that holds it, and its id.
REFERENCE, MEASURED = "seeds", "measured"


def keep(store: Store, run_id: str, spread: SeedSpread) -> None:
    """Store the spread with one of its runs."""
    store.set_ref(run_id, REFERENCE, Ref(id=MEASURED, data={"result": spread.model_dump(mode="json")}))


def read(
    refs: Mapping[str, Mapping[str, Any]], run_id: str, result: EvaluationResult | NotReported | None
) -> SeedSpread | None:
    """Return the spread that is stored with a run.

    None where there is none, or where the run was evaluated otherwise since and the figures do not belong together.
    """
    from llmtune.report.schema import SeedSpread

    ref = refs.get(REFERENCE)
    if ref is None or ref.get("id") != MEASURED or result is None or isinstance(result, NotReported):
        return None
    try:
        spread = SeedSpread.model_validate(ref["data"]["result"])
    except (ValueError, KeyError, TypeError):  # damaged
        return None
    own: SeedResult | None = next((seed for seed in spread.results if seed.run == run_id), None)
    tuned = result.system("tuned")
    figure = tuned.get(spread.metric) if tuned is not None and spread.metric == result.main else None
    if own is None or figure is None or isinstance(own.value, NotReported):
        return None
    return spread if float(figure.value) == own.value else None
