"""Key files: written by a command, read again when they change, and never holding a key."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from llmtune.errors import InvalidSettings, UnknownName
from llmtune.server.tuning.keys import RIGHTS, KeyFile, SingleKey, add_key, hash_key, read_keys, remove_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def replace_text(path: Path, text: str) -> None:
    """Write the file so that its time differs from before, however coarse the clock."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_key_is_made_found_and_removed(path: Path) -> None:
    key = add_key(path, "ana", budget=50.0)
    other = add_key(path, "ben", rights=["read"], max_unfinished_jobs=3)
    assert path.stat().st_mode & 0o077 == 0
    assert key not in path.read_text()
    keys = KeyFile(path)
    ana = keys.find(key)
    assert ana is not None
    assert (ana.name, ana.owner, ana.rights, ana.budget) == ("ana", "ana", RIGHTS, 50.0)
    assert (ana.max_unfinished_jobs, ana.max_stored_gb, ana.requests_per_minute) == (20, 20.0, 600)
    ben = keys.find(other)
    assert ben is not None
    assert (ben.rights, ben.max_unfinished_jobs, ben.budget) == (("read",), 3, None)
    for wrong in ("", "lt-", key[:-1], key + "x", hash_key(key), "ä"):
        assert keys.find(wrong) is None
    assert keys.get_owner("ana") == ana
    assert keys.get_owner("carl") is None
    assert keys.unlimited == []
    assert keys.find_in(f"see {key}!") == "ana"
    assert keys.find_in(f"see lt-{'a' * 43}") is None
    remove_key(path, "ana")
    assert keys.find(key) is None
    assert keys.find(other) == ben


def test_a_key_may_work_with_the_jobs_of_another(path: Path) -> None:
    add_key(path, "ana", budget=5.0, max_unfinished_jobs=2)
    key = add_key(path, "ana-app", owner="ana", rights=["ask"], requests_per_minute=9)
    found = KeyFile(path).find(key)
    assert found is not None
    assert (found.name, found.owner, found.rights) == ("ana-app", "ana", ("ask",))
    assert (found.budget, found.max_unfinished_jobs, found.requests_per_minute) == (5.0, 2, 9)
    with pytest.raises(InvalidSettings, match=r"ana-app works with the jobs of ana"):
        remove_key(path, "ana")


def test_comments_and_limits_written_by_hand_stay(path: Path) -> None:
    add_key(path, "ana")
    path.write_text("# the team\n" + path.read_text() + "  requests_per_minute: null  # trusted\n")
    add_key(path, "ben")
    assert path.read_text().startswith("# the team\n")
    assert "# trusted" in path.read_text()
    assert read_keys(path)["ana"].requests_per_minute is None


def test_json_is_read_and_written_too(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "ana")
    add_key(path, "ben")
    found = KeyFile(path).find(key)
    assert found is not None
    assert found.name == "ana"


def test_a_change_holds_from_the_next_request_and_a_mistake_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = add_key(path, "ana")
    keys = KeyFile(path)
    text = path.read_text()
    replace_text(path, text + "  rights: [read]\n")
    assert keys.find(key).rights == ("read",)  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING, "llmtune"):
        replace_text(path, text + "  colour: red\n")
        assert keys.find(key).rights == ("read",)  # type: ignore[union-attr]
        path.unlink()
        assert keys.find(key) is not None
    assert "the keys stay as they were" in caplog.text
    replace_text(path, text)
    assert keys.find(key).rights == RIGHTS  # type: ignore[union-attr]


HASH = "a" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ana: {}\n", "ana: an entry is a mapping with the key's sha256"),
        ("ana: x\n", "ana: an entry is a mapping"),
        ("7: {sha256: x}\n", "7 is no name for a key"),
        ("'a b': {sha256: x}\n", "'a b' is no name for a key"),
        (f"ana: {{sha256: {HASH[:-1]}}}\n", "ana: sha256"),
        (f"ana: {{sha256: {HASH}, rights: [fly]}}\n", "rights"),
        (f"ana: {{sha256: {HASH}, budget: -1}}\n", "budget"),
        (f"ana: {{sha256: {HASH}, budget: .inf}}\n", ""),
        (f"ana: {{sha256: {HASH}, bugdet: 5}}\n", "bugdet"),
        (f"ana: {{sha256: {HASH}, owner: ben}}\n", "its owner 'ben' is no key of this file"),
        (f"ana: {{sha256: {HASH}, owner: ben, budget: 5}}\n", "budget is the owner's, ben"),
        (f"ana: {{sha256: {HASH}}}\nben: {{sha256: {HASH}}}\n", "another entry has the same key"),
        ("[]\n", "a key file is a mapping"),
        ("ana: [\n", "broken YAML"),
    ],
)
def test_a_wrong_file_is_named_with_its_entry(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        KeyFile(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    with pytest.raises(InvalidSettings):
        add_key(path, "new")
    assert path.read_text() == text


def test_a_chain_of_owners_is_refused(path: Path) -> None:
    add_key(path, "ana")
    add_key(path, "ben", owner="ana")
    before = path.read_text()
    with pytest.raises(InvalidSettings, match="its owner 'ben' belongs to ana itself"):
        add_key(path, "carl", owner="ben")
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_not_there_is_said(path: Path) -> None:
    for call in (lambda: KeyFile(path), lambda: remove_key(path, "ana")):
        with pytest.raises(InvalidSettings, match="no such key file"):
            call()
    add_key(path, "ana")
    with pytest.raises(InvalidSettings, match="has a key 'ana' already"):
        add_key(path, "ana")
    with pytest.raises(InvalidSettings, match="is no name for a key"):
        add_key(path, "a b")
    with pytest.raises(UnknownName, match="ana"):
        remove_key(path, "anna")
    remove_key(path, "ana")
    with pytest.raises(InvalidSettings, match="holds no key"):
        KeyFile(path)


def test_one_key_of_the_environment_has_every_right_and_no_limit() -> None:
    keys = SingleKey("secret-key")
    key = keys.find("secret-key")
    assert key is not None
    assert (key.owner, key.rights, key.budget, key.requests_per_minute) == ("", RIGHTS, None, None)
    assert keys.find("secret-kez") is None
    assert keys.get_owner("") == key
    assert keys.get_owner("ana") is None
    assert keys.unlimited == [""]
