"""The tokens that a fake bills for a training file, counted otherwise than `llmtune plan` estimates them.

A text is split as byte-pair tokenizers split it before they merge bytes (the pattern of cl100k_base in tiktoken, 2026):
words with the sign or space before them, up to three digits, runs of signs, line breaks, spaces. Each piece is a token,
a long one several. On English training files of vendors that is within 10 % of what the tokenizers count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PIECES = re.compile(r"[^\r\n\w]?[^\W\d_]+|\d{1,3}| ?[^\s\w]+[\r\n]*|_+|\s*[\r\n]+|\s+(?!\S)|\s+")
_LONGEST_PIECE = 11
#: Tokens that a turn's beginning, role and end come to, and those that a row ends with.
_TOKENS_PER_TURN = 4
_TOKENS_PER_ROW = 1
#: Keys of a row whose values are no text that the model reads.
_NO_TEXT = frozenset(("role", "id", "type", "weight", "tool_call_id", "parallel_tool_calls", "mime_type"))


def count_text_tokens(text: str) -> int:
    """Count the tokens of a text."""
    return sum(1 + (len(piece) - 1) // _LONGEST_PIECE for piece in _PIECES.findall(text))


def count_file_tokens(content: bytes) -> int:
    """Count the tokens of a JSONL file of rows: those of its texts, of its turns and of its rows; at least 1."""
    total = 0
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        total += _TOKENS_PER_ROW + sum(_count_row(row))
    return max(1, total)


def _count_row(value: Any) -> Iterator[int]:
    if isinstance(value, str):
        yield count_text_tokens(value)
    elif isinstance(value, list):
        for member in value:
            yield from _count_row(member)
    elif isinstance(value, dict):
        if "role" in value:
            yield _TOKENS_PER_TURN
        for key, member in value.items():
            if key not in _NO_TEXT:
                yield from _count_row(member)
