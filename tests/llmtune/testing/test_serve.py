"""`python -m llmtune.testing.serve NAME` finds the fake that a provider's package ships."""

from __future__ import annotations

import pytest

from llmtune.errors import LlmtuneError, UnknownName
from llmtune.testing.serve import fake_class


@pytest.mark.parametrize("name", ["fake", "openai", "azure", "nebius", "vertex", "bedrock", "cohere", "together"])
def test_a_provider_with_a_fake_is_served_by_it(name: str) -> None:
    assert fake_class(name).name == name


def test_a_provider_without_one_and_an_unknown_one_say_so() -> None:
    with pytest.raises(LlmtuneError, match="'local' ships no fake"):
        fake_class("local")
    with pytest.raises(UnknownName):
        fake_class("nowhere")
