"""The prompts of a tuned model as text and tokens, for a comparison with what a server gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.provider import RenderedPrompt
from llmtune_local.run_state.schema import WorkerOptions

if TYPE_CHECKING:
    from llmtune.data.example import Message


class LocalPrompts:
    """The chat template and tokenizer of a tuned model on this machine, as `LocalGenerator` uses them.

    `model` is the base, `artefact` the folder of the tuned model, `options` those of the worker.
    """

    def __init__(
        self,
        *,
        model: str,
        artefact: Path | None,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        from llmtune.data.rendering.tokenize import Renderer
        from llmtune_local.models.loading import load_images, load_tokenizer

        settings = WorkerOptions.model_validate(options or {})
        self._tokenizer = load_tokenizer(str(artefact) if artefact else model, revision, settings.chat_template)
        images = load_images(model, revision, self._tokenizer, max_pixels=settings.image_max_pixels)
        self._renderer = Renderer(self._tokenizer, template_options=settings.template_options, images=images)
        self.begin_token: int | None = self._tokenizer.bos_token_id
        self.end_tokens = self._renderer.stop_ids

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generation_prompt: bool = True
    ) -> RenderedPrompt:
        """Render a conversation as generation does."""
        text = self._renderer.template.prompt(messages, tools, generation_prompt=generation_prompt)
        return RenderedPrompt(text=text, tokens=self.tokenize(text))

    def tokenize(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Return the tokens of a text; without `special_tokens` their marks are plain characters."""
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
            split_special_tokens=not special_tokens,
        )
        return tuple(encoded["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))
