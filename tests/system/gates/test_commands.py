"""Every command in every form, after runs whose every text is hostile: none shows the key or a raw control character.

A command, an output format or an option that names a file to write fails `test_every_command_and_form_is_here` until it
has a line in `COMMANDS`.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
import typer

from llmtune.cli import main, output
from llmtune.runs import poller
from tests.system.gates.canary import CONTROLS, HOSTILE, KEY, Output, Vendor, check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("commands"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

#: What a user may put into a name: a job that held the key itself would be refused.
ESCAPES = HOSTILE.partition(" ")[0]

#: Command lines by command. `{run}` and the like are names of `Stage.names`; those that cannot end well here are told
#: so in an error, which is an output too.
COMMANDS: dict[str, list[str]] = {
    "tune": [
        "{job} -p fake --yes --new",
        "{job} -p fake --yes --reuse --json",
        "{job} -p fake --yes --seeds 2",
        "{job} -p fake --yes --new --sink tensorboard:{folder}/tensorboard --sink mlflow:sqlite:///{folder}/mlflow.db",
        "{job} -p fake --yes --new --model {escapes}",
        "{job} -p fake --yes --new --name {escapes} --seed 3 --limit-rows 8 --set epochs=2",
        "{job} -p fake --set {hostile}",
        "{job} -p fake --fallback-on {hostile}",
        "{rows} -p fake",
        "{job} -p {hostile}",
        "{hostile}",
    ],
    "compare": [
        *(f"{{job}} -p fake,fake:m-2 --yes --format {shape}" for shape in ("terminal", "json", "markdown", "html")),
        "{job} -p fake,fake:m-2 --yes --json",
        *(f"{{job}} -p fake,fake:m-2 --yes -o board.{ending}" for ending in ("html", "md", "json")),
        "{job} -p fake:{hostile}",
        "{job} -p fake,fake:m-2 --yes --traffic 100k/month --months 6",
        "{job} -p fake,fake:m-2 --yes --traffic {hostile}",
    ],
    "plan": [
        "{job} -p fake --request --all",
        "{job} -p fake,local,openai --json",
        "{job}",
        "{job} -p fake,local --traffic 100k/month --prompt-tokens 600 --answer-tokens 80 --months 12 --hourly 0.8",
        "{job} -p fake --traffic {hostile}",
        "{job} -p fake,local --traffic 100k/month --hourly 0.8 --region eu --hourly-region eu-north1",
        "{job} -p fake,local --region {hostile}",
        "{job} -p local --traffic 100k/month --hourly 0.8 --hourly-region {hostile}",
        "{job} -p fake --set name={escapes} --set tags.team={hostile} --json",
        "{job} -p fake --set name={escapes} --set learning_rate={hostile}",
    ],
    "prices": ["", "openai", "openai --json", "{hostile}", "fake --live", "{hostile} --live"],
    "costs": [
        "--by provider,month,tag --runs",
        *(f"--by name --format {shape}" for shape in ("table", "csv", "json")),
        "--by model,tag:{hostile} --runs --json",
        "--by {hostile}",
    ],
    "init": ["{rows} --out made.yaml --yes --model {escapes}", "{hostile} --out other.yaml --yes", "{rows} --json"],
    "report": [
        *(f"{{run}} --format {shape}" for shape in ("terminal", "json", "markdown", "html")),
        "{run} --json",
        *(f"{{run}} --output report.{ending}" for ending in ("html", "md", "json", "txt", "pdf")),
        "{failed}",
        "{failed} --format html",
        "{local} --format html",
        "board.json",
        "board.json --format html",
        "sweep.json --format markdown",
        "{hostile}",
    ],
    "evaluate": [
        "{run} --json",
        "{run} --dataset {rows} --max-rows 2",
        "{run} --panel {hostile}",
        "{run} --panel general --json",
        "{failed}",
    ],
    "gate": [
        *(f"{{run}} --baseline {{run}} --better --format {shape}" for shape in ("terminal", "json", "markdown")),
        "{run} --baseline {run} --not-worse 1 --comment comment.md --json",
        "{run} --baseline {run} --better --metric {hostile}",
        "{run} --abstain-error 0.02 --min-coverage 0.8",
        "{run} --abstain-error 7 --min-coverage 0.8 --json",
        "{run} --panel-margin 5 --json",
        "{run} --panel-margin 5 --metric {hostile} --comment comment.md",
    ],
    "diff": [
        *(f"{{run}} {{local}} --format {shape}" for shape in ("terminal", "json", "markdown")),
        "{run} {run} --json",
        "{run} {failed}",
    ],
    "grade": [
        "grader.json {rows}",
        "grader.json {rows} --answers answers.jsonl --json",
        "{hostile} {rows}",
        "grader.json {hostile}",
        "grader.json {rows} --answers {hostile}",
        "grader.json {rows} --source-for azure --output source.py",
        "grader.json {rows} --source-for {hostile} --output source.py",
        "judge.json {rows} --budget 1",
        "judge.json {rows} --yes --json",
    ],
    "chat": ["{run} {hostile} --system {hostile}", "{run} hello --checkpoint {hostile}"],
    "ui": [],
    "serve": [
        "{failed}",
        "{hostile}",
        "{run} --tuning",
        "--tuning --models {hostile}",
        "{run} --host {hostile} --key-from {hostile}",
        "{run} --keys keys.yaml",
        "--tuning --models {hostile} --keys {hostile}",
    ],
    "keys add": [
        "ana --keys keys.yaml --budget 5",
        "ana-app --keys keys.yaml --owner ana --rights ask,read --requests-per-minute 9",
        "ben --keys keys.yaml --max-unfinished-jobs 1 --max-stored-gb 0.5",
        "ana --keys keys.yaml",
        "{hostile} --keys keys.yaml",
        "carl --keys {hostile} --rights {hostile}",
        "carl --keys keys.yaml --owner {hostile}",
    ],
    "keys list": ["--keys keys.yaml", "--keys keys.yaml --json", "--keys {hostile}"],
    "keys remove": ["ben --keys keys.yaml", "{hostile} --keys keys.yaml", "ana --keys {hostile}"],
    "export": [
        "{local} --format adapter --out adapter --json",
        "{local} --format merged --out merged",
        "{local} --format gguf --precision q8_0 --check-rows 2 --out gguf",
        "{local} --format gguf-adapter --precision bf16 --check-rows 0 --out gguf-adapter",
        "{local} --format ollama --precision f16 --check-rows 0 --out ollama --json",
        "{local} --format vllm --precision f32 --out vllm",
        "{local} --format vllm --check-rows 0 --out vllm",
        "{run} --format gguf --out exported",
        "{run} --out exported",
    ],
    "verify": [
        "{vendor} --run {run} --model {escapes} --rows 2",
        "{vendor} --run {run} --model {escapes} --json",
        "{hostile} --run {run}",
        "http://127.0.0.1:9/{escapes} --run {failed}",
    ],
    "providers": ["", "--json", "fake", "fake --json --model {hostile}", "{hostile}"],
    "doctor": ["-p fake --online", "-p fake --lifecycle", "-p fake --json", "-p {hostile}"],
    "rescue": [
        "{run} --to fake --model m-2 --out rescued --yes",
        "{job_id} --from fake --to fake --model m-2 --out rescued-job --yes --json",
        "--all --from fake --to fake --model m-2 --out account --yes",
        "--all --from fake --to fake --model m-2 --out account --yes --json",
        "{hostile} --from fake",
    ],
    "import": [
        "{job_id} --from fake --out imported/job.yaml",
        "{job_id} --from fake --json --out imported-again/job.yaml",
        "{run} --out from-run.yaml",
        "{axolotl} --out from-axolotl.yaml",
        "{hostile} --from {hostile}",
    ],
    "schema": ["", "report", "{hostile}"],
    "sweep run": [
        "{job} -p fake --space learning_rate=0.001,0.002 --trials 2 --yes --best best.yaml --output sweep.json",
        "{job} -p fake --space learning_rate=0.001,0.002 --trials 2 --yes --output sweep.html --json",
        "{job} -p fake --show-space",
        "{job} -p fake --space {hostile}",
    ],
    "sweep join": ["{hostile}", "{hostile} --json"],
    "sweep probe": ["{job} -p fake --yes", "{job} -p fake --yes --json"],
    "runs list": ["", "--json", "--state {hostile}", "--provider {hostile}"],
    "runs show": ["{run}", "{run} --json", "{failed}", "{failed} --json", "{local}", "{hostile}"],
    "runs attach": ["{run}", "{run} --json", "{failed}", "{run} --sink {hostile}"],
    "runs watch": ["{run} {failed}", "{run} {failed} --json", ""],
    "runs cancel": ["{run}", "{run} --json", "{hostile}"],
    "runs adopt": ["{run} {hostile}", "{failed} {hostile} --json"],
    "runs resubmit": ["{failed} --yes", "{run} --yes --json"],
    "runs resume": ["{failed}", "{local} --json"],
    "runs cleanup": ["--dry-run --models", "--dry-run --models --json", "{hostile}"],
    "runs backup": ["backup.tar", "backup-again.tar.gz --json", "no/such/folder/{escapes}.tar"],
    "data check": ["{rows} --provider fake", "{rows} --json", "{bad}", "{bad} --json", "{hostile}"],
    "data stats": ["{rows}", "{rows} --json --provider fake", "{bad}"],
    "data split": ["{rows} --into parts", "{rows} --into parts-again --json", "{bad} --into parts-bad"],
    "data mix": [
        "{rows} {rows}=0.5 --out mixed.jsonl",
        "{rows} --out mixed-again.jsonl --json",
        "{rows} {bad} --out mixed-bad.jsonl",
        "{rows} {hostile}=0.5 --out {escapes}.jsonl",
    ],
    "data convert": [
        "{rows} converted.jsonl --to openai",
        "{rows} converted.csv --to prompt-completion --json --allow-lossy-data",
        "{bad} converted-bad.jsonl --to chat --json",
        "{rows} other.jsonl --to {hostile}",
    ],
    "data peek": [
        "{rows} --tokenizer tiny",
        "{rows} --tokenizer tiny --json",
        "{rows} --tokenizer tiny --html peek.html",
        "{rows} --tokenizer {hostile}",
    ],
    "data prepare": ["{rows} --tokenizer tiny --into prepared", "{rows} --tokenizer tiny --into prepared --json"],
    "data formats": ["", "--json"],
    "config show": ["", "--json"],
}

#: Options that name a file or a folder to write; each is used by a line of its command.
WRITING = {"--out", "--output", "--best", "--comment", "--html", "--into"}

LINES = [f"{command} {line}".strip() for command, lines in COMMANDS.items() for line in lines]


# --- what there is ---------------------------------------------------------------------------------------------------
def iter_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, inner in command.commands.items():
        yield from iter_commands(inner, (*path, name))


def list_formats(command: Any) -> list[str]:
    """The values of a command's --format, where they are a choice of ours."""
    hints = typing.get_type_hints(command.callback, include_extras=False)
    for parameter in command.params:
        if "--format" in parameter.opts:
            kinds = (hints[parameter.name], *typing.get_args(hints[parameter.name]))
            return [
                value.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for value in kind
            ]
    return []


def test_every_command_and_form_is_here() -> None:
    from llmtune.cli.app import app

    commands = dict(iter_commands(typer.main.get_command(app)))
    assert set(COMMANDS) == set(commands)
    for name, command in commands.items():
        words = {word for line in COMMANDS[name] for word in shlex.split(line)}
        options = {option for parameter in command.params for option in parameter.opts}
        missing = [option for option in ("--json", *WRITING) if option in options and option not in words]
        if ("--out" in missing and "-o" in words) or ("--output" in missing and "-o" in words):
            missing = [option for option in missing if option not in ("--out", "--output")]
        missing += [shape for shape in list_formats(command) if shape not in words]
        assert not missing, f"llmtune {name}: no line in COMMANDS has {missing}"


# --- the stage -------------------------------------------------------------------------------------------------------
@dataclass
class Stage:
    """A home with hostile runs, a hostile vendor, and the folder in which commands are run."""

    folder: Path
    vendor: Vendor
    names: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LLMTUNE_HOME": str(self.folder / "home"),
            "LLMTUNE_FAKE_BASE_URL": self.vendor.url,
            "LLMTUNE_FAKE_API_KEY": KEY,
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def run(self, *arguments: str, read: str = "") -> Output:
        """Run a command from its entry point; what it prints is looked through."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["llmtune", *arguments])
            patch.setattr(poller, "_poller", poller.Poller(polls_per_second=500))
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdin", io.StringIO(read))
            for console in (output.out, output.err):
                patch.setattr(console, "_width", 200)
            code: Any = 0
            with warnings.catch_warnings(), pytest.raises(SystemExit) as leave:
                main()
            code = leave.value.code
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        for text in texts:
            check(text, arguments)
            assert "Traceback" not in text, text
        return Output(code if isinstance(code, int) else 0, *texts)


def write_job(folder: Path, name: str, **fields: Any) -> Path:
    turns = [("system", f"s {HOSTILE}"), ("user", "q {n} " + HOSTILE), ("assistant", "a {m} " + HOSTILE)]
    rows = [
        {
            "messages": [
                {"role": role, "content": text.replace("{n}", str(n)).replace("{m}", str(n % 3))}
                for role, text in turns
            ]
        }
        for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "name": name,
        "dataset": "rows.jsonl",
        "model": {"fake": "m-1", "local": "tiny", "openai": "gpt-4.1-mini-2025-04-14"},
        "hyperparameters": {"max_steps": 2},
        "evaluation": {"max_rows": 2, "max_tokens": 4},
        "tags": {"owner": f"ann {ESCAPES}"},
        **fields,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with Vendor() as vendor:
        vendor.model_suffix = ESCAPES  # an id is stored as it is: with the key in it, the store would hold the key
        made = Stage(folder, vendor)
        job = write_job(folder, f"mine {ESCAPES}")
        bad = folder / "bad.jsonl"
        bad.write_text(
            json.dumps({"messages": [{"role": HOSTILE, "content": HOSTILE}], HOSTILE: 1}) + "\n" + HOSTILE + "\n"
        )
        judge = {"kind": "judge", "model": "local:nowhere", "rubric": f"a {ESCAPES}"}
        (folder / "judge.json").write_text(json.dumps(judge))
        (folder / "grader.json").write_text(json.dumps({"kind": "regex", "pattern": f"a {ESCAPES}"}))
        answers = [{"answers": [HOSTILE, f"a {HOSTILE}"]} for _ in range(60)]
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
        axolotl = folder / "axolotl.yml"
        config = {"base_model": "m", "datasets": [{"path": "rows.jsonl"}], "adapter": "lora", f"odd {ESCAPES}": ESCAPES}
        axolotl.write_text(json.dumps(config))
        names = {"job": job.name, "rows": "rows.jsonl", "bad": bad.name, "axolotl": axolotl.name, "folder": str(folder)}
        made.names |= names | {"hostile": HOSTILE, "escapes": ESCAPES, "vendor": vendor.url}

        def last_run() -> str:
            return str(json.loads(made.run("runs", "list", "--json").stdout)["runs"][0]["id"])

        assert made.run("tune", job.name, "-p", "fake", "--yes").code == 0
        made.names["run"], made.names["job_id"] = last_run(), next(iter(vendor.jobs))
        vendor.outcome = "failure"
        assert made.run("tune", job.name, "-p", "fake", "--yes", "--new").code == 1
        made.names["failed"] = last_run()
        vendor.outcome = "success"
        ended = made.run("tune", job.name, "-p", "local")
        assert ended.code == 0, ended.stderr
        made.names["local"] = last_run()
        yield made


@pytest.mark.parametrize("line", LINES)
def test_no_output_leaks(stage: Stage, line: str) -> None:
    arguments = [word.format(**stage.names) for word in shlex.split(line)]
    assert stage.run(*arguments).code in (0, 1, 2, 3, 4, 5, 6)


def test_a_run_is_found_by_its_name_as_it_is(stage: Stage) -> None:
    (entry,) = json.loads(stage.run("runs", "show", stage.names["run"], "--json").stdout)["name"].splitlines()
    assert entry == f"mine {ESCAPES}"


def test_chat_from_a_pipe_leaks_nothing(stage: Stage) -> None:
    assert stage.run("chat", stage.names["run"], read=f"{HOSTILE}\nagain\n").stdout


# --- servers ---------------------------------------------------------------------------------------------------------
@contextmanager
def started(stage: Stage, *arguments: str, **environment: str) -> Iterator[str]:
    """The address of a command that serves; what it has printed at its end is looked through."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmtune", *arguments, "--port", "0"],
        cwd=stage.folder,
        env={**os.environ, **stage.environment, "LLMTUNE_DEBUG": "1", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("http"), process.communicate(timeout=60)
        yield first.strip()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            texts = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            texts = process.communicate()
    for text in texts:
        check(text, arguments)


def ask(url: str, body: Any = None, **headers: str) -> str:
    """An answer, headers included, whatever its status; it is looked through."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer serve-key-0123456789", **headers}
    try:
        answer = urlopen(Request(url, data=data, headers=headers), timeout=60)
    except HTTPError as error:
        answer = error
    text = answer.read().decode()
    check(text, url)
    check("\n".join(f"{name}: {value}" for name, value in answer.headers.items()), url)
    return str(text)


def test_serve_leaks_nothing(stage: Stage) -> None:
    messages = [{"role": "user", "content": HOSTILE}]
    with started(stage, "serve", stage.names["run"]) as url:
        models = json.loads(ask(f"{url}/models"))
        model = models["data"][0]["id"]
        for body in (
            {"model": model, "messages": messages},
            {"model": model, "messages": messages, "stream": True},
            {"model": HOSTILE, "messages": messages},
            {"model": model, "messages": messages, HOSTILE: 1},
            {"model": model, "messages": [{"role": HOSTILE, "content": HOSTILE}]},
            {"model": model, "messages": messages, "temperature": HOSTILE},
            HOSTILE.encode(),
            [HOSTILE],
        ):
            ask(f"{url}/chat/completions", body)
        for path in ("models/", "nothing/"):
            ask(f"{url}/{path}{quote(HOSTILE, safe='')}")
        ask(f"{url}/models", Origin="http://evil.example")


def test_serve_tuning_leaks_nothing(stage: Stage) -> None:
    (stage.folder / "map.yaml").write_text("default: fake:m-1\n")
    rows = (stage.folder / "rows.jsonl").read_bytes()
    head = (
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{quote(HOSTILE)}.jsonl"\r\n\r\n'
    )
    upload = head.encode() + rows + b"\r\n--b--\r\n"
    settings = {"LLMTUNE_SERVE_KEY": "serve-key-0123456789"}
    with started(stage, "serve", "--tuning", "--models", "map.yaml", "--yes", **settings) as url:
        file = json.loads(ask(f"{url}/files", upload, **{"Content-Type": "multipart/form-data; boundary=b"}))
        made = json.loads(
            ask(
                f"{url}/fine_tuning/jobs",
                {
                    "model": "m-1",
                    "training_file": file["id"],
                    "suffix": "mine",
                    "metadata": {"owner": ESCAPES},
                },
            )
        )
        assert "id" in made, made
        for _ in range(200):
            job = json.loads(ask(f"{url}/fine_tuning/jobs/{made['id']}"))
            if job["status"] in ("succeeded", "failed", "cancelled"):
                break
        for path in (
            "files",
            f"files/{file['id']}",
            "fine_tuning/jobs",
            f"fine_tuning/jobs/{made['id']}/events",
            f"fine_tuning/jobs/{made['id']}/checkpoints",
            "models",
            f"files/{quote(HOSTILE, safe='')}",
            f"fine_tuning/jobs/{quote(HOSTILE, safe='')}",
        ):
            ask(f"{url}/{path}")
        for body in ({"model": HOSTILE, "training_file": HOSTILE}, HOSTILE.encode(), {HOSTILE: HOSTILE}):
            ask(f"{url}/fine_tuning/jobs", body)
        if job.get("fine_tuned_model"):
            messages = [{"role": "user", "content": HOSTILE}]
            ask(f"{url}/chat/completions", {"model": job["fine_tuned_model"], "messages": messages})


def test_pages_leak_nothing(stage: Stage) -> None:
    runs = [stage.names[name] for name in ("run", "failed", "local")]
    with started(stage, "ui") as url:
        paths = ["", f"?q={quote(HOSTILE)}", f"compare?runs={','.join(runs)}", f"compare?run={runs[0]}&run={runs[2]}"]
        paths += [f"runs/{run}{end}" for run in runs for end in ("", "/live", "/live?after=0", "/report")]
        paths += [f"runs/{quote(HOSTILE, safe='')}", quote(HOSTILE, safe="")]
        shown = [ask(f"{url.rstrip('/')}/{path}") for path in paths]
        assert any("mine" in text for text in shown)


# --- what is left behind ---------------------------------------------------------------------------------------------
#: Rows and answers are data, kept as they are because they are trained on and compared: `data check` warns of a key.
ROWS = ("rows.jsonl", "bad.jsonl", "axolotl.yml", "golden.jsonl", "converted.csv", "converted.jsonl")
ROWS += ("answers.jsonl", "samples.jsonl", "mixed.jsonl", "mixed-again.jsonl")
ROW_FOLDERS = ("data", "files", "prepared", "sweeps", "parts", "parts-again", "answers", "tuning", "imported", "cache")
TEXTS = {".json", ".jsonl", ".md", ".html", ".yaml", ".yml", ".txt", ".log", ".toml"}


def look_through(name: Path, content: bytes) -> list[str]:
    """What is wrong with a file."""
    faults = []
    is_rows = name.name in ROWS or bool(set(name.parts) & set(ROW_FOLDERS))
    if not is_rows and any(spelling in content for spelling in (KEY.encode(), json.dumps(KEY)[1:-1].encode())):
        at = content.find(KEY.encode())
        faults.append(f"{name}: the key: {content[max(0, at - 150) : at + 40]!r}")
    if name.suffix in TEXTS and name.name not in ROWS[1:3]:
        pattern = CONTROLS if name.suffix in (".md", ".html", ".txt", ".log") else None
        text = content.decode()
        raw = (
            pattern.search(text)
            if pattern
            else next((at for at in range(32) if chr(at) in text and at not in (9, 10)), None)
        )
        if raw:
            faults.append(f"{name}: {raw!a}")
    return faults


def test_no_file_holds_the_key(stage: Stage) -> None:
    faults: list[str] = []
    for path in sorted(stage.folder.rglob("*")):
        if not path.is_file():
            continue
        if ".tar" in path.name:
            with tarfile.open(path) as archive:
                for member in archive.getmembers():
                    if member.isfile():
                        faults += look_through(Path(path.name) / member.name, archive.extractfile(member).read())  # type: ignore[union-attr]
        else:
            faults += look_through(path.relative_to(stage.folder), path.read_bytes())
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "plan {job} -p fake --request",
        "data check {rows} --provider fake",
        "init {rows} --out quiet.yaml --yes",
        "report {run}",
        "diff {run} {run}",
        "gate {run} --baseline {run} --better",
        "schema",
        "config show",
        "providers fake",
        "runs show {run}",
    ],
)
def test_commands_that_send_nothing(stage: Stage, line: str) -> None:
    before = len(stage.vendor.requests)
    stage.run(*(word.format(**stage.names) for word in shlex.split(line)))
    assert len(stage.vendor.requests) == before
