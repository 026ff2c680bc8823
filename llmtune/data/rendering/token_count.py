"""Counting tokens: with a tokenizer where there is one, otherwise by a documented rule of thumb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from llmtune.data.example import Example, ImagePart, Message
from llmtune.data.hashing import turn_text
from llmtune.errors import MissingExtra

#: Tokens per turn for the chat template: its beginning, its role and its end.
TOKENS_PER_TURN = 4
RULE = "an estimate: words, digits, signs and scripts weighed, and 4 tokens a turn"

#: The weights of an estimate, in tokens: of a text, of each single space, of two spaces in a row, and of each other
#: character, by the first byte that it has in UTF-8. Fitted on 2026-12-01 to the tokenizers o200k_base, cl100k_base
#: and that of DeepSeek V3: ASCII on about 40 training files of vendors and on Python's standard library, nearly all
#: of which are within 8 % of them, the rest on software messages in 28 languages, most of which are within 20 % of
#: o200k_base; the tokenizers themselves are up to four times apart there.
_TEXT_WEIGHT = 0.73
_SPACE_WEIGHT = 0.74
_PAIR_WEIGHT = 0.24
_ASCII_WEIGHTS = (
    (b"abcdefghijklmnopqrstuvwxyz", 0.08),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 0.18),
    (b"0123456789", 0.62),
    (b"\n\r\t", 0.6),
)
_SIGN_WEIGHT = 0.58
_LEAD_BYTE_WEIGHTS = (
    (bytes(range(0xC0, 0xCE)), 1.96),  # Latin letters with marks, which split words
    (bytes(range(0xCE, 0xD5)), 0.29),  # Greek, Cyrillic
    (bytes(range(0xD5, 0xE0)), 0.31),  # Armenian, Hebrew, Arabic
    (bytes(range(0xE0, 0xE2)), 0.4),  # Indic scripts, Thai, Georgian, Vietnamese
    (bytes(range(0xE2, 0xE3)), 1.38),  # quotation marks, dashes, symbols
    (bytes(range(0xE3, 0xEA)), 0.73),  # Chinese, Japanese
    (bytes(range(0xEA, 0xF0)), 0.66),  # Korean, full-width forms
    (bytes(range(0xF0, 0x100)), 3.0),  # emoji
)
_LATER_BYTES = bytes(range(0x80, 0xC0))
#: Text without spaces (addresses, codes) has more tokens than the weights of its letters come to.
_MOST_BYTES_PER_TOKEN = 6


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text from its words, digits, signs and scripts; at least 1 where there is any."""
    if not text:
        return 0
    total = _TEXT_WEIGHT + 0.5  # to the nearest whole number
    if text.isascii():
        remaining = text.encode()
    else:
        remaining = text.encode("utf-8", "surrogatepass").translate(None, _LATER_BYTES)
        for members, weight in _LEAD_BYTE_WEIGHTS:
            size = len(remaining)
            remaining = remaining.translate(None, members)
            total += weight * (size - len(remaining))
    pairs = remaining.count(b"  ")
    least = 0.5 + len(remaining) / _MOST_BYTES_PER_TOKEN
    size = len(remaining)
    remaining = remaining.translate(None, b" ")
    total += _PAIR_WEIGHT * pairs + _SPACE_WEIGHT * (size - len(remaining) - 2 * pairs)
    for members, weight in _ASCII_WEIGHTS:
        size = len(remaining)
        remaining = remaining.translate(None, members)
        total += weight * (size - len(remaining))
    return max(1, int(max(least, total + _SIGN_WEIGHT * len(remaining))))


def write_tools_as_json(tools: Sequence[Mapping[str, Any]]) -> str:
    """Write tools as chat templates do where no other form is known: as compact JSON."""
    import orjson

    return orjson.dumps(list(tools)).decode()


#: Writes the tools of a row as a backend renders them into the prompt.
WriteTools = Callable[[Sequence[Mapping[str, Any]]], str]


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
    """A counter of rows' tokens, with a tokenizer or by the rule of thumb.

    `write_tools` writes the tools of a row as the backend renders them into the prompt; by default they are JSON.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        *,
        write_tools: WriteTools | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._write_tools = write_tools or write_tools_as_json
        self._counted_tools: tuple[Any, int] = ((), 0)
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
            return estimate_tokens(text)
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
            system += self._count_tools(example.tools)
        total = system + user + assistant + tool
        return RowTokens(system, user, assistant, tool, total, longest, trained, reasoning)

    def _count_tools(self, tools: tuple[Mapping[str, Any], ...]) -> int:
        """Count the tokens of a row's tools; rows mostly offer the same ones, which are written once."""
        counted, count = self._counted_tools
        if counted is not tools:
            count = self.text(self._write_tools(tools))
            self._counted_tools = (tools, count)
        return count


def _without_images(message: Message) -> Message:
    """Return the turn without its images, whose tokens cannot be counted from text."""
    if not isinstance(message.content, tuple):
        return message
    return message.replace(content=tuple(part for part in message.content if not isinstance(part, ImagePart)))


def count_parts(parts: Mapping[str, Iterable[Example]], counter: Counter) -> dict[str, int]:
    """Return the tokens by part, of the answers of each part ("train_answers"), of the longest row and turn."""
    totals = {"longest": 0, "longest_turn": 0}
    for part, rows in parts.items():
        totals |= {part: 0, f"{part}_answers": 0}
        for size in map(counter.row, rows):  # one after another: the rows may be more than memory holds
            totals[part] += size.total
            totals[f"{part}_answers"] += size.assistant
            totals["longest"] = max(totals["longest"], size.total)
            totals["longest_turn"] = max(totals["longest_turn"], size.longest_turn)
    return totals
