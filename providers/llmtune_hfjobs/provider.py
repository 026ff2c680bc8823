"""The backend on Hugging Face Jobs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel

import llmtune.provider as core
from llmtune.config import read_secret
from llmtune.data.findings import Finding
from llmtune.errors import InvalidSettings
from llmtune_hfjobs.client import HfJobs
from llmtune_hfjobs.files import HF_XET
from llmtune_hfjobs.settings import HfJobsOptions, HfJobsSettings
from llmtune_local.provider import LIBRARIES
from llmtune_local.rented.provider import RentedProvider
from llmtune_local.rented.vendor import RentedVendor


class HfJobsProvider(RentedProvider):
    """The local trainer on a machine of Hugging Face Jobs, by the minute."""

    kind = "hfjobs"
    base_url = "https://huggingface.co"
    key_env = "HF_TOKEN"
    Options: type[BaseModel] = HfJobsOptions
    Settings: type[BaseModel] = HfJobsSettings
    requirements = (HF_XET, *(library.model_copy(update={"extra": "hfjobs"}) for library in LIBRARIES))

    @cached_property
    def _jobs(self) -> HfJobs:
        return HfJobs(self.client, self.name, self.settings, self.key_variable)

    @property
    def vendor(self) -> RentedVendor:
        """The account's machines and bucket."""
        return self._jobs

    def preflight(self, request: core.Request) -> list[Finding]:
        """Check the token for gated models, then as every rented run is checked."""
        self.read_secrets(request.body.get("machine", {}))
        return super().preflight(request)

    def read_secrets(self, machine: Mapping[str, Any]) -> Mapping[str, str]:
        """Return a token for the model, only where the job asks for a gated one."""
        if not machine.get("gated"):
            return {}
        variable = self.settings.model_token_env
        token = read_secret(variable) if variable else None
        if not token:
            raise InvalidSettings(
                f"{self.name} has no token for gated models: put one that may only read them into an environment"
                f" variable, and its name into model_token_env under [providers.{self.name}]"
            )
        return {"HF_TOKEN": token}
