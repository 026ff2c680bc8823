"""Commands take the run of a name that they are about, and say which; those that change or remove something ask."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from llmtune.cli.app import app
from llmtune.cli.completion import complete_job_field, complete_model, complete_provider, complete_run, complete_state
from llmtune.errors import AmbiguousRun, LlmtuneError, RunNotFound
from llmtune.provider.types import RunState
from llmtune.rescues import source
from llmtune.runs.store.store import open_store
from tests.llmtune.runs.helpers import a_record


def llmtune(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def three() -> None:
    """Three runs named tickets: two succeeded, the newest one is queued."""
    store = open_store()
    states = {"aaaaaaaaaa": RunState.SUCCEEDED, "bbbbbbbbbb": RunState.SUCCEEDED, "cccccccccc": RunState.QUEUED}
    for number, (run_id, state) in enumerate(states.items(), 1):
        store.create_or_join(a_record(id=run_id, name="tickets", state=state, created=float(number)))


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    "command",
    [
        ["report", "tickets"],
        ["chat", "tickets", "hello"],
        ["export", "tickets"],
        ["serve", "tickets", "--port", "0"],
        ["gate", "tickets", "--baseline", "aaaaaaaaaa", "--better"],
        ["evaluate", "tickets"],
    ],
)
def test_results_are_those_of_the_newest_run_that_succeeded(
    command: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Stop(Exception):
        pass

    def attach(run_id: str, **_: object) -> None:
        opened.append(run_id)
        raise Stop

    monkeypatch.setattr("llmtune.runs.api.attach", attach)
    with pytest.raises(Stop):
        llmtune(*command)
    assert opened == ["bbbbbbbbbb"]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("command", ["attach", "cancel", "watch"])
def test_what_is_followed_or_stopped_is_the_newest_unfinished_run(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def attach(run_id: str, **_: object) -> None:
        opened.append(run_id)
        raise LlmtuneError("stop")

    monkeypatch.setattr("llmtune.runs.api.attach", attach)
    with pytest.raises(LlmtuneError, match="stop"):
        llmtune("runs", command, "tickets")
    assert opened == ["cccccccccc"]


@pytest.mark.usefixtures("three")
def test_which_run_it_is_stands_on_standard_error() -> None:
    result = llmtune("runs", "show", "tickets")
    assert "run cccccccccc: the newest of 3 runs named 'tickets'" in result.stderr
    assert result.stdout.startswith("cccccccccc")
    assert llmtune("runs", "show", "tickets@1").stdout.startswith("aaaaaaaaaa")
    assert llmtune("runs", "show", "tickets/acme@2").stdout.startswith("bbbbbbbbbb")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    "command",
    [
        ["runs", "cleanup", "tickets"],
        ["runs", "adopt", "tickets", "job-1"],
        ["runs", "resubmit", "tickets", "--yes"],
        ["runs", "resume", "tickets"],
        ["rescue", "tickets"],
    ],
)
def test_what_pays_or_removes_never_guesses(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "provider_names", list)  # the vendors are not asked for a model of that name
    with pytest.raises(AmbiguousRun, match=r"3 runs are named 'tickets': cccccccccc \(queued at acme"):
        llmtune(*command)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    open_store().create_or_join(a_record(name="tickets"))
    with pytest.raises(RunNotFound, match="did you mean tickets"):
        llmtune("runs", "show", "tickts")


@pytest.mark.usefixtures("three")
def test_completion_of_runs_providers_states_models_and_fields() -> None:
    assert complete_run("t") == [("tickets", "3 runs, the newest queued at acme")]
    assert ("bbbbbbbbbb", "tickets, succeeded at acme") in complete_run("b")
    assert ("local", "") in complete_provider("lo")
    assert ("local,openai", "") in complete_provider("local,op")
    assert complete_state("succ") == [("succeeded", "")]
    assert ("learning_rate=", "") in complete_job_field("learning")

    class Context:
        params = {"provider": "local"}

    assert ("tiny", "local") in complete_model(Context(), "ti")
    Context.params = {"provider": "openai"}
    assert any(model.startswith("gpt-4.1") for model, _ in complete_model(Context(), "gpt"))
    Context.params = {"provider": "nobody"}
    assert complete_model(Context(), "gpt") == []


def test_completion_makes_no_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("LLMTUNE_HOME", str(home))
    monkeypatch.delenv("LLMTUNE_STORE", raising=False)
    assert complete_run("") == []
    assert not list(home.iterdir())
