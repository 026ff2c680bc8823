"""Sinks show the report's points: written through each tool's own library, read back through it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune import attach, tune
from llmtune.errors import (
    InvalidJob,
    LlmtuneError,
    MissingExtra,
    RunFailed,
    UnknownName,
    UnsupportedHyperparameterWarning,
)
from llmtune.metrics.points import MetricPoint, Series
from llmtune.metrics.samples import Sample
from llmtune.provider.types import RunState, Snapshot
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.store.store import Store, open_store
from llmtune.runs.tracking import TrackerFeeds
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.web.conftest import job, slowly

QUICK = PollInterval(first=0.005, most=0.02)
Points = dict[tuple[str, int], float]
Read = Callable[[Path], Points]


@pytest.fixture
def vendor() -> Iterator[Fake]:
    with Fake() as fake:
        fake.say = lambda prompt, *, tuned: prompt.split()[-1] if tuned else "shipping"  # type: ignore[method-assign, assignment]
        slowly(fake, looks=6, steps=30)
        yield fake


@pytest.fixture
def provider(vendor: Fake) -> FakeProvider:
    return FakeProvider("fake", FakeSettings(base_url=vendor.url))


@pytest.fixture(autouse=True)
def quiet_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tool calls home, and each writes into the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    yield
    if "wandb" in sys.modules:  # it keeps the folder of its first run
        sys.modules["wandb"].teardown()


@pytest.fixture(scope="session")
def empty_tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty MLflow store once: creating its tables takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    place = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place}")
    client.create_experiment("trials", artifact_location=str(place.parent / "artifacts"))
    return place


@pytest.fixture(autouse=True)
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each test that speaks of MLflow has a copy."""
    if "mlflow" in request.node.name or "results_go_along" in request.node.name:
        shutil.copy(request.getfixturevalue("empty_tracker"), tmp_path / "mlflow.db")


# --- each tool's own reader ------------------------------------------------------------------------------------------
def from_tensorboard(folder: Path) -> Points:
    """Through TensorBoard's event accumulator, over the whole folder of the run."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: list[tuple[tuple[str, int], float]] = []
    for place in {path.parent for path in folder.rglob("*tfevents*")}:
        reader = EventAccumulator(str(place), size_guidance={"scalars": 0})
        reader.Reload()
        found += [((tag, each.step), each.value) for tag in reader.Tags()["scalars"] for each in reader.Scalars(tag)]
    assert len(found) == len(dict(found)), "a point was written twice"
    return dict(found)


def from_mlflow(folder: Path) -> Points:
    """Through MLflow's client, from a tracking store in SQLite."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trials")
    (run,) = client.search_runs([experiment.experiment_id])
    found = [
        ((name, each.step), each.value)
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(found) == len(dict(found)), "a point was written twice"
    return dict(found)


def wandb_records(path: Path) -> Iterator[Any]:
    """Read the records of an offline W&B file: LevelDB log format after a header of seven bytes, then protobufs."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if kind == 0:
            break
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_rows(path: Path) -> Iterator[dict[str, Any]]:
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {(each.key or ".".join(each.nested_key)): json.loads(each.value_json) for each in items}


def from_wandb(folder: Path) -> Points:
    pytest.importorskip("wandb")
    found: list[tuple[tuple[str, int], float]] = []
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        for row in wandb_rows(path):
            found += [
                ((name, row["step"]), float(value)) for name, value in row.items() if name != "step" and name[0] != "_"
            ]
    assert len(found) == len(dict(found)), "a point was written twice"
    return dict(found)


SINKS = {
    "tensorboard": ("tensorboard:boards", from_tensorboard),
    "mlflow": ("mlflow:sqlite:///mlflow.db#trials", from_mlflow),
    "wandb": ("wandb:trials", from_wandb),
}
EACH = pytest.mark.parametrize(("spec", "read"), SINKS.values(), ids=SINKS)


def curves(report: Report) -> Points:
    return {
        (name, point.step): point.value
        for name, series in report.series.items()
        if isinstance(series, Series)
        for point in series.points
    }


def same(found: Points, report: Report) -> None:
    """Check that the tracker's points are the report's, no more and no fewer."""
    wanted = curves(report)
    assert len(wanted) >= 36
    shown = {place: value for place, value in found.items() if not place[0].startswith("test/")}
    assert shown.keys() == wanted.keys()
    for place, value in wanted.items():  # TensorBoard keeps single precision
        assert shown[place] == pytest.approx(value, rel=1e-6, nan_ok=True), place


# --- the same points -------------------------------------------------------------------------------------------------
@pytest.mark.slow
@EACH
def test_a_sink_shows_the_points_of_the_report(spec: str, read: Read, provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip(spec.partition(":")[0])
    report = tune(job(tmp_path), provider, sinks=[spec], pace=QUICK)
    same(read(tmp_path), report)


def test_the_results_go_along(provider: FakeProvider, tmp_path: Path) -> None:
    report = tune(job(tmp_path), provider, sinks=[SINKS["tensorboard"][0], SINKS["mlflow"][0]], pace=QUICK)
    assert report.evaluation
    for read in (from_tensorboard, from_mlflow):
        found = read(tmp_path)
        assert found["test/accuracy", 30] == pytest.approx(1.0)
        assert found["test/base/accuracy", 30] == pytest.approx(8 / 24)
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tickets"
    assert run.data.params["epochs"] == "2"
    assert run.data.tags["llmtune.run"] == report.identity.run_id


@pytest.mark.slow
def test_wandb_gets_points_and_results_and_nothing_of_this_machine(provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    report = tune(job(tmp_path), provider, sinks=["wandb:trials"], pace=QUICK)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = list(wandb_records(path))
    (told,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert (told.run_id, told.project, told.display_name) == (report.identity.run_id, "trials", "tickets")
    summary = {
        (each.key or ".".join(each.nested_key)): each.value_json
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for each in record.summary.update
    }
    assert json.loads(summary["test/accuracy"]) == 1.0
    assert not [record for record in records if record.WhichOneof("record_type") in ("stats", "output", "output_raw")]


@EACH
def test_a_run_that_failed_keeps_its_curves(
    spec: str, read: Read, vendor: Fake, provider: FakeProvider, tmp_path: Path
) -> None:
    pytest.importorskip(spec.partition(":")[0])
    vendor.outcome = "failure"
    vendor.steps = 40
    with pytest.raises(RunFailed) as failed:
        tune(job(tmp_path), provider, sinks=[spec], pace=QUICK)
    report = failed.value.report
    assert read(tmp_path).keys() == curves(report).keys()


async def _async(provider: FakeProvider, folder: Path) -> Report:
    from llmtune.runs.api import tune_async

    return await tune_async(job(folder), provider, sinks=["tensorboard:boards"], pace=QUICK)


def test_the_async_twins_feed_too(provider: FakeProvider, tmp_path: Path) -> None:
    import asyncio

    pytest.importorskip("tensorboard")
    report = asyncio.run(_async(provider, tmp_path))
    same(from_tensorboard(tmp_path), report)


# --- each point once -------------------------------------------------------------------------------------------------
@pytest.mark.slow
@EACH
def test_whoever_comes_back_goes_on_where_the_other_stopped(
    spec: str, read: Read, provider: FakeProvider, vendor: Fake, tmp_path: Path
) -> None:
    pytest.importorskip(spec.partition(":")[0])
    slowly(vendor, looks=20, steps=40)
    run = start(job(tmp_path), provider, sinks=[spec])
    seen: list[int] = []

    class Enough(Exception):
        pass

    def leave(update: Any) -> None:
        seen.extend(point.step for point in update.points)
        if len(seen) > 8:
            raise Enough

    with pytest.raises(Enough):
        run.wait(pace=QUICK, on_update=leave)
    assert 0 < max(seen) < 40
    report = attach(run.id, provider=provider).wait(pace=QUICK)
    same(read(tmp_path), report)
    attach(run.id, provider=provider).wait(pace=QUICK)  # nothing is left to do
    same(read(tmp_path), report)


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/providers"]
from pathlib import Path
from llmtune.runs.poller import PollInterval
from llmtune.runs.api import start
from llmtune.runs.store.store import Store
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from tests.llmtune.web.conftest import job

original = Store.set_ref
def set_ref(self, run_id, name, ref):
    # Between writing to the sink and noting that it was done: the worst moment.
    if name.startswith("sink:") and ref.data["after"] > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, run_id, name, ref)
Store.set_ref = set_ref
run = start(job(Path({folder!r})), FakeProvider("fake", FakeSettings(base_url={url!r})), sinks=[{spec!r}])
run.wait(pace=PollInterval(first=0.005, most=0.02))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_process_killed_between_writing_and_noting_leaves_no_point_twice(
    name: str, provider: FakeProvider, vendor: Fake, tmp_path: Path
) -> None:
    spec, read = SINKS[name]
    pytest.importorskip(name)
    root = str(Path(__file__).resolve().parents[2])
    script = textwrap.dedent(KILLED).format(root=root, folder=str(tmp_path), url=vendor.url, spec=spec)
    died = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    (record,) = open_store().runs()
    report = attach(record.id, provider=provider).wait(pace=QUICK)
    same(read(tmp_path), report)


@pytest.mark.slow
@EACH
def test_what_the_vendors_file_corrects_is_corrected(
    spec: str, read: Read, provider: FakeProvider, tmp_path: Path
) -> None:
    pytest.importorskip(spec.partition(":")[0])
    run = start(job(tmp_path), provider, sinks=[spec])
    store = open_store()
    rounded = [
        MetricPoint(step=n, series="train/loss", value=round(1 / n, 2), source="vendor_api") for n in range(1, 40)
    ]
    store.add_points(run.id, rounded)
    feeds = TrackerFeeds(store, run.id)
    feeds.update()
    exact = [MetricPoint(step=n, series="train/loss", value=1 / n, source="vendor_file") for n in range(1, 40)]
    odd = MetricPoint(step=40, series="train/own <name> & more", value=math.nan)
    store.add_points(run.id, [*exact, odd])
    feeds.close()
    report = run.wait(pace=QUICK)
    name = "train/own _name_ _ more" if spec.startswith("mlflow") else odd.series
    wanted = curves(report)
    wanted[name, 40] = wanted.pop((odd.series, 40))
    if spec.startswith("wandb"):  # a W&B run cannot be corrected: the exact points are a run of their own
        paths = [*tmp_path.glob("wandb/offline-run-*-corrected/*.wandb")]
        assert len(paths) == 1
        rows = list(wandb_rows(paths[0]))
        found: Points = {
            (key, row["step"]): float(row[key]) for row in rows for key in row if key != "step" and key[0] != "_"
        }
    else:
        found = {place: value for place, value in read(tmp_path).items() if not place[0].startswith("test/")}
    assert found.keys() == wanted.keys()
    for place, value in wanted.items():
        assert found[place] == pytest.approx(value, rel=1e-6, nan_ok=True)


def test_a_finished_run_can_be_sent_later(provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    report = tune(job(tmp_path), provider, pace=QUICK)
    run = attach(report.identity.run_id, provider=provider)
    run.feed(["tensorboard:later"])
    run.wait(pace=QUICK)
    same(from_tensorboard(tmp_path / "later"), report)


@pytest.mark.slow
def test_two_runs_stand_side_by_side(provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for name in ("one / two", "three"):
        tune(job(tmp_path, name=name), provider, sinks=["tensorboard:boards"], pace=QUICK)
    folders = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "boards").iterdir())
    assert folders == ["one-two", "three"]


# --- answers while training ------------------------------------------------------------------------------------------
def start_with_answers(folder: Path, provider: FakeProvider, spec: str, samples: int | None = 2) -> Run:
    """Start a run whose job asks for answers; its vendor shows none by itself, so the test adds them (`answered`)."""
    plain = job(folder)
    asking = plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"samples": samples})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedHyperparameterWarning)
        return start(asking, provider, sinks=[spec])


def answered(run: Run, store: Store, *steps: int) -> None:
    samples = tuple(
        Sample(step=step, number=number, prompt=f"question {number}", expected="yes", answer=f"<b>answer</b> {step}")
        for step in steps
        for number in (1, 2)
    )
    store.record(run.id, Snapshot(state=RunState.RUNNING, raw_state="running", samples=samples))


def texts_in_tensorboard(folder: Path) -> dict[int, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {path.parent for path in folder.rglob("*tfevents*")}
    reader = EventAccumulator(str(place))
    reader.Reload()
    tag = "samples/text_summary"
    assert reader.SummaryMetadata(tag).plugin_data.plugin_name == "text"
    events = reader.Tensors(tag)
    assert len(events) == len({event.step for event in events}), "a step was written twice"
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events}


def texts_in_mlflow(folder: Path) -> dict[int, str]:
    paths = folder.rglob("step-*.md")
    return {int(path.stem.removeprefix("step-")): path.read_text() for path in paths}


@pytest.mark.parametrize(
    ("name", "read"),
    [("tensorboard", texts_in_tensorboard), pytest.param("mlflow", texts_in_mlflow, marks=pytest.mark.slow)],
)
def test_answers_while_training_go_along_as_text(
    name: str,
    read: Callable[[Path], dict[int, str]],
    provider: FakeProvider,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip(name)
    run = start_with_answers(tmp_path, provider, SINKS[name][0])
    store = open_store()
    answered(run, store, 0)
    run.wait(pace=QUICK)
    folder = tmp_path
    if name == "mlflow":  # where the empty store keeps its files
        folder = Path(open_mlflow(tmp_path).artifact_location.removeprefix("file://")) / only_mlflow_run(tmp_path)
    texts = read(folder)
    assert list(texts) == [0]
    assert "    question 2\n" in texts[0]
    assert "    <b>answer</b> 0" in texts[0]  # as it is: Markdown shows an indented block so


def open_mlflow(folder: Path) -> Any:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return client.get_experiment_by_name("trials")


def only_mlflow_run(folder: Path) -> str:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([open_mlflow(folder).experiment_id])
    return str(run.info.run_id)


def test_answers_are_written_once_whoever_follows_the_run(provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = start_with_answers(tmp_path, provider, SINKS["tensorboard"][0])
    store = open_store()
    for step in (0, 5):
        answered(run, store, step)
        store.add_points(run.id, [MetricPoint(step=step + 1, series="train/loss", value=1.0)])
        feeds = TrackerFeeds(store, run.id)
        feeds.update()
        feeds.update()
        feeds.close()
    run.wait(pace=QUICK)
    assert sorted(texts_in_tensorboard(tmp_path / "boards")) == [0, 5]


def test_a_sink_that_takes_no_texts_still_gets_the_points(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from llmtune.trackers.tensorboard import TensorBoardTracker

    def refuse(*_: object) -> None:
        raise PermissionError("no artifacts here")

    monkeypatch.setattr(TensorBoardTracker, "write_samples", refuse)
    run = start_with_answers(tmp_path, provider, SINKS["tensorboard"][0])
    answered(run, open_store(), 0)
    answered(run, open_store(), 5)
    report = run.wait(pace=QUICK)
    same(from_tensorboard(tmp_path / "boards"), report)
    sentences = [warning for warning in report.warnings if "takes no answers" in warning]
    assert [sentence.rpartition(": P")[2] for sentence in sentences] == ["ermissionError: no artifacts here"]


@pytest.mark.slow
def test_answers_are_a_table_in_wandb(provider: FakeProvider, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = start_with_answers(tmp_path, provider, "wandb:trials")
    answered(run, open_store(), 0)
    report = run.wait(pace=QUICK)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [row for row in wandb_rows(path) if any(name.startswith("samples") for name in row)]
    assert [row["step"] for row in rows] == [0]
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/samples*.json")
    assert json.loads(table.read_text())["data"][1] == [2, "question 2", "yes", "<b>answer</b> 0"]
    assert report.succeeded


@pytest.mark.parametrize("samples", [None, 0])
def test_rows_of_the_dataset_leave_for_no_tracker_unless_the_job_asks(
    samples: int | None, provider: FakeProvider, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    run = start_with_answers(tmp_path, provider, SINKS["tensorboard"][0], samples)
    answered(run, open_store(), 0)
    report = run.wait(pace=QUICK)
    assert report.samples[0].answers == {0: "<b>answer</b> 0"}
    (path,) = (tmp_path / "boards").rglob("*tfevents*")
    assert b"<b>answer" not in path.read_bytes()


# --- what can go wrong -----------------------------------------------------------------------------------------------
def test_a_sink_that_breaks_is_a_warning_and_the_run_goes_on(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "boards").write_text("a file where a folder should be")
    report = tune(job(tmp_path), provider, sinks=["tensorboard:boards"], pace=QUICK)
    assert report.succeeded
    told = attach(report.identity.run_id, provider=provider).record.warnings
    assert [each for each in told if each.startswith(f"the sink tensorboard:{tmp_path / 'boards'} stopped: ")]


def refused(vendor: Fake, provider: FakeProvider, tmp_path: Path, spec: str, kind: type[LlmtuneError]) -> LlmtuneError:
    before = len(vendor.requests)
    with pytest.raises(kind) as raised:
        start(job(tmp_path), provider, sinks=[spec])
    assert len(vendor.requests) == before
    assert open_store().runs() == []
    return raised.value


def test_a_sink_nobody_knows_is_refused_before_anything_is_sent(
    vendor: Fake, provider: FakeProvider, tmp_path: Path
) -> None:
    error = refused(vendor, provider, tmp_path, "tensorbord:x", UnknownName)
    assert "did you mean 'tensorboard'?" in error.message


def test_a_password_in_an_address_is_refused(vendor: Fake, provider: FakeProvider, tmp_path: Path) -> None:
    error = refused(vendor, provider, tmp_path, "mlflow:https://me:hunter2@tracker.example", InvalidJob)
    assert "hunter2" not in str(error)


def test_a_tool_that_is_not_installed_is_named(
    vendor: Fake, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(vendor, provider, tmp_path, "wandb", MissingExtra)
    assert error.hint == "pip install 'llmtune-sdk[wandb]'"


@pytest.mark.slow
def test_the_command_line_takes_sinks(vendor: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from llmtune.cli.app import app

    job(tmp_path).save(tmp_path / "job.yaml")
    monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
    made = CliRunner().invoke(
        app,
        [
            "tune",
            "job.yaml",
            "--provider",
            "fake",
            "--yes",
            "--json",
            "--sink",
            "tensorboard:a",
            "--sink",
            "tensorboard:b",
        ],
        catch_exceptions=False,
    )
    assert made.exit_code == 0
    report = Report.from_json(made.stdout)
    same(from_tensorboard(tmp_path / "a"), report)
    same(from_tensorboard(tmp_path / "b"), report)


@pytest.mark.slow
def test_watching_many_feeds_each(vendor: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from llmtune.cli.app import app

    monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
    runs = [start(job(tmp_path, name=name), "fake", sinks=[f"tensorboard:{name}"], new=True) for name in ("a", "b")]
    assert CliRunner().invoke(app, ["runs", "watch"], catch_exceptions=False).exit_code == 0
    for run, name in zip(runs, ("a", "b"), strict=True):
        same(from_tensorboard(tmp_path / name), run.report())
