"""Providers by name. Our own are found by the same entry points as any other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from llmtune import config
from llmtune.errors import InvalidSettings, LlmtuneError, UnknownName
from llmtune.job.base import explain_error
from llmtune.provider.protocol import Provider
from llmtune.provider.types import Target

GROUP = "llmtune.providers"


def known_kinds() -> dict[str, EntryPoint]:
    """Return every installed provider by name, not yet loaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def provider_names() -> list[str]:
    """Return the names that `provider=` takes: every installed provider, and every configured instance."""
    return sorted({*known_kinds(), *config.settings().providers})


def provider_class(kind: str) -> type[Provider]:
    """Load the adapter of that name. Raises `UnknownName` with the nearest names."""
    kinds = known_kinds()
    if kind not in kinds:
        raise UnknownName("provider", kind, provider_names())
    try:
        loaded: type[Provider] = kinds[kind].load()
    except (ImportError, AttributeError) as error:
        entry = kinds[kind]
        raise LlmtuneError(
            f"the adapter {kind!r} ({entry.value}) cannot be loaded: {error}",
            hint="reinstall the package it comes from",
        ) from error
    return loaded


def get_provider(provider: str | Provider, **passed: Any) -> Provider:
    """Return the provider of that name with its account settings resolved; return an instance as it is.

    `passed` are account settings that win over files and environment.

    Raises:
        UnknownName: no adapter and no configured instance has that name.
        InvalidSettings: a setting is unknown or wrong; the sentence says where it came from.
    """
    if not isinstance(provider, str):
        return provider
    kind = config.instance(provider).kind
    cls = provider_class(kind)
    instance = config.instance(provider, tuple(cls.Settings.model_fields), **passed)
    try:
        account = cls.Settings.model_validate(instance.values)
    except ValidationError as error:
        origins = ", ".join(sorted(set(instance.origins.values())))
        raise InvalidSettings(
            f"settings of {provider} ({origins}): {explain_error(cls.Settings, error).message}"
        ) from None
    config.note_secrets(account)
    return cls(provider, account)


def check_options(provider: Provider, provider_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's options for this provider, checked against its `Options`; refuse unknown keys by name."""
    try:
        options = provider.Options.model_validate(dict(provider_options))
    except ValidationError as error:
        fault = explain_error(provider.Options, error)
        fault.message = f"provider_options.{provider.name}: {fault.message}"
        fault.args = (fault.message,)
        raise fault from None
    config.note_secrets(options)
    return options.model_dump(mode="json", exclude_unset=True)


def open_providers(today: date) -> tuple[str, ...]:
    """Return the providers that take jobs on that day; the refusal of a closed one names them."""
    living = []
    for kind in known_kinds():
        try:
            backend = get_provider(kind)
            lifecycle = backend.capabilities(Target(provider=kind, kind=kind, model="")).lifecycle
        except LlmtuneError:  # one broken plug-in must not keep the others from being named
            continue
        if backend.listed and not lifecycle.closed_on(today):
            living.append(kind)
    return tuple(living)
