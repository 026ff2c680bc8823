"""Every body that a provider can be brought to send for a job: each target, each field, each option, alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmtune.planning.support_matrix import get_capabilities
from llmtune.provider.declarations import DECLARED_FIELDS
from llmtune.provider.protocol import Provider
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, job_with
from tests.system.test_wire_truth import one_model_a_family

#: Options without which a reinforcement job is none.
GRADED: dict[str, dict[str, Any]] = {
    "bedrock": {"grader_function": "arn:aws:lambda:us-east-1:123456789012:function:grade"},
}

Labelled = tuple[str, dict[str, Any]]

#: Rows of the assumed dataset, for conversions between epochs and steps.
ROWS = 1000


def bodies(
    provider: Provider, files: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> Iterator[Labelled]:
    """Yield what is set and the body, for each model family, method and adapter.

    `files` are the ids of the uploads by role, `options` a value for each option that the provider has.
    """
    uploads = {
        role: UploadRef(id=id, digest="0" * 64, role=role)  # type: ignore[arg-type]
        for role, id in files.items()
    }
    for model in ["", *one_model_a_family(provider.kind)]:
        capabilities = get_capabilities(provider, model)
        for method, able in capabilities.methods.items():
            for adapter, can in capabilities.adapters.items():
                if able is True and can is True:
                    yield from _of_target(provider, uploads, (model, method, adapter), dict(options or {}))


def _of_target(
    provider: Provider, files: dict[str, UploadRef], words: tuple[str, str, str], options: dict[str, Any]
) -> Iterator[Labelled]:
    model, method, adapter = words
    # What no catalogue lists is any model of the service; an empty name is none.
    needed = GRADED.get(provider.kind, {}) if method == "reinforcement" else {}
    target = Target(
        provider=provider.name,
        kind=provider.kind,
        model=model or "a-model",
        method=method,
        adapter=adapter,
        options=needed,
    )
    label = f"{provider.kind} {target.model} {method} {adapter}"
    for role_set in ({"train"}, {"train", "validation"}):
        yield f"{label} {sorted(role_set)}", _build(provider, files, target, {}, role_set)
    for name in DECLARED_FIELDS:
        for value in CANDIDATES[name]:
            fields = {**COMPANIONS.get(name, {}), name: value}
            receipt = translate(job_with(target, fields), target, provider.capabilities(target), rows=ROWS)
            if receipt[name].support != "invalid":
                yield f"{label} {name}={value!r}", provider.build(receipt, files).body
    for name, value in options.items():
        optional = target.model_copy(update={"options": {**needed, name: value}})
        yield f"{label} option {name}={value!r}", _build(provider, files, optional, {}, {"train", "validation"})


def _build(
    provider: Provider, files: dict[str, UploadRef], target: Target, fields: dict[str, Any], roles: set[str]
) -> dict[str, Any]:
    receipt = translate(job_with(target, fields), target, provider.capabilities(target), rows=ROWS)
    return provider.build(receipt, {role: ref for role, ref in files.items() if role in roles}).body
