"""The rows an old model was tuned on, and what it was asked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from llmtune_openai.fake.service import FakeOpenAI

TEAMS = ("billing", "network", "hardware")


def tickets(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    words = ("invoice", "router", "screen")
    return [
        {
            "messages": [
                {"role": "system", "content": "Name the team."},
                {"role": "user", "content": f"ticket {at}: the {words[at % 3]} is broken"},
                {"role": "assistant", "content": TEAMS[at % 3]},
            ]
        }
        for at in range(first, first + count)
    ]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(vendor: FakeOpenAI) -> Counter[str]:
    """How often each prompt was asked."""
    return Counter(
        call.data["messages"][-1]["content"] for call in vendor.requests if call.path.endswith("/chat/completions")
    )
