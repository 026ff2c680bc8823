"""What every path starts: no process reaches another machine or holds a vendor's key, and no file is open to others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

#: Runs in every Python that is started: writes down, and refuses, each look at another machine.
WATCH = """
import json, os, sys

def watch():
    folder, here = os.environ["WATCHED_IN"], ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None)
    def note(kind, value):
        with open(os.path.join(folder, f"{kind}-{os.getpid()}"), "a") as file:
            file.write(json.dumps([value, sys.orig_argv[:8]]) + "\\n")
    def foreign(host):
        host = host.decode() if isinstance(host, bytes) else host
        return host not in here and not host.startswith("127.") and host != os.uname().nodename
    def hook(event, arguments):
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            host = arguments[0]
        else:
            return
        if foreign(host):
            note("foreign", str(host))
            raise OSError(101, "the test lets nothing out")
    sys.addaudithook(hook)
    note("started", sorted(os.environ))

watch()
"""
CANARIES = {
    "OPENAI_API_KEY": "sk-canary-openai-93712",
    "TOGETHER_API_KEY": "canary-together-93712",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+93712abcdef",
    "AWS_ACCESS_KEY_ID": "AKIACANARY93712",
    "AZURE_CLIENT_SECRET": "canary-azure-93712",
    "CO_API_KEY": "canary-cohere-93712",
    "PGPASSWORD": "canary-postgres-93712",
    "GITHUB_TOKEN": "canary-github-93712",
    "ACME_DATABASE_URL": "postgresql://ann:canary-93712@db.example/x",
}
NEEDED = {
    "HF_TOKEN": "hf_canaryneeded93712",
    "HTTPS_PROXY": "http://ann:canary-93712@127.0.0.1:1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZER_MODEL": "gpt-4.1-mini-2025-04-14",
}
#: What a machine that runs tests may have set, and what would hide a library that calls home.
QUIET = (
    "HF_HUB_",
    "TRANSFORMERS_OFFLINE",
    "WANDB_",
    "MLFLOW_",
    "RAY_",
    "DO_NOT_TRACK",
    "DISABLE_TELEMETRY",
    "CI",
    "GITHUB_",
)


class Machine:
    """A user's machine: a home folder that is open to all, a job on `tiny`, keys, and a watch on every process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.notes = folder, folder / "home", folder / "notes"
        for path in (self.home, self.notes, folder / "watch", folder / "work"):
            path.mkdir()
        self.home.chmod(0o777)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        rows = [{"prompt": f"case {at}", "completion": "yn"[at % 2]} for at in range(40)]
        (folder / "work" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.job()
        path = os.pathsep.join([str(folder / "watch"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        mine = {name: value for name, value in os.environ.items() if not name.startswith(QUIET)}
        self.environment = {
            **mine,
            **CANARIES,
            **NEEDED,
            "PYTHONPATH": path,
            "LLMTUNE_HOME": str(self.home),
            "WATCHED_IN": str(self.notes),
        }
        self.environment.pop("LLMTUNE_STORE", None)

    def job(self, **options: Any) -> None:
        job = {
            "name": "quiet",
            "dataset": "rows.jsonl",
            "model": "tiny",
            "adapter": "lora",
            "hyperparameters": {"max_steps": 2, "batch_size": 2},
            "evaluation": {"max_rows": 2},
            "provider_options": {"local": options} if options else {},
        }
        (self.folder / "work" / "job.json").write_text(json.dumps(job))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder / "work",
            env=self.environment,
            umask=0,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def run(self, *arguments: str) -> str:
        """Run a command to its end, with an umask that forbids nothing."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        return output

    def llmtune(self, *arguments: str) -> str:
        return self.run("-m", "llmtune", *arguments)

    def noted(self, kind: str) -> list[tuple[Any, list[str]]]:
        lines = [line for file in self.notes.glob(f"{kind}-*") for line in file.read_text().splitlines()]
        return [tuple(json.loads(line)) for line in lines]

    def workers(self) -> list[list[str]]:
        """The names in the environment of each process of the local trainer."""
        return [names for names, command in self.noted("started") if any("llmtune_local" in part for part in command)]

    def open_to_others(self) -> list[str]:
        """What of the home folder another user can read or change: nothing below a folder that is shut to him."""
        found = []
        folders = [self.home]
        while folders:
            for path in folders.pop().iterdir():
                mode = path.lstat().st_mode & 0o777
                if path.is_symlink() or not mode & 0o077:
                    continue
                found.append(f"{path.relative_to(self.home)} {mode:o}")
                if path.is_dir():
                    folders.append(path)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    assert made.noted("started"), "nothing was watched"
    assert made.noted("foreign") == []


def test_the_watch_sees_what_goes_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    script = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    process = machine.start("-c", script)
    assert "the test lets nothing out" in process.communicate(timeout=60)[0]
    assert {value for value, _ in machine.noted("foreign")} == {"192.0.2.1"}


@pytest.mark.slow
def test_a_local_run_stays_on_this_machine_and_to_itself(machine: Machine) -> None:
    machine.llmtune("tune", "job.json", "-p", "local", "--sink", "tensorboard:curves")
    assert machine.workers()
    for names in machine.workers():
        assert not set(CANARIES) & set(names)
        assert set(NEEDED) <= set(names)
    assert machine.open_to_others() == []
    (adapter,) = [path for path in machine.home.rglob("adapter_model.safetensors") if "step" not in str(path)]
    assert adapter.stat().st_mode & 0o777 == 0o600
    (log,) = machine.home.rglob("worker.log")
    assert log.stat().st_mode & 0o777 == 0o600
    # What the user asks for is written as any program writes.
    machine.llmtune("export", "quiet", "--out", "exported")
    exported = machine.folder / "work" / "exported" / "adapter_model.safetensors"
    assert exported.stat().st_mode & 0o777 == 0o666
    # Both servers, looked at by the user's own browser.
    asked: dict[tuple[str, ...], Callable[[str], str]] = {
        ("serve", "quiet", "--port", "0"): lambda url: f"{url}/models",
        ("ui", "--port", "0"): lambda url: url,
    }
    for command, address in asked.items():
        process = machine.start("-m", "llmtune", *command)
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            url = next(part for line in lines for part in line.split() if part.startswith("http://"))
            with urllib.request.urlopen(address(url), timeout=100) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=100)


@pytest.mark.slow
def test_trials_of_a_forked_worker_and_several_processes_do_so_too(machine: Machine) -> None:

    machine.llmtune("sweep", "job.json", "-p", "local", "--space", "learning_rate=0.001,0.002", "--trials", "2")
    machine.job(processes=2)
    machine.llmtune("tune", "job.json", "-p", "local", "--new")
    assert len(machine.workers()) >= 3
    for names in machine.workers():
        assert not set(CANARIES) & set(names)
    assert machine.open_to_others() == []


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_calls_nobody_but_its_own_server(machine: Machine, tracker: str) -> None:
    pytest.importorskip(tracker)
    machine.environment["WANDB_MODE"] = "offline"
    places = {"mlflow": f"sqlite:///{machine.folder}/curves.db", "wandb": "curves"}
    script = (
        "from llmtune.trackers import TrackedRun, create_tracker\n"
        "from llmtune.metrics.points import MetricPoint\n"
        f"sink = create_tracker('{tracker}:{places[tracker]}')\n"
        "sink.start_run(TrackedRun(id='r1', name='quiet', created=0.0, params={'epochs': '1'}, tags={}), {})\n"
        "sink.write([MetricPoint(series='train/loss', step=1, value=1.0)])\n"
        "sink.finish({'accuracy': 1.0}, 1, 'succeeded')\n"
        "sink.close()\n"
    )
    machine.run("-c", script)


def test_a_cluster_of_this_machine_reports_nothing(tmp_path: Path) -> None:
    """Ray's own answer to the question whether it would report, at the moment at which it is started."""
    pytest.importorskip("ray")
    script = (
        "import ray\n"
        "from ray._common.usage import usage_lib\n"
        "def init(*arguments, **options):\n"
        "    print('reports:', usage_lib.usage_stats_enabled())\n"
        "    raise SystemExit(0)\n"
        "ray.init = init\n"
        "from llmtune._ray import on_ray\n"
        "with on_ray('local', cpus=1, purpose='a test'):\n"
        "    pass\n"
    )
    machine = Machine(tmp_path)
    output, _ = machine.start("-c", script).communicate(timeout=120)
    assert "reports: False" in output
    assert machine.noted("foreign") == []
