"""The backend of a stored run."""

from __future__ import annotations

from llmtune.config import note_secrets
from llmtune.errors import LlmtuneError
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, provider_class
from llmtune.runs.store.records import RunRecord


def provider_of(record: RunRecord) -> Provider:
    """Return the backend of a run, with the settings it was started with, so that the same account is reached."""
    if record.settings is None:
        return get_provider(record.provider)
    from pydantic import ValidationError

    cls = provider_class(record.kind)
    try:
        account = cls.Settings.model_validate(record.settings)
    except (ValidationError, LlmtuneError):  # the adapter's settings have changed since
        return get_provider(record.provider)
    note_secrets(account)
    return cls(record.provider, account)
