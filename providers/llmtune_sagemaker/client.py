"""boto3: one session and its clients for an instance, as in Bedrock's package, with SageMaker's client and errors.

SageMaker's client never retries by itself: what may be repeated is the core's to decide.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from llmtune.provider import Requirement, translate_errors
from llmtune_bedrock import client
from llmtune_sagemaker import errors
from llmtune_sagemaker.settings import SageMakerSettings

BOTO3 = Requirement(extra="sagemaker", module="boto3", distribution="boto3")


class Sdk(client.Sdk):
    """The clients of one configured instance, made when they are first used."""

    settings: Any
    """`SageMakerSettings`; the base class reads only what Bedrock's settings have too."""

    def __init__(self, name: str, settings: SageMakerSettings) -> None:
        account: Any = settings
        super().__init__(name, account)

    @cached_property
    def _session(self) -> Any:
        BOTO3.require("Amazon SageMaker")
        return super()._session

    @cached_property
    def sagemaker(self) -> Any:
        """The control plane: jobs, model packages, the hub."""
        return self._client("sagemaker", self.settings.base_url, attempts=1)

    def signed_headers(self, method: str, url: str, headers: dict[str, str], service: str) -> dict[str, str]:
        """Return the headers of a request without a body, signed for a `service` that boto3 has no client of."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import NoCredentialsError

        with self.translate_errors(f"signing a request to {service}"):
            credentials = self._session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            request = AWSRequest(method=method, url=url, headers=headers)
            SigV4Auth(credentials.get_frozen_credentials(), service, self.region).add_auth(request)
        return dict(request.headers.items())

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what boto3 raises inside into one clear sentence; `action` is what was being done."""
        profile = self.settings.profile or ""
        return translate_errors(
            lambda error: errors.from_exception(error, doing=action, name=self.name, profile=profile)
        )
