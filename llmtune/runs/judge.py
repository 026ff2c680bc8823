"""The judge of a run's evaluation: found, opened, and held to what the run's budget leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.planning.judge import JudgeHost, find_judge, find_obstacle
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs.backend import provider_of
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.evaluation.judge.measure import JudgeRun, JudgeSource
    from llmtune.job.judge import JudgeModel, JudgeSpec
    from llmtune.metrics.points import NotReported
    from llmtune.runs.store.records import RunRecord

#: The environment variable with the key of a judge that is named by its address.
KEY = "LLMTUNE_JUDGE_KEY"


def find_run(name: str) -> tuple[Provider, ModelRef, str]:
    """Return backend, tuned model and base model's id of a run, by its id or name.

    Raises:
        RunNotFound: there is no such run.
        InvalidJob: it has no model.
    """
    store = open_store()
    record = store.get(store.resolve(name))
    ref = store.ref(record.id, "model", ModelRef)
    if ref is None:
        raise InvalidJob(f"run {record.id} has no model to judge with: it is {record.state}", where="judge")
    return provider_of(record), ref, record.model


def open_source(judge: JudgeModel) -> JudgeSource:
    """Return a judge that can be asked, or one that says why it cannot.

    Raises:
        LlmtuneError: there is no such provider or run, or nothing answers at the address.
    """
    from llmtune.evaluation.evaluate import model_identity
    from llmtune.evaluation.judge.measure import JudgeSource

    host = find_judge(judge, find_run)
    if host.backend is None:
        generator, identity = _open_server(judge)
    elif isinstance(host.ref, ModelRef):
        generator, identity = _open_model(judge, host), model_identity(host.backend.name, host.ref)
    else:
        generator, identity = Unavailable(find_obstacle(judge, host) or "it names no model"), judge.model
    return JudgeSource(generator, judge.model, host.location, f"judge {identity}", host.leaves_machine, host.price)


def _open_model(judge: JudgeModel, host: JudgeHost) -> Generator | Unavailable:
    if (obstacle := find_obstacle(judge, host)) is not None:
        return Unavailable(obstacle)
    assert host.backend is not None
    assert isinstance(host.ref, ModelRef)
    return host.backend.generator(host.ref)


def _open_server(judge: JudgeModel) -> tuple[Generator | Unavailable, str]:
    from llmtune.verifications.endpoint import Endpoint, EndpointGenerator

    endpoint = Endpoint(judge.model, model=judge.served_model, key_from=KEY if os.environ.get(KEY) else None)
    name = judge.served_model or endpoint.choose_model("default")
    return EndpointGenerator(endpoint), f"{endpoint.address} {name}"


def open_judge(spec: JudgeSpec | None, record: RunRecord) -> JudgeRun | NotReported | None:
    """Return the judge of a run's evaluation; the reason where it cannot be asked, None where there is none."""
    from llmtune.evaluation.judge.labels import choose_labels, read_labels
    from llmtune.evaluation.judge.measure import JudgeRun
    from llmtune.metrics.points import NotReported

    if spec is None:
        return None
    try:
        labels = [] if spec.labels is None else choose_labels(read_labels(spec.labels, spec.mode), spec.max_labels)
        return JudgeRun(spec, open_source(spec), labels, get_allowance(record))
    except LlmtuneError as error:  # it was there when the run was planned; the rows are evaluated all the same
        return NotReported(error.message)


def get_allowance(record: RunRecord) -> float | None:
    """Return the USD that a judge may cost: what the budget leaves beside the rest of the run; None without one."""
    if record.budget is None:
        return None
    from llmtune.planning.bill import compare_bill

    plan = record.plan
    judge = sum(line.high or 0.0 for line in plan.cost.lines if line.name == "judge")
    others = (plan.cost.total or judge) - judge
    if record.hosted:
        bill = compare_bill(plan, record.billed, record.resolved.get("epochs"))
        others += bill.difference or 0.0
    return record.budget - others
