"""A job in a backend's own terms: every field translated, and answered for, in a receipt."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from llmtune.errors import NotTranslatable, UnsupportedHyperparameterWarning
from llmtune.job.base import StrictModel
from llmtune.job.spec import DatasetSpec, EvaluationSpec, TuningJob
from llmtune.provider.declarations import (
    DECLARED_FIELDS,
    GENERATION_FIELDS,
    Capabilities,
    ConversionContext,
    Converted,
    Declaration,
    Inherent,
    NotApplicable,
    NotConvertible,
    Sent,
    Support,
    Unsupported,
)
from llmtune.provider.limits import Ability, NotOffered
from llmtune.provider.receipt import FieldReceipt, Receipt
from llmtune.provider.types import Target

#: Fields that mean nothing outside one method or adapter, whatever the backend.
ONLY_FOR_METHOD = {"dpo_beta": ("dpo",), "prompt_loss_weight": ("sft",), "replay_share": ("sft",)}


ONLY_WITH_ADAPTER = {
    "lora_rank": ("lora", "qlora", "dora"),
    "lora_alpha": ("lora", "qlora", "dora"),
    "lora_dropout": ("lora", "qlora", "dora"),
    "lora_target_modules": ("lora", "qlora", "dora"),
}


#: Factors on a service's own learning rate that somebody may mean; what lies outside is most likely a rate.
LIKELY_MULTIPLIERS = (0.01, 50.0)
#: The highest absolute rate that is not doubted: that of plain SGD in textbooks.
HIGHEST_RATE = 0.1

_BY_LLMTUNE = "done by llmtune itself, the same for every backend"


def spec_fields() -> list[str]:
    """Return every leaf of the job spec, by the name it has in a receipt."""
    dataset = [f"dataset.{name}" for name in DatasetSpec.model_fields]
    evaluation = [f"evaluation.{name}" for name in EvaluationSpec.model_fields if name not in GENERATION_FIELDS]
    return [*DECLARED_FIELDS, "grader", "model", "method", "adapter", "provider_options", *dataset, *evaluation]


def translate(job: TuningJob, target: Target, capabilities: Capabilities, *, rows: int | None = None) -> Receipt:
    """Say of every field of the job what becomes of it at this target.

    Args:
        job: the job.
        target: model, method and adapter at one provider.
        capabilities: what that target can express.
        rows: training rows, for conversions between epochs and steps; None when the dataset was not read.
    """
    hyperparameters = job.hyperparameters_for(target.provider)
    facts = ConversionContext(hyperparameters=hyperparameters, rows=rows, method=target.method, adapter=target.adapter)
    requested: dict[str, Any] = {name: getattr(hyperparameters, name) for name in type(hyperparameters).model_fields}
    requested |= {"name": job.name, "seed": job.seed, "tags": job.tags or None}
    requested |= {name: getattr(job.evaluation, name) for name in GENERATION_FIELDS}

    fields = [_resolve(name, requested[name], capabilities.parameters[name], facts) for name in DECLARED_FIELDS]
    fields.append(_grader_receipt(job, capabilities.grader, facts))
    fields += _structural_receipts(job, target, capabilities.abilities.samples)
    refusals = [f"{row.field}: {row.reason}" for row in fields if row.support == "invalid"]
    abilities = (capabilities.method(target.method), capabilities.adapter(target.adapter))
    refusals += [ability.reason for ability in abilities if isinstance(ability, NotOffered)]
    return Receipt(
        target=target,
        family=capabilities.family,
        job_name=job.name,
        fields=tuple(fields),
        refusals=tuple(refusals),
        warnings=(*capabilities.warnings, *_warn_of_unlikely_values(fields)),
    )


def _warn_of_unlikely_values(fields: Collection[FieldReceipt]) -> list[str]:
    """Warn of values that are allowed but hardly ever meant."""
    low, high = LIKELY_MULTIPLIERS
    rates = [
        f"learning_rate={row.requested:g} is an absolute rate, and training hardly ever works above {HIGHEST_RATE:g}:"
        f" did you mean learning_rate_multiplier={row.requested:g}?"
        for row in fields
        if row.field == "learning_rate" and row.requested is not None and row.requested > HIGHEST_RATE
    ]
    return rates + [
        f"learning_rate_multiplier={row.requested:g} is a factor on the rate that the backend chooses itself, not a"
        f" rate: 1 keeps that rate, {row.requested:g} trains at {row.requested:g} times it"
        f"{f'; did you mean learning_rate={row.requested:g}?' if row.requested < low else ''}"
        for row in fields
        if row.field == "learning_rate_multiplier" and row.is_sent and not low <= row.requested <= high
    ]


def _resolve(name: str, value: Any, declared: Declaration, facts: ConversionContext) -> FieldReceipt:
    if name in ONLY_FOR_METHOD and facts.method not in ONLY_FOR_METHOD[name]:
        reason = f"means something for {' and '.join(ONLY_FOR_METHOD[name])} only; the method is {facts.method}"
        return FieldReceipt(field=name, support="not_applicable", requested=value, reason=reason)
    if name in ONLY_WITH_ADAPTER and facts.adapter not in ONLY_WITH_ADAPTER[name]:
        reason = f"there is no low-rank adapter: the adapter is {facts.adapter}"
        return FieldReceipt(field=name, support="not_applicable", requested=value, reason=reason)
    source = declared.source or None
    match declared:
        case NotApplicable(reason):
            return FieldReceipt(field=name, support="not_applicable", requested=value, reason=reason, source=source)
        case Unsupported(reason):
            return FieldReceipt(field=name, support="unsupported", requested=value, reason=reason, source=source)
        case Inherent(always, reason):
            same = value is None or value == always
            return FieldReceipt(
                field=name,
                support="inherent" if same else "unsupported",
                requested=value,
                effective=always,
                reason=reason,
                source=source,
            )
    if value is None:
        default, rule = declared.default, None
        if isinstance(declared, Sent) and declared.default_rule:
            is_open = not any(getattr(facts.hyperparameters, field) is not None for field in declared.default_unless)
            default, rule = (default, declared.default_rule) if is_open else (None, None)
        return FieldReceipt(
            field=name,
            support="default",
            effective=default,
            wire=declared.request_path,
            rule=rule,
            reason=declared.note or None,
            source=source,
            where=declared.where,
        )
    return _convert(name, value, declared, facts, source)


def _convert(
    name: str, value: Any, declared: Sent | Converted, facts: ConversionContext, source: str | None
) -> FieldReceipt:
    def refuse(support: Support, reason: str) -> FieldReceipt:
        return FieldReceipt(
            field=name, support=support, requested=value, reason=reason, source=source, where=declared.where
        )

    sent_value, rule, support = value, None, "sent"
    if isinstance(declared, Converted):
        outcome = declared.rule(value, facts)
        if isinstance(outcome, NotConvertible):
            return refuse("invalid" if outcome.invalid else "unsupported", outcome.reason)
        sent_value = outcome.value
        if not outcome.exact:
            rule, support = outcome.rule, "converted"
    if fault := declared.type.error(sent_value):
        return refuse("invalid", f"{fault} ({rule})" if rule else fault)
    return FieldReceipt(
        field=name,
        support="sent" if support == "sent" else "converted",
        requested=value,
        effective=sent_value,
        wire=declared.request_path,
        rule=rule,
        reason=declared.note or None,
        source=source,
        encoded=declared.encode(sent_value) if declared.encode else sent_value,
        also=dict(declared.also),
        where=declared.where,
    )


def _grader_receipt(job: TuningJob, declared: Converted | None, facts: ConversionContext) -> FieldReceipt:
    """Return the receipt of what scores the answers. A grader that cannot be taken over is refused, never left out."""
    if job.grader is None:
        reason = f"means something for reinforcement only; the method is {job.method}"
        return FieldReceipt(field="grader", support="not_applicable", reason=reason)
    requested = job.grader.model_dump(mode="json", exclude_defaults=True)
    if declared is None:
        reason = "no reinforcement job is started here"
        # Its kind alone: a plan prints what is not used, and a grader's source may have hundreds of lines.
        return FieldReceipt(field="grader", support="unsupported", requested=job.grader.kind, reason=reason)
    receipt = _convert("grader", job.grader, declared, facts, declared.source or None)
    support: Support = "invalid" if receipt.support == "unsupported" else receipt.support
    return receipt.model_copy(update={"support": support, "requested": requested})


def _structural_receipts(job: TuningJob, target: Target, samples: Ability) -> list[FieldReceipt]:
    """Return the receipts of the fields that select the request, and of those that llmtune itself carries out."""
    rows = [
        FieldReceipt(
            field="model",
            support="sent",
            requested=target.model,
            effective=target.model,
            reason="part of every request",
        ),
        FieldReceipt(
            field="method",
            support="sent",
            requested=target.method,
            effective=target.method,
            reason="decides which request it is",
        ),
        FieldReceipt(
            field="adapter",
            support="sent" if job.adapter else "default",
            requested=job.adapter,
            effective=target.adapter,
            reason="decides which request it is",
        ),
        FieldReceipt(
            field="provider_options",
            support="sent" if target.options else "default",
            requested=target.options or None,
            effective=target.options or None,
            reason="this provider's own options, checked by its Options",
        ),
    ]
    for spec, prefix in ((job.dataset, "dataset"), (job.evaluation, "evaluation")):
        for name in type(spec).model_fields:
            if (prefix, name) == ("evaluation", "samples"):
                rows.append(_samples_receipt(job.evaluation.samples, samples, target.rows))
            elif name not in GENERATION_FIELDS:
                value = getattr(spec, name)
                rows.append(
                    FieldReceipt(
                        field=f"{prefix}.{name}",
                        support="inherent",
                        requested=_as_plain(value),
                        effective=_as_plain(value),
                        reason=_BY_LLMTUNE,
                    )
                )
    return rows


def _samples_receipt(requested: int | None, ability: Ability, rows: Mapping[str, int]) -> FieldReceipt:
    """Return the receipt of the answers while training: what of the evaluation the trainer carries out itself."""
    receipt = FieldReceipt(field="evaluation.samples", support="inherent", requested=requested, effective=0)
    if isinstance(ability, NotOffered):
        return receipt.model_copy(
            update={"support": "unsupported" if requested else "inherent", "reason": ability.reason}
        )
    if requested and rows and not rows.get("validation"):
        return receipt.model_copy(
            update={"support": "not_applicable", "effective": None, "reason": "there are no validation rows to answer"}
        )
    if requested is None:
        reason = "the trainer chooses how many, and how often by what they cost"
        return receipt.model_copy(update={"support": "default", "effective": None, "reason": reason})
    return receipt.model_copy(
        update={"support": "sent", "effective": requested, "reason": "answered by the trainer at each evaluation"}
    )


def _as_plain(value: Any) -> Any:
    """Return a value as a receipt stores it: lists for tuples, fields for a part of the job."""
    if isinstance(value, StrictModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def enforce(receipt: Receipt, *, strict: bool | Collection[str] = False) -> None:
    """Refuse what must not run, and warn once about what will be left out.

    Raises:
        NotTranslatable: for an invalid value, another method or adapter, or (with `strict`) an unsupported field.
    """
    name = receipt.target.provider
    if receipt.refusals:
        raise NotTranslatable(
            f"{name} cannot run this job: {'; '.join(receipt.refusals)}",
            provider=name,
            fields=[row.field for row in receipt.fields if row.support == "invalid"],
            hint=f"llmtune plan shows what {name} takes",
        )
    left_out = receipt.unsupported()
    refused = [row for row in left_out if strict is True or (strict and row.field in strict)]
    if refused:
        raise NotTranslatable(
            f"{name} cannot take {_describe_fields(refused)}, and strict was asked for",
            provider=name,
            fields=[row.field for row in refused],
        )
    if left_out:
        warnings.warn(
            f"{name} will not use {_describe_fields(left_out)}", UnsupportedHyperparameterWarning, stacklevel=3
        )


def _describe_fields(rows: list[FieldReceipt]) -> str:
    return "; ".join(f"{row.field}={row.requested!r} ({row.reason})" for row in rows)
