"""The dry run of a reward: Google scores one answer before a job is paid, and llmtune scores the same one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import TransientError, VendorError
from llmtune.graders.job_trial import Sample, compare_scores
from llmtune_vertex import rows
from llmtune_vertex.client import Sdk
from llmtune_vertex.graders import write_reward


def check_reward(sdk: Sdk, reward: dict[str, Any], sample: Sample) -> Iterator[Finding]:
    """Ask Google what it pays for the right answer of a row; nothing is billed. Yields what is wrong with it."""
    from google.genai import types

    if reward != write_reward(sample.grader):
        return  # a row of another job, which the same provider has encoded since
    row = rows.GeminiReinforcementRows().write(sample.example)
    row.pop("tools", None)  # no grader reads them, and the SDK takes fewer keys of a schema than the service
    parts: list[dict[str, Any]] = [{"text": sample.answer.text}] if sample.answer.text else []
    parts += [{"functionCall": {"name": name, "args": arguments}} for name, arguments in sample.answer.tool_calls]
    try:
        response = types.Content.model_validate({"role": "model", "parts": parts or [{"text": ""}]})
        example = types.ReinforcementTuningExample.model_validate(row)
        config = types.SingleReinforcementTuningRewardConfig.model_validate(reward)
    except ValueError as problem:  # a part of the row that the SDK does not know
        what = f"the dry run of the grader cannot be made: {str(problem)[:200]}"
        yield warning("grader", what, "the job will tell")
        return
    try:
        with sdk.translate_errors("trying the grader"):
            answer = sdk.genai().tunings.validate_reward(
                parent=f"projects/{sdk.project}/locations/{sdk.location}",
                sample_response=response,
                example=example,
                single_reward_config=config,
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
    if difference := compare_scores(sample, paid, "Google"):
        yield error("grader", difference, "see whether the service on Cloud Run is the one that scores here")
