"""`llmtune init`: a job for every shape of dataset, which a plan accepts as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmtune import TuningJob, plan
from llmtune.cli import output
from llmtune.cli.app import app
from llmtune.planning.job_suggestion import JobSuggestion

Write = Callable[..., Path]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are those of the package, whatever the developer has downloaded."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def init(*arguments: str | Path, **settings: Any) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "100"}, **settings)


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def call(city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    return {"tools": [TOOL], "messages": [{"role": "user", "content": f"will it rain in {city}?"}, turn]}


SHAPES: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "tools": ([call(f"city {n}") for n in range(60)], "sft", "60 rows have tools"),
    "extraction": (
        [chat(f"{n % 9} lamps for flat {n}", json.dumps({"count": n % 9, "flat": n})) for n in range(60)],
        "sft",
        "answers are JSON",
    ),
    "preferences": (
        [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in range(60)],
        "dpo",
        "a preferred and a rejected answer",
    ),
    "german": (
        [
            chat(f"Wo bleibt die Lieferung {n}? Ich möchte sie zurück.", f"Für {n} ist übermorgen vorgesehen.")
            for n in range(60)
        ],
        "sft",
        "made for English",
    ),
    "japanese": (
        [chat(f"注文番号{n}はどこですか。" * (40 if n == 0 else 1), f"{n}は明日届きます。") for n in range(60)],
        "sft",
        "the rows are Japanese",
    ),
    "twelve": (
        [chat(f"is {n} even?", "no" if n % 2 else "yes") for n in range(12)],
        "sft",
        "training rows are few",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gets_a_job_that_can_be_planned(shape: str, tmp_path: Path, json_lines: Write) -> None:
    rows, method, reason = SHAPES[shape]
    file = json_lines(tmp_path / f"{shape}.jsonl", rows)
    result = init(file, "-y", "--out", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert reason in result.stderr
    assert reason in " ".join(line.lstrip("# ") for line in (tmp_path / "job.yaml").read_text("utf-8").splitlines())
    job = TuningJob.load(tmp_path / "job.yaml")
    assert (job.name, job.method, job.model) == (shape, method, "tiny")
    receipt = plan(job, "local")
    assert receipt.obstacles() == []
    assert receipt.data.errors == 0


def test_a_table_with_labels_gets_a_job_with_a_linear_model_beside_it(tmp_path: Path, tickets_csv: Write) -> None:
    result = init(tickets_csv(tmp_path / "tickets.csv"), "-y", "--out", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    assert "800 rows with 8 labels" in result.stderr
    assert "a linear model reached 9" in result.stderr
    job = TuningJob.load(tmp_path / "job.yaml")
    assert "linear" in (job.evaluation.baselines or ())
    receipt = plan(job, "local")
    assert receipt.obstacles() == []


def test_images_are_said_to_be_beyond_a_text_model(tmp_path: Path, json_lines: Write) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}
    question = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}
    row = {"messages": [question, {"role": "assistant", "content": "a lamp on a desk"}]}
    result = init(json_lines(tmp_path / "pictures.jsonl", [row] * 40), "-y", "--out", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    assert "llmtune plan shows which backends take them" in result.stderr
    assert "40 of 40 rows have some" in result.stderr
    assert TuningJob.load(tmp_path / "job.yaml").method == "sft"


def test_the_test_file_beside_it_is_written_into_the_job(tmp_path: Path, json_lines: Write) -> None:
    rows = [chat(f"say {n}", f"this is number {n}") for n in range(90)]
    train = json_lines(tmp_path / "sayings" / "train.jsonl", rows[:60])
    json_lines(tmp_path / "sayings" / "valid.jsonl", rows[60:75])
    json_lines(tmp_path / "sayings" / "test.jsonl", rows[75:])
    result = init(train, "-y", "--out", tmp_path / "job.yaml")
    assert "found beside it: valid.jsonl (validation) and test.jsonl (test)" in result.stderr
    job = TuningJob.load(tmp_path / "job.yaml")
    assert job.name == "sayings"
    assert "dataset: {train: sayings/train.jsonl, validation: sayings/valid.jsonl, test: sayings/test.jsonl}" in (
        tmp_path / "job.yaml"
    ).read_text("utf-8")
    assert plan(job, "local").data.rows == {"train": 60, "validation": 15, "test": 15}


def test_as_json_it_is_data_of_its_schema(tmp_path: Path, tickets_csv: Write) -> None:
    result = init(tickets_csv(tmp_path / "tickets.csv", 200), "--json", "--out", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    jsonschema.validate(document, JobSuggestion.model_json_schema(mode="serialization"))
    assert document["file"] == str(tmp_path / "job.yaml")
    assert (tmp_path / "job.yaml").is_file()
    assert (document["method"], document["model"]) == ("sft", "tiny")
    assert {model["model"] for model in document["models"]} >= {"tiny", "tiny-encoder"}


@pytest.mark.parametrize(("answer", "model"), [("", "tiny"), ("2", "tiny-encoder"), ("some/other", "some/other")])
def test_on_a_terminal_the_models_are_listed_and_one_is_chosen(
    answer: str, model: str, tmp_path: Path, tickets_csv: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(output.err), "is_terminal", property(lambda self: True))
    file = tickets_csv(tmp_path / "tickets.csv", 120)
    result = init(file, "--out", tmp_path / "job.yaml", input=f"local\n{answer}\n")
    assert result.exit_code == 0, result.output
    assert "  1  tiny (3.41 M parameters" in result.stderr
    assert "to be downloaded" in result.stderr
    job = TuningJob.load(tmp_path / "job.yaml")
    assert job.model == model
    assert job.method == ("classification" if model == "tiny-encoder" else "sft")


def test_a_hosted_backend_gets_a_placeholder_for_the_model(tmp_path: Path, tickets_csv: Write) -> None:
    file = tickets_csv(tmp_path / "tickets.csv", 120)
    result = init(file, "-y", "-p", "openai", "--out", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    assert "llmtune providers openai" in result.stderr
    assert TuningJob.load(tmp_path / "job.yaml").model == "MODEL_ID"


def test_a_job_file_that_is_there_is_not_overwritten(tmp_path: Path, tickets_csv: Write) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    result = init(tickets_csv(tmp_path / "tickets.csv", 120), "-y", "--out", tmp_path / "job.yaml")
    assert result.exit_code != 0
    assert "already exists" in str(result.exception)
    assert (tmp_path / "job.yaml").read_text() == "mine"
