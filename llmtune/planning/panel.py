"""The panel in a plan: how many questions outside the task are asked, and of how many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.data.rendering.token_count import Counter
from llmtune.evaluation.panel.questions import load_panel
from llmtune.job.spec import TuningJob
from llmtune.provider.receipt import DatasetStatus, PanelPlan

#: Of a job that asks for a panel without test rows, which nothing is evaluated without.
NO_TEST_ROWS = (
    "evaluation.panel: it is asked with the evaluation, and the dataset has no test rows, so nothing is evaluated"
)


def plan_panel(job: TuningJob, status: DatasetStatus, warnings: Sequence[str]) -> dict[str, Any]:
    """Return what a panel changes in a receipt with these warnings: nothing where the job asks for none.

    Raises:
        UnknownName: there is no panel of that name.
        InvalidData: the panel's file cannot be read.
    """
    if job.evaluation.panel is False:
        return {}
    panel = load_panel(job.evaluation.panel)
    if status.checked and not status.rows.get("test"):
        return {"warnings": (*warnings, NO_TEST_ROWS)}
    counter = Counter()
    sizes = [counter.row(row) for row in panel.rows]
    answer_tokens = sum(size.trained for size in sizes)
    return {
        "panel": PanelPlan(
            name=panel.name,
            questions=len(panel.questions),
            prompt_tokens=sum(size.total for size in sizes) - answer_tokens,
            answer_tokens=answer_tokens,
        )
    }
