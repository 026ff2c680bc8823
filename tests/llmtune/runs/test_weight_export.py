"""A run's model is exported in the forms that its provider has, and compared where that can be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.runs import evaluation, weight_export

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

    def check_export(self, model: Any, folder: Path, examples: Sequence[Any]) -> Sequence[str]:
        self.calls.append(("check", folder, len(examples)))
        if len(examples) > 5:
            raise LlmtuneError("llama.cpp is not installed")
        return ["the same"]


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


def test_what_cannot_be_compared_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    test: list[Any] = []
    monkeypatch.setattr(evaluation, "load_same_dataset", lambda record: SimpleNamespace(test=test))
    record: Any = object()

    def check(provider: Any, rows: int) -> tuple[str, ...]:
        return weight_export.check(record, provider, MODEL, Path("out"), rows)

    assert check(ForServers(), 60) == ("not compared with the tuned model: the dataset has no test rows",)
    test += range(10)
    assert check(ForServers(), 5) == ("the same",)
    assert check(ForServers(), 60) == ("not compared with the tuned model: llama.cpp is not installed",)
    assert check(ForServers(), 0) == check(Plain(), 60) == ()
