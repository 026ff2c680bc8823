"""The backend on Hugging Face Jobs."""

from __future__ import annotations

from functools import cached_property

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
        self._read_secrets(request)
        return super().preflight(request)

    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job, with a token only where the job asks for a gated model."""
        self._jobs.secrets = self._read_secrets(request)
        return super().submit(request, key)

    def restart(self, job: core.JobRef, request: core.Request) -> str:
        """Start another job from the checkpoint, with the same secrets."""
        self._jobs.secrets = self._read_secrets(request)
        return super().restart(job, request)

    def _read_secrets(self, request: core.Request) -> dict[str, str]:
        if not request.body.get("machine", {}).get("gated"):
            return {}
        variable = self.settings.model_token_env
        token = read_secret(variable) if variable else None
        if not token:
            raise InvalidSettings(
                f"{self.name} has no token for gated models: put one that may only read them into an environment"
                f" variable, and its name into model_token_env under [providers.{self.name}]"
            )
        return {"HF_TOKEN": token}
