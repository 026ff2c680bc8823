"""Pages of comparisons and rescues: the same kind of page, from other sections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.panel.measure import PanelRun
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import MetricPoint, NotReported, Series
from llmtune.provider.generation import Unavailable
from llmtune.provider.limits import Price
from llmtune.report.leaderboard.board import Board, Entry, build_board
from llmtune.report.schema import Report
from llmtune.rescues.results import DataFile, GoldenSet, RescueReport, RescueSource
from llmtune.sweeps.results import Finalist, Sweep, TrialRow
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.evaluation.conftest import LABELS, Likely, often, ticket
from tests.llmtune.evaluation.panel.test_measure import adds, panel_of, question
from tests.llmtune.evaluation.panel.test_measure import run as ask_panel
from tests.llmtune.report.conftest import evaluation, identity, make, points
from tests.llmtune.report.html.test_page import Reader, data_of
from tests.llmtune.web.conftest import job

Watch = Callable[..., Any]
EVIL = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>"


def entry(label: str, report: Report | None, **changes: Any) -> Entry:
    fields: dict[str, Any] = {"label": label, "provider": label.split(":")[0], "model": "m", "report": report}
    return Entry(**(fields | {"price": Price(), "lifecycle": f"{label} takes jobs until 2027-01-06"} | changes))


def board(evil: str = "") -> Board:
    """Three members: one good, one poor, one that failed."""
    poor = make(
        identity=identity(run_id="poor00000000", provider="cloud"),
        evaluation=evaluation(generators={"base": Likely(lambda _: "bug"), "tuned": Likely(lambda _: "feature")}),
        points=[MetricPoint(step=p.step, series=p.series, value=p.value * 1.3) for p in points()],
    )
    members = [
        entry(f"local{evil}", make(), hosted=False),
        entry("cloud:m-1", poor),
        entry("gone", None, error=f"it takes no jobs any more {evil}"),
    ]
    return build_board(f"router{evil}", "g1", members, warnings=[f"take care {evil}"])


def rescue(evil: str = "") -> RescueReport:
    rows = [ticket(number) for number in range(90)]
    labels = evaluate(
        rows,
        {"old": Likely(often), "new": Likely(lambda _: "bug")},
        EvaluationSpec(max_rows=500),
        scoring=ScoringOptions(labels=LABELS, resamples=200),
    )
    return RescueReport(
        source=RescueSource(
            provider="cloud",
            model=f"ft:m-1{evil}",
            base="m-1",
            job="job-1",
            unmapped={f"odd{evil}": 3},
            files={"train": DataFile(path="data/train.jsonl", rows=300, sha256="0f" * 32, came_from="file-1")},
            gone={"validation": f"404 {evil}"},
        ),
        provider="local",
        model="tiny",
        run="r1",
        golden=GoldenSet(rows=90, answered=90, sampling={"temperature": 0.0}),
        labels=labels,
        agreement=NotReported("there is no golden set"),
        dropped={"batch_size": "too large"},
        cost="0.00 USD",
    )


def ids(text: str) -> list[str | None]:
    return [attributes.get("id") for tag, attributes in Reader(text).tags if tag == "section"]


# --- comparisons -----------------------------------------------------------------------------------------------------
def test_everything_of_the_board_is_in_its_page() -> None:
    leaderboard = board()
    text = leaderboard.to_html()
    page_text = " ".join(Reader(text).text)
    for sentence in (*leaderboard.verdict, *leaderboard.warnings):
        assert sentence in page_text
    for row in leaderboard.standings:
        assert row.label in page_text
        assert row.lifecycle in page_text
    assert "told apart" in page_text
    assert "p (Holm)" in page_text
    assert "it takes no jobs any more" in page_text
    assert "the next one up" in page_text
    assert ids(text)[:3] == ["standings", "pairs", "curves"]
    charts = data_of(text)["charts"]
    assert [chart["id"] for chart in charts] == ["validation/loss", "train/loss"]
    assert {curve["label"] for curve in charts[0]["curves"]} == {"local", "cloud:m-1"}
    assert len(text.encode()) < 1_500_000


@pytest.mark.parametrize("width", [390, 1440])
def test_a_boards_page_in_a_browser(watch: Watch, tmp_path: Path, width: int) -> None:
    file = tmp_path / "board.html"
    file.write_text(board(EVIL).to_html(), encoding="utf-8")
    watched = watch(offline=True, viewport={"width": width, "height": 800}, color_scheme="dark")
    watched.page.goto(file.as_uri())
    watched.until("document.querySelectorAll('.plot canvas').length === 2")
    table = watched.page.locator("#standings table")
    table.get_by_role("button", name="quality").click()
    qualities = [text.split("%")[0] for text in table.locator("tbody td:nth-child(2)").all_inner_texts() if "%" in text]
    assert [float(text) for text in qualities] == sorted(map(float, qualities), reverse=True)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert EVIL in watched.page.locator("h1").inner_text()
    assert watched.page.evaluate("window.broken === undefined")
    assert watched.page.locator("img, main script").count() == 0
    assert watched.complaints == []
    assert watched.requests == [file.as_uri()]


def test_a_board_in_a_file_has_every_shape(tmp_path: Path) -> None:
    leaderboard = board()
    (tmp_path / "board.json").write_text(leaderboard.to_json())
    result = CliRunner().invoke(
        app, ["report", str(tmp_path / "board.json"), "--format", "html"], catch_exceptions=False
    )
    assert result.stdout == leaderboard.to_html()
    plain = CliRunner().invoke(app, ["report", str(tmp_path / "board.json")], catch_exceptions=False)
    assert leaderboard.verdict[0].split()[0] in plain.stdout
    marked = CliRunner().invoke(app, ["report", str(tmp_path / "board.json"), "-f", "markdown"], catch_exceptions=False)
    assert marked.stdout == leaderboard.to_markdown()


@pytest.mark.slow
def test_compare_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(tmp_path).save(tmp_path / "job.yaml")
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        members = "fake,fake:m-2[epochs=3]"
        result = CliRunner().invoke(
            app,
            [
                "compare",
                str(tmp_path / "job.yaml"),
                "-p",
                members,
                "--yes",
                "-f",
                "html",
                "-o",
                str(tmp_path / "b.json"),
            ],
            catch_exceptions=False,
        )
    assert result.exit_code == 0, result.stderr
    stored = Board.model_validate_json((tmp_path / "b.json").read_text())
    assert result.stdout == stored.to_html()


# --- rescues ---------------------------------------------------------------------------------------------------------
def test_everything_of_the_rescue_is_in_its_page(watch: Watch, tmp_path: Path) -> None:
    text = rescue(EVIL).to_json()
    (tmp_path / "report.json").write_text(text)
    (tmp_path / "rescue.json").write_text(json.dumps({}))
    result = CliRunner().invoke(
        app, ["report", str(tmp_path), "-o", str(tmp_path / "page.html")], catch_exceptions=False
    )
    assert result.exit_code == 0
    file = tmp_path / "page.html"
    watched = watch(offline=True, viewport={"width": 390, "height": 800})
    watched.page.goto(file.as_uri())
    page_text = watched.page.locator("main").inner_text()
    for expected in ("Old against new", "The new model is worse", "data/train.jsonl", "batch_size", "too large", EVIL):
        assert expected in page_text
    assert "not reported (there is no golden set)" in page_text
    assert "recall old" in page_text
    assert watched.page.locator("#labels tbody tr").count() >= len(LABELS)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.page.evaluate("window.broken === undefined")
    assert watched.complaints == []
    assert watched.requests == [file.as_uri()]


def test_a_file_that_is_neither_is_a_sentence(tmp_path: Path) -> None:
    from llmtune.errors import InvalidData

    (tmp_path / "board.json").write_text('{"standings": 3}')
    with pytest.raises(InvalidData, match="is not a valid board"):
        CliRunner().invoke(app, ["report", str(tmp_path / "board.json")], catch_exceptions=False)


def test_an_absent_model_says_why() -> None:
    report = rescue()
    rows = [ticket(number) for number in range(30)]
    alone = evaluate(
        rows,
        {"old": Unavailable("it is gone"), "new": Likely(often)},
        EvaluationSpec(),
        scoring=ScoringOptions(labels=LABELS),
    )
    assert "The old model was not asked: it is gone" in report.model_copy(update={"labels": alone}).to_html()


def test_no_section_takes_the_place_of_the_pages_data() -> None:
    """The script finds its data by an id: a section of the same id would hide it."""
    for result in (rescue(), board(), make()):
        html = result.to_html()
        ids = [attributes["id"] for _, attributes in Reader(html).tags if attributes.get("id")]
        assert len(ids) == len(set(ids))


# --- sweeps ----------------------------------------------------------------------------------------------------------
def searched(evil: str = "") -> Sweep:
    """Three trials that came to a value, one that was pruned, one that failed."""

    def trial(number: int, rate: float, state: Any, value: float | None, **fields: Any) -> TrialRow:
        at = [MetricPoint(step=step, series="validation/loss", value=2.0 / step + rate) for step in range(1, 6)]
        curve = Series(name="validation/loss", points=tuple(at))
        params = {"learning_rate": rate, "lora_target_modules": f"all{evil}"}
        return TrialRow(
            number=number, params=params, state=state, value=value, curve=curve, cost=1.5, steps=5, **fields
        )

    return Sweep(
        name=f"router{evil}",
        provider="cloud",
        group="sweep 1",
        method="bayesian",
        metric="validation/loss",
        direction="minimize",
        trials=(
            trial(0, 0.3, "complete", 0.7, run=f"r0{evil}"),
            trial(1, 0.1, "complete", 0.5, run="r1"),
            trial(2, 0.2, "complete", 0.6, run="r2"),
            trial(3, 0.9, "pruned", None, run="r3", note=f"pruned at step 2 of 5 {evil}"),
            trial(4, 0.4, "failed", None, note="the service was down"),
        ),
        importance={"learning_rate": 0.9, "lora_target_modules": 0.1},
        finalists=(
            Finalist(
                params={"learning_rate": 0.1},
                metric="accuracy",
                values=(0.9, 0.92),
                mean=0.91,
                interval=Interval(low=0.85, high=0.97, level=0.95, method="t over seeds"),
                runs=("f1", "f2"),
            ),
        ),
        spent=7.5,
        budget=8.0,
        stopped=f"the budget {evil}",
        job=TuningJob(name="router", dataset="rows.jsonl", model="m"),
    )


def test_everything_of_the_sweep_is_in_its_page() -> None:
    text = searched().to_html()
    page_text = " ".join(Reader(text).text)
    for expected in (
        "best: learning_rate 0.1",
        "trial 1; 5 trials",
        "pruned at step 2 of 5",
        "7.50 USD",
        "0.850 to 0.970",
        "90%",
    ):
        assert expected in page_text, expected
    (chart,) = data_of(text)["charts"]
    assert [curve["label"] for curve in chart["curves"]] == ["trial 1", "trial 2", "trial 0"]


@pytest.mark.parametrize("width", [390, 1440])
def test_a_sweeps_page_in_a_browser(watch: Watch, tmp_path: Path, width: int) -> None:
    file = tmp_path / "sweep.html"
    file.write_text(searched(EVIL).to_html(), encoding="utf-8")
    watched = watch(offline=True, viewport={"width": width, "height": 800}, color_scheme="dark")
    watched.page.goto(file.as_uri())
    watched.until("document.querySelectorAll('.plot canvas').length === 1")
    table = watched.page.locator("#trials table")
    table.get_by_role("button", name="learning_rate").click()
    rates = [float(text) for text in table.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert rates in (sorted(rates), sorted(rates, reverse=True))
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert EVIL in watched.page.locator("h1").inner_text()
    assert watched.page.evaluate("window.broken === undefined")
    assert watched.complaints == []
    assert watched.requests == [file.as_uri()]


def test_a_sweep_in_a_file_has_every_shape(tmp_path: Path) -> None:
    result = searched()
    result.save(tmp_path / "sweep.json")
    shown_page = CliRunner().invoke(app, ["report", str(tmp_path / "sweep.json"), "-f", "html"], catch_exceptions=False)
    assert shown_page.stdout == result.to_html()
    plain = CliRunner().invoke(app, ["report", str(tmp_path / "sweep.json")], catch_exceptions=False)
    assert "best: learning_rate 0.1" in plain.stdout
    marked = CliRunner().invoke(app, ["report", str(tmp_path / "sweep.json"), "-f", "markdown"], catch_exceptions=False)
    assert marked.stdout == result.to_markdown()


def test_a_board_has_a_column_of_the_panel_and_warns_of_losses(tmp_path: Path) -> None:
    sums = panel_of(tmp_path / "sums.jsonl", *map(question, range(100)))
    base = Likely(adds(below=90), loss=1.0)
    members = [
        entry(name, make(evaluation=ask_panel(PanelRun(sums, EvaluationSpec()), base, Likely(adds(below=right)))))
        for name, right in (("kept:m", 90), ("lost:m", 50))
    ]
    board = build_board("router", "g1", members)
    by_label = {row.label: row for row in board.standings}
    assert not isinstance(by_label["lost:m"].panel, NotReported)
    assert by_label["lost:m"].panel.value == 0.5
    assert [test.verdict for test in by_label["kept:m"].panel_tests] == ["not worse", "not worse"]
    assert by_label["kept:m as it is"].panel_tests == ()
    (warning,) = (text for text in board.warnings if "outside the task" in text)
    assert warning.startswith("lost:m: The tuned model is worse than its base by more than 5.0 points outside the task")
    for text in (board.to_html(), board.to_markdown()):
        assert "panel" in text
        assert "50.0%" in text
    plain = build_board("router", "g1", [entry("kept:m", make())])
    assert "| panel" not in plain.to_markdown()
    assert Board.model_validate_json(board.to_json()) == board
