"""The Vertex AI backend."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune import catalog
from llmtune.provider import Files, Readiness, Request, Requirement, SubmitSafety, Target
from llmtune_vertex import account, body, parameters
from llmtune_vertex.account import VertexOptions, VertexSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

    from llmtune.capability import Capabilities
    from llmtune.provider import EncodedDataset
    from llmtune.translation import Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


class VertexProvider:
    """Gemini and open models on Vertex AI, through google-genai (tuning, generation) and google-cloud-storage."""

    kind = "vertex"
    hosted = True
    listed = True
    submit_safety = SubmitSafety(kind="searchable", window=120.0)
    Options = VertexOptions
    Settings = VertexSettings
    requirements = (
        Requirement(extra="vertex", module="google.genai", distribution="google-genai"),
        Requirement(extra="vertex", module="google.cloud.storage", distribution="google-cloud-storage"),
    )

    def __init__(self, name: str = "vertex", settings: VertexSettings | None = None) -> None:
        self.name = name
        self.settings = settings or VertexSettings()

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        known = catalog.load(self.kind, CATALOG)
        return parameters.capabilities(target, known, account.location(self.settings))

    def ready(self) -> Readiness:
        """Whether extra, settings and credentials are there, from files and variables alone."""
        installed = all(_installed(each.module) for each in self.requirements)
        found = account.credentials(self.settings)
        unset = account.missing(self.settings)
        hint = None
        if not installed:
            hint = "pip install 'llmtune-sdk[vertex]'"
        elif unset:
            hint = account.needs(self.name, unset)
        elif found == "not found":
            hint = "gcloud auth application-default login"
        return Readiness(
            extra="installed" if installed else "missing", credentials=found, missing_settings=unset, hint=hint
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows as Gemini `contents` (or preference rows) to content-named files in `into`."""
        from llmtune.encode import encode_dataset

        return encode_dataset(data, self.capabilities(receipt.target).limits.format, into)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact request. Pure."""
        where = (
            f"projects/{account.project(self.settings) or '<project>'}"
            f"/locations/{account.location(self.settings) or '<location>'}"
        )
        return Request(operation=f"POST /v1beta1/{where}/tuningJobs", body=body.build(receipt, files, self.settings))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
