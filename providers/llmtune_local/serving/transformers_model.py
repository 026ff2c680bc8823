"""A whole model loaded from its folder as others load it: by transformers alone, with the settings that are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune.provider import BaseGenerator, Generation, GenerationRequest, chat_message
from llmtune_local.images.reader import ModelImages
from llmtune_local.inference.tool_call_parser import with_calls
from llmtune_local.models import loading
from llmtune_local.run_state.schema import WorkerOptions

if TYPE_CHECKING:
    from llmtune.data.example import Message

#: Tokens of an answer at most, where the request names no limit.
_MAX_TOKENS = 256


class TransformersModel(BaseGenerator):
    """The model in a folder. `data` is the tuned model's: how it was loaded, and the options of its template."""

    max_concurrency = 1

    def __init__(self, folder: Path, data: Mapping[str, Any]) -> None:
        import transformers

        options = WorkerOptions.model_validate(data.get("options", {}))
        self.program = f"transformers {transformers.__version__}"
        self._network, self._tokenizer = loading.load_with_transformers(folder, data, options)
        ends = self._network.generation_config.eos_token_id
        self._ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._template_options = dict(options.template_options or {})
        self._context = loading.context_length(self._network.config, self._tokenizer, None)
        self._images = loading.load_images(
            str(data["model"]), data.get("revision"), self._tokenizer, max_pixels=options.image_max_pixels
        )
        self._renderer = Renderer(self._tokenizer, template_options=self._template_options, images=self._images)

    def prompt_tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        """Return a request's prompt as transformers' own `apply_chat_template` makes it.

        Raises `InvalidData` where the template refuses it.
        """
        from jinja2.exceptions import TemplateError

        if isinstance(self._images, ModelImages):
            # Models of text and images are given what transformers' processors of them write, marks of images included;
            # some of these need packages for video to be loaded at all.
            return self._renderer.prompt_ids(request.messages, request.tools)
        try:
            return tuple(
                self._tokenizer.apply_chat_template(
                    [_write_message(message) for message in request.messages],
                    tools=list(request.tools) or None,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                    **self._template_options,
                )
            )
        except TemplateError as problem:
            raise InvalidData(f"the chat template refuses a conversation: {problem}") from None

    def answer(self, request: GenerationRequest) -> Generation:
        """Generate the greedy answer. Raises `InvalidData` for a prompt that fills the model's context."""
        import torch

        prompt = self.prompt_tokens(request)
        limit = request.max_tokens or _MAX_TOKENS
        if self._context is not None:
            limit = min(limit, self._context - len(prompt))
        if limit < 1:
            raise InvalidData(f"a prompt of {len(prompt)} tokens fills the model's context of {self._context}")
        ids = torch.tensor([prompt], device=self._network.device)
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else (self._ends or [0])[0]
        images = [image for message in request.messages for image in message.images]
        image_inputs = {}
        if images and isinstance(self._images, ModelImages):
            image_inputs = self._images.inputs(ids, self._images.place(images, prompt))
        with torch.no_grad():
            tokens = self._network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=pad,
                **image_inputs,
            )[0, len(prompt) :].tolist()
        ended = bool(tokens) and tokens[-1] in self._ends
        answer = Generation(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
        )
        return with_calls(answer, request)


def _write_message(message: Message) -> dict[str, Any]:
    """Return a turn as templates take it: the arguments of tool calls are objects where they are valid JSON."""
    written = chat_message(message)
    for call in written.get("tool_calls") or ():
        with suppress(ValueError):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return written
