"""Declared == moved, for every provider, family and field, in the exact request body (no SDK, no network).

The providers' own tests repeat this at the transport, through the real SDK.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmtune.planning.support_matrix import get_capabilities
from llmtune.provider import catalog
from llmtune.provider.registry import get_provider, known_kinds, provider_class
from llmtune.provider.types import Target
from llmtune.testing.wire_check import check_request_fields


def one_model_a_family(kind: str) -> list[str]:
    """The first model of each family in the provider's catalogue, where it has one."""
    module = sys.modules[provider_class(kind).__module__]
    folder = Path(str(module.__file__)).parent
    path = next((folder / name for name in (f"{kind}.toml", "catalog.toml") if (folder / name).is_file()), None)
    if path is None:
        return []
    entries = catalog.load(kind, path).models.values()
    return list({entry.family: entry.id for entry in reversed(list(entries))}.values())


def targets() -> list[tuple[str, str, str, str]]:
    """Every (provider, model, method, adapter) whose declarations differ: one model a family."""
    found = []
    for kind in known_kinds():
        provider = get_provider(kind)
        if not provider.listed:
            continue
        models = {"", *one_model_a_family(kind)}
        for model in sorted(models):
            capabilities = get_capabilities(provider, model)
            for method, able in capabilities.methods.items():
                for adapter, can in capabilities.adapters.items():
                    if able is True and can is True:
                        found.append((kind, model, method, adapter))
    return found


@pytest.mark.parametrize(("kind", "model", "method", "adapter"), targets())
def test_what_is_declared_is_what_moves(kind: str, model: str, method: str, adapter: str) -> None:
    provider = get_provider(kind)
    target = Target(provider=kind, kind=kind, model=model, method=method, adapter=adapter)
    assert provider.capabilities(target).family
    assert check_request_fields(provider, model, method=method, adapter=adapter) == []
