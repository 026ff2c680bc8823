"""What `data check --provider local` and a plan say of rows is what the trainer would refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("transformers")

from llmtune.data.checks.check import check
from llmtune.data.dataset import Dataset
from llmtune.errors import InvalidData, MissingExtra
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.registry import get_provider
from llmtune_local import preflight
from llmtune_local.models.loading import check_rows
from llmtune_local.rows import open_rendering

ASK, SAY = {"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Until six."}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}
#: Templates that take no system turn, and that forget the user's words.
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "codes"),
    [
        ([{"messages": [ASK, SAY]}], set()),
        ([{"messages": [IMAGE, SAY]}], {"not_text"}),
        ([{"messages": [SAY]}], {"no_prompt"}),
        ([{"messages": [ASK, {"role": "assistant", "content": "six " * 20_000}]}], {"too_long"}),
        ([{"prompt": "Open?", "chosen": "Yes.", "rejected": "No."}], set()),
        ([{"prompt": "Open?", "chosen": "Yes.", "rejected": "no " * 20_000}], {"too_long"}),
    ],
)
def test_check_says_what_the_trainer_refuses(tmp_path: Path, rows: list[dict[str, Any]], codes: set[str]) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    report = check(path, provider="local", model="tiny", checks=("structure",))
    assert {finding.code for finding in report.findings if finding.is_error} == codes
    assert all(finding.line == 1 for finding in report.findings if finding.is_error)
    examples = Dataset.from_spec(DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0))).train
    if codes:
        with pytest.raises(InvalidData):
            check_rows("tiny", {"train": examples})
    else:
        check_rows("tiny", {"train": examples})


def test_tokens_are_counted_by_the_model_itself(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [ASK, SAY]}])
    assert check(path, provider="local", model="tiny").files[0].stats.exact
    assert not check(path, provider="local").files[0].stats.exact
    report = check(
        write_rows(path, [{"messages": [ASK, SAY | {"content": "<|im_end|>"}]}]), provider="local", model="tiny"
    )
    assert "control-token" in report.counts


def test_a_plan_says_the_same_and_goes_by_the_jobs_template(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [{"messages": [system, {"role": "user", "content": f"q{number}"}, SAY]} for number in range(20)]
    path = write_rows(tmp_path / "rows.jsonl", rows)

    def planned(**keys: Any) -> Any:
        dataset = {"path": str(path), **keys.pop("dataset", {})}
        return plan(TuningJob.model_validate({"name": "a", "dataset": dataset, "model": "tiny"} | keys), "local").data

    assert planned().errors == 0
    assert planned().warnings == 0
    refused = planned(provider_options={"local": {"chat_template": NO_SYSTEM}})
    assert refused.errors
    assert "system: fold" in refused.findings[0]
    assert planned(provider_options={"local": {"chat_template": NO_SYSTEM}}, dataset={"system": "fold"}).errors == 0
    assert planned(provider_options={"local": {"chat_template": "gemma"}}).errors  # the tokenizer has no such tokens
    assert planned(provider_options={"local": {"chat_template": "chatml"}}).errors == 0


def test_control_tokens_in_texts_are_reported_by_check_and_plan_with_their_line(tmp_path: Path) -> None:
    """A text that holds one would become the token itself: the model would see a turn end in the middle of it."""
    rows = [{"messages": [{"role": "user", "content": f"Berth {number}?"}, SAY]} for number in range(20)]
    rows[6]["messages"][0] = {"role": "user", "content": "How is <|im_end|> written? 6"}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    (finding,) = [
        entry for entry in check(path, provider="local", model="tiny").findings if entry.code == "control-token"
    ]
    assert (finding.line, finding.severity) == (7, "warning")
    assert finding.message.startswith("messages[0]: '<|im_end|>' is a control token of the tokenizer")
    data = {"path": str(path), "split": [1.0, 0.0, 0.0]}
    job = TuningJob.model_validate({"name": "a", "dataset": data, "model": "tiny"})
    assert any(f"{path}:7: warning[control-token]" in line for line in plan(job, "local").data.findings)
    shared = {"conversations": [{"from": "human", "value": "<|im_end|>?"}, {"from": "gpt", "value": "a"}]}
    write_rows(path, [shared | {"system": "Be brief."}])
    report = check(path, provider="local", model="tiny")
    assert [entry.message[:16] for entry in report.findings if entry.code == "control-token"] == ["conversations[0]"]


def test_a_model_that_is_not_here_is_not_asked_for_by_a_plan(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [ASK, SAY]}] * 5)
    job = TuningJob.model_validate({"name": "a", "dataset": {"path": str(path)}, "model": "nobody/nothing"})
    assert plan(job, "local").data.errors == 0


@pytest.fixture(scope="module")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a model folder whose template writes an empty thought before an answer without reasoning."""
    from tests.providers.llmtune_local.conftest import build_model, family

    folder = tmp_path_factory.mktemp("thinking")
    tokenizer = family("thinking")
    tokenizer.save_pretrained(folder)
    build_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    return str(folder)


REASONED = {"role": "assistant", "content": "Until six.", "reasoning_content": "The door says so."}
THOUGHT = {"role": "assistant", "content": "<think>The door says so.</think>Until six."}
EMPTY = {"role": "assistant", "content": "<think>\n\n</think>\n\nUntil six."}


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([SAY, SAY], "no-reasoning"),
        ([EMPTY, SAY], "no-reasoning"),
        ([SAY, REASONED], "some-without-reasoning"),
        ([REASONED, THOUGHT], None),
    ],
)
def test_a_model_that_reasons_is_warned_of_rows_without_reasoning(
    answers: list[dict[str, Any]], code: str | None, thinking_model: str, tmp_path: Path
) -> None:
    rows = [{"messages": [ASK | {"content": f"Open {number}?"}, answers[number % 2]]} for number in range(20)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    report = check(path, provider="local", model=thinking_model, checks=("structure",))
    assert report.ok
    assert [finding.code for finding in report.findings if "reasoning" in finding.code] == ([code] if code else [])
    assert "no-reasoning" not in check(path, provider="local", model="tiny", checks=("structure",)).counts

    def planned(**options: Any) -> Any:
        job = {"name": "a", "dataset": str(path), "model": thinking_model, "provider_options": {"local": options}}
        return plan(TuningJob.model_validate(job), "local").data

    assert any("[no-reasoning]" in line for line in planned().changed) is (code == "no-reasoning")
    assert planned().errors == 0
    for options in ({"mask_empty_thinking": True}, {"template_options": {"enable_thinking": False}}):
        assert not any("no-reasoning" in line for line in planned(**options).findings)


def test_the_finding_says_how_many_and_what_to_do(thinking_model: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [ASK, SAY]}])
    report = check(path, provider="local", model=thinking_model, checks=("structure",))
    (finding,) = [finding for finding in report.findings if finding.code == "no-reasoning"]
    assert finding.severity == "warning"
    assert finding.message.startswith("none of the 1 answers has reasoning")
    assert "provider_options.local.mask_empty_thinking: true" in finding.remedy


@pytest.mark.parametrize("pairs", [False, True])
def test_the_trainer_leaves_an_empty_thought_unlearned_where_told(pairs: bool, tmp_path: Path) -> None:
    from llmtune_local.batching.token_rows import read_pairs, read_rows
    from tests.providers.llmtune_local.conftest import family

    tokenizer = family("thinking")
    row = {"prompt": [ASK], "chosen": [SAY], "rejected": [REASONED]} if pairs else {"messages": [ASK, SAY]}
    path = str(write_rows(tmp_path / "rows.jsonl", [row]))

    def learned(**option: bool) -> list[str]:
        rows = (read_pairs if pairs else read_rows)(tokenizer, path, limit=None, on_too_long="error", **option)
        return [tokenizer.decode(piece.ids[piece.completion]) for row in rows.rows for piece in row]

    rejected = ["<think>\nThe door says so.\n</think>\n\nUntil six.<|im_end|>"] if pairs else []
    assert learned() == ["<think>\n\n</think>\n\nUntil six.<|im_end|>", *rejected]
    assert learned(mask_empty_thinking=True) == ["Until six.<|im_end|>", *rejected]
    assert learned() == ["<think>\n\n</think>\n\nUntil six.<|im_end|>", *rejected]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, True),
        ({"dataset": {"on_too_long": "truncate"}}, False),
        ({"dataset": {"on_too_long": "drop"}}, False),
        ({"hyperparameters": {"max_sequence_length": 1}, "short": True}, True),
        ({"short": True}, False),
    ],
)
def test_a_plan_finds_the_rows_that_are_too_long_for_the_job(
    fields: dict[str, Any], refused: bool, tmp_path: Path
) -> None:
    fields = dict(fields)
    text = "six" if fields.pop("short", False) else "six " * 20_000
    rows = [
        {"messages": [ASK | {"content": f"{number}?"}, {"role": "assistant", "content": text}]} for number in range(5)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    dataset = {"train": str(path), "split": [1.0, 0.0, 0.0], **fields.pop("dataset", {})}
    job = TuningJob.model_validate({"name": "a", "dataset": dataset, "model": "tiny"} | fields)
    data = plan(job, "local").data
    assert bool(data.errors) is refused
    assert all("[too_long]" in line for line in data.findings[: data.errors])


def test_without_the_libraries_a_plan_shows_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [ASK, SAY]}] * 30)
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where the extra is not installed
    with pytest.raises(MissingExtra, match="transformers") as missing:
        open_rendering("tiny", {}, True)
    assert missing.value.hint == "pip install 'llmtune-sdk[local]'"
    receipt = plan(TuningJob(name="t", dataset=str(path), model="tiny"), "local")
    assert receipt.fields
    assert sum(receipt.data.rows.values()) == 30


@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl"])
def test_plain_text_is_sent_as_plain_text(name: str, tmp_path: Path) -> None:
    texts = [f"It was a night, number {number}.\nAnd then a day." for number in range(20)]
    path = tmp_path / name
    path.write_text(
        "\n\n".join(texts) if name.endswith(".txt") else "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    job = TuningJob.model_validate({"name": "texts", "dataset": str(path), "model": "tiny"})
    dataset = Dataset.from_spec(job.dataset)
    receipt = plan(job, "local", dataset=dataset)
    assert (receipt.data.format, receipt.data.errors, receipt.data.lossy) == ("text", 0, ())
    encoded = get_provider("local").encode(dataset, receipt, tmp_path / "files")
    lines = [json.loads(line) for file in encoded.files for line in Path(file.path).read_text().splitlines()]
    assert sorted(line["text"] for line in lines) == sorted(
        row.text or "" for part in (dataset.train, dataset.validation) for row in part
    )
    assert {file.format for file in encoded.files} == {"text"}
    report = check(path, provider="local")
    assert not [finding for finding in report.findings if finding.is_error]


@pytest.mark.parametrize(
    ("row", "on_too_long", "problem"),
    [
        ({"messages": [ASK], "hours": "six"}, "error", None),
        ({"messages": [ASK, {"role": "assistant", "content": "six " * 20_000}]}, "error", None),  # only graded
        ({"messages": [{"role": "user", "content": "Open? " * 20_000}, SAY]}, "error", "its answer included"),
        ({"messages": [{"role": "user", "content": "Open? " * 20_000}, SAY]}, "drop", None),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, SAY]},
            "error",
            "no question comes before the answer",
        ),
    ],
)
def test_prompts_of_reinforcement_are_checked_without_their_answers(
    tmp_path: Path, row: dict[str, Any], on_too_long: str, problem: str | None
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row])
    grader = {"kind": "match", "operation": "exact"} | ({"reference": "hours"} if "hours" in row else {})
    job = TuningJob.model_validate(
        {
            "name": "n",
            "dataset": {"path": str(path), "split": [1, 0, 0], "on_too_long": on_too_long},
            "model": "tiny",
            "method": "reinforcement",
            "grader": grader,
        }
    )
    receipt = plan(job, "local")
    data = Dataset.from_spec(job.dataset, reference=grader.get("reference"))
    if problem is None:
        preflight.check_rows(data, receipt)
    else:
        with pytest.raises(InvalidData, match=problem) as raised:
            preflight.check_rows(data, receipt)
        assert raised.value.findings[0].line == 1


def test_rows_with_images_are_shown_to_models_that_read_them_and_counted_with_them(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from llmtune.data.formats.chat import CHAT
    from llmtune.data.formats.preference import FORMATS
    from llmtune_local.rows import open_rendering
    from tests.providers.llmtune_local.images import shapes

    base = shapes.build("qwen3_vl", tmp_path / "base")
    rendering = open_rendering(str(base), {}, True)
    assert rendering is not None
    assert rendering.count_tokens is not None
    rows = [CHAT.read(row, number, []) for number, row in enumerate(shapes.squares(3))]
    assert [list(rendering.problems(row, "sft", None)) for row in rows] == [[], [], []]
    assert [found.code for found in rendering.problems(CHAT.read({"messages": [IMAGE, SAY]}, 1, []), "sft", None)] == [
        "image"
    ]
    small, large = (
        rendering.count_tokens(
            [CHAT.read(shapes.row("red", shapes.data_url(shapes.picture((1, 2, 3), size=size))), 1, [])],
            None,
            "error",
            0.0,
        )
        for size in ((16, 16), (32, 32))
    )
    assert small is not None
    assert large == small + 3  # of the larger image four tokens instead of one
    assert rendering.count_tokens([CHAT.read({"messages": [ASK, SAY]}, 1, [])], None, "error", 0.0) is None
    pair = FORMATS[0].read(
        {"input": {"messages": [IMAGE]}, "preferred_output": [SAY], "non_preferred_output": [SAY]}, 1, []
    )
    assert [found.code for found in rendering.problems(pair, "dpo", None)] == ["not_text"]
