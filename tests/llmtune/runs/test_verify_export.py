"""An export is verified as a server is, and the result stands in the run's report: one for each form of export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune.data.example import Message
from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.provider import RenderedPrompt, ServedExport, Unavailable
from llmtune.runs import verifications, verify_export
from llmtune.runs.api import start
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store
from llmtune.testing.fake_provider import FakeProvider
from tests.llmtune.runs.test_verify_run import Stored

pytestmark = pytest.mark.usefixtures("no_long_pauses")


class Words:
    """A template that writes each turn as its words, and reads them by their lengths."""

    begin_token = None
    end_tokens: frozenset[int] = frozenset()

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generation_prompt: bool = True
    ) -> RenderedPrompt:
        text = " ".join(turn.words for turn in messages)
        return RenderedPrompt(text=text, tokens=self.tokenize(text))

    def tokenize(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        return tuple(map(len, text.split()))

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join("x" * token for token in tokens)


class Exporter(FakeProvider):
    """A provider that writes nothing, and serves its exports by what `server` makes of the run."""

    server: Callable[[], Stored] | None = None
    contexts: tuple[int, ...] = ()

    def prompt_renderer(self, model: Any) -> Words:
        return Words()

    def export(self, model: Any, format: str, into: Path) -> Sequence[str]:
        return [f"{format}: load it"]

    def serving_command(self, model: Any, name: str) -> str | None:
        return None

    def export_for_server(self, model: Any, format: str, into: Path, precision: str) -> Sequence[str]:
        return [f"{format}: serve it"]

    def serve_export(
        self, model: Any, folder: Path
    ) -> Callable[[int], AbstractContextManager[ServedExport]] | Unavailable:
        return Unavailable("no server is installed") if self.server is None else self._serve

    @contextmanager
    def _serve(self, tokens: int) -> Iterator[ServedExport]:
        assert self.server is not None
        self.contexts += (tokens,)
        with self.server().running() as address:
            yield ServedExport("acme 1.2", address=address, key="secret-of-the-export")


@pytest.fixture
def provider(at: Callable[..., FakeProvider]) -> Exporter:
    return Exporter("fake", at().settings)


@pytest.fixture
def run(job: TuningJob, provider: Exporter) -> Run:
    split = job.dataset.model_copy(update={"split": (0.5, 0.0, 0.5)})
    evaluation = job.evaluation.model_copy(update={"max_rows": 12, "max_tokens": 20})
    run = start(job.model_copy(update={"dataset": split, "evaluation": evaluation}), provider)
    run.wait()
    return run


def answer(provider: Exporter, run: Run, changed: Callable[[str], str] = lambda text: text) -> None:
    """Let the exports of a run give its own answers, or others."""
    provider.server = lambda: Stored(run, changed)


def test_an_export_that_answers_the_same_stands_in_every_form_of_the_report(
    run: Run, provider: Exporter, tmp_path: Path
) -> None:
    answer(provider, run)
    messages: list[str] = []
    folder = tmp_path / "router"
    notes = run.export("gguf", folder, precision="q8_0", on_progress=messages.append)
    assert notes[0] == "gguf: serve it"
    assert notes[1].startswith(f"gguf export in q8_0 in {folder}, served by acme 1.2: the same: all 12 answers")
    assert messages[0] == f"wrote {folder}"
    assert provider.contexts == (2 + 20,)  # the words of the longest question, and of the longest answer
    report = run.report()
    (result,) = report.verifications
    assert result.export is not None
    assert (result.export.format, result.export.precision, result.export.program) == ("gguf", "q8_0", "acme 1.2")
    assert (result.endpoint, result.verdict, result.rows, result.answers_same) == (str(folder), "same", 12, 12)
    assert result.finished is not None
    for text in (report.to_text(), report.to_markdown(), report.to_html()):
        flat = " ".join(text.replace("\\", "").split())
        assert "export in q8_0" in flat
        assert "answers: 12 of 12 the same" in flat
        assert " UTC" in flat
        assert "secret-of-the-export" not in text
    assert llmtune.Report.from_json(report.to_json()) == report


def test_drift_is_in_the_report_until_that_form_is_exported_again(run: Run, provider: Exporter, tmp_path: Path) -> None:
    answer(provider, run, lambda text: "no, never")
    for precision in ("f16", "q8_0"):
        notes = run.export("gguf", tmp_path / precision, precision=precision)  # type: ignore[arg-type]
    assert any(note.startswith("- another_model_answers: ") for note in notes)
    assert "another_model_answers" in run.report().to_text()
    answer(provider, run)
    with Stored(run).running() as address:
        llmtune.verify(address, run, rows=3)
    run.export("gguf", tmp_path / "again")  # in f16, where nothing is said
    forms = [
        (result.verdict, result.export.precision if result.export is not None else "a server")
        for result in run.report().verifications
    ]
    assert forms == [("drift", "q8_0"), ("same", "a server"), ("same", "f16")]


def test_every_export_is_kept_beside_the_last_servers(run: Run, provider: Exporter, tmp_path: Path) -> None:
    answer(provider, run)
    run.export("merged", tmp_path / "merged")
    result = run.report().verifications[0]
    for number in range(12):
        server = result.model_copy(update={"export": None, "endpoint": f"http://{number}", "finished": 9e9 + number})
        store = open_store()
        name = verifications.begin(store, run.id, endpoint="x", model="m", rows=1)
        verifications.keep(store, run.id, name, server)
    run.export("ollama", tmp_path / "ollama")
    results = run.report().verifications
    assert [result.export.format for result in results if result.export is not None] == ["merged", "ollama"]
    servers = [result.endpoint for result in results if result.export is None]
    assert servers == [f"http://{number}" for number in range(2, 12)]


def test_what_cannot_be_verified_says_why_and_leaves_the_export(run: Run, provider: Exporter, tmp_path: Path) -> None:
    load, why = run.export("merged", tmp_path / "out")
    assert load == "merged: load it"
    assert why == (f"not verified: no server is installed; once a server has it: llmtune verify ADDRESS --run {run.id}")
    assert run.report().verifications == ()
    assert run.export("merged", tmp_path / "out", check_rows=0) == ("merged: load it",)
    with pytest.raises(InvalidJob, match="check_rows is 0 or more"):
        run.export("merged", tmp_path / "out", check_rows=-1)


def test_rows_that_are_not_reached_in_time_are_left_out(
    run: Run, provider: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(provider, run)
    monkeypatch.setattr(verify_export, "EXPORT_SECONDS", 0.0)
    run.export("gguf", tmp_path / "out")
    (result,) = run.report().verifications
    assert result.verdict == "same"
    assert 0 < result.rows <= 8  # the first of them, where they were evaluated
