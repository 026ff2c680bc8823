"""Where a run fits that does not fit on this machine: the machines for rent that an installed provider knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmtune.errors import LlmtuneError
from llmtune.provider.abilities import SuggestsMachine
from llmtune.provider.registry import get_provider, known_kinds

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt


def suggest_machines(backend: Provider, receipt: Receipt, dataset: Dataset) -> tuple[str, ...]:
    """Return a sentence for each provider that rents a machine for this run; none where it fits here."""
    if backend.hosted or receipt.memory is None or receipt.memory.fits is not False:
        return ()
    suggestions = []
    for name in known_kinds():
        try:
            provider = get_provider(name)
            if isinstance(provider, SuggestsMachine) and provider.listed:
                suggestions.append(provider.suggest_machine(receipt, dataset))
        except LlmtuneError:  # a provider that is not set up suggests nothing
            continue
    return tuple(suggestion for suggestion in suggestions if suggestion is not None)
