"""`python -m llmtune.testing.serve NAME` finds the fake that a provider's package ships, and says how to reach it."""

from __future__ import annotations

import socket

import pytest

from llmtune.errors import LlmtuneError, UnknownName
from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.serve import find_fake, list_fakes, main, write_settings

FAKES = [
    "azure",
    "bedrock",
    "cohere",
    "fake",
    "hfjobs",
    "nebius",
    "openai",
    "sagemaker",
    "tinker",
    "together",
    "vertex",
]


def test_every_provider_with_a_fake_is_listed() -> None:
    assert list_fakes() == FAKES


@pytest.mark.parametrize("name", FAKES)
def test_a_provider_with_a_fake_is_served_by_it(name: str) -> None:
    assert find_fake(name).name == name


def test_a_provider_without_one_and_an_unknown_one_say_so() -> None:
    with pytest.raises(LlmtuneError, match=r"'local' has no fake.*\nthere are fakes for azure, bedrock"):
        find_fake("local")
    with pytest.raises(UnknownName, match=r"\nthere are fakes for azure, bedrock"):
        find_fake("nowhere")


def test_the_command_says_it_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opnai"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: unknown provider 'opnai'; did you mean 'openai'?",
        f"there are fakes for {', '.join(FAKES)}",
    ]


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["fake", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["fake", "--port", "99999"]) == 2


class Odd(FakeVendor):
    name = "odd"

    def client_settings(self) -> dict[str, str]:
        return {"base_url": "http://127.0.0.1:1/it's $HOME"}

    def client_environment(self) -> dict[str, str]:
        return {"ODD_KEY": "a b"}


def test_values_are_quoted_for_the_shell() -> None:
    assert write_settings("odd-eu", Odd()).splitlines() == [
        "export LLMTUNE_ODD_EU_BASE_URL='http://127.0.0.1:1/it'\"'\"'s $HOME'",
        "export ODD_KEY='a b'",
    ]
    assert write_settings("odd-eu", Odd(), "powershell").splitlines() == [
        "$env:LLMTUNE_ODD_EU_BASE_URL = 'http://127.0.0.1:1/it''s $HOME'",
        "$env:ODD_KEY = 'a b'",
    ]
