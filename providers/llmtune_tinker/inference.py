"""A tuned model behind the service's chat endpoint, which takes OpenAI's requests (beta)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import llmtune.provider as core


class TinkerGenerator(core.ChatGenerator):
    """A model by its address, `tinker://RUN/sampler_weights/NAME`."""

    def __init__(self, model: str, ask: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        super().__init__(model, ask, fields=core.CHAT_FIELDS)


def snippet(model: str, address: str, key_variable: str) -> str:
    """Return a few lines of Python that ask a model through the `openai` package."""
    return "\n".join(
        [
            "import os",
            "",
            "from openai import OpenAI",
            "",
            f"client = OpenAI(base_url={address + '/oai/api/v1'!r}, api_key=os.environ[{key_variable!r}])",
            "answer = client.chat.completions.create(",
            f"    model={model!r},",
            '    messages=[{"role": "user", "content": "Hello"}],',
            ")",
            "print(answer.choices[0].message.content)",
        ]
    )
