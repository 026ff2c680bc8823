"""What serves an export here, and why nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.provider import Unavailable
from llmtune_local.serving import llama_cpp
from llmtune_local.serving.serve import serve_export


def test_without_llama_cpp_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model-f16.gguf").touch()
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    server = serve_export({}, tmp_path)
    assert isinstance(server, Unavailable)
    assert server.reason == "llama.cpp is not installed (pip install 'llmtune-sdk[llama-cpp]')"
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: True)
    assert callable(serve_export({}, tmp_path))  # nothing is loaded before it is called


def test_an_adapter_beside_its_base_is_served_by_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    server = serve_export({}, tmp_path)
    assert isinstance(server, Unavailable)
    assert "an adapter beside its base" in server.reason
    (tmp_path / "config.json").touch()
    assert callable(serve_export({}, tmp_path))
