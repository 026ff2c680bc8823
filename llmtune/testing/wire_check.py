"""Check that a provider's requests match its declarations, in both directions.

Each field of the job is set alone; the request is built with and without it, and only the declared paths must differ.
This finds, offline, builders that ignore a field or change an undeclared path. Providers repeat the check at the
transport, through the vendor's real SDK, with `moved_paths` on the requests that their fake received.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.declarations import (
    DECLARED_FIELDS,
    GENERATION_FIELDS,
    Capabilities,
    Converted,
    Declarations,
    Sent,
)
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef

#: Number of rows of the assumed dataset, for conversions between epochs and steps.
ROWS = 1000

#: Values to try for each field, in the job's units, until the backend accepts one and the request changes.
CANDIDATES: dict[str, tuple[Any, ...]] = {
    "epochs": (2, 4, 1, 5),
    "max_steps": (250, 500, 100, 1),
    "batch_size": (8, 16, 32, 4, 2, 1, 64, 128),
    "gradient_accumulation_steps": (2, 4),
    "learning_rate": (3e-5, 3e-6, 3e-4, 3e-3, 3e-2),
    "learning_rate_multiplier": (2.0, 0.5, 1.5),
    "min_lr_ratio": (0.1, 0.2),
    "lr_schedule": ("cosine", "linear", "constant"),
    "lr_num_cycles": (0.75, 1.0, 2.0),
    "warmup_ratio": (0.1, 0.05, 0.02),
    "warmup_steps": (10, 5, 20),
    "optimizer": ("adafactor", "sgd", "adamw_torch"),
    "adam_beta1": (0.85, 0.8),
    "adam_beta2": (0.95, 0.98),
    "adam_epsilon": (1e-7, 1e-6),
    "weight_decay": (0.01, 0.05),
    "max_grad_norm": (0.5, 2.0),
    "prompt_loss_weight": (1.0, 0.0, 0.3),
    "lora_rank": (4, 8, 16, 32),
    "lora_alpha": (8.0, 24.0, 16, 8, 32),
    "lora_dropout": (0.05, 0.1),
    "lora_target_modules": ("attention", "all-linear", ("q_proj", "v_proj"), "mlp"),
    "layer_lr_multipliers": ({"0": 0.5},),
    "dropout": (0.1,),
    "attention_dropout": (0.1,),
    "label_smoothing": (0.1,),
    "replay_share": (0.1,),
    "max_sequence_length": (512, 1024, 2048, 4096),
    "packing": (False, True),
    "early_stopping_patience": (3, 2, 5),
    "early_stopping_threshold": (0.01, 0.05, 0.005),
    "eval_every": (10, 50, 100),
    "checkpoint_every": (25, 50, 125),
    "keep_checkpoints": (3, 1),
    "dpo_beta": (0.2, 0.4, 0.05),
    "name": ("another-name",),
    "seed": (7, 11),
    "tags": ({"team": "search"},),
    "temperature": (0.7,),
    "top_p": (0.9,),
    "top_k": (40,),
    "max_tokens": (64,),
}

#: The grader of every job with method reinforcement.
GRADER = {"kind": "match", "operation": "numeric", "reference": "answer"}

#: Other fields that a conversion needs; they are set in both requests.
COMPANIONS: dict[str, dict[str, Any]] = {
    "max_steps": {"batch_size": 8},
    "warmup_ratio": {"batch_size": 8, "epochs": 2},
    "warmup_steps": {"batch_size": 8, "epochs": 2},
    "eval_every": {"batch_size": 8, "epochs": 2},
    "checkpoint_every": {"batch_size": 8, "epochs": 2},
    "gradient_accumulation_steps": {"batch_size": 8},
    "early_stopping_patience": {"batch_size": 8, "epochs": 2, "eval_every": 50},
    "early_stopping_threshold": {"batch_size": 8, "epochs": 2, "eval_every": 50, "early_stopping_patience": 2},
}


@dataclass(frozen=True)
class Violation:
    """One disagreement between declaration and request.

    With `field` set to `value`, the paths `declared` should have changed in the request; those of `moved` did.
    """

    field: str
    value: Any
    declared: frozenset[str]
    moved: frozenset[str]

    def __str__(self) -> str:
        return (
            f"{self.field}={self.value!r}: declared {sorted(self.declared) or 'nothing'},"
            f" moved {sorted(self.moved) or 'nothing'}"
        )


def check_request_fields(
    provider: Provider,
    model: str,
    *,
    method: str = "sft",
    adapter: str = "lora",
    options: Mapping[str, Any] | None = None,
    companions: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Violation]:
    """Return every disagreement between what the provider declares for a target and its requests; empty if none.

    `model`, `method`, `adapter` and `options` define the target. `companions` adds to `COMPANIONS` the fields that a
    backend needs together with a field.
    """
    target = Target(
        provider=provider.name,
        kind=provider.kind,
        model=model,
        method=method,
        adapter=adapter,
        options=dict(options or {}),
    )
    capabilities = provider.capabilities(target)
    violations: list[Violation] = []
    for name in DECLARED_FIELDS:
        companion_fields = {**COMPANIONS.get(name, {}), **(companions or {}).get(name, {})}
        companion_fields = {key: value for key, value in companion_fields.items() if key != name}
        without = _build(provider, target, capabilities, companion_fields)
        violations += _check_field(provider, target, capabilities, name, companion_fields, without)
    return violations


def _check_field(
    provider: Provider,
    target: Target,
    capabilities: Capabilities,
    name: str,
    companion_fields: dict[str, Any],
    without: dict[str, Any],
) -> Iterator[Violation]:
    declared = capabilities.parameters[name]
    is_parameter = isinstance(declared, (Sent, Converted)) and declared.where == "training"
    was_sent = False
    for value in CANDIDATES[name]:
        receipt = _receipt(target, capabilities, {**companion_fields, name: value})
        row = receipt[name]
        if row.support == "invalid":
            continue
        expected = frozenset({row.wire, *row.also} if row.is_sent and row.where == "training" and row.wire else ())
        moved = _fold(moved_paths(without, provider.build(receipt, _FILES).body), expected)
        if moved - expected - _given_up_defaults(capabilities.parameters, name):
            yield Violation(name, value, expected, moved)
        if row.wire in moved:
            was_sent = True
    applies = _receipt(target, capabilities, companion_fields)[name].support != "not_applicable"
    if isinstance(declared, (Sent, Converted)) and is_parameter and applies and not was_sent:
        yield Violation(name, f"any of {CANDIDATES[name]}", frozenset({declared.request_path}), frozenset())


def _given_up_defaults(parameters: Declarations, name: str) -> frozenset[str]:
    """Return the paths whose default is not sent once the field `name` is set."""
    entries = parameters.values()
    return frozenset(
        entry.request_path for entry in entries if isinstance(entry, Sent) and name in entry.default_unless
    )


def _fold(moved: frozenset[str], declared: frozenset[str]) -> frozenset[str]:
    """Replace leaves inside a declared mapping (tags) by the path of that mapping."""
    return frozenset(next((path for path in declared if leaf.startswith(f"{path}.")), leaf) for leaf in moved)


_FILES = {
    "train": UploadRef(id="file-train", digest="0" * 64, role="train"),
    "validation": UploadRef(id="file-validation", digest="1" * 64, role="validation"),
}


def _build(provider: Provider, target: Target, capabilities: Capabilities, fields: dict[str, Any]) -> dict[str, Any]:
    return provider.build(_receipt(target, capabilities, fields), _FILES).body


def _receipt(target: Target, capabilities: Capabilities, fields: Mapping[str, Any]) -> Receipt:
    return translate(job_with(target, fields), target, capabilities, rows=ROWS)


def job_with(target: Target, fields: Mapping[str, Any]) -> TuningJob:
    """Build a job for this `target` in which only these receipt `fields` are set."""
    hyperparameters = {name: value for name, value in fields.items() if name in Hyperparameters.model_fields}
    evaluation = {name: value for name, value in fields.items() if name in GENERATION_FIELDS}
    top_level = {name: value for name, value in fields.items() if name in ("name", "seed", "tags")}
    return TuningJob.model_validate(
        {
            "name": "wire-truth",
            "dataset": "rows.jsonl",
            "model": target.model,
            "method": target.method,
            "adapter": target.adapter,
            "hyperparameters": hyperparameters,
            "evaluation": EvaluationSpec.model_validate(evaluation),
            **({"grader": GRADER} if target.method == "reinforcement" else {}),
            **top_level,
        }
    )


def moved_paths(before: Mapping[str, Any], after: Mapping[str, Any]) -> frozenset[str]:
    """Return the dotted paths of the leaves that differ between two request bodies, `before` and `after`."""
    old_leaves, new_leaves = dict(leaves(before)), dict(leaves(after))
    return frozenset(
        path for path in old_leaves.keys() | new_leaves.keys() if old_leaves.get(path) != new_leaves.get(path)
    )


def leaves(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a nested body with its dotted path, after `prefix`; lists are leaves."""
    for key, value in body.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value
