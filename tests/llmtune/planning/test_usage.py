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
    nebius = totals["nebius"]["tuned"]  # no tokens are billed there, and the deployment stands all month
    assert nebius["tokens"] == 0.0
    assert nebius["standing"] == pytest.approx(4.05 * HOURS_PER_MONTH)
    assert totals["local"]["tuned"]["total"] == 0.0


def test_a_rented_machine_is_a_row_of_its_own_beside_this_one(job: str) -> None:
    totals = json.loads(invoke(job, "-p", "local", *USE, "--hourly", "0.8", "--json"))["totals"]
    assert totals["local"]["tuned"]["total"] == 0.0
    rented = totals["rented machine"]
    assert rented["tuned"]["standing"] == pytest.approx(0.8 * HOURS_PER_MONTH)
    assert rented["tuned"]["once"] > 0
    assert rented["base"]["total"] == pytest.approx(12 * 0.8 * HOURS_PER_MONTH)
    text = invoke(job, "-p", "local", *USE, "--hourly", "0.8")
    assert "training counts as long as on this machine, and the machine is rented around the clock" in text


def test_a_region_leaves_only_backends_that_state_it(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION"):
        monkeypatch.delenv(name, raising=False)
    models = {
        "openai": "gpt-4.1-mini-2025-04-14",
        "bedrock": "amazon.nova-micro-v1:0:128k",
        "sagemaker": "huggingface-reasoning-qwen3-8b",
        "local": "tiny",
    }
    document = json.loads(Path(job).read_text()) | {"model": models}
    Path(job).write_text(json.dumps(document))
    here = json.loads(invoke(job, "-p", "openai,bedrock,local", *USE, "--region", "us-east-1", "--json"))
    assert set(here["totals"]) == {"bedrock", "local"}
    error = here["plans"]["openai"]["error"]
    assert error["kind"] == "NotTranslatable"
    assert "openai states no region in which it trains" in error["message"]
    there = json.loads(invoke(job, "-p", "bedrock,sagemaker", *USE, "--region", "eu", "--json"))
    assert "bedrock trains amazon.nova-micro-v1:0:128k in us-east-1" in there["plans"]["bedrock"]["error"]["message"]
    assert set(there["totals"]) == {"sagemaker"}


def test_a_rented_machine_is_in_no_region_unless_it_is_stated(job: str) -> None:
    words = ["plan", job, "-p", "local", *USE, "--hourly", "0.8", "--region", "eu"]
    unstated = CliRunner().invoke(app, words)
    assert "the rented machine is in no stated region, and the plan is for eu" in str(unstated.exception)
    elsewhere = CliRunner().invoke(app, [*words, "--hourly-region", "us-east1"])
    assert "the rented machine stands in us-east1" in str(elsewhere.exception)
    stated = CliRunner().invoke(app, [*words, "--hourly-region", "eu-north1", "--json"])
    assert "rented machine" in json.loads(stated.stdout)["totals"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hourly", "1"), "are of a traffic, and none is given"),
        (("--answer-tokens", "9"), "are of a traffic, and none is given"),
        ((*USE, "--hourly-region", "eu-west-1"), "no machine is rented"),
        (("--region", " "), "is not the name of a region"),
        (("--region", "eu west"), "is not the name of a region"),
        (("-p", "openai", *USE, "--hourly", "1"), "which is not among the backends"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(job: str, words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["plan", job, *(words if "-p" in words else ("-p", "local", *words))])
    assert message in str(result.exception)


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
