"""`llmtune export RUN --to PROVIDER`: weights in another provider's account, recorded before they cost money."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner, Result

from llmtune.cli.export import export
from llmtune.errors import LlmtuneError, OverBudget
from llmtune.job.spec import TuningJob
from llmtune.provider import registry
from llmtune.provider.abilities import WeightImport
from llmtune.provider.types import Ref, RunKey
from llmtune.runs.api import attach, start
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store
from llmtune.runs.weight_import import require_importer
from llmtune.testing.fake_provider import FakeProvider
from tests.llmtune.runs.helpers import QUICK

pytestmark = pytest.mark.usefixtures("no_long_pauses")


class Importer:
    """An account that takes weights in; its imports outlive an instance, as at a vendor."""

    name = "cloud"
    imports: ClassVar[dict[str, WeightImport]] = {}
    breaks: ClassVar[bool] = False
    warnings_when_called: ClassVar[tuple[str, ...]] = ()

    def import_cost(self) -> str:
        return "an imported model costs 1 USD an hour"

    def find_import(self, key: RunKey) -> WeightImport | None:
        return self.imports.get(key)

    def import_weights(self, folder: Path, name: str, key: RunKey) -> WeightImport:
        type(self).warnings_when_called = attach(name).record.warnings
        assert (folder / "config.json").is_file()
        if self.breaks:
            raise LlmtuneError("the connection broke")
        self.imports[key] = WeightImport(id="imp-1", state="running", raw_state="InProgress", name=name)
        return self.imports[key]


class WithWeights(FakeProvider):
    """A service that hands out the weights of its models. (A class of its own: what a class can is remembered.)"""

    def export(self, model: Any, format: str, into: Path) -> tuple[str, ...]:
        into.mkdir()
        (into / "config.json").write_text("{}")
        return ("load it",)

    def serving_command(self, model: Any, name: str) -> str | None:
        return None


@pytest.fixture
def run(at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch, vendor: Any) -> Run:
    def provider() -> FakeProvider:
        made = at()
        made.__class__ = WithWeights
        return made

    monkeypatch.setattr(registry, "get_provider", lambda name: Importer() if name == "cloud" else provider())
    monkeypatch.setattr("llmtune.runs.backend.provider_class", lambda kind: WithWeights)
    monkeypatch.setattr(Importer, "imports", {})
    monkeypatch.setattr(Importer, "breaks", False)
    run = start(job, provider())
    run.wait(pace=QUICK)
    return run


def llmtune_export(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(export)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_an_import_is_asked_for_recorded_started_and_followed(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "merged")
    with pytest.raises(OverBudget, match="not known"):
        llmtune_export(run.id, "--to", "cloud", "--out", folder)
    assert not Importer.imports
    started = llmtune_export(run.id, "--to", "cloud", "--out", folder, "--yes")
    assert "imp-1: InProgress" in started.output
    assert f"llmtune export {run.id} --to cloud" in started.output
    assert any("1 USD an hour" in warning for warning in Importer.warnings_when_called), "recorded before it is paid"
    assert any("1 USD an hour" in warning for warning in attach(run.id).record.warnings)
    ref = open_store().ref(run.id, "import:cloud", Ref)
    assert ref is not None
    assert ref.id == "imp-1"
    done = WeightImport(id="imp-1", state="succeeded", raw_state="Completed", model="m-9", notes=("remove it",))
    Importer.imports[run.record.key] = done
    again = llmtune_export(run.id, "--to", "cloud", "--json")
    assert json.loads(again.stdout)["model"] == "m-9"


def test_an_import_that_broke_goes_on_with_the_folder_that_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Importer, "breaks", True)
    with pytest.raises(LlmtuneError, match="broke"):
        run.import_into(Importer(), tmp_path / "merged")  # type: ignore[arg-type]
    ref = open_store().ref(run.id, "import:cloud", Ref)
    assert ref is not None
    assert ref.data["folder"] == str(tmp_path / "merged")
    monkeypatch.setattr(Importer, "breaks", False)
    assert run.import_into(Importer(), tmp_path / "merged").id == "imp-1"  # type: ignore[arg-type]


def test_only_a_provider_that_takes_weights_in_can_be_named() -> None:
    with pytest.raises(LlmtuneError, match="takes in no weights"):
        require_importer(registry.get_provider("openai"))
