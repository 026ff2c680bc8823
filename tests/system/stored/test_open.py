"""What an earlier llmtune stored still opens: runs, reports, boards, sweeps, rescues, caches, job files.

Only names that users have are used: the command line and `from llmtune import ...`. What is stored is copied and never
touched where it lies; the README.md in each folder `made_with_...` says what it is. There is one for each released
version, and one of an earlier commit.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import re
import socket
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmtune import Board, Report, RunState, TuningJob, attach, get_provider
from tests.system.stored.service import Service

MADE = sorted(Path(__file__).parent.glob("made_with_*"))
CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"
ROOT, URL, CODE, HOST = "/srv/llmtune", "http://127.0.0.1:8399", "/srv/checkout", "workstation"


class Said(NamedTuple):
    """What a command left with and wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document it printed."""
        return json.loads(self.out)


@cache
def stored_files(made: Path) -> dict[str, bytes]:
    """Everything that a version has stored, by its path."""
    found = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    return {
        name.removesuffix(".xz"): lzma.decompress(data) if name.endswith(".xz") else data
        for name, data in found.items()
    }


class Stored:
    """The stored things in a folder of the test's own, and the service they belong to."""

    def __init__(self, made: Path, root: Path, service: Service) -> None:
        self.root, self.service = root, service
        self.home, self.project = root / "home", root / "project"
        for name, data in stored_files(made).items():
            if b"\0" not in data:
                data = data.replace(ROOT.encode(), str(root).encode()).replace(URL.encode(), service.url.encode())
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        with contextlib.closing(sqlite3.connect(self.home / "store.db")) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.executescript((self.home / "store.sql").read_text())

    def document(self, name: str) -> Any:
        """A stored JSON document."""
        return json.loads((self.root / name).read_text())

    def ids(self) -> dict[str, str]:
        """Ids of the runs by name; `tickets` is the first of that name, the others are a comparison's and a sweep's."""
        return {run["name"]: run["id"] for run in self.document("printed/runs.json")["runs"]}

    def llmtune(self, *arguments: str) -> Said:
        """Type a command in the project's folder."""
        (script,) = entry_points(group="console_scripts", name="llmtune")
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        before, code = sys.argv, 0
        sys.argv = ["llmtune", *arguments]
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                script.load()()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
        shown, told = (each.buffer.getvalue().decode() for each in (out, err))  # type: ignore[attr-defined]
        return Said(code, shown, told)


@pytest.fixture(params=MADE, ids=lambda made: made.name)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Stored]:
    """A copy of everything; commands run in its project folder."""
    root = tmp_path / "stored"
    with Service() as service:
        made = Stored(request.param, root, service)
        service.remember(root / "service.json")
        monkeypatch.setenv("LLMTUNE_HOME", str(made.home))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(made.project)
        yield made


#: What jobs said before and are still read by: `evaluation.baselines` is written now.
REPLACED = (".evaluation.baseline",)


def lacks(now: Any, before: Any, place: str = "") -> list[str]:
    """Where something that was printed before is missing or different now; what is new beside it is no matter."""
    if isinstance(before, dict) and isinstance(now, dict):
        missing = [f"{place}.{name}" for name in before if name not in now]
        missing = [name for name in missing if not name.endswith(REPLACED)]
        shared = [name for name in before if name in now]
        return missing + [line for name in shared for line in lacks(now[name], before[name], f"{place}.{name}")]
    if isinstance(before, list) and isinstance(now, list) and len(now) == len(before):
        pairs = enumerate(zip(now, before, strict=True))
        return [line for number, pair in pairs for line in lacks(*pair, f"{place}[{number}]")]
    return [] if now == before else [f"{place}: {now!r:.200} was {before!r:.200}"]


def accuracy(document: Any) -> float:
    """The tuned model's accuracy in a report as JSON."""
    metrics = document["evaluation"]["systems"]["tuned"]["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "accuracy"))


# --- runs ------------------------------------------------------------------------------------------------------------
def test_every_run_is_listed_as_it_stood(stored: Stored) -> None:
    found = stored.llmtune("runs", "list", "--json", "--limit", "100").json
    assert lacks(found, stored.document("printed/runs.json")) == []
    assert [(run["name"], run["provider"], run["state"]) for run in found["runs"]] == [
        ("under-way", "local", "running"),
        ("here", "local", "succeeded"),
        ("tuned-job-000003", "second", "succeeded"),
        ("tickets", "fake", "succeeded"),
        ("tickets", "fake", "succeeded"),
        ("tickets", "fake", "succeeded"),
        ("tickets", "second", "succeeded"),
        ("stopped", "fake", "cancelled"),
        ("half", "fake", "running"),
        ("waits", "fake", "queued"),
        ("fails", "fake", "failed"),
        ("longer", "fake", "succeeded"),
        ("tickets", "fake", "succeeded"),
    ]
    table = stored.llmtune("runs", "list", "--state", "failed")
    assert "row 3" not in table.out
    assert table.out.split()[7:12] == [stored.ids()["fails"], "fails", "fake", "m-1", "failed"]


@pytest.mark.parametrize("name", ["longer", "fails", "half", "under-way"])
def test_all_that_is_known_of_a_run_is_shown(stored: Stored, name: str) -> None:
    shown = stored.llmtune("runs", "show", name, "--json").json
    assert lacks(shown, stored.document(f"printed/show-{name}.json")) == []


def test_a_succeeded_run_opens_from_python(stored: Stored) -> None:
    run = attach("longer")
    assert run.state is RunState.SUCCEEDED
    assert run.job_ref is not None
    assert run.model_ref is not None
    assert run.model_ref.id == f"tuned:{run.job_ref.id}" == "tuned:job-000004"
    assert [each.state.value for each in run.transitions()] == [
        "planned",
        "uploading",
        "submitting",
        "queued",
        "finalizing",
        "succeeded",
    ]
    assert {point.series for point in run.metrics()} == {"train/loss", "validation/loss"}
    assert len(run.metrics()) == 12
    assert [event.message for _, event in run.events()][-1] == "step 10 done"
    assert run.record.tuning_job.hyperparameters.epochs == 3
    report = run.report()
    assert report.evaluation.systems["tuned"]["accuracy"].value == pytest.approx(11 / 12)
    assert report.identity.state is RunState.SUCCEEDED
    assert stored.service.calls == {}


def test_a_failed_and_a_cancelled_run_say_how_they_ended(stored: Stored) -> None:
    assert "row 3 could not be processed" in stored.llmtune("runs", "show", "fails").out
    assert stored.llmtune("report", "fails", "--json").json["identity"]["state"] == "failed"
    stopped = stored.llmtune("runs", "attach", "stopped", "--json")
    assert stopped.code == 1
    assert stopped.json["identity"]["state"] == "cancelled"
    assert stored.service.calls == {}


def test_the_same_job_finds_its_finished_run(stored: Stored) -> None:
    """The fingerprint of a run is the same as when it was stored: nothing is paid for again."""
    found = stored.llmtune("tune", "job.yaml", "-p", "fake", "-y", "--reuse", "--json")
    assert found.code == 0, found.err
    assert lacks(found.json, stored.document("project/report.json")) == []
    assert stored.service.calls == {}


def test_the_same_job_joins_its_unfinished_run(stored: Stored) -> None:
    joined = stored.llmtune("tune", "waits.yaml", "-p", "fake", "-y", "--detach")
    assert f"run {stored.ids()['waits']} at fake" in joined.err
    assert stored.service.calls == {}


def test_a_queued_run_is_followed_to_its_report_and_no_known_answer_is_asked_again(stored: Stored) -> None:
    stored.service.ends("waits")
    shown = stored.llmtune("runs", "attach", "waits", "--json")
    assert shown.code == 0, shown.err
    assert shown.json["identity"]["run_id"] == stored.ids()["waits"]
    assert accuracy(shown.json) == pytest.approx(11 / 12)
    tuned = shown.json["identity"]["tuned_model"]
    assert stored.service.calls == {f"generate {tuned}": 12}  # and none of the base model, which other runs asked
    usage = {name: system["usage"] for name, system in shown.json["evaluation"]["systems"].items()}
    assert (usage["base"]["cached"], usage["tuned"]["cached"]) == (12, 0)


def test_a_run_half_way_goes_on_and_so_do_its_curves(stored: Stored) -> None:
    pytest.importorskip("tensorboard")
    stored.service.ends("half")
    run = attach("half")
    assert run.state is RunState.RUNNING
    assert max(point.step for point in run.metrics()) == 5
    assert stored.llmtune("runs", "attach", "half").code == 0
    assert [point.step for point in run.metrics() if point.series == "train/loss"] == list(range(1, 11))
    feeds = [
        ref
        for name, ref in stored.llmtune("runs", "show", "half", "--json").json["references"].items()
        if name.startswith("sink:")
    ]
    assert [feed["data"]["done"] for feed in feeds] == [True]
    folder = Path(feeds[0]["data"]["handle"]["folder"])
    assert folder.parent == stored.project / "curves"
    assert [path.name.partition(".tfevents")[0] for path in folder.iterdir()] == ["events.out"]


def test_what_was_made_at_the_service_is_known(stored: Stored) -> None:
    said = stored.llmtune("runs", "cleanup", "--dry-run", "--models", "--json")
    assert lacks(said.json, stored.document("printed/cleanup.json")) == []
    assert "tuned:job-000004" in {each["id"] for each in said.json["removed"]}


# --- runs on this machine --------------------------------------------------------------------------------------------
def test_a_run_of_another_machine_is_left_alone(stored: Stored) -> None:
    said = stored.llmtune("runs", "attach", "under-way", "--timeout", "0.5")
    assert said.code == 1
    assert "did not end within 0.5 s; it goes on" in " ".join(said.err.split())
    run = attach("under-way")
    folder = Path(run.job_ref.data["folder"])  # type: ignore[union-attr]
    status = json.loads((folder / "status.json").read_text())
    assert run.state is RunState.RUNNING
    assert run.record.progress.step == status["step"] >= 10
    assert run.record.warnings[-1] == f"the worker is on {HOST}, which cannot be asked from here"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(run.metrics()) == len(lines)


def test_a_cancelled_worker_of_this_machine_is_found_dead(stored: Stored) -> None:
    folder = Path(attach("under-way").job_ref.data["folder"])  # type: ignore[union-attr]
    for name in ("status.json", "launched", "lock"):
        path = folder / name
        path.write_text(path.read_text().replace(HOST, socket.gethostname()))
    assert stored.llmtune("runs", "cancel", "under-way").code == 0
    assert (folder / "cancel").exists()
    assert stored.llmtune("runs", "attach", "under-way").code == 1
    assert attach("under-way").state is RunState.CANCELLED
    assert len((folder / "launched").read_text().splitlines()) == 1  # and none was started


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_a_run_that_an_earlier_worker_left_is_trained_on_by_the_current_one(stored: Stored) -> None:
    pytest.importorskip("peft")
    folder = Path(attach("under-way").job_ref.data["folder"])  # type: ignore[union-attr]
    for name in ("status.json", "launched", "lock"):  # as if it had been this machine's, and had been restarted
        path = folder / name
        path.write_text(path.read_text().replace(HOST, socket.gethostname()))
    reached = json.loads((folder / "status.json").read_text())["step"]
    request = (folder / "request.json").read_bytes()
    deadline = time.monotonic() + 240
    while attach("under-way").record.progress.step <= reached:
        assert time.monotonic() < deadline, (folder / "worker.log").read_text()
        stored.llmtune("runs", "attach", "under-way", "--timeout", "2")
    assert stored.llmtune("runs", "cancel", "under-way").code == 0
    assert stored.llmtune("runs", "attach", "under-way").code == 1
    run = attach("under-way")
    assert run.state is RunState.CANCELLED
    assert (folder / "request.json").read_bytes() == request
    assert len((folder / "launched").read_text().splitlines()) == 2
    steps = [point.step for point in run.metrics() if point.series == "train/loss"]
    assert steps == list(range(1, len(steps) + 1))  # none lost, none twice
    assert len(steps) > reached


def test_a_model_trained_here_has_its_report_and_place(stored: Stored) -> None:
    run = attach("here")
    report = stored.llmtune("report", "here", "--json").json
    assert lacks(report, stored.document("project/here.json")) == []
    assert report["identity"]["tuned_model"] == run.model_ref.id  # type: ignore[union-attr]
    assert (Path(run.model_ref.id) / "adapter_model.safetensors").is_file()  # type: ignore[union-attr]
    (listed,) = get_provider("local").inventory()
    assert (listed.id, listed.base, listed.job) == (run.model_ref.id, "tiny", run.record.key)  # type: ignore[union-attr]


@pytest.mark.slow
def test_rows_that_were_prepared_are_found_again(stored: Stored) -> None:
    before = stored.document("printed/prepare.json")
    now = stored.llmtune("data", "prepare", "rows.jsonl", "-t", "tiny", "--json").json
    manifests = [json.loads((Path(each["path"]) / "manifest.json").read_text()) for each in (now, before)]
    if manifests[0]["tokenizer"] == manifests[1]["tokenizer"]:  # another version of tokenizers describes it otherwise
        assert now == before | {"made": False}
    assert (now["rows"], now["tokens"], now["trained"]) == (60, before["tokens"], before["trained"])
    assert manifests[0]["shards"][0]["sha256"] == manifests[1]["shards"][0]["sha256"]


# --- results ---------------------------------------------------------------------------------------------------------
def test_reports_open_from_the_store_and_from_a_file(stored: Stored) -> None:
    tickets = stored.ids()["tickets"]
    before = stored.document("project/report.json")
    assert lacks(stored.llmtune("report", tickets, "--json").json, before) == []
    assert lacks(stored.llmtune("report", "report.json", "--json").json, before) == []
    report = Report.load(stored.project / "report.json")
    assert report.identity.run_id == tickets
    assert "91.7%" in report.headline
    for shape in ("markdown", "html", "terminal"):
        shown = stored.llmtune("report", "report.json", "--format", shape)
        assert shown.code == 0
        assert "91.7%" in shown.out


def test_runs_are_compared_as_before(stored: Stored) -> None:
    tickets = stored.ids()["tickets"]
    differ = stored.llmtune("diff", tickets, "longer", "--json")
    assert lacks(differ.json, stored.document("printed/diff.json")) == []
    before = stored.document("printed/gate.json")
    for baseline in (tickets, "report.json"):
        decided = stored.llmtune("gate", "longer", "--baseline", baseline, "--better", "--json")
        assert decided.code == 5
        for name in ("passed", "run", "baseline", "metric", "delta", "comparison", "paired"):
            assert lacks(decided.json[name], before[name]) == [], name


def test_a_board_opens_and_its_comparison_is_not_run_again(stored: Stored) -> None:
    before = stored.document("project/board.json")
    assert lacks(stored.llmtune("report", "board.json", "--json").json, before) == []
    board = Board.model_validate_json((stored.project / "board.json").read_text())
    tuned = [each for each in board.standings if each.kind == "tuned"]
    assert [(each.label, each.model, each.quality.value) for each in tuned] == [
        ("fake", "m-1", pytest.approx(11 / 12)),
        ("second:m-2", "m-2", pytest.approx(11 / 12)),
    ]
    again = stored.llmtune("compare", "job.yaml", "-p", "fake,second:m-2", "-y", "--json")
    assert again.code == 0, again.err
    assert stored.service.calls == {}
    assert again.json["group"] == before["group"]
    computed = ("linear", "nearest", "majority")  # stand on every board now; nobody was asked anything for them
    standings = [
        [(each["label"], each["run"]) for each in one["standings"] if each["kind"] not in computed]
        for one in (again.json, before)
    ]
    assert standings[0] == standings[1]


SPACE = ("-s", "learning_rate=1e-4..1e-2", "-s", "lora_rank=4,8,16", "--method", "random")


def test_a_sweep_opens_and_goes_on_with_the_trials_it_has(stored: Stored) -> None:
    pytest.importorskip("optuna")
    before = stored.document("project/sweep.json")
    assert lacks(stored.llmtune("report", "sweep.json", "--json").json, before) == []
    more = stored.llmtune("sweep", "job.yaml", "-p", "fake", *SPACE, "--trials", "4", "-y", "--json")
    assert more.code == 0, more.err
    assert more.json["group"] == before["group"]
    assert lacks(more.json["trials"][:3], before["trials"]) == []
    assert len(more.json["trials"]) == 4
    assert stored.service.calls["submit"] == 1


def test_another_worker_joins_a_stored_sweep(stored: Stored) -> None:
    pytest.importorskip("optuna")
    name = stored.document("project/sweep.json")["group"].removeprefix("sweep ")
    joined = stored.llmtune("sweep", "join", name, "--json")
    assert joined.code == 0, joined.err
    assert joined.json == []
    assert stored.service.calls == {}


def test_a_finished_rescue_opens(stored: Stored) -> None:
    shown = stored.llmtune("report", "rescued", "--json").json
    assert lacks(shown, stored.document("project/rescued/report.json")) == []
    assert (shown["source"]["model"], shown["provider"], shown["model"]) == ("tuned:job-000003", "second", "m-3")
    asked = ("rescue", stored.ids()["tickets"], "--to", "second", "--model", "m-3", "-y", "-o", "rescued", "--json")
    again = stored.llmtune(*asked)
    assert again.code == 0, again.err
    assert lacks(again.json, stored.document("project/rescued/rescue.json")) == []
    assert stored.service.calls == {}


def test_a_rescue_goes_on_where_it_stopped(stored: Stored) -> None:
    said = stored.llmtune("rescue", "longer", "--to", "second", "--model", "m-3", "-y", "-o", "half-rescued", "--json")
    assert said.code == 0, said.err
    assert said.json["done"] == ["fetch", "golden", "plan", "train", "report"]
    assert said.json["golden"]["answered"] == 12
    assert stored.service.calls["generate tuned:job-000004"] == 0  # the old model's answers are in the folder
    assert said.json["run"] not in stored.ids().values()
    old = said.json["report"]["labels"]["systems"]["old"]["metrics"]
    assert {each["name"]: each["value"] for each in old}["accuracy"] == pytest.approx(11 / 12)


# --- job files and settings ------------------------------------------------------------------------------------------
def test_a_stored_plan_is_what_is_planned_now(stored: Stored) -> None:
    now = stored.llmtune("plan", "job.yaml", "-p", "fake,second", "--json").json
    before = stored.document("project/plan.json")
    for name in ("fake", "second"):
        # A job that names no adapter leaves it open now; what is chosen is what it was.
        before["plans"][name]["fields"]["adapter"] |= {"support": "default", "requested": None}
        # Answers are counted apart now, so their tokens are rounded otherwise; the sum is written out for people.
        cost_now, cost_before = now["plans"][name]["cost"], before["plans"][name]["cost"]
        assert cost_before.pop("formula")
        for amount in ("training", "evaluation", "total"):
            assert cost_now[amount] == pytest.approx(cost_before.pop(amount), rel=0.05)
        # Tokens are estimated by words, signs and scripts now, and were by bytes.
        tokens = before["plans"][name]["data"].pop("tokens")
        assert now["plans"][name]["data"]["tokens"] == pytest.approx(tokens, rel=0.05)
        for part in ("target", "request", "data", "fields", "cost"):
            assert lacks(now["plans"][name][part], before["plans"][name][part]) == []
        assert now["plans"][name]["fields"]["adapter"]["effective"] == "lora"
    assert now["plans"]["fake"]["request"]["body"]["hyperparameters"] == {
        "epochs": 2,
        "learning_rate": 0.001,
        "lora_rank": 8,
    }


def test_a_model_trained_here_is_trained_on_from_wherever_this_package_lies_now(stored: Stored) -> None:
    """The adapter names its base model by a folder of the package as it lay when it was made; that folder is gone."""
    adapter = Path(attach("here").model_ref.id)  # type: ignore[union-attr]
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == f"{CODE}/providers/llmtune_local/tiny"
    said = stored.llmtune("plan", "onward.yaml", "-p", "local", "--json")
    assert said.code == 0, said.err
    planned = said.json["plans"]["local"]
    assert planned["target"]["model"] == str(adapter)
    assert planned["memory"]["peak"] is not None, planned["memory"]  # known only of a base model that is found


def test_job_files_load(stored: Stored) -> None:
    best = TuningJob.load(stored.project / "best.yaml")
    params = min(stored.document("project/sweep.json")["trials"], key=lambda each: each["value"])["params"]
    found = best.hyperparameters_for("fake")
    assert (found.learning_rate, found.lora_rank, found.epochs) == (params["learning_rate"], params["lora_rank"], 2)
    kept = TuningJob.load(stored.home / "runs" / stored.ids()["tickets"] / "job.json")
    assert (kept.name, kept.seed, kept.tags, kept.hyperparameters.lora_rank) == ("tickets", 7, {"team": "support"}, 8)
    rescued = TuningJob.load(stored.project / "rescued" / "job.yaml")
    assert (rescued.model, rescued.tags) == ({"second": "m-3"}, {"rescued": "tuned:job-000003"})
    starter = stored.llmtune("plan", "starter.yaml", "-p", "fake", "--json").json["plans"]["fake"]
    assert starter["request"]["body"]["hyperparameters"] == {"epochs": 5, "batch_size": 16}


def test_settings_are_read(stored: Stored) -> None:
    second = get_provider("second")
    assert (second.kind, second.settings.price, second.settings.base_url) == ("fake", 2.5, stored.service.url)  # type: ignore[attr-defined]


def test_every_released_version_has_stored_something() -> None:
    released = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    missing = {f"made_with_{version}" for version in released} - {made.name for made in MADE}
    assert not missing, "python tests/system/stored/make.py, from the commit of that version"


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_what_is_stored_names_no_machine(made: Path) -> None:
    words = [f"/{folder}/".encode() for folder in ("work", "root", "tmp", "home", "site-packages")]
    for name, data in stored_files(made).items():
        rest = data.replace(b"/srv/llmtune/home/", b"")
        assert [word for word in words if word in rest] == [], name
