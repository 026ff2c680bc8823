"""The job file that `llmtune init` writes: as short as it can be, with the reasons as comments."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from llmtune.planning.job_suggestion import JobSuggestion
from llmtune.redaction.control_chars import escape_controls, replace_controls

#: Characters in a line of the file.
WIDTH = 110


def render_job_template(suggestion: JobSuggestion, *, relative_to: Path) -> str:
    """Return the text of a job file that `llmtune tune` accepts as it is, with comments that explain the choices."""
    model, reasons = _quote(suggestion.model), suggestion.reasons
    lines = [
        "# A fine-tuning job for any backend. `llmtune plan` shows what each of them does with every field;",
        "# docs/hyperparameters.md says what each field means.",
        f"name: {_quote(suggestion.name)}",
        "",
        *_comment(reasons.get("data", ())),
        f"dataset: {_format_dataset(suggestion, relative_to)}",
        "",
        *_comment(reasons.get("model", ())),
        f"model: {model}    # or one per provider: {{{_quote(suggestion.provider)}: {model}, other: its-own-id}}",
        "",
        *_comment(reasons.get("method", ())),
        f"method: {suggestion.method}",
        "",
        "# Adapter, learning rate, epochs, batch size and warm-up are left out: the backend chooses them by model and",
        "# rows, and `llmtune plan` shows them. To set them yourself:",
        "# adapter: lora                     # or full, dora, qlora",
        "# hyperparameters:",
        "#   epochs: 5",
        "#   batch_size: 16",
        "#   learning_rate: 2e-4             # absolute, or learning_rate_multiplier: a factor on the backend's own",
        "# overrides:                        # other values for one backend only",
        f"#   {_quote(suggestion.provider)}: {{learning_rate: 1e-3}}",
        "",
        *_comment(reasons.get("advice", ())),
        "evaluation:",
        "  max_rows: 200                     # test rows asked, of the base and of the tuned model",
    ]
    if suggestion.baselines is not None:
        lines.append(f"  baselines: [{', '.join(suggestion.baselines)}]    # what tuning has to beat")
    else:
        lines.append("  # baselines: [base, nearest]      # what tuning has to beat; few_shot, too")
    return "\n".join(lines) + "\n"


def _format_dataset(suggestion: JobSuggestion, relative_to: Path) -> str:
    files = {role: _quote(_relative(path, relative_to)) for role, path in suggestion.dataset.items()}
    if suggestion.on_too_long != "error":
        files["on_too_long"] = suggestion.on_too_long
    elif set(files) == {"path"}:
        return files["path"]
    return "{" + ", ".join(f"{name}: {value}" for name, value in files.items()) + "}"


def _relative(path: str, folder: Path) -> str:
    return path if "://" in path else os.path.relpath(path, folder)


def _comment(sentences: tuple[str, ...]) -> list[str]:
    """Return sentences as comment lines, longer ones broken between words."""
    lines = []
    for sentence in sentences:
        line = "#"
        for part in escape_controls(sentence).split():
            if len(line) + 1 + len(part) > WIDTH and line != "#":
                lines.append(line)
                line = "#  "
            line += f" {part}"
        lines.append(line)
    return lines


def _quote(text: str) -> str:
    """Return a text as YAML reads it back: as it is where nothing in it means anything to YAML."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text)
    reserved = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    if plain and text.casefold() not in reserved:
        return text
    return replace_controls(json.dumps(text, ensure_ascii=False), lambda character: f"\\U{ord(character):08x}")
