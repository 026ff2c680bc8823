"""Counting tokens: with a tokenizer where there is one, otherwise by a documented rule of thumb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from llmtune.data.example import Example, ImagePart, Message
from llmtune.data.hashing import turn_text
from llmtune.errors import MissingExtra

#: The rule of an estimate: four UTF-8 bytes per token, and four tokens per turn for the chat template.
BYTES_PER_TOKEN = 4
TOKENS_PER_TURN = 4
RULE = "an estimate: UTF-8 bytes / 4, and 4 tokens a turn"


@runtime_checkable
class Tokenizer(Protocol):
    """An object with `encode(text)` that returns a sequence of tokens, such as a transformers tokenizer."""

    def encode(self, text: str) -> Any:
        """Return the tokens of a text."""
        ...


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer by a model's name or folder, or by the path of a tokenizer.json (without a chat template).

    Models are opened by the entry point of the group `llmtune.tokenizers`, which the local backend has. Raises
    `MissingExtra`.
    """
    from importlib.metadata import entry_points
    from pathlib import Path

    if name.endswith(".json") and Path(name).is_file():
        try:
            from tokenizers import Tokenizer as FileTokenizer
        except ImportError as fault:
            raise MissingExtra("local", "tokenizers", purpose="counting tokens") from fault
        return FileTokenizer.from_file(name)
    for point in entry_points(group="llmtune.tokenizers"):
        try:
            load = point.load()
        except ImportError as fault:
            raise MissingExtra("local", fault.name or "transformers", purpose="opening a model's tokenizer") from fault
        return load(name)
    raise MissingExtra("local", "transformers", purpose="opening a model's tokenizer")


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the special tokens as they are written, which mean something else than their text (a turn begins)."""
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):
        added = tokenizer.get_added_tokens_decoder()
    special = {str(token.content) for token in (added or {}).values() if token.special}
    return frozenset(special | set(map(str, getattr(tokenizer, "all_special_tokens", ()))))


class RowTokens(NamedTuple):
    """Tokens of one row: by role, in total, in the longest turn, learned, and of reasoning."""

    system: int
    user: int
    assistant: int
    tool: int
    total: int
    longest_turn: int
    trained: int
    reasoning: int = 0


class Counter:
    """A counter of rows' tokens, with a tokenizer or by the rule of thumb."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer
        self.exact = tokenizer is not None
        self.control_tokens = frozenset() if tokenizer is None else control_tokens(tokenizer)
        """Texts that a row must not contain, because they would become special tokens."""

    @property
    def rule(self) -> str:
        """How the tokens were counted, in words."""
        return RULE if not self.exact else "counted with the tokenizer, and 4 tokens a turn for the template"

    def text(self, text: str) -> int:
        """Count the tokens of a text by itself, without special tokens of a template."""
        if self._tokenizer is None:
            size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            return -(-size // BYTES_PER_TOKEN)
        tokens = self._tokenizer.encode(text)
        return len(getattr(tokens, "ids", tokens))

    def row(self, example: Example) -> RowTokens:
        """Count the tokens of one row. Of a preference row, the prompt counts once, and both answers do."""
        if example.text is not None:
            count = self.text(example.text)
            return RowTokens(0, 0, count, 0, count, count, count)
        turns: Sequence[Message] = example.messages
        if example.preference is not None:
            turns = (*turns, *example.preference.preferred, *example.preference.rejected)
        system = user = assistant = tool = longest = trained = reasoning = 0
        for message in turns:
            content = message.content
            text = (
                content if content.__class__ is str and not message.tool_calls else turn_text(_without_images(message))
            )
            if message.reasoning is not None:
                text = f"{message.reasoning}\n{text}"
                reasoning += self.text(message.reasoning)
            count = self.text(text) + TOKENS_PER_TURN
            longest = max(longest, count)
            role = message.role
            if role == "assistant":
                assistant += count
                if message.weight != 0:
                    trained += count
            elif role == "user":
                user += count
            elif role == "system":
                system += count
            else:
                tool += count
        if example.tools:
            import orjson

            system += self.text(orjson.dumps(list(example.tools)).decode())
        total = system + user + assistant + tool
        return RowTokens(system, user, assistant, tool, total, longest, trained, reasoning)


def _without_images(message: Message) -> Message:
    """Return the turn without its images, whose tokens cannot be counted from text."""
    if not isinstance(message.content, tuple):
        return message
    return message.replace(content=tuple(part for part in message.content if not isinstance(part, ImagePart)))
