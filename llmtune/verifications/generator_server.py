"""A generator in the place of a server: what is verified is a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtune.errors import LlmtuneError, VendorError
from llmtune.provider.generation import GenerationRequest, Generator
from llmtune.verifications.endpoint import PromptView, ServerAnswer, Usage


class GeneratorServer:
    """A generator that is asked as a server is. It shows its prompts; it has no streams, and takes no further settings.

    Args:
        name: what answers, in the place of an address.
        generator: the model; already opened.
        prompt_tokens: returns the prompt of a request.
    """

    model: str | None = None
    concurrency = 1

    def __init__(
        self, name: str, generator: Generator, prompt_tokens: Callable[[GenerationRequest], tuple[int, ...]] | None
    ) -> None:
        self.address = name
        self.usage = Usage()
        self.refused: dict[str, str] = {}
        self._generator = generator
        self._prompt_tokens = prompt_tokens

    def ask(
        self, request: GenerationRequest, *, stop: Sequence[str] = (), extra: Mapping[str, Any] | None = None
    ) -> ServerAnswer:
        """Ask one question. Raises `VendorError` for further settings, and what the generator raises."""
        if stop or extra:
            raise VendorError(f"{self.address} takes no further settings", code="unsupported")
        (generation,) = self._generator.generate([request])
        answer = ServerAnswer(
            text=generation.text,
            finish_reason=generation.finish_reason,
            tool_calls=generation.tool_calls,
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
        )
        self.usage.add(answer)
        return answer

    def stream(self, request: GenerationRequest) -> ServerAnswer:
        """Raise `VendorError`: a model in this process answers whole."""
        raise VendorError(f"{self.address} answers whole", code="unsupported")

    def read_prompt(self, request: GenerationRequest) -> PromptView | None:
        """Return the prompt of a request; None where its template refuses it, or nothing shows it."""
        try:
            return PromptView(self._prompt_tokens(request)) if self._prompt_tokens is not None else None
        except LlmtuneError:
            return None
