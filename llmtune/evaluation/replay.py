"""A generator that replays answers which were recorded before, so that they are scored as any model's are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from llmtune.provider.generation import Generation, GenerationRequest


class Replay:
    """A generator of recorded answers, found by the conversation and tools of a request.

    Args:
        answers: requests with their answers. Of equal requests the last answer counts.
    """

    max_concurrency = 1

    def __init__(self, answers: Iterable[tuple[GenerationRequest, Generation]]) -> None:
        self._answers = {_key(request): answer for request, answer in answers}

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Return the recorded answers. Raises `KeyError` for a request that has none."""
        return [self._answers[_key(request)] for request in requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _key(request: GenerationRequest) -> tuple[Any, str]:
    return request.messages, json.dumps(request.tools, sort_keys=True, default=repr)
