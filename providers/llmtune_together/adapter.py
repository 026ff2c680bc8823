"""The Together AI backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from llmtune import catalog
from llmtune.capability import Capabilities
from llmtune.provider import Files, Readiness, Request, Requirement, SubmitSafety, Target
from llmtune_together import account, body, parameters
from llmtune_together.account import TogetherOptions, TogetherSettings

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

    from llmtune.provider import EncodedDataset
    from llmtune.translation import Receipt

CATALOG = Path(__file__).with_name("catalog.toml")


class TogetherProvider:
    """Open models tuned at Together AI, through the `together` SDK.

    A job carries its run key at the end of its suffix, the only label the service keeps.
    """

    kind = "together"
    hosted = True
    listed = True
    submit_safety = SubmitSafety(kind="searchable", window=60.0)
    Options: type[BaseModel] = TogetherOptions
    Settings: type[BaseModel] = TogetherSettings
    requirements = (Requirement(extra="together", module="together", distribution="together"),)

    def __init__(self, name: str = "together", settings: TogetherSettings | None = None) -> None:
        self.name = name
        self.settings = settings or TogetherSettings()

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: Target) -> Capabilities:
        """What this target can express. Pure; the model's live limits are asked for in `preflight`."""
        known = catalog.load(self.kind, CATALOG)
        entry, warnings = known.model(target.model) if target.model else (known.default, ())
        return Capabilities(
            parameters=parameters.declarations(target.options),
            family=entry.family,
            limits=parameters.limits(target.method, entry.max_tokens_per_row),
            lifecycle=entry.lifecycle or known.lifecycle,
            price=entry.price,
            abilities=parameters.ABILITIES,
            methods=parameters.METHODS,
            adapters=parameters.ADAPTERS,
            known_model=not warnings,
            warnings=warnings,
        )

    def ready(self) -> Readiness:
        """Whether the SDK and the key are there, without using the network or importing the SDK."""
        return account.ready(self.settings)

    def encode(self, data: Dataset, receipt: Receipt, into: Path) -> EncodedDataset:
        """Write the rows in Together's format to content-named files in `into`."""
        from llmtune.encode import encode_dataset

        return encode_dataset(data, self.capabilities(receipt.target).limits.format, into)

    def build(self, receipt: Receipt, files: Files) -> Request:
        """The exact body that the SDK will send. Pure."""
        return Request(operation="POST /v1/fine-tunes", body=body.build(receipt, files))
