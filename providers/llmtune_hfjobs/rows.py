"""Rows of runs on Hugging Face Jobs: those of the local trainer, which reads them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmtune.data.formats.base import Rendering
from llmtune_hfjobs.settings import HfJobsOptions
from llmtune_local.rows import LOCAL_ROWS, open_rendering
from llmtune_local.settings import LocalOptions


def open_worker_rendering(model: str, options: Mapping[str, Any], offline: bool) -> Rendering | None:
    """Return the tokenizer of a model and the check of its rows, as `llmtune_local.rows.open_rendering` does."""
    worker = HfJobsOptions.model_validate(dict(options)).model_dump(exclude_unset=True)
    return open_rendering(model, {name: worker[name] for name in worker if name in LocalOptions.model_fields}, offline)


HFJOBS_ROWS = replace(
    LOCAL_ROWS,
    provider="hfjobs",
    rendering=open_worker_rendering,
    reasoning_remedy=LOCAL_ROWS.reasoning_remedy.replace("provider_options.local", "provider_options.hfjobs"),
)
