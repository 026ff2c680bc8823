"""Google's client libraries in hand: credentials and clients for an instance, every exception turned into ours.

None of the clients retries by itself: what may be repeated is the core's to decide.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from llmtune.config import read_secret
from llmtune.errors import MissingCredentials
from llmtune.provider import Requirement, bound_answer, keep_redirects_home, read_within_bounds, translate_errors
from llmtune_vertex import errors
from llmtune_vertex.settings import VertexSettings

GENAI = Requirement(extra="vertex", module="google.genai", distribution="google-genai")
STORAGE = Requirement(extra="vertex", module="google.cloud.storage", distribution="google-cloud-storage")
AIPLATFORM = Requirement(extra="vertex", module="google.cloud.aiplatform_v1", distribution="google-cloud-aiplatform")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Sdk:
    """The clients of one configured instance, made when they are first used."""

    def __init__(self, name: str, settings: VertexSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.RLock()
        self._clients: dict[str, Any] = {}

    @property
    def project(self) -> str:
        """The project; raises `InvalidSettings` when none is set."""
        self.settings.require(self.name, "project")
        return str(self.settings.value_of("project"))

    @property
    def location(self) -> str:
        """The tuning location; raises `InvalidSettings` when none is set."""
        self.settings.require(self.name, "location")
        return str(self.settings.value_of("location"))

    @cached_property
    def credentials(self) -> Any:
        """Credentials of Google's application-default chain, or the token that `token_env` names."""
        if variable := self.settings.token_env:
            token = read_secret(variable)
            if not token:
                raise MissingCredentials(f"{variable}, which token_env names, is not set", hint=errors.LOG_IN)
            from google.oauth2.credentials import Credentials

            return Credentials(token=token)  # type: ignore[no-untyped-call]
        with self.translate_errors("looking for credentials"):
            import google.auth

            found, _ = google.auth.default(scopes=[SCOPE])
        return found

    def genai(self, location: str | None = None) -> Any:
        """google-genai's client for a location; without one, where jobs are tuned."""
        where = location or self.location
        return self._once(where, lambda: self._genai(where))

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._clients:
                self._clients[key] = make()
            return self._clients[key]

    def _genai(self, location: str) -> Any:
        GENAI.require("Vertex AI")
        from google import genai
        from google.genai import types

        # The SDK says once that its tuning is experimental; our users hear of it in the docs.
        warnings.filterwarnings("ignore", message="The SDK's tuning implementation is experimental")
        # A state that the SDK does not know is ours to tell, with the run it belongs to.
        warnings.filterwarnings("ignore", message=r".* is not a valid (JobState|TuningJobState)")
        with self.translate_errors("setting up google-genai"):
            return genai.Client(
                vertexai=True,
                project=self.project,
                location=location,
                credentials=self.credentials,
                http_options=types.HttpOptions(
                    base_url=self.settings.base_url,
                    api_version="v1beta1",
                    timeout=int(self.settings.timeout * 1000),
                    client_args={"event_hooks": {"response": [keep_redirects_home, bound_answer, read_within_bounds]}},
                ),
            )

    @cached_property
    def storage(self) -> Any:
        """google-cloud-storage's client."""
        STORAGE.require("Vertex AI")
        from google.cloud import storage  # type: ignore[attr-defined,unused-ignore]

        options = {"api_endpoint": self.settings.storage_url} if self.settings.storage_url else None
        with self.translate_errors("setting up Cloud Storage"):
            return storage.Client(project=self.project, credentials=self.credentials, client_options=options)

    def gapic(self, client: str, location: str) -> Any:
        """One of aiplatform's generated v1 clients ("TensorboardServiceClient"), over REST, for a location."""
        return self._once(f"{client}@{location}", lambda: self._gapic(client, location))

    def _gapic(self, client: str, location: str) -> Any:
        AIPLATFORM.require("Vertex AI's curves")
        from google.cloud import aiplatform_v1

        host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
        endpoint = self.settings.base_url or host
        with self.translate_errors(f"setting up {client}"):
            return getattr(aiplatform_v1, client)(
                transport="rest", credentials=self.credentials, client_options={"api_endpoint": endpoint}
            )

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what Google's libraries raise inside into one clear sentence; `action` is what was being done."""
        return translate_errors(lambda error: errors.from_exception(error, doing=action, name=self.name))
