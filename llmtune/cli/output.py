"""Where the command line prints: results to standard output, everything said along the way to standard error."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """One JSON document on standard output, as it is: never wrapped, never coloured."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.buffer.flush()


def plain_terminal() -> bool:
    """Whether to print plain lines: standard error is no terminal, or a dumb one."""
    return not err.is_terminal or err.is_dumb_terminal
