"""What a server has to know about conversations: the chat template, how prompts begin, and what ends an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.data.example import Message

if TYPE_CHECKING:
    from llmtune.data.rendering.tokenize import Renderer

#: Marks around what is trained, which transformers alone understands; they render nothing.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


@dataclass(frozen=True)
class Dialogue:
    """What a server has to know about conversations with a model."""

    template: str | None
    """The chat template, with the options that the model was trained with."""

    begins: bool
    """Whether the beginning-of-text token is put in front of prompts, whatever the template writes."""

    ends: tuple[int, ...]
    """The tokens that end an answer."""


def read_dialogue(renderer: Renderer, options: Mapping[str, Any] | None, folder: Path) -> Dialogue:
    """Return it for the tokenizer of `renderer`. `folder` is the tuned model's, and says what ends an answer."""
    from llmtune_local.models.shape import read_end_tokens

    tokenizer = renderer.tokenizer
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    begin = tokenizer.bos_token_id
    # Servers decide once, for conversations and plain text: it is put in front where that is right for both.
    begins = begin is not None and list(tokenizer("a")["input_ids"])[:1] == [begin]
    if template is not None:
        prompt = renderer.prompt_ids((Message(role="user", content="a"),))
        begins = begins and prompt[0] == begin
        template = set_options(template, options or {})
    ends = dict.fromkeys([*read_end_tokens(folder), *sorted(renderer.stop_ids)])
    return Dialogue(template, begins, tuple(ends))


def set_options(template: str, options: Mapping[str, Any]) -> str:
    """Return a chat template that has the options (`enable_thinking`) set, whatever a server passes to it."""
    lines = (f"{{%- set {name} = {_literal(value)} -%}}\n" for name, value in options.items())
    return "".join(lines) + _GENERATION.sub("", template)


def _literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(member)}' for key, member in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
