"""boto3 in hand: one session and its clients for an instance, with every exception turned into ours.

Bedrock's clients never retry by themselves: what may be repeated is the core's to decide. S3's do, since an upload
named by its content can be repeated without harm.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from llmtune.errors import InvalidSettings, LlmtuneError, MissingExtra
from llmtune_bedrock import errors
from llmtune_bedrock import settings as account
from llmtune_bedrock.settings import BedrockSettings

CONNECT_SECONDS = 10.0


class Sdk:
    """The clients of one configured instance, made when they are first used."""

    def __init__(self, name: str, settings: BedrockSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.RLock()

    @cached_property
    def _session(self) -> Any:
        try:
            import boto3
        except ImportError:
            raise MissingExtra("bedrock", "boto3", purpose="AWS Bedrock") from None
        with self.calling("reading the AWS configuration"):
            session = boto3.Session(profile_name=self.settings.profile, region_name=account.region(self.settings))
        if session.region_name is None:
            raise InvalidSettings(account.needs(self.name, ("region",)))
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

    def _client(self, service: str, endpoint: str | None, *, attempts: int) -> Any:
        with self._lock, self.calling(f"setting up {service}"):  # a session must not be used by two threads at once
            session = self._session
            from botocore.config import Config

            config = Config(
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=min(CONNECT_SECONDS, self.settings.timeout),
                read_timeout=self.settings.timeout,
                user_agent_extra="llmtune",
            )
            return session.client(service, endpoint_url=endpoint, config=config)

    @contextmanager
    def calling(self, doing: str) -> Iterator[None]:
        """Turn whatever boto3 raises inside into one clear sentence; `doing` is what it says we were doing."""
        try:
            yield
        except LlmtuneError:
            raise
        except Exception as error:
            ours = errors.from_exception(error, doing=doing, name=self.name, profile=self.settings.profile or "")
            if ours is None:
                raise
            raise ours from error
