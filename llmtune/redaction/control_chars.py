"""Escaping of control characters: text of a model, a vendor or a dataset must not control a terminal.

Imports nothing of llmtune, because every command prints through it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: C0 without tab and line feed (a carriage return before a line feed is a line end), DEL and C1, the characters that
#: turn the direction of text, the byte order mark, tag characters and lone surrogates. The first branch keeps the flags
#: of England, Scotland and Wales, which are tag characters by design. Joiners and variation selectors are not listed:
#: emoji and several scripts need them.
_CONTROLS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062[\U000e0061-\U000e007a]{3}\U000e007f"
    "|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape_controls(text: str) -> str:
    r"""Escape control characters (`\x1b`); tabs, line ends and everything visible stay as they are."""
    return replace_controls(text, lambda character: f"\\x{ord(character):02x}")


def replace_controls(text: str, spell: Callable[[str], str]) -> str:
    """Replace each control character by the result of `spell`."""
    return _CONTROLS.sub(lambda match: match[0] if len(match[0]) > 1 else spell(match[0]), text)
