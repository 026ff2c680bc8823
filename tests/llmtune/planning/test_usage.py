"""The cost in use, backend by backend: the plan's own training, the catalogue's prices, the dataset's tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.planning.total_cost import HOURS_PER_MONTH

MODELS = {
    "openai": "gpt-4.1-mini-2025-04-14",
    "azure": "gpt-4.1-2025-04-14",
    "nebius": "meta-llama/Llama-3.1-8B-Instruct",
    "local": "tiny",
}
USE = ("--traffic", "100k/month", "--prompt-tokens", "600", "--answer-tokens", "80")


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"question {n}", "completion": "yes" if n % 2 else "no"}) + "\n" for n in range(200)
        )
    )
    document = {
        "name": "t",
        "dataset": str(tmp_path / "rows.jsonl"),
        "model": MODELS,
        "hyperparameters": {"epochs": 3},
    }
    (tmp_path / "job.json").write_text(json.dumps(document))
    return str(tmp_path / "job.json")


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, ["plan", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


# gpt-4.1-mini, by hand: 60 x 0.8 + 8 x 3.2 = 73.60 a month tuned, 60 x 0.4 + 8 x 1.6 = 36.80 untuned; three examples
# of 680 tokens add 2,040 to a prompt: 264 x 0.4 + 12.8 = 118.40. gpt-4.1 at Azure: 60 x 2 + 8 x 8 = 184.00, and the
# deployment 1.7 x 730.5.
def test_totals_are_those_of_the_catalogue(job: str) -> None:
    totals = json.loads(invoke(job, *USE, "--months", "6", "--json"))["totals"]
    openai = totals["openai"]
    assert openai["tuned"]["tokens"] == pytest.approx(73.6)
    assert openai["base"]["total"] == pytest.approx(6 * 36.8)
    assert openai["few_shot"]["tokens"] == pytest.approx(118.4)
    assert openai["tuned"]["total"] == pytest.approx(openai["tuned"]["once"] + 6 * 73.6)
    assert openai["break_even"][0]["reason"].startswith("never at this traffic")
    assert openai["break_even"][1]["months"] == pytest.approx(openai["tuned"]["once"] / (118.4 - 73.6))
    azure = totals["azure"]["tuned"]
    assert azure["standing"] == pytest.approx(1.7 * HOURS_PER_MONTH)
    assert azure["tokens"] == pytest.approx(184.0)
    assert totals["nebius"]["tuned"]["unknown"] == "the price of answers is not known"
    assert totals["local"]["tuned"]["total"] == 0.0


def test_a_rented_machine_is_paid_by_the_hour(job: str) -> None:
    local = json.loads(invoke(job, "-p", "local", *USE, "--hourly", "0.8", "--json"))["totals"]["local"]
    assert local["tuned"]["standing"] == pytest.approx(584.4)
    assert local["tuned"]["once"] > 0


def test_tokens_are_those_of_the_dataset_where_none_are_given(job: str) -> None:
    traffic = json.loads(invoke(job, "-p", "openai", "--traffic", "500/day", "--json"))["totals"]["openai"]["traffic"]
    assert traffic["prompt_tokens"] > 0
    assert traffic["answer_tokens"] > 0
    assert traffic["answers_per_month"] == pytest.approx(500 * 365.25 / 12)


def test_the_table_says_when_it_pays(job: str) -> None:
    text = invoke(job, *USE)
    assert "100,000 answers a month" in text
    assert "azure against few-shot: never at this traffic" in text
    assert "openai against few-shot: pays after" in text
    assert "totals" not in json.loads(invoke(job, "--json"))


def test_a_traffic_that_is_none_is_one_sentence(job: str) -> None:
    result = CliRunner().invoke(app, ["plan", job, "--traffic", "lots"])
    assert result.exit_code != 0
    assert "is not a number of answers per day, week, month or year" in str(result.exception)
