"""The two base classes of llmtune's values: frozen, and without undeclared fields."""

from __future__ import annotations

from pydantic import BaseModel


class FrozenModel(BaseModel, frozen=True, extra="forbid"):
    """A value: it is never changed, and an unknown field is an error."""


class DocumentedModel(FrozenModel, use_attribute_docstrings=True):
    """A value whose JSON schema carries the docstrings of its fields. Reading them takes time at import."""
