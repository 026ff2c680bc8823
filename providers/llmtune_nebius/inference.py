"""Adapters registered under `/v0/models`, which is what makes a tuned model answer; and what a model costs today.

Sources: Nebius Token Factory, API reference "Models" (version 20260506): create, get, list and delete a custom model;
and the saved outputs of the vendor's own fine-tuning notebook (token-factory-cookbook, 2025-12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote

import llmtune.provider as core
from llmtune.errors import TransientError, VendorError
from llmtune_openai.client import Connection

#: A new adapter is validated within a minute; one that is not active after this many seconds is given up.
LONGEST_WAIT = 900.0
#: The SDK's own switch for the answer as it came, which `with_raw_response` sets too.
_RAW = {"X-Stainless-Raw-Response": "true"}


class CustomModels:
    """The account's registered adapters, and the service's own models, under `/v0/models`.

    Args:
        connection: the instance's connection.
        address: returns the address of the API, which ends in /v1.
    """

    def __init__(self, connection: Connection, address: Callable[[], str]) -> None:
        self._connection = connection
        self._address = address

    def create(self, name: str, base_model: str, source: str) -> dict[str, Any]:
        """Register the adapter `source` ("JOB:CHECKPOINT") for `base_model`, the id for inference; one call."""
        body = {"name": name, "base_model": base_model, "source": source, "description": "registered by llmtune"}
        url = self._url()
        answer = self._connection.request(
            lambda sdk: sdk.post(url, cast_to=object, body=body, options={"headers": _RAW})
        )
        if not answer.get("name"):
            raise TransientError(f"{self._connection.title} answered to the new adapter without its name")
        return answer

    def get(self, name: str) -> dict[str, Any]:
        """Return one model by its full name. Raises `VendorError` (404) where there is none."""
        url = self._url(name)
        return self._connection.request(lambda sdk: sdk.get(url, cast_to=object, options={"headers": _RAW}))

    def list(self) -> list[dict[str, Any]]:
        """Return the models that the account sees; the service answers with one array."""
        url = self._url()
        return self._connection.items(lambda sdk: sdk.get(url, cast_to=object, options={"headers": _RAW}))

    def delete(self, name: str) -> None:
        """Remove a registered adapter; quietly done when it is gone already."""
        url = self._url(name)
        with core.ignore_not_found():
            self._connection.request(lambda sdk: sdk.delete(url, cast_to=object, options={"headers": _RAW}))

    def describe(self, tuning_id: str, inference_id: str) -> dict[str, Any] | None:
        """Return the service's model that `tuning_id` is tuned as, under whichever id it is listed; None for none."""
        for name in dict.fromkeys((inference_id, tuning_id)):
            with core.ignore_not_found():
                return self.get(name)
        return next((model for model in self.list() if fine_tune_of(model).get("model_id") == tuning_id), None)

    def wait_until_active(self, name: str) -> None:
        """Wait until a registered adapter answers.

        The first looks may find no state yet, or nothing at all (the notebook's own run).

        Raises:
            VendorError: the service refuses the adapter, or it is deleted.
            TransientError: it is still being validated after a quarter of an hour.
        """
        state: Any = None
        for _ in core.growing_pauses(LONGEST_WAIT):
            try:
                model = self.get(name)
            except VendorError as error:
                if isinstance(error, TransientError) or error.status != 404:
                    raise
                continue
            state = model.get("status")
            if state == "active":
                return
            if state in ("error", "deleted"):
                reason = model.get("status_reason") or "no reason is given"
                raise VendorError(f"{self._connection.title} does not serve {name} ({state}): {reason}")
        raise TransientError(f"{self._connection.title} still validates {name} after {LONGEST_WAIT:.0f} s ({state})")

    def _url(self, name: str = "") -> str:
        root = self._address().rstrip("/").removesuffix("/v1")
        return f"{root}/v0/models/{quote(name, safe='/:')}" if name else f"{root}/v0/models"


class RegisteredGenerator(core.ChatGenerator):
    """A registered adapter behind the chat API; it is waited for when the generator is entered."""

    def __init__(
        self,
        models: CustomModels,
        name: str,
        ask: Callable[[dict[str, Any]], Mapping[str, Any]],
        *,
        fields: Mapping[str, str],
    ) -> None:
        super().__init__(name, ask, fields=fields)
        self._models = models

    def __enter__(self) -> Self:
        self._models.wait_until_active(self._model)
        return super().__enter__()


def fine_tune_of(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the service says of tuning a model: model_id, training_price_per_million_tokens, training_types."""
    fine_tune = model.get("fine_tune")
    return fine_tune if isinstance(fine_tune, Mapping) else {}


def adapter_base(model: Mapping[str, Any] | None, inference_id: str) -> str | None:
    """Return the id for which an adapter is registered: that of a flavour that takes adapters; None if none does."""
    flavors = [flavor for flavor in (model or {}).get("flavors") or () if isinstance(flavor, Mapping)]
    takers = [
        str(flavor["model_id"]) for flavor in flavors if flavor.get("supports_lora_adapters") and "model_id" in flavor
    ]
    if not flavors or inference_id in takers:
        return inference_id
    return takers[0] if takers else None
