"""Account facts: found in one order, refused in sentences, never shown when they are secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune import config
from llmtune.errors import InvalidSettings, MissingCredentials, UnknownName
from llmtune.provider.registry import get_provider, known_kinds


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "user.toml"))
    return tmp_path


def test_the_nearest_place_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "user.toml").write_text('[providers.eu]\nkind = "azure"\nregion = "user"\na = 1\nb = 1\nc = 1\n')
    (project / "project" / "llmtune.toml").write_text('[providers.eu]\nregion = "project"\nb = 2\nc = 2\n')
    monkeypatch.setenv("LLMTUNE_EU_C", "3")
    found = config.instance("eu", ("a", "b", "c", "region"), d=4)
    assert found.kind == "azure"
    assert found.values == {"region": "project", "a": 1, "b": 2, "c": "3", "d": 4}
    assert found.origins["c"] == "LLMTUNE_EU_C"
    assert found.origins["a"].endswith("user.toml")


def test_a_broken_file_is_named_with_what_is_wrong(project: Path) -> None:
    (project / "user.toml").write_text("[providers\n")
    with pytest.raises(InvalidSettings, match=r"user\.toml: broken TOML"):
        config.settings()
    (project / "user.toml").write_text("[provider.a]\n")
    with pytest.raises(InvalidSettings, match="did you mean 'providers'"):
        config.settings()


def test_an_unknown_setting_is_answered_with_the_nearest_one(project: Path) -> None:
    (project / "user.toml").write_text('[providers.local]\nrunz = "x"\n')
    with pytest.raises(InvalidSettings, match=r"settings of local \(.*user\.toml\).*did you mean 'runs'"):
        get_provider("local")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("api_key", "sk-1", "***"),
        ("password", "x", "***"),
        ("Token", "x", "***"),
        ("api_key_env", "MY_KEY", "MY_KEY"),
        ("base_url", "https://user:pw@host/v1", "https://***:***@host/v1"),
        ("store", "postgresql+psycopg://a:b@h/db", "postgresql+psycopg://***:***@h/db"),
        ("store", 'postgresql+psycopg://a:b"<c@d@h/db', "postgresql+psycopg://***:***@h/db"),
        ("base_url", "http://host:5000", "http://host:5000"),
        ("note", '["http://host:5000","ann@acme.example"]', '["http://host:5000","ann@acme.example"]'),
        ("note", "at http://host:5000 or ann@acme.example", "at http://host:5000 or ann@acme.example"),
        ("note", "http://ann@host:5000 and https://ann:pw@host", "http://***@host:5000 and https://***:***@host"),
        ("note", "http://[broken:pw@host", "http://***"),
        ("region", "us-east-1", "us-east-1"),
        ("nested", {"secret": "x", "region": "y"}, {"secret": "***", "region": "y"}),
    ],
)
def test_secrets_are_never_shown(key: str, value: object, shown: object) -> None:
    assert config.redact(key, value) == shown


def test_an_unknown_provider_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown provider 'locl'; did you mean 'local'"):
        get_provider("locl")


def test_our_own_adapters_come_in_by_the_same_door() -> None:
    assert {"local", "fake"} <= set(known_kinds())
    assert get_provider("local").name == "local"
    provider = get_provider("local")
    assert get_provider(provider) is provider


def test_a_secret_that_is_not_there_is_named_with_its_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKERY_KEY", "crumbs")
    assert config.require_secret("BAKERY_KEY", "bakery") == "crumbs"
    monkeypatch.setenv("BAKERY_KEY", "")
    with pytest.raises(MissingCredentials, match="bakery: the environment variable BAKERY_KEY is not set") as caught:
        config.require_secret("BAKERY_KEY", "bakery")
    assert caught.value.hint == "export BAKERY_KEY=..."
