"""The Bedrock backend."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune import catalog
from llmtune.provider import Files, Readiness, Request, Requirement, SubmitSafety, Target
from llmtune_bedrock import account, body, targets
from llmtune_bedrock.account import BedrockOptions, BedrockSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

    from llmtune.capability import Capabilities
    from llmtune.provider import EncodedDataset
    from llmtune.translation import Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


class BedrockProvider:
    """Model customization jobs on AWS Bedrock, through boto3 (bedrock, bedrock-runtime, s3)."""

    kind = "bedrock"
    hosted = True
    listed = True
    submit_safety = SubmitSafety(kind="token")
    Options = BedrockOptions
    Settings = BedrockSettings
    requirements = (Requirement(extra="bedrock", module="boto3", distribution="boto3"),)

    def __init__(self, name: str = "bedrock", settings: BedrockSettings | None = None) -> None:
        self.name = name
        self.settings = settings or BedrockSettings()

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure."""
        return targets.capabilities(target, catalog.load(self.kind, CATALOG), account.region(self.settings))

    def ready(self) -> Readiness:
        """Whether extra, settings and credentials are there, from files and variables alone."""
        installed = importlib.util.find_spec("boto3") is not None
        found = account.credentials()
        unset = account.missing(self.settings)
        hint = None
        if not installed:
            hint = "pip install 'llmtune-sdk[bedrock]'"
        elif unset:
            hint = account.needs(self.name, unset)
        elif found == "not found":
            hint = "aws configure sso (or: aws configure)"
        return Readiness(
            extra="installed" if installed else "missing", credentials=found, missing_settings=unset, hint=hint
        )

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in the family's own format to content-named files in `into`."""
        from llmtune.encode import encode_dataset

        limits = self.capabilities(receipt.target).limits
        return encode_dataset(data, limits.format, into, validation=limits.validation != "unused")

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact request. Pure."""
        used = self.capabilities(receipt.target).limits.validation != "unused"
        return Request(
            operation="bedrock CreateModelCustomizationJob (POST /model-customization-jobs)",
            body=body.build(receipt, files, self.settings, validation=used),
        )
