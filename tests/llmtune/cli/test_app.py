"""The command line as a person meets it: one sentence for a mistake, the right exit code, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest

from llmtune.cli import main


def llmtune(*args: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmtune", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **env},
        timeout=120,
        check=False,
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.jsonl"
    with path.open("w") as file:
        for number in range(120):
            label = ("billing", "shipping", "returns")[number % 3]
            messages = [
                {"role": "user", "content": f"Case {number}: something about {label} went wrong, number {number * 7}"},
                {"role": "assistant", "content": label},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture
def job(rows: Path) -> Path:
    path = rows.parent / "job.yaml"
    path.write_text("name: tickets\ndataset: tickets.jsonl\nmodel: tiny\nhyperparameters: {epochs: 2, lora_rank: 12}\n")
    return path


def refused(result: subprocess.CompletedProcess[str], code: int, *fragments: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    text = " ".join(result.stderr.split())
    assert text.startswith("error: ")
    for fragment in fragments:
        assert fragment in text
    assert result.stdout == ""


def test_help_and_version() -> None:
    result = llmtune("--help")
    assert result.returncode == 0
    for command in ("tune", "plan", "init", "runs", "data", "providers", "config", "schema"):
        assert command in result.stdout
    assert llmtune("--version").stdout.startswith("llmtune 0.")


@pytest.mark.slow
def test_plan_fits_eighty_columns_and_says_what_was_converted(job: Path) -> None:
    result = llmtune("plan", job, "--provider", "local,vertex")
    assert result.returncode == 0, result.stderr
    table = result.stdout.split("\n\n")[1]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "rank 12 -> 16" in result.stdout


@pytest.mark.slow
def test_plan_as_json_has_the_published_shape(job: Path) -> None:
    result = llmtune("plan", job, "--provider", "local", "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["plans"]["local"]["fields"]["epochs"]["effective"] == 2
    assert document["plans"]["local"]["request"]["body"]["hyperparameters"]["lora_rank"] == 12


@pytest.mark.slow
def test_plan_by_default_shows_every_living_and_dead_backend(job: Path) -> None:
    result = llmtune("plan", job)
    assert result.returncode == 0, result.stderr
    for name in ("local", "openai", "azure", "vertex", "bedrock", "sagemaker", "cohere"):
        assert name in result.stdout
    assert "retired 2025-09-15" in result.stdout


def test_a_plan_that_no_backend_can_make_ends_with_the_code_of_its_error(tmp_path: Path, job: Path) -> None:
    other = tmp_path / "other.yaml"
    lines = job.read_text(encoding="utf-8").splitlines()
    other.write_text(
        "\n".join(
            [
                *(line for line in lines if not line.startswith("model")),
                "model: {bedrock: 'amazon.nova-micro-v1:0:128k'}",
            ]
        )
    )
    alone = llmtune("plan", other, "-p", "openai")
    assert "no model is named for provider 'openai'" in alone.stdout
    assert alone.returncode == 2
    assert llmtune("plan", other, "-p", "openai,bedrock").returncode == 0


def test_plan_names_the_day_a_vendor_closes(job: Path) -> None:
    result = llmtune("plan", job, "-p", "openai", LLMTUNE_TODAY="2027-01-07")
    assert "closed to new jobs since 2027-01-06" in result.stdout
    assert "local" in result.stdout.split("instead")[1].splitlines()[0]


@pytest.mark.slow
def test_init_writes_a_job_that_loads_and_plans(rows: Path) -> None:
    result = llmtune("init", rows, "--yes", cwd=rows.parent)
    assert result.returncode == 0, result.stderr
    assert "3 labels" in result.stderr
    written = rows.parent / "job.yaml"
    assert written.read_text().count("#") > 5
    assert llmtune("plan", written, "-p", "local").returncode == 0
    refused(llmtune("init", rows, "--yes", cwd=rows.parent), 2, "job.yaml already exists")


def test_the_schema_describes_job_files(job: Path) -> None:
    schema = json.loads(llmtune("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"name": "a", "dataset": "rows.jsonl", "model": "tiny", "hyperparameters": {"epochs": 2}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "hyperparameters": {"epoch": 2}}, schema)
    refused(llmtune("schema", "jobs"), 2, "did you mean 'job'")


@pytest.mark.slow
def test_config_show_never_shows_a_secret(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[providers.mine]\nkind = "openai"\napi_key = "sk-canary"\nbase_url = "https://u:canary@h/v1"\n')
    for args in (("config", "show"), ("config", "show", "--json")):
        result = llmtune(*args, LLMTUNE_CONFIG=str(config), LLMTUNE_STORE="postgresql+psycopg://me:canary@db/x")
        assert result.returncode == 0, result.stderr
        assert "canary" not in result.stdout + result.stderr
        assert "***" in result.stdout


@pytest.mark.slow
def test_providers_lists_and_explains(tmp_path: Path) -> None:
    listed = llmtune("providers")
    assert listed.returncode == 0, listed.stderr
    assert "local" in listed.stdout
    page = llmtune("providers", "local")
    assert "hyperparameters.learning_rate" in page.stdout.replace("\n", "")
    document = json.loads(llmtune("providers", "local", "--json").stdout)
    assert document["fields"]["lora_rank"]["support"] == "sent"
    refused(llmtune("providers", "locl"), 2, "did you mean 'local'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("name: t\ndataset: tickets.jsonl\nmodel: tiny\nhyperparameters: {lora_rnk: 3}\n", ("lora_rnk", "'lora_rank'")),
        ("name: t\ndataset: tickets.jsonl\nmodel: tiny\nhyperparameters: {epochs: -1}\n", ("epochs", "not -1")),
        ("name: t\ndataset: none.jsonl\nmodel: tiny\n", ("none.jsonl", "does not exist")),
        ("name: t\ndataset: empty.jsonl\nmodel: tiny\n", ("empty.jsonl",)),
        ("name: t\ndataset: broken.jsonl\nmodel: tiny\n", ("broken.jsonl:2", "JSON")),
        ("name: t\ndataset: roles.jsonl\nmodel: tiny\n", ("roles.jsonl:1", "role")),
        ("name: t\ndataset: tickets.jsonl\nmodel: tinny/none\n", ("tinny/none",)),
        ("name: t\ndataset: long.jsonl\nmodel: tiny\n", ("long.jsonl:1", "tokens")),
        ("name: [\n", ("job.yaml:2", "YAML")),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    rows: Path, own_home: Path, text: str, fragments: tuple[str, ...]
) -> None:
    folder = rows.parent
    good = rows.read_text().splitlines()[0]
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text(good + '\n{"messages": [\n')
    (folder / "roles.jsonl").write_text(
        '{"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    long = {"messages": [{"role": "user", "content": "word " * 9000}, {"role": "assistant", "content": "b"}]}
    (folder / "long.jsonl").write_text(json.dumps(long) + "\n" + rows.read_text())
    path = folder / "job.yaml"
    path.write_text(text)
    refused(llmtune("tune", path, "--provider", "local"), 2, *fragments)
    assert not [
        file for file in own_home.rglob("*") if file.is_file() and file.suffix not in (".db", ".db-wal", ".db-shm")
    ]
    if (own_home / "store.db").exists():
        assert (
            llmtune("runs", "list", "--json").stdout.strip() in ("[]", '{"schema":1,"runs":[]}')
            or "runs" in llmtune("runs", "list", "--json").stdout
        )


def test_no_permission_is_a_sentence(job: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.write_text("")
        home = blocked / "home"  # root may write anywhere, but nobody can make a folder inside a file
    else:
        home = tmp_path / "ro"
        home.mkdir(mode=0o500)
    result = llmtune("tune", job, "--provider", "local", LLMTUNE_HOME=str(home))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert str(home.parent) in "".join(result.stderr.split())


def test_a_closed_pipe_is_no_error(job: Path) -> None:
    shell = f"{sys.executable} -m llmtune providers local --json | head -n 1"
    result = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs", "show", "a\udcffb"], "argument 3"),
        (["plan", "job.json", "-p", "\udcff"], "-p"),
        (["chat", "x", "--system=\udcff"], "--system"),
        (["runs", "list", "--state", "\udce9"], "--state"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_the_option_s_name(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["llmtune", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert f"error: {says} holds bytes that are not UTF-8" in " ".join(capsys.readouterr().err.split())


def test_a_file_may_have_a_name_that_is_no_text(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = rows.rename(os.fsdecode(os.fsencode(rows.parent) + b"/caf\xe9.jsonl"))
    monkeypatch.setattr(sys, "argv", ["llmtune", "data", "check", str(odd)])
    with suppress(SystemExit):
        main()
    assert "not UTF-8: 'caf" not in capsys.readouterr().err
