"""Questions before money is spent: the model's live limits, and the service's own estimate of the price.

Live limits override the catalogue: what they refuse is an error here, whatever our tables say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from llmtune.data.findings import Finding, error, warning
from llmtune.provider import CostEstimate
from llmtune_together.declarations import PATIENCE, WARMUP_EVALS

_SOURCE = "Together live limits (GET /v1/fine-tunes/models/limits)"


def against_limits(body: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Finding]:
    """Check a request body against the model's live limits."""
    return [*_check_ranges(body, limits), *_check_training(body, limits)]


def _check_ranges(body: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Finding]:
    dpo = body["training_method"]["method"] == "dpo"
    longest = limits.get("max_seq_length_dpo" if dpo else "max_seq_length_sft")
    checks = (
        ("epochs", body["n_epochs"], 1, limits.get("max_num_epochs")),
        ("eval_every", body["n_evals"], 0, limits.get("max_num_evals")),
        ("checkpoint_every", body["n_checkpoints"], 1, limits.get("max_num_checkpoints")),
        ("learning_rate", body["learning_rate"], limits.get("min_learning_rate"), limits.get("max_learning_rate")),
        ("max_sequence_length", body.get("max_seq_length"), limits.get("min_max_seq_length"), longest),
    )
    return [fault for name, value, low, high in checks if (fault := _check_range(name, value, low, high))]


def _check_training(body: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Finding]:
    kind = body["training_type"]
    dpo = body["training_method"]["method"] == "dpo"
    findings: list[Finding | None] = []
    if kind["type"] == "Full":
        if limits.get("supports_full_training") is False or not limits.get("full_training"):
            return [error("no-full-training", "this model cannot be tuned in full", "use adapter lora")]
        method_limits = limits["full_training"]
    else:
        method_limits = limits.get("lora_training") or {}
        findings.append(_check_range("lora_rank", kind.get("lora_r"), 1, method_limits.get("max_rank")))
        findings += _check_modules(kind.get("lora_trainable_modules"), method_limits.get("target_modules"))
    if body["batch_size"] != "max":
        max_batch_size = method_limits.get("max_batch_size_dpo" if dpo else "max_batch_size")
        findings.append(
            _check_range("batch_size", body["batch_size"], method_limits.get("min_batch_size"), max_batch_size)
        )
    if body.get("multimodal_params", {}).get("train_vision") and not limits.get("supports_vision"):
        findings.append(error("no-vision", "this model has no vision encoder to train", "leave train_vision unset"))
    return [finding for finding in findings if finding is not None]


def _check_modules(requested: str | None, offered: list[str] | None) -> list[Finding | None]:
    if not requested or requested == "all-linear" or not offered:
        return []
    unknown = [name for name in requested.split(",") if name not in offered]
    if not unknown:
        return []
    return [
        error(
            "unknown-module",
            f"lora_target_modules: this model has no {', '.join(unknown)}",
            f"it has {', '.join(offered)}, or all-linear ({_SOURCE})",
        )
    ]


def _check_range(name: str, value: Any, low: Any, high: Any) -> Finding | None:
    if value is None or ((low is None or value >= low) and (high is None or value <= high)):
        return None
    bounds = f"from {low} to {high}" if low is not None and high is not None else f"at most {high}"
    return error("outside-live-limits", f"{name}: {value} is sent, and this model takes {bounds} today", _SOURCE)


def evaluations(body: Mapping[str, Any]) -> list[Finding]:
    """Find contradictions: evaluations without validation rows, validation rows that are never evaluated."""
    findings = []
    rows = bool(body.get("validation_file"))
    if body["n_evals"] and not rows:
        findings.append(
            error("no-validation-rows", "evaluations are asked for, and there are no validation rows", "add some")
        )
    if rows and not body["n_evals"]:
        findings.append(
            warning(
                "never-evaluated",
                "validation rows are sent and never evaluated on: the service evaluates only on request",
                "set eval_every, or n_evals in provider_options",
            )
        )
    if body["early_stopping_enabled"]:
        patience = body.get("early_stopping_patience", PATIENCE)
        needed = patience + body.get("early_stopping_warmup_evals", WARMUP_EVALS) + 1
        if body["n_evals"] < needed:
            findings.append(
                error(
                    "too-few-evaluations",
                    f"early stopping wants {needed} evaluations, and {body['n_evals']} are asked for",
                    "evaluate more often, or lower early_stopping_patience",
                )
            )
    return findings


def estimate(answer: Mapping[str, Any], today: date) -> CostEstimate:
    """Convert the service's own estimate; what it could not estimate is listed as unknown."""
    source = "Together price estimate (POST /v1/fine-tunes/estimate-price)"
    price = answer.get("estimated_total_price")
    if answer.get("estimation_available") is False or price is None:
        reason = str(answer.get("unavailable_reason") or "no reason given").replace("_", " ")
        return CostEstimate(unknown=f"the service gives no estimate: {reason}", source=source, checked=today)
    train = answer.get("estimated_train_token_count") or 0
    evals = answer.get("estimated_eval_token_count") or 0
    return CostEstimate(
        training=float(price),
        evaluation=0.0,
        hosting=0.0,
        total=float(price),
        formula=f"the service's estimate for {train:,.0f} training and {evals:,.0f} evaluation tokens",
        source=source,
        checked=today,
    )


def over_limit(answer: Mapping[str, Any]) -> list[Finding]:
    """Find out whether the account would not be allowed to start the job."""
    if answer.get("allowed_to_proceed") is not False:
        return []
    limit = answer.get("user_limit")
    limit_clause = f", above the account's limit of {limit:,.2f} USD" if isinstance(limit, (int, float)) else ""
    price = answer.get("estimated_total_price")
    cost = f"{price:,.2f} USD" if isinstance(price, (int, float)) else "more than the account may spend"
    return [
        error(
            "over-account-limit",
            f"the service estimates {cost}{limit_clause}: the job would be cancelled for lack of funds",
            "raise the limit under Settings, Billing on api.together.ai",
        )
    ]
