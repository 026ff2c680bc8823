"""What is looked at once a model is trained: that training and inference render alike, and that answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidData
from llmtune.provider import CheckResult, GenerationRequest, Generator

if TYPE_CHECKING:
    from llmtune.data.example import Example

#: A reference answer's characters as tokens, with room to spare: a model that learned to stop has stopped by then.
_ROOM = 32


def templates_agree(model: Mapping[str, Any], examples: Sequence[Example]) -> CheckResult:
    """Every trained turn must follow exactly the tokens that inference would send."""
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.loading import load_tokenizer

    options = model.get("options", {})
    tokenizer = load_tokenizer(model["model"], model.get("revision"), options.get("chat_template"))
    renderer = Renderer(tokenizer, template_options=options.get("template_options"))
    try:
        for example in examples:
            renderer.check_against_inference(example)
    except InvalidData as error:
        return CheckResult(name="chat template", passed=False, says=error.message)
    return CheckResult(
        name="chat template",
        passed=True,
        says=f"training and inference render {len(examples)} held-out rows to the same tokens",
    )


def answers_end(generator: Generator, examples: Sequence[Example]) -> CheckResult:
    """Greedy answers must end by themselves within the length of the longest reference answer and a margin."""
    longest = max(len(example.completion()) for example in examples) + _ROOM
    requests = [
        GenerationRequest(messages=example.prompt(), tools=tuple(map(dict, example.tools)), max_tokens=longest)
        for example in examples
    ]
    ended = sum(answer.finish_reason in ("stop", "tool_calls") for answer in generator.generate(requests))
    return CheckResult(
        name="ends its turn",
        passed=ended == len(requests),
        says=f"{ended} of {len(requests)} answers ended by themselves within {longest} tokens",
    )
