"""The judge in a plan: whom the evaluation asks, where the rows are sent, and what the replies may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmtune.errors import InvalidJob
from llmtune.evaluation.judge.labels import choose_labels, read_labels
from llmtune.evaluation.judge.measure import count_prompt_tokens, price_replies
from llmtune.graders.judging import LONGEST_ANSWER, write_comparison, write_scoring
from llmtune.graders.trial import JUDGED_ROWS
from llmtune.job.graders import list_judges
from llmtune.job.judge import JudgeModel, JudgePrice, JudgeSpec
from llmtune.job.spec import TuningJob
from llmtune.provider.abilities import FindsModels
from llmtune.provider.cost import CostLine, add_line
from llmtune.provider.generation import Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import DatasetStatus, JudgePlan, Receipt
from llmtune.provider.registry import get_provider
from llmtune.provider.types import ModelRef, Target

#: Of a job that names a judge without test rows, which nothing is evaluated without.
NO_TEST_ROWS = (
    "evaluation.judge: it is asked with the evaluation, and the dataset has no test rows, so nothing is evaluated"
)

#: Tokens of a model's answer, by those of the row's own.
ANSWER_LENGTH = 2

#: Tokens of a text of `LONGEST_ANSWER` characters: more of an answer is not shown to a judge.
_MOST_ANSWER_TOKENS = LONGEST_ANSWER / 2

#: Answers that a trial makes to each row, and how many right answers these are long together: itself twice, the
#: one of another row, all of ten rows, and itself twenty times.
TRIED_KINDS, TRIED_ANSWERS = 7, 33

#: How much longer a text is as JSON.
_AS_JSON = 1.15

#: What a model on this machine bills.
FREE = JudgePrice(input=0.0, output=0.0)

#: From the id of a run to its backend, its tuned model and its base model's id.
FindRun = Callable[[str], tuple[Provider, ModelRef, str]]


@dataclass(frozen=True)
class JudgeHost:
    """Where a judge is: `location` in words, its backend and reference (None at an address), and what it bills."""

    location: str
    leaves_machine: bool
    price: JudgePrice | None
    backend: Provider | None = None
    ref: ModelRef | Unavailable | None = None


def find_judge(judge: JudgeModel, find_run: FindRun | None = None) -> JudgeHost:
    """Return where a judge is, and what it bills. Sends nothing.

    Raises:
        UnknownName: there is no such provider.
        RunNotFound: there is no such run.
        InvalidJob: the run has no model, or no run store was given to look it up; the address is none.
    """
    address = judge.address
    if address.kind == "server":
        return _find_server(judge)
    if address.kind == "run":
        if find_run is None:
            raise InvalidJob(f"{judge.model} is the model of a run, and no run store was given to look it up")
        backend, ref, base = find_run(address.name)
        return _describe_host(judge, backend, ref, base, tuned=True)
    backend = get_provider(address.provider)
    return _describe_host(judge, backend, _find_base(backend, address.name), address.name, tuned=False)


def _find_server(judge: JudgeModel) -> JudgeHost:
    try:
        parts = urlsplit(judge.model)
        host, netloc = parts.hostname or "", parts.netloc.rpartition("@")[2]
    except ValueError:
        host = netloc = ""
    if not host:
        raise InvalidJob(f"{judge.model!r} is no address of a server", where="evaluation.judge.model")
    here = _is_loopback(host)
    location = f"{netloc} (this machine)" if here else netloc
    return JudgeHost(location, not here, judge.price or (FREE if here else None))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _describe_host(
    judge: JudgeModel, backend: Provider, ref: ModelRef | Unavailable, model: str, *, tuned: bool
) -> JudgeHost:
    price = judge.price
    if price is None:
        price = FREE if not backend.hosted else _find_price(backend, model, tuned=tuned)
    location = backend.name if backend.hosted else f"{backend.name} (this machine)"
    return JudgeHost(location, backend.hosted, price, backend, ref)


def _build_target(backend: Provider, model: str) -> Target:
    return Target(provider=backend.name, kind=backend.kind, model=model)


def _find_base(backend: Provider, model: str) -> ModelRef | Unavailable:
    """Return a model that was not tuned by a run as a reference for its backend's `generator`."""
    if isinstance(backend, FindsModels):
        return backend.find_model(model)
    if not backend.hosted and model.startswith(("./", "../", "/", "~")) and not Path(model).expanduser().exists():
        return Unavailable(f"there is no folder {model}")
    target = _build_target(backend, model)
    family = backend.capabilities(target).family
    return backend.base_model(Receipt(target=target, family=family, job_name="judge", fields=()))


def _find_price(backend: Provider, model: str, *, tuned: bool) -> JudgePrice | None:
    """Return the catalogue's price of a model's answers; None where it is not known in USD."""
    price = backend.capabilities(_build_target(backend, model)).price
    own = (price.input, price.output) if tuned else (price.base_input, price.base_output)
    # What tuned answers cost is the best bound there is.
    into, out = own if tuned or own != (None, None) else (price.input, price.output)
    if into is None or out is None or price.currency != "USD":
        return None
    return JudgePrice(input=into, output=out)


def find_obstacle(judge: JudgeModel, host: JudgeHost) -> str | None:
    """Return why a judge cannot be asked from here, as a clause; None where nothing is known against it."""
    if isinstance(host.ref, Unavailable):
        return f"{judge.model} cannot be asked: {host.ref.reason}"
    if host.backend is None:
        return None
    ready = host.backend.ready()
    if ready.extra == "missing":
        return f"the packages of {host.backend.name} are not installed"
    if ready.credentials == "not found":
        return f"no credentials for {host.backend.name} were found"
    if ready.missing_settings:
        return f"settings of {host.backend.name} are missing: {', '.join(ready.missing_settings)}"
    return None


def plan_judge(job: TuningJob, status: DatasetStatus, receipt: Receipt, find_run: FindRun | None) -> dict[str, Any]:
    """Return what a judge changes in a receipt: nothing where the job names none.

    Raises:
        UnknownName: there is no such provider.
        RunNotFound: there is no such run.
        InvalidJob: the judge's run has no model, or its address is none.
        InvalidData: the file of labels cannot be read.
    """
    spec = job.evaluation.judge
    if spec is None:
        return {}
    if status.checked and not status.rows.get("test"):
        return {"warnings": (*receipt.warnings, NO_TEST_ROWS)}
    host = find_judge(spec, find_run)
    plan = _count_replies(job, spec, status, host)
    sending = plan.describe_sending()
    return {
        "judge": plan,
        "cost": add_line(receipt.cost, _price_judge(plan, host.price)) if plan.billed else receipt.cost,
        "warnings": (*receipt.warnings, sending) if sending else receipt.warnings,
    }


def plan_grader(job: TuningJob, status: DatasetStatus, receipt: Receipt, find_run: FindRun | None) -> dict[str, Any]:
    """Return what the judges of a job's grader change in a receipt: their trial here asks them before the job starts.

    Raises as `plan_judge` does.
    """
    judges = [] if job.grader is None else list_judges(job.grader)
    if not judges or not status.rows.get("train"):
        return {}
    cost, warnings = receipt.cost, list(receipt.warnings)
    rows = min(JUDGED_ROWS, status.rows["train"])
    for judge in judges:
        host = find_judge(judge, find_run)
        if host.leaves_machine:
            warnings.append(
                f"grader: {rows:,} training rows with answers to them are sent to {judge.model} at {host.location}, to"
                " try the grader before the job starts"
            )
        if host.price != FREE:
            cost = add_line(cost, _price_trial(judge, host, rows, status))
    return {"cost": cost, "warnings": tuple(warnings)}


def _price_trial(judge: JudgeModel, host: JudgeHost, rows: int, status: DatasetStatus) -> CostLine:
    name = "trial of the grader"
    if host.price is None:
        return CostLine(name=name, unknown=f"the price of {judge.model} is not known (price: in the grader)")
    replies = rows * TRIED_KINDS
    frame = count_prompt_tokens(write_scoring(judge.rubric, (), ""))
    question, answer = status.prompt_tokens or 0.0, status.answer_tokens or 0.0
    shown = question + TRIED_ANSWERS * answer
    tokens = round(replies * (frame + _AS_JSON * question) + rows * _AS_JSON * shown)
    priced = price_replies(host.price, tokens, replies * judge.max_tokens)
    assert priced is not None
    return CostLine(name=name, low=priced[0], high=priced[0], formula=f"{name} {priced[1].removesuffix(' USD')}")


def _count_replies(job: TuningJob, spec: JudgeSpec, status: DatasetStatus, host: JudgeHost) -> JudgePlan:
    rows = min(spec.max_rows, job.evaluation.max_rows, status.rows.get("test", spec.max_rows))
    pairwise = spec.mode == "pairwise"
    labels = [] if spec.labels is None else choose_labels(read_labels(spec.labels, spec.mode), spec.max_labels)
    answers = 2 if pairwise or job.evaluation.measures("base") else 1
    replies = 2 * rows if pairwise else answers * rows
    label_replies = 2 * len(labels) if pairwise else len(labels)
    prompt_tokens = None
    if status.prompt_tokens is not None:
        frame = write_comparison(spec.rubric, (), "", "") if pairwise else write_scoring(spec.rubric, (), "")
        answer = status.answer_tokens or 0.0
        shown = min(ANSWER_LENGTH * answer, _MOST_ANSWER_TOKENS) * (2 if pairwise else 1)
        reference = answer if spec.show_reference else 0.0
        material = _AS_JSON * (status.prompt_tokens + shown + reference)
        prompt_tokens = round(replies * (count_prompt_tokens(frame) + material))
        for labelled in labels:
            prompts = (
                [write_comparison(spec.rubric, labelled.question, *labelled.answers)] * 2
                if pairwise
                else [write_scoring(spec.rubric, labelled.question, labelled.answers[0])]
            )
            prompt_tokens += sum(map(count_prompt_tokens, prompts))
    return JudgePlan(
        model=spec.model,
        location=host.location,
        leaves_machine=host.leaves_machine,
        billed=host.price is None or host.price.input > 0 or host.price.output > 0,
        mode=spec.mode,
        rows=rows,
        labels=len(labels),
        replies=replies + label_replies,
        prompt_tokens=prompt_tokens,
        reply_tokens=(replies + label_replies) * spec.max_tokens,
        obstacle=find_obstacle(spec, host),
    )


def _price_judge(plan: JudgePlan, price: JudgePrice | None) -> CostLine:
    """Price the replies at their longest."""
    if price is None:
        return CostLine(
            name="judge",
            unknown=f"the price of {plan.model} is not known (evaluation.judge.price takes it, per million tokens)",
        )
    if plan.prompt_tokens is None or plan.reply_tokens is None:
        return CostLine(name="judge", unknown="the dataset could not be read, so its tokens are not known")
    priced = price_replies(price, plan.prompt_tokens, plan.reply_tokens)
    assert priced is not None
    amount, formula = priced
    return CostLine(name="judge", low=amount, high=amount, formula=f"judge {formula.removesuffix(' USD')}")
