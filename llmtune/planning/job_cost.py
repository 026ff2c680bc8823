"""What a job will cost before it is started: training, the answers of its evaluation, and a deployment for them."""

from __future__ import annotations

from dataclasses import replace

from llmtune.evaluation.few_shot import SHOTS
from llmtune.job.spec import TuningJob
from llmtune.provider import cost
from llmtune.provider.declarations import Capabilities
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import DatasetStatus, PanelPlan, Receipt

#: A deployment that an evaluation needs is assumed to be up for so many hours.
EVALUATION_HOURS = 1.0

#: Tokens of an answer to a panel, by those of its reference answer.
PANEL_ANSWER_LENGTH = 2


def estimate_cost(
    job: TuningJob, backend: Provider, receipt: Receipt, capabilities: Capabilities, status: DatasetStatus
) -> cost.CostEstimate:
    """Estimate the cost of training, evaluation and deployment; the estimate names what is not known."""
    if not backend.hosted:
        return cost.FREE
    target = receipt.target
    epochs = receipt.effective("epochs")
    deploys = capabilities.abilities.deployment == "required" and job.evaluation.deploy
    can_answer = capabilities.abilities.deployment != "required" or deploys
    return cost.estimate(
        replace(capabilities, price=capabilities.price.for_target(target.method, target.adapter)),
        training_tokens=status.tokens,
        tokens_estimated=status.tokens_estimated,
        epochs=epochs if isinstance(epochs, int) else None,
        answers=list_answers(job, status, capabilities, receipt.panel) if can_answer else (),
        hosting_hours=EVALUATION_HOURS if deploys else 0.0,
    )


def list_answers(
    job: TuningJob, status: DatasetStatus, capabilities: Capabilities, panel: PanelPlan | None = None
) -> list[cost.Answers]:
    """Return the answers that the evaluation asks for, with their tokens, model by model."""
    rows = min(job.evaluation.max_rows, status.rows.get("test", 0))
    prompt, answer = status.prompt_tokens or 0.0, status.answer_tokens or 0.0

    def ask(name: str, count: int, prompt_tokens: float, *, tuned: bool) -> cost.Answers:
        return cost.Answers(name, round(count * prompt_tokens), round(count * answer), tuned)

    answers = []
    if capabilities.abilities.serving is True:
        answers.append(ask("evaluation", rows + 2 * (job.evaluation.fit_rows or 0), prompt, tuned=True))
    if capabilities.abilities.base_serving is True:
        if job.evaluation.measures("base"):
            answers.append(ask("base model", rows, prompt, tuned=False))
        if job.evaluation.measures("few_shot"):
            with_examples = prompt + SHOTS * (prompt + answer)
            answers.append(ask("few-shot baseline", rows, with_examples, tuned=False))
    if panel is not None:
        # Most models write more than the reference has.
        tokens = panel.prompt_tokens, PANEL_ANSWER_LENGTH * panel.answer_tokens
        if capabilities.abilities.serving is True:
            answers.append(cost.Answers("panel", *tokens, tuned=True))
        if capabilities.abilities.base_serving is True:
            answers.append(cost.Answers("panel of the base model", *tokens, tuned=False))
    return answers
