"""What serves an exported model on this machine: llama.cpp for GGUF files, transformers alone for one whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from llmtune.provider import ServedExport, Unavailable
from llmtune_local.serving import llama_cpp
from llmtune_local.serving.export import ADAPTER_FILE, BASE_FILE

#: A server's context is a multiple of this.
_CONTEXT_STEP = 256


def serve_export(
    data: Mapping[str, Any], folder: Path
) -> Callable[[int], AbstractContextManager[ServedExport]] | Unavailable:
    """Return what serves the export in `folder`, or why nothing here does. `data` is the tuned model's."""
    files = sorted(folder.glob("*.gguf"))
    if files:
        if not llama_cpp.is_installed():
            return Unavailable("llama.cpp is not installed (pip install 'llmtune-sdk[llama-cpp]')")
        return partial(_serve_by_llama_cpp, folder, files)
    if not (folder / "config.json").is_file():
        return Unavailable("nothing on this machine serves an adapter beside its base")
    return partial(_serve_by_transformers, folder, data)


@contextmanager
def _serve_by_llama_cpp(folder: Path, files: list[Path], tokens: int) -> Iterator[ServedExport]:
    adapter = folder / ADAPTER_FILE if folder / ADAPTER_FILE in files else None
    model = folder / BASE_FILE if adapter is not None else files[0]
    context = -(-(tokens + 1) // _CONTEXT_STEP) * _CONTEXT_STEP
    with llama_cpp.serve(model, lora=adapter, context=context) as server:
        yield ServedExport(f"llama.cpp ({server.version})", address=server.address, key=server.key)


@contextmanager
def _serve_by_transformers(folder: Path, data: Mapping[str, Any], tokens: int) -> Iterator[ServedExport]:
    from llmtune_local.serving.transformers_model import TransformersModel

    model = TransformersModel(folder, data)
    yield ServedExport(model.program, generator=model, prompt_tokens=model.prompt_tokens)
