"""A folder for vLLM: an adapter that it serves beside its base, or one model, with the command and the template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune_local.export import reason_not_servable, serve_adapter_command, serve_model_command
from llmtune_local.models.hub import saved_gguf

#: The name that the model is asked by.
MODEL = "tuned"


def reason_to_merge(artefact: Path, data: Mapping[str, Any]) -> str | None:
    """Return why an adapter has to be merged into its base; None where vLLM serves it as it is, or there is none."""
    path = artefact / "adapter_config.json"
    if not path.is_file():
        return None
    if saved_gguf(str(data.get("model", ""))) is not None:
        return "an adapter of a GGUF file's model"
    return reason_not_servable(json.loads(path.read_text(encoding="utf-8")))


def write_serving_files(folder: Path, data: Mapping[str, Any], template: str | None, final: Path) -> str:
    """Write `serve.sh` and the chat template beside the model in `folder`, which becomes `final`; return the command.

    The template has the options of training set. `generation_config.json`, which says what ends an answer, is there.
    """
    config = folder / "adapter_config.json"
    if config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
        command = serve_adapter_command(final, settings, data, MODEL)
    else:
        command = f"{serve_model_command(final, data)} --served-model-name {MODEL}"
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        command += f" --chat-template {shlex.quote(str(final / 'chat_template.jinja'))}"
    script = (
        f'#!/bin/sh\n# More arguments, such as --port 8001, go behind: ./serve.sh --port 8001\nexec {command} "$@"\n'
    )
    (folder / "serve.sh").write_text(script, encoding="utf-8")
    (folder / "serve.sh").chmod(0o755)
    return command
