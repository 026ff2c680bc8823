"""Runs at OpenAI, Azure and Nebius from start to report, through llmtune's own lifecycle and the real SDKs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.data.checks.check import check
from llmtune.data.convert import convert
from llmtune.errors import InvalidData, NotTranslatable, ProviderClosed, RunFailed, UnsupportedHyperparameterWarning
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.types import RunState
from llmtune.runs.api import attach, start
from llmtune.runs.poller import PollInterval
from llmtune.testing import FakeVendor, accept_then_drop, accept_then_hold, rate_limit, reset, server_error
from llmtune_azure.fake.service import FakeAzure
from llmtune_nebius.fake.service import FakeNebius
from llmtune_openai.fake.service import FakeOpenAI

PACE = PollInterval(first=0.01, most=0.05)
GPT = "gpt-4.1-mini-2025-04-14"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FakeVendor]]:
    """All three services, configured as a user would: by environment variables."""
    with FakeOpenAI(api_key="key") as openai, FakeAzure(api_key="key") as azure, FakeNebius(api_key="key") as nebius:
        values = {
            "OPENAI_API_KEY": "key",
            "NEBIUS_API_KEY": "key",
            "AZURE_OPENAI_API_KEY": "key",
            "AZURE_OPENAI_ENDPOINT": azure.url,
            "LLMTUNE_OPENAI_BASE_URL": f"{openai.url}/v1",
            "LLMTUNE_NEBIUS_BASE_URL": f"{nebius.url}/v1",
            "LLMTUNE_AZURE_MANAGEMENT_URL": azure.url,
            "LLMTUNE_AZURE_MANAGEMENT_TOKEN_ENV": "AZURE_OPENAI_API_KEY",
            "LLMTUNE_AZURE_SUBSCRIPTION_ID": "sub",
            "LLMTUNE_AZURE_RESOURCE_GROUP": "tuning",
            "LLMTUNE_AZURE_ACCOUNT_NAME": "mine",
            **{f"LLMTUNE_{name}_TIMEOUT": "1.5" for name in ("OPENAI", "AZURE", "NEBIUS")},
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield {"openai": openai, "azure": azure, "nebius": nebius}
        for vendor in (openai, azure, nebius):
            assert not vendor.complaints, "\n".join(vendor.complaints)
            assert not vendor.standing


def job(folder: Path, **more: Any) -> TuningJob:
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"ticket {at}: the {'invoice' if at % 2 else 'router'} is wrong"},
                {"role": "assistant", "content": "billing" if at % 2 else "network"},
            ]
        }
        for at in range(120)
    )
    path = folder / "tickets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"openai": GPT, "azure": GPT, "nebius": LLAMA}
    fields: dict[str, Any] = {"name": "tickets", "dataset": str(path), "model": model}
    return TuningJob.model_validate({**fields, "hyperparameters": {"epochs": 2}, **more})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "azure", "nebius"])
def test_from_start_to_report(vendors: dict[str, FakeVendor], tmp_path: Path, name: str) -> None:
    run = start(job(tmp_path, evaluation={"deploy": True}), name)
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert report.identity.tuned_model
    assert report.identity.key in json.dumps([each.body for each in vendors[name].jobs.values()])
    assert {"train/loss", "validation/loss"} <= set(report.series)
    assert report.evaluation is not None
    assert report.receipt[0].field == "epochs"
    assert report.receipt[0].effective == 2
    assert len(vendors[name].jobs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "azure", "nebius"])
@pytest.mark.parametrize("fault", [accept_then_hold(3.0), accept_then_drop(), server_error(handled=True)])
def test_an_answer_that_never_comes_is_one_job_found_again(
    vendors: dict[str, FakeVendor], tmp_path: Path, name: str, fault: Any
) -> None:
    vendors[name].faults.add(fault, role="submit")
    run = start(job(tmp_path), name)
    assert run.job_ref is not None
    assert len(vendors[name].jobs) == 1
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert vendors[name].counts["submit"] == 1


@pytest.mark.slow
def test_a_rough_day(vendors: dict[str, FakeVendor], tmp_path: Path) -> None:
    openai = vendors["openai"]
    roles = {"upload", "poll", "find", "generate", "other"}
    openai.faults.sprinkle([server_error(), reset(), rate_limit(0.01)], rate=0.15, seed=5, roles=roles)
    run = start(job(tmp_path, evaluation={"max_rows": 3, "baseline": False}), "openai")
    attach(run.id).wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert len(openai.jobs) == 1
    assert openai.faults.total() > 0


def test_a_closed_organisation_ends_the_run_with_the_way_on(vendors: dict[str, FakeVendor], tmp_path: Path) -> None:
    openai = vendors["openai"]
    assert isinstance(openai, FakeOpenAI)
    openai.closed = True
    with pytest.raises(ProviderClosed) as caught:
        start(job(tmp_path), "openai")
    assert "azure" in caught.value.alternatives
    assert not openai.jobs


def test_a_failed_job_is_a_failed_run_in_the_vendors_words(vendors: dict[str, FakeVendor], tmp_path: Path) -> None:
    vendors["openai"].outcome = "failure"
    run = start(job(tmp_path), "openai")
    with pytest.raises(RunFailed, match="could not be processed"):
        run.wait(timeout=60, pace=PACE)


def test_what_will_not_be_used_is_warned_of_once_and_refused_when_strict(
    vendors: dict[str, FakeVendor], tmp_path: Path
) -> None:
    asked = job(tmp_path, hyperparameters={"epochs": 1, "lora_rank": 8, "weight_decay": 0.1})
    with pytest.raises(NotTranslatable, match="lora_rank"):
        start(asked, "openai", strict=True)
    assert not vendors["openai"].requests
    with pytest.warns(UnsupportedHyperparameterWarning) as warned:
        start(asked, "openai")
    told = [str(warning.message) for warning in warned if warning.category is UnsupportedHyperparameterWarning]
    assert len(told) == 1
    assert "lora_rank" in told[0]
    assert "weight_decay" in told[0]


@pytest.mark.slow
def test_the_same_content_is_uploaded_once(vendors: dict[str, FakeVendor], tmp_path: Path) -> None:
    openai = vendors["openai"]
    start(job(tmp_path), "openai").wait(timeout=60, pace=PACE)
    start(job(tmp_path, hyperparameters={"epochs": 3}), "openai").wait(timeout=60, pace=PACE)
    assert len(openai.jobs) == 2
    assert openai.counts["create_file"] == 2, "one training and one validation file for both jobs"


@pytest.mark.slow
def test_a_deployment_is_made_for_the_evaluation_alone(vendors: dict[str, FakeVendor], tmp_path: Path) -> None:
    azure = vendors["azure"]
    start(job(tmp_path), "azure").wait(timeout=60, pace=PACE)
    assert azure.counts["deploy"] == 0
    start(job(tmp_path, evaluation={"deploy": True}), "azure", new=True).wait(timeout=60, pace=PACE)
    assert azure.counts["deploy"] == 1
    assert not azure.standing


def test_preferences_are_written_in_the_vendors_rows_and_tuned_on(
    vendors: dict[str, FakeVendor], tmp_path: Path
) -> None:
    rows = (
        {
            "input": {"messages": [{"role": "user", "content": f"Question {at}?"}]},
            "preferred_output": [{"role": "assistant", "content": "A short answer."}],
            "non_preferred_output": [{"role": "assistant", "content": "A long-winded answer, and more of it."}],
        }
        for at in range(60)
    )
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = TuningJob.model_validate(
        {
            "name": "pairs",
            "dataset": str(path),
            "model": GPT,
            "method": "dpo",
            "hyperparameters": {"epochs": 1, "dpo_beta": 0.2},
            "evaluation": {"max_rows": 2},
        }
    )
    run = start(asked, "openai")
    run.wait(timeout=60, pace=PACE)
    (made,) = vendors["openai"].jobs.values()
    assert made.body["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}}
    sent = vendors["openai"].files[made.body["training_file"]].content.splitlines()
    assert set(json.loads(sent[0])) == {"input", "preferred_output", "non_preferred_output"}


def dialogue(at: int, **more: Any) -> dict[str, Any]:
    """A row of what these services take, with what people keep beside it in `more`: on the row and on each turn."""
    turns = [
        {"role": "system", "content": "Answer for the harbour office."},
        {"role": "user", "content": f"Which berth has ship {at}?", "name": "captain"},
        {"role": "assistant", "content": "One moment.", "weight": 0},
        {"role": "user", "content": f"Ship {at}, please."},
        {"role": "assistant", "content": f"Berth {at}."},
    ]
    tool = {"type": "function", "function": {"name": "berth_of", "parameters": {"type": "object", "properties": {}}}}
    return {"messages": [turn | more for turn in turns], "tools": [tool], "parallel_tool_calls": False, **more}


def preferred(at: int, **more: Any) -> dict[str, Any]:
    """A preference row, with what people keep beside it in `more`: on the row, its input and every turn."""
    return {
        "input": {"messages": [{"role": "user", "content": f"Which berth has ship {at}?", **more}], **more},
        "preferred_output": [{"role": "assistant", "content": f"Berth {at}.", **more}],
        "non_preferred_output": [{"role": "assistant", "content": f"It may be berth {at}, or not.", **more}],
        **more,
    }


PRIVATE = {"pilot_mail": "ann@harbour.example", "reviewed": {"by": "p-4711"}}


@pytest.mark.parametrize(
    ("name", "method"),
    [("openai", "sft"), ("openai", "dpo"), ("azure", "sft"), ("azure", "dpo"), ("nebius", "sft")],
)
def test_what_stands_beside_a_row_stays_at_home_and_is_named(
    vendors: dict[str, FakeVendor], tmp_path: Path, name: str, method: str
) -> None:
    """Check, plan, tune and convert write one and the same file, and each says what it leaves out."""
    row = preferred if method == "dpo" else dialogue
    clean, full, test = (tmp_path / f"{each}.jsonl" for each in ("clean", "full", "test"))
    clean.write_text("".join(json.dumps(row(at)) + "\n" for at in range(12)))
    full.write_text("".join(json.dumps(row(at, **PRIVATE)) + "\n" for at in range(12)))
    test.write_text(json.dumps(row(99)) + "\n")
    files = {"train": str(full), "validation": str(clean), "test": str(test)}
    asked = job(tmp_path, dataset=files, method=method)

    checked = check(full, provider=name, method=method)
    assert checked.errors == 0
    (beside,) = [finding for finding in checked.findings if finding.code == "changed-extra"]
    keys = [where + key for key in PRIVATE for where in ("", "messages[].")]
    keys += [f"input.{key}" for key in PRIVATE if method == "dpo"]
    assert all(f"'{key}' (12 rows)" in beside.message for key in keys)
    assert f"{len(keys)} keys:" in beside.message

    (planned,) = plan(asked, name).data.changed
    assert beside.message in planned
    assert planned in plan(asked, name).data.findings

    run = start(asked, name)
    assert planned in run.record.warnings
    (made,) = vendors[name].jobs.values()
    sent = vendors[name].files[made.body["training_file"]].content
    assert b"pilot_mail" not in sent
    assert b"harbour.example" not in sent
    assert b"p-4711" not in sent
    assert [json.loads(line) for line in sent.splitlines()] == [row(at) for at in range(12)]
    assert sent == vendors[name].files[made.body["validation_file"]].content

    converted = convert(full, tmp_path / "converted.jsonl", name, method=method)
    assert [finding.message for finding in converted.findings] == [beside.message]
    assert (tmp_path / "converted.jsonl").read_bytes() == sent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "azure", "nebius"])
def test_a_plan_and_a_tune_print_the_keys_that_stay(vendors: dict[str, FakeVendor], tmp_path: Path, name: str) -> None:
    (tmp_path / "ships.jsonl").write_text("".join(json.dumps(dialogue(at, **PRIVATE)) + "\n" for at in range(40)))
    file = tmp_path / "job.json"
    job(tmp_path, dataset=str(tmp_path / "ships.jsonl")).save(file)
    for command in (["plan", str(file)], ["tune", str(file), "--yes", "--allow-unknown-cost", "--detach"]):
        done = CliRunner().invoke(app, [*command, "--provider", name], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        rows = "nebius" if name == "nebius" else "openai"
        assert done.output.count(f"{rows} rows leave out 4 keys: 'pilot_mail'") == 1
        assert "'messages[].reviewed'" in done.output
    assert len(vendors[name].jobs) == 1


LISTED = {"type": "function", "function": {"name": "berth_of", "arguments": "{}"}}


@pytest.mark.parametrize("name", ["openai", "azure", "nebius"])
@pytest.mark.parametrize(
    ("turns", "outcome"),
    [
        ([{"role": "developer", "content": "Be brief."}], "changed-role"),
        ([{"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}], None),
        ([{"role": "system", "content": [{"type": "video", "video": "harbour.mp4"}]}], "lost-part"),
        ([{"role": "user", "content": "Hm.", "weight": 1}, {"role": "assistant", "content": "Yes?"}], "changed-weight"),
        ([{"role": "user", "content": "Hm."}, {"role": "assistant", "content": None, "tool_calls": [LISTED]}], None),
    ],
)
def test_check_plan_convert_and_tune_are_of_one_opinion(
    vendors: dict[str, FakeVendor], tmp_path: Path, name: str, turns: list[dict[str, Any]], outcome: str | None
) -> None:
    path, target = tmp_path / "ships.jsonl", tmp_path / "converted.jsonl"
    rows = [
        {"messages": [*turns, {"role": "user", "content": f"Ship {at}?"}, {"role": "assistant", "content": f"{at}"}]}
        for at in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    files = {"train": str(path), "validation": str(path), "test": str(tmp_path / "test.jsonl")}
    asked = job(tmp_path, dataset=files)
    codes = ("lost-", "changed-")
    checked = {each.code for each in check(path, provider=name).findings if each.code.startswith(codes)}
    assert checked == ({outcome} if outcome else set())
    verdict = plan(asked, name).data
    if outcome == "lost-part":
        assert all(f"[{outcome}]" in line for line in verdict.lossy)
        assert verdict.lossy
        for refused in (lambda: convert(path, target, name), lambda: start(asked, name)):
            with pytest.raises(InvalidData, match="neither text nor image"):
                refused()
        assert not vendors[name].files
        start(asked, name, allow_lossy_data=True)
        (made,) = vendors[name].jobs.values()
        assert b"harbour.mp4" not in vendors[name].files[made.body["training_file"]].content
        return
    assert not verdict.lossy
    assert [f"[{outcome}]" in line for line in verdict.changed] == ([True] if outcome else [])
    converted = convert(path, target, name)
    assert {each.code for each in converted.findings if each.code.startswith(codes)} == checked
    start(asked, name)
    (made,) = vendors[name].jobs.values()
    assert vendors[name].files[made.body["training_file"]].content == target.read_bytes()


REFUSED: dict[str, dict[str, Any]] = {
    "vendor-reserved-word": {"messages": [{"role": "user", "content": "What does <|endoftext|> mean?"}]},
    "vendor-tools": {"tools": [{"type": "function", "function": {"name": "berth of ship"}}]},
    "vendor-image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAAAAACw="}}],
            }
        ]
    },
}


@pytest.mark.parametrize("name", ["openai", "azure"])
@pytest.mark.parametrize("code", REFUSED)
def test_what_the_service_refuses_is_refused_by_check_plan_and_tune(
    vendors: dict[str, FakeVendor], tmp_path: Path, name: str, code: str
) -> None:
    rows = [dialogue(at) for at in range(12)]
    rows[7] |= REFUSED[code]
    rows[7]["messages"] = [*rows[7]["messages"][:1], rows[7]["messages"][-1] | {"role": "assistant", "content": "7"}]
    if code == "vendor-tools":
        rows[7]["messages"][0] = {"role": "user", "content": "Ship 7?"}
    path, test = tmp_path / "ships.jsonl", tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text(json.dumps(dialogue(99)) + "\n")
    asked = job(tmp_path, dataset={"train": str(path), "test": str(test)})
    (finding,) = [each for each in check(path, provider=name).findings if each.code.startswith("vendor-")]
    assert (finding.code, finding.line, finding.severity) == (code, 8, "error")
    verdict = plan(asked, name).data
    assert verdict.errors == 1
    assert finding.message in verdict.findings[0]
    with pytest.raises(InvalidData) as refused:
        start(asked, name)
    assert finding.message in str(refused.value)
    assert not vendors[name].files
