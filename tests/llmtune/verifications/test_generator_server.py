"""A generator in the place of a server: it answers, shows its prompts, and says what it has not."""

from __future__ import annotations

import pytest

from llmtune.errors import InvalidData, VendorError
from llmtune.provider import FunctionGenerator, Generation, GenerationRequest
from llmtune.verifications.generator_server import GeneratorServer
from tests.llmtune.verifications.serving import request


def answer(request: GenerationRequest) -> Generation:
    text = request.messages[-1].words.upper()
    return Generation(text=text, finish_reason="stop", prompt_tokens=3, completion_tokens=1)


def prompt_tokens(request: GenerationRequest) -> tuple[int, ...]:
    if request.messages[0].role == "system":
        raise InvalidData("the template takes no system turn")
    return tuple(map(len, request.messages[-1].words.split()))


def test_it_answers_and_counts() -> None:
    server = GeneratorServer("transformers 5", FunctionGenerator(answer), prompt_tokens)
    got = server.ask(request(("user", "one three")))
    assert (got.text, got.finish_reason, got.prompt_tokens) == ("ONE THREE", "stop", 3)
    assert (server.usage.requests, server.usage.prompt_tokens, server.usage.completion_tokens) == (1, 3, 1)


def test_it_shows_its_prompts() -> None:
    server = GeneratorServer("transformers 5", FunctionGenerator(answer), prompt_tokens)
    view = server.read_prompt(request(("user", "one three")))
    assert view is not None
    assert view.tokens == (3, 5)
    assert server.read_prompt(request(("system", "briefly"), ("user", "one"))) is None
    assert (
        GeneratorServer("transformers 5", FunctionGenerator(answer), None).read_prompt(request(("user", "x"))) is None
    )


def test_it_has_no_streams_and_no_further_settings() -> None:
    server = GeneratorServer("transformers 5", FunctionGenerator(answer), prompt_tokens)
    with pytest.raises(VendorError, match="answers whole"):
        server.stream(request(("user", "x")))
    with pytest.raises(VendorError, match="no further settings"):
        server.ask(request(("user", "x")), stop=["y"])
