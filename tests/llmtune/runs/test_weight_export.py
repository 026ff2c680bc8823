"""A run's model is exported in the forms that its provider has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.runs import weight_export

MODEL: Any = object()


class Plain:
    """A provider that hands out its weights as they are trained."""

    name = "plain"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def export(self, model: Any, format: str, into: Path) -> Sequence[str]:
        self.calls.append((format, into))
        return ["load it"]

    def serving_command(self, model: Any, name: str) -> str | None:
        return None


class ForServers(Plain):
    """A provider that also writes the files of servers."""

    def export_for_server(self, model: Any, format: str, into: Path, precision: str) -> Sequence[str]:
        self.calls.append((format, into, precision))
        return ["serve it"]

    def serve_export(self, model: Any, folder: Path) -> Any:
        raise AssertionError("nothing is verified here")


def export(provider: Any, format: Any, precision: Any = None) -> tuple[str, ...]:
    return weight_export.export(provider, MODEL, format, Path("out"), precision=precision)


def test_forms_go_to_what_writes_them() -> None:
    provider = ForServers()
    assert export(provider, "merged") == ("load it",)
    assert export(provider, "gguf") == ("serve it",)
    assert export(provider, "ollama", "q8_0") == ("serve it",)
    assert provider.calls == [("merged", Path("out")), ("gguf", Path("out"), "f16"), ("ollama", Path("out"), "q8_0")]


@pytest.mark.parametrize("format", ["adapter", "merged", "vllm"])
def test_a_precision_without_a_gguf_file_is_refused(format: str) -> None:
    with pytest.raises(InvalidJob, match=f"--format {format} writes none"):
        export(ForServers(), format, "f16")


def test_providers_without_the_form_say_so() -> None:
    with pytest.raises(
        LlmtuneError, match="plain hands out its tuned models as they are trained, not as --format gguf"
    ):
        export(Plain(), "gguf")
    with pytest.raises(LlmtuneError, match="does not hand out the weights"):
        export(SimpleNamespace(name="closed"), "adapter")


def test_nothing_is_said_where_nothing_is_asked_for() -> None:
    def check(provider: Any, format: Any, rows: int) -> tuple[str, ...]:
        nothing: Any = None
        return weight_export.describe_verification(
            nothing, nothing, provider, Path("out"), format, precision=None, rows=rows, say=lambda _: None
        )

    assert check(ForServers(), "gguf", 0) == check(ForServers(), "adapter", 60) == check(Plain(), "merged", 60) == ()
