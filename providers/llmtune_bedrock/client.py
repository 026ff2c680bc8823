"""boto3: one session and its clients for an instance, with every exception turned into ours.

Bedrock's clients never retry by themselves: what may be repeated is the core's to decide. S3's do, since an upload
named by its content can be repeated without harm.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from llmtune.config import note_secret
from llmtune.errors import InvalidSettings
from llmtune.provider import Requirement, bound_body, clean_content, translate_errors
from llmtune_bedrock import errors, prices
from llmtune_bedrock.settings import BedrockSettings

BOTO3 = Requirement(extra="bedrock", module="boto3", distribution="boto3")

CONNECT_SECONDS = 10.0


class _BoundedSession:
    """botocore's HTTP session, whose answers have a bound in time and in bytes: botocore reads each of them whole."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        """Send a request; return the answer, read whole unless its operation streams it."""
        streamed = request.stream_output
        request.stream_output = True  # botocore leaves the body to us
        try:
            response = self._session.send(request)
        finally:
            request.stream_output = streamed
        bound_body(response.raw, streamed=streamed)
        if streamed:
            return response
        from botocore.exceptions import ReadTimeoutError, ResponseStreamingError
        from urllib3 import exceptions as urllib3

        try:
            response.content  # noqa: B018 - read here, and kept
        except urllib3.ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        except urllib3.HTTPError as error:
            raise ResponseStreamingError(error=error) from error
        return response

    def close(self) -> None:
        """Close its connections."""
        self._session.close()


class Sdk:
    """The clients of one configured instance, made when they are first used."""

    def __init__(self, name: str, settings: BedrockSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.RLock()

    @cached_property
    def _session(self) -> Any:
        BOTO3.require("AWS Bedrock")
        import boto3

        settings = self.settings
        with self.translate_errors("reading the AWS configuration"):
            session = boto3.Session(profile_name=settings.profile, region_name=settings.value_of("region"))
        if session.region_name is None:
            raise InvalidSettings(settings.describe_missing(self.name, ("region",)))
        return session

    @property
    def region(self) -> str:
        """The region in use."""
        return str(self._session.region_name)

    @cached_property
    def bedrock(self) -> Any:
        """The control plane: jobs, models, deployments."""
        return self._client("bedrock", self.settings.base_url, attempts=1)

    @cached_property
    def runtime(self) -> Any:
        """The runtime: Converse."""
        return self._client("bedrock-runtime", self.settings.base_url, attempts=1)

    @cached_property
    def s3(self) -> Any:
        """S3."""
        return self._client("s3", self.settings.storage_url, attempts=4)

    @cached_property
    def price_list(self) -> Any:
        """AWS's price list, which answers in one region for all."""
        return self._client("pricing", self.settings.pricing_url, attempts=4, region=prices.REGION)

    def lambda_client(self, region: str, seconds: float) -> Any:
        """Return a client of Lambda for functions of a region, whose calls may take so many seconds."""
        return self._client("lambda", self.settings.lambda_url, attempts=3, region=region, seconds=seconds)

    def _client(
        self,
        service: str,
        endpoint: str | None,
        *,
        attempts: int,
        region: str | None = None,
        seconds: float | None = None,
    ) -> Any:
        with (
            self._lock,
            self.translate_errors(f"setting up {service}"),
        ):  # a session must not be used by two threads at once
            session = self._session
            from botocore.config import Config

            config = Config(
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=min(CONNECT_SECONDS, self.settings.timeout),
                read_timeout=seconds or self.settings.timeout,
                user_agent_extra="llmtune",
            )
            client = session.client(service, endpoint_url=endpoint, config=config, region_name=region)
            client._endpoint.http_session = _BoundedSession(client._endpoint.http_session)
            client.meta.events.register("before-parse", self._receive)
            return client

    def _receive(self, response_dict: dict[str, Any], **_: Any) -> None:
        """Clean an answer before boto3 reads it, and remember the credential that it was signed with."""
        if credentials := self._session.get_credentials():
            used = credentials.get_frozen_credentials()
            for value in (used.secret_key, used.token):
                note_secret(value or "")
        headers, body = response_dict["headers"], response_dict["body"]
        if isinstance(body, bytes) and "json" in headers.get("content-type", ""):
            response_dict["body"] = clean_content(body)

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what boto3 raises inside into one clear sentence; `action` is what was being done."""
        profile = self.settings.profile or ""
        return translate_errors(
            lambda error: errors.from_exception(error, doing=action, name=self.name, profile=profile)
        )
