"""`llmtune keys`: what an admin types, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import LlmtuneError
from llmtune.runs.planned import StartOptions
from llmtune.server.tuning.keys import KeyFile
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, client, quick, upload, vendor, wait

__all__ = ["quick", "vendor"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_key_is_printed_once_and_listed_by_name(folder: Path) -> None:
    added = run("keys", "add", "ana", "--budget", "50", "--rights", "read, tune")
    assert added.exit_code == 0
    key = added.stdout.strip()
    assert KeyFile(folder / "keys.yaml").find(key) is not None
    assert "ana may tune, read" in added.stderr
    assert key not in added.stderr
    assert run("keys", "add", "app", "--owner", "ana", "--rights", "ask").exit_code == 0
    listed = run("keys", "list")
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["name", "owner", "rights", "budget", "spent", "unfinished", "jobs"],
        ["ana", "tune,", "read", "50.00", "0.00", "0", "of", "20"],
        ["app", "ana", "ask", "50.00", "0.00", "0", "of", "20"],
    ]
    document = json.loads(run("keys", "list", "--json").stdout)
    assert document["keys"][1]["owner"] == "ana"
    assert "sha256" not in document["keys"][0]
    with pytest.raises(LlmtuneError, match="app works with the jobs of ana"):
        run("keys", "remove", "ana")
    assert run("keys", "remove", "app").exit_code == 0
    assert run("keys", "remove", "ana").exit_code == 0
    assert run("keys", "list").stdout.strip() == "no keys yet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "ana", "--rights", "tune,fly"], "unknown right 'fly'"),
        (["add", "a b"], "is no name for a key"),
        (["add", "ana", "--owner", "nobody"], "its owner 'nobody' is no key of this file"),
        (["add", "ana", "--keys", "nowhere/keys.yaml"], "cannot be written"),
        (["list"], "no such key file"),
        (["list", "--keys", "."], "not a regular file but a folder"),
        (["remove", "ana"], "no such key file"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    before = list(folder.iterdir())
    with pytest.raises(LlmtuneError) as caught:
        run("keys", *arguments)
    assert message in caught.value.message
    assert caught.value.exit_code in (1, 2)
    assert list(folder.iterdir()) == before


def test_what_is_spent_is_listed(folder: Path, vendor: Fake, monkeypatch: pytest.MonkeyPatch, quick: Any) -> None:
    from llmtune.server.tuning.server import TuningServer

    monkeypatch.setenv("LLMTUNE_FAKE_PRICE", "1000")
    key = run("keys", "add", "ana", "--budget", "50").stdout.strip()
    with (
        TuningServer({BASE: "fake:m-1"}, port=0, keys="keys.yaml", spending=StartOptions(yes=True)) as server,
        client(server, key) as api,
    ):
        job = api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id, hyperparameters={"n_epochs": 1})
        assert wait(api, job.id).status == "succeeded"
    (row,) = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert row["unfinished_jobs"] == 0
    assert row["spent"] > 0
