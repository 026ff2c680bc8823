"""Makes the stored things that test_open.py opens: `python tests/system/stored/make.py [FOLDER]`, about two minutes.

At a release once, from the commit that is released, into `made_with_VERSION` beside this file, which is committed;
never again for that version (CONTRIBUTING.md).

Everything comes from the command line of the llmtune that is installed (or first on PYTHONPATH), at the service of
service.py and, for `model: tiny`, on this machine. What is written names neither this machine nor its folders: see
`neutral`.
"""

from __future__ import annotations

import json
import lzma
import os
import platform
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from service import LABELS, Service

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]

#: What stands in the stored things in place of the folder they were made in, the service, the checkout, the machine.
ROOT, URL, CODE, HOST = "/srv/llmtune", "http://127.0.0.1:8399", "/srv/checkout", "workstation"

#: Not stored: what is there as SQL, what is made again or read by nobody, and tokenizers (260 kB each; the base
#: model has the same).
LEFT_OUT = (
    "home/store.db*",
    "project/curves",
    "project/**/report.html",
    "**/tokenizer*.json",
    "**/chat_template.jinja",
    "**/worker.log",
)

#: Files of more bytes than this are compressed.
LARGE = 6000

JOBS = {
    "job.yaml": """\
name: tickets
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: m-1
hyperparameters: {epochs: 2, learning_rate: 1e-3, lora_rank: 8}
seed: 7
tags: {team: support}
""",
    "longer.yaml": """\
name: longer
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: m-1
hyperparameters: {epochs: 3, learning_rate: 2e-3, lora_rank: 8}
seed: 7
""",
    "fails.yaml": "name: fails\ndataset: rows.jsonl\nmodel: m-1\nhyperparameters: {epochs: 1}\n",
    "waits.yaml": """\
name: waits
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: m-1
hyperparameters: {epochs: 4}
seed: 7
""",
    "stopped.yaml": "name: stopped\ndataset: rows.jsonl\nmodel: m-1\nhyperparameters: {epochs: 6}\n",
    "half.yaml": "name: half\ndataset: rows.jsonl\nmodel: m-1\nhyperparameters: {epochs: 5}\n",
    "local.yaml": """\
name: here
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: tiny
hyperparameters: {epochs: 1, batch_size: 8, learning_rate: 2e-3, lora_rank: 1, lora_target_modules: [q_proj]}
seed: 7
""",
    "long.yaml": """\
name: under-way
dataset: {path: rows.jsonl, split: [0.6, 0.2, 0.2]}
model: tiny
hyperparameters:
  {epochs: 2000, batch_size: 8, lora_rank: 1, lora_target_modules: [q_proj], checkpoint_every: 10, keep_checkpoints: 1}
seed: 7
""",
    "onward.yaml": "name: onward\ndataset: rows.jsonl\nmodel: {local: 'run:here'}\nhyperparameters: {epochs: 1}\n",
}


def main(into: Path) -> None:
    """Make everything and put it into a new folder."""
    if into.exists():
        sys.exit(f"{into} is there already")
    with tempfile.TemporaryDirectory(prefix="llmtune-stored-") as made, Service() as service:
        root = Path(made).resolve()
        commands = make(root, service)
        keep(root, into, service)
        (into / "README.md").write_text(readme(commands))
    sizes = [path.stat().st_size for path in into.rglob("*") if path.is_file()]
    sys.stdout.write(f"{len(sizes)} files, {sum(sizes):,} bytes: {into}\n")


def make(root: Path, service: Service) -> list[str]:
    """What somebody does who works with llmtune for a while; returns the commands."""
    commands = []
    project = root / "project"
    project.mkdir()
    write_rows(project / "rows.jsonl")
    for name, text in JOBS.items():
        (project / name).write_text(text)
    (project / "llmtune.toml").write_text(
        f'[providers.fake]\nbase_url = "{service.url}"\n\n'
        f'[providers.second]\nkind = "fake"\nbase_url = "{service.url}"\nprice = 2.5\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMTUNE_")} | {
        "LLMTUNE_HOME": str(root / "home"),
        "LLMTUNE_CONFIG": str(root / "no-config.toml"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }

    def llmtune(*arguments: str, into: str | None = None, code: int = 0) -> str:
        began = time.monotonic()
        commands.append(shlex.join(("llmtune", *arguments)))
        done = subprocess.run(
            [sys.executable, "-m", "llmtune", *arguments], cwd=project, env=environment, capture_output=True, text=True
        )
        sys.stderr.write(f"{time.monotonic() - began:5.1f} s  {commands[-1]}\n")
        if done.returncode != code:
            sys.exit(f"left with {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}")
        if into is not None:
            path = root / into
            path.parent.mkdir(exist_ok=True)
            path.write_text(done.stdout)
        return done.stdout

    llmtune("init", "rows.jsonl", "--yes", "--model", "m-1", "--out", "starter.yaml")
    llmtune("plan", "job.yaml", "-p", "fake,second", "--json", into="project/plan.json")
    llmtune("tune", "job.yaml", "-p", "fake", "-y", "--json", into="project/report.json")
    llmtune("tune", "longer.yaml", "-p", "fake", "-y")
    llmtune("tune", "fails.yaml", "-p", "fake", "-y", code=1)
    llmtune("tune", "waits.yaml", "-p", "fake", "-y", "--detach")
    llmtune("tune", "half.yaml", "-p", "fake", "-y", "--detach", "--sink", "tensorboard:curves")
    llmtune("runs", "attach", "half", "--timeout", "3", code=1)
    llmtune("tune", "stopped.yaml", "-p", "fake", "-y", "--detach")
    llmtune("runs", "cancel", "stopped")
    llmtune("runs", "attach", "stopped", code=1)
    tickets = json.loads((project / "report.json").read_text())["identity"]["run_id"]
    llmtune("compare", "job.yaml", "-p", "fake,second:m-2", "-y", "-o", "board.json")
    space = ("-s", "learning_rate=1e-4..1e-2", "-s", "lora_rank=4,8,16", "--method", "random")
    llmtune("sweep", "job.yaml", "-p", "fake", *space, "--trials", "3", "-y", "-o", "sweep.json", "--best", "best.yaml")
    llmtune("rescue", tickets, "--to", "second", "--model", "m-3", "-y", "-o", "rescued")
    llmtune("rescue", "longer", "--to", "second", "--model", "m-3", "-y", "-o", "half-rescued", "--snapshot-only")
    llmtune("data", "prepare", "rows.jsonl", "-t", "tiny", "--json", into="printed/prepare.json")
    llmtune("tune", "local.yaml", "-p", "local", "--json", into="project/here.json")
    llmtune("tune", "long.yaml", "-p", "local", "--detach")
    folder = Path(json.loads(llmtune("runs", "show", "under-way", "--json"))["references"]["job"]["data"]["folder"])
    until(lambda: any((folder / "checkpoints").glob("step-*")))
    llmtune("runs", "attach", "under-way", "--timeout", "2", code=1)
    at_work = root / "at-work"
    shutil.copytree(folder, at_work, ignore=shutil.ignore_patterns(".*"))
    store_as_text(root / "home" / "store.db", root / "home" / "store.sql")
    llmtune("runs", "cancel", "under-way")
    until(lambda: '"cancelled"' in (folder / "status.json").read_text())
    shutil.rmtree(folder)
    at_work.rename(folder)
    for path in (root / "home").glob("store.db*"):
        path.unlink()
    with sqlite3.connect(root / "home" / "store.db") as database:
        database.executescript((root / "home" / "store.sql").read_text())
    printed(llmtune, tickets)
    return commands


def printed(llmtune: Callable[..., str], tickets: str) -> None:
    """What the command line says of all this; nothing here changes what is stored."""
    llmtune("runs", "list", "--json", "--limit", "100", into="printed/runs.json")
    for name in ("longer", "fails", "half", "under-way"):
        llmtune("runs", "show", name, "--json", into=f"printed/show-{name}.json")
    llmtune("diff", tickets, "longer", "--json", into="printed/diff.json")
    llmtune("gate", "longer", "--baseline", tickets, "--better", "--json", into="printed/gate.json", code=5)
    llmtune("runs", "cleanup", "--dry-run", "--models", "--json", into="printed/cleanup.json")


def write_rows(path: Path) -> None:
    """Tickets of three kinds; one in six names none, so that nobody gets all of them right."""
    with path.open("w") as file:
        for number in range(60):
            label = LABELS[number % 3]
            about = "something" if number % 6 == 5 else label
            turns = [
                {"role": "user", "content": f"Case {number * 7 % 61}: a question about {about}, filed on day {number}"},
                {"role": "assistant", "content": label},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            sys.exit("it never came about")
        time.sleep(0.05)


def store_as_text(store: Path, path: Path) -> None:
    """The store as the SQL that makes it: smaller than the file, and a change of it can be read."""
    with sqlite3.connect(store) as database:
        path.write_text("".join(f"{line}\n" for line in database.iterdump()))


def keep(root: Path, into: Path, service: Service) -> None:
    """What is needed, made neutral; what is large is compressed."""
    service.save(root / "service.json")
    for pattern in LEFT_OUT:
        for path in list(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for result in root.glob("home/local/*/result.json"):
        shutil.rmtree(result.parent / "checkpoints")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            data = data if b"\0" in data else neutral(data.decode(), root, service).encode()
            there = into / path.relative_to(root)
            there.parent.mkdir(parents=True, exist_ok=True)
            if len(data) > LARGE:
                there, data = there.with_name(f"{there.name}.xz"), lzma.compress(data, preset=9)
            there.write_bytes(data)


def neutral(text: str, root: Path, service: Service) -> str:
    """The text without this machine: its folders, name, kernel, processes and the address of the service."""
    for here, there in ((str(root), ROOT), (service.url, URL), (str(CHECKOUT), CODE), (platform.platform(), "Linux")):
        text = text.replace(here, there)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", HOST, text)
    boot = Path("/proc/sys/kernel/random/boot_id")
    return text.replace(boot.read_text()[:8], "0" * 8) if boot.exists() else text


def readme(commands: list[str]) -> str:
    """How the folder was made."""
    asked = ["git", "log", "-1", "--format=%h of %ad", "--date=short", "--", "llmtune", "providers"]
    commit = subprocess.run(asked, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
    packages = ("llmtune-sdk", "torch", "transformers", "peft", "safetensors", "optuna", "sqlalchemy", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"""\
# Stored things of an earlier llmtune

Made by `tests/system/stored/make.py` with the code of commit {commit} (Python {platform.python_version()}, {versions}).
Never changed by hand, never made again: a later version must open them as they are (`test_open.py` beside this
folder).

- `home/` is the `LLMTUNE_HOME`, with the store as SQL; `project/` is the folder the commands were typed in; `printed/`
  is what some of them said; `service.json` is what the service behind the `fake` provider knew (`service.py`).
- In place of the folder it was made in stands `{ROOT}`, of the service's address `{URL}`, of the checkout
  `{CODE}`, of the machine's name `{HOST}`. Files that end in `.xz` are compressed.
- Left out: tokenizers (those of the base model), checkpoints of the finished local run, logs, pages.
- The run `under-way` was copied while its worker trained; the worker was stopped after that.

```text
{chr(10).join(commands)}
```
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"made_with_{version('llmtune-sdk')}")
