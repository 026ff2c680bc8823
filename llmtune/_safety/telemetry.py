"""Telemetry of the libraries that llmtune uses: off, unless the user has set it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

#: The variable of each library, and its value for "no". One that the user has set is left as it is.
OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets, gradio's downloads
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TINKER_TELEMETRY": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def turn_off_telemetry(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that are not set yet. To be called before a library is imported: most look once."""
    for name, value in OFF.items():
        environment.setdefault(name, value)
