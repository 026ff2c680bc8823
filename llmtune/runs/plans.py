"""Plans with the run store at hand, so that `model: run:ID` is looked up in it. See `llmtune.planning.plan`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

from llmtune.planning import plan as planning
from llmtune.runs.continue_from import earlier_model
from llmtune.runs.judge import find_run
from llmtune.runs.options import check_keywords
from llmtune.runs.speeds import find_speed

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.errors import InvalidData, LlmtuneError
    from llmtune.job.spec import TuningJob
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt
    from llmtune.provider.types import Target


@check_keywords()
def plan(
    job: TuningJob,
    provider: str | Provider,
    *,
    dataset: Dataset | InvalidData | None = None,
    today: date | None = None,
) -> Receipt:
    """Plan a job at a backend: what it will do with each field, the exact request, and an estimate of the cost.

    Args:
        job: the job.
        provider: a provider's name, a configured instance's name, or a provider.
        dataset: the dataset when it was read already; else it is read here. A dataset that cannot be read does not
            stop the plan: the verdict on the data says why.
        today: the day on which the plan is made, for lifecycles; None is today.

    Raises:
        InvalidJob: the job names no model for this provider, or its options are wrong.
        UnknownName: there is no such provider.
    """
    return planning.plan(
        job,
        provider,
        dataset=dataset,
        today=today,
        earlier_model=earlier_model,
        recall_speed=find_speed,
        find_run=find_run,
    )


@check_keywords()
def plan_all(
    job: TuningJob, providers: Iterable[str | Provider], *, today: date | None = None
) -> dict[str, Receipt | LlmtuneError]:
    """Plan a job at several backends, reading the dataset once; the error of one that cannot be asked is its value."""
    return planning.plan_all(
        job, providers, today=today, earlier_model=earlier_model, recall_speed=find_speed, find_run=find_run
    )


def target_of(job: TuningJob, provider: Provider) -> Target:
    """Return the target (model, method, adapter) by which a provider's capabilities for this job are looked up."""
    return planning.build_target(job, provider, earlier_model)
