"""The dry run of a reward: Google scores one answer before a job is paid, and llmtune scores the same one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, warning
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.graders.job_trial import make_row
from llmtune.graders.scoring import Answer, GraderProcess, make_right_answer
from llmtune.job.graders import Grader, make_grader
from llmtune.provider import Receipt
from llmtune_vertex import rows
from llmtune_vertex.client import Sdk

#: Two scores that are further apart are not the same.
SAME = 1e-6


@dataclass(frozen=True)
class Sample:
    """A training row with its right answer, for the dry run of a grader."""

    grader: Grader
    example: Example
    answer: Answer


def choose_sample(receipt: Receipt, examples: Sequence[Example]) -> Sample | None:
    """Return the first row that has a right answer; None where there is none, and for jobs of another method."""
    if receipt.target.method != "reinforcement" or not isinstance(receipt["grader"].requested, dict):
        return None
    grader = make_grader(receipt["grader"].requested)
    for example in examples:
        if (answer := make_right_answer(grader, make_row(grader, example))) is not None:
            return Sample(grader, example, answer)
    return None


def check_reward(sdk: Sdk, reward: dict[str, Any], sample: Sample) -> Iterator[Finding]:
    """Ask Google what it pays for the right answer of a row; nothing is billed. Yields what is wrong with it."""
    from google.genai import types

    row = rows.GeminiReinforcementRows().write(sample.example)
    parts: list[dict[str, Any]] = [{"text": sample.answer.text}] if sample.answer.text else []
    parts += [{"functionCall": {"name": name, "args": arguments}} for name, arguments in sample.answer.tool_calls]
    try:
        with sdk.translate_errors("trying the grader"):
            answer = sdk.genai().tunings.validate_reward(
                parent=f"projects/{sdk.project}/locations/{sdk.location}",
                sample_response=types.Content.model_validate({"role": "model", "parts": parts or [{"text": ""}]}),
                example=types.ReinforcementTuningExample.model_validate(row),
                single_reward_config=types.SingleReinforcementTuningRewardConfig.model_validate(reward),
            )
    except TransientError:
        raise
    except VendorError as refused:
        if refused.status in (403, 404):  # the dry run may be barred where tuning is not
            yield warning("grader", f"the dry run of the grader is refused: {refused.message}", "the job will tell")
            return
        yield error("grader", f"Google refuses the grader: {refused.message}", "correct the grader")
        return
    if answer.error:
        yield error("grader", f"Google cannot score the right answer of a row: {answer.error}", "correct the grader")
        return
    paid = 0.0 if answer.overall_reward is None else float(answer.overall_reward)
    try:
        with GraderProcess(sample.grader) as process:
            score = process.score(make_row(sample.grader, sample.example), sample.answer)
    except LlmtuneError as fault:
        yield warning("grader", f"the grader cannot be run here, to compare: {fault.message}", "")
        return
    if score.value is not None and abs(score.value - paid) > SAME:
        yield error(
            "grader",
            f"Google pays {paid:g} for the right answer of a row, and llmtune {score.value:g}",
            "see whether the service on Cloud Run is the one that scores here",
        )
