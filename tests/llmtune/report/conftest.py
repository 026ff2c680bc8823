"""Reports made of real parts: a real evaluation of scripted models, curves, and a receipt with every word in it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.results import EvaluationResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.metrics.points import MetricPoint, NotReported
from llmtune.provider.cost import CostEstimate
from llmtune.provider.generation import Unavailable
from llmtune.provider.receipt import DatasetStatus, FieldReceipt, Receipt
from llmtune.provider.types import Billed, RunState, Target
from llmtune.report.builder import RunFacts, build_report
from llmtune.report.schema import Check, Environment, Identity, Report
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, often, ticket, truth

JOB = TuningJob(name="ticket-router", dataset="tickets.jsonl", model="tiny")


def receipt(**changes: Any) -> Receipt:
    fields = (
        FieldReceipt(field="epochs", support="sent", requested=3, effective=3, wire="hyperparameters.n_epochs"),
        FieldReceipt(
            field="lora_rank",
            support="converted",
            requested=12,
            effective=16,
            wire="adapter.size",
            rule="sizes are 1, 2, 4, 8, 16, 32: the next one up",
            source="the vendor's reference, 2026-11-20",
        ),
        FieldReceipt(
            field="weight_decay", support="unsupported", requested=0.1, reason="the service sets its own regularisation"
        ),
        FieldReceipt(field="prompt_loss_weight", support="inherent", effective=0.0, reason="prompts are always masked"),
        FieldReceipt(field="batch_size", support="default", effective="auto", wire="hyperparameters.batch_size"),
        FieldReceipt(field="dpo_beta", support="not_applicable", reason="means something for dpo only"),
        FieldReceipt(
            field="lora_target_modules", support="sent", requested=("q_proj", "v_proj"), effective=("q_proj", "v_proj")
        ),
    )
    defaults: dict[str, Any] = {
        "target": Target(provider="local", kind="local", model="tiny"),
        "family": "any causal model",
        "job_name": "ticket-router",
        "fields": fields,
        "data": DatasetStatus(
            source="tickets.jsonl",
            sha256="0f" * 32,
            rows={"train": 960, "validation": 120, "test": 120},
            tokens=41_230,
            tokens_estimated=False,
            format="chat",
        ),
        "cost": CostEstimate(total=0.0, formula="your own machine: no vendor bills it"),
    }
    return Receipt(**(defaults | changes))


def identity(**changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "run_id": "lt7f3k9q2abc",
        "job_name": "ticket-router",
        "provider": "local",
        "kind": "local",
        "model": "tiny",
        "tuned_model": "/home/ada/.llmtune/runs/lt7f3k9q2abc/adapter",
        "state": RunState.SUCCEEDED,
        "key": "lt7f3k9q2abc",
        "created": 1_795_000_000.0,
    }
    return Identity(**(fields | changes))


def points(steps: int = 240) -> list[MetricPoint]:
    """Return a falling, slightly noisy curve, with validation every 20 steps."""
    measured = []
    for step in range(1, steps + 1):
        loss = 0.35 + 2.6 * math.exp(-step / 45) + 0.08 * math.sin(step * 1.7)
        measured.append(MetricPoint(step=step, series="train/loss", value=loss))
        measured.append(MetricPoint(step=step, series="train/tokens_per_second", value=5_400 + 40 * math.sin(step)))
        if step % 20 == 0:
            held_out = 0.45 + 2.5 * math.exp(-step / 45)
            measured.append(MetricPoint(step=step, series="validation/loss", value=held_out))
    return measured


def evaluation(**changes: Any) -> EvaluationResult:
    rows = [ticket(number) for number in range(120)]
    fields: dict[str, Any] = {
        "generators": {"base": Likely(lambda prompt: "bug", loss=2.4), "tuned": Likely(often, loss=0.4)},
        "spec": EvaluationSpec(max_rows=500),
        "scoring": ScoringOptions(labels=LABELS, resamples=300),
        "train": [ticket(number) for number in range(200, 400)],
        "validation": [ticket(number) for number in range(400, 460)],
        "fit_rows": 60,
    }
    fields |= changes
    return evaluate(rows, fields.pop("generators"), fields.pop("spec"), **fields)


STATES = [
    (RunState.PLANNED, 0.0),
    (RunState.UPLOADING, 0.5),
    (RunState.SUBMITTING, 1.0),
    (RunState.QUEUED, 2.0),
    (RunState.RUNNING, 6.0),
    (RunState.FINALIZING, 101.0),
    (RunState.SUCCEEDED, 110.0),
]


def make(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "identity": identity(),
        "receipt": receipt(),
        "job": JOB.to_dict(),
        "points": points(),
        "transitions": STATES,
        "evaluation": evaluation(),
        "evaluation_seconds": 7.5,
        "billed": Billed(tokens=123_690, source="counted by the trainer"),
        "warnings": ["local will not use weight_decay=0.1 (the service sets its own regularisation)"],
        "checks": [Check(name="end of turn", passed=True, says="the model ends its answers with <|end|>")],
        "environment": Environment(
            llmtune="0.1.0",
            python="3.11.2",
            platform="Linux-6.1-x86_64",
            host="workbench",
            device="cpu, 2 cores",
            versions={"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        ),
        "reproduce": "llmtune tune job.yaml --provider local --new",
        "snippet": "from peft import PeftModel\nmodel = PeftModel.from_pretrained(base, 'adapter')\n",
        "artifacts": {"adapter": "/home/ada/.llmtune/runs/lt7f3k9q2abc/adapter"},
    }
    return build_report(RunFacts(**(fields | changes)))


@pytest.fixture(scope="session")
def report() -> Report:
    """Return the report of a local run that went well."""
    return make()


@pytest.fixture(scope="session")
def hosted() -> Report:
    """Return the report of a hosted run: billed, scored by text, without a base model and a validation curve."""
    return make(
        identity=identity(provider="cloud-eu", kind="cloud", model="big-model-1", tuned_model="ft:big-model-1:x"),
        receipt=receipt(
            cost=CostEstimate(
                total=12.4, training=12.4, formula="about 3,100,000 tokens x 3 epochs x 4 USD per million"
            )
        ),
        evaluation=evaluation(
            generators={
                "base": Unavailable("the base model needs a paid deployment"),
                "tuned": Scripted(often, max_concurrency=4),
            },
            fit_rows=0,
        ),
        billed=Billed(tokens=9_300_000, amount=11.9, source="the job's own field"),
        points=[MetricPoint(step=s, series="train/loss", value=1 / s, source="vendor_api") for s in range(1, 60)],
    )


@pytest.fixture(scope="session")
def failed() -> Report:
    """Return the report of a run that ended without a model."""
    return make(
        identity=identity(state=RunState.FAILED, tuned_model=NotReported("the run failed")),
        evaluation=None,
        points=[],
        billed=None,
        transitions=[*STATES[:4], (RunState.FAILED, 9.0)],
        snippet=None,
        checks=[],
        error="the training file has 2 rows that are too long",
    )


def perfect(prompt: str) -> str:
    """Return a system that is always right."""
    return truth(prompt)
