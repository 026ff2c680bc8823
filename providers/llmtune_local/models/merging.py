"""A tuned model as one network: the base with its adapter merged in, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune_local.models import loading as models
from llmtune_local.models.hub import LOADING


def load_merged(artefact: Path, data: Mapping[str, Any]) -> Any:
    """Load the tuned model of a run's folder that generates text. `data` is the data of its model reference.

    Merging is exact in float32; in half precision the sums would be rounded.
    """
    import peft
    import torch

    if not (artefact / "adapter_config.json").is_file():
        return models.load_base(str(artefact), None, dtype=torch.float32, device="cpu")
    loaded = models.load_base(str(data["model"]), data.get("revision"), dtype=torch.float32, device="cpu")
    with LOADING:
        return peft.PeftModel.from_pretrained(loaded, artefact).merge_and_unload()
