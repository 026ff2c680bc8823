"""What a row says is not to be learned is not learned: flags of turns, of rows, and marks of unpaired preference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.data.app import app
from llmtune.data.checks import block_worker
from llmtune.data.checks import check as checking
from llmtune.data.checks.check import check
from llmtune.data.convert import convert
from llmtune.data.dataset import Dataset
from llmtune.data.example import Message
from llmtune.data.io.reading import load
from llmtune.errors import InvalidData
from llmtune.job.spec import DatasetSpec

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def chat(flag: dict[str, Any]) -> dict[str, Any]:
    turns = [("user", "hi"), ("assistant", "poor"), ("user", "again"), ("assistant", "fine")]
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    messages[1] |= flag
    return {"messages": messages}


def chat_with_tools(flag: dict[str, Any]) -> dict[str, Any]:
    row = chat(flag)
    row["messages"] += [
        {"role": "user", "content": "look"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "assistant", "content": "there"},
    ]
    return {**row, "tools": TOOLS}


def sharegpt(flag: dict[str, Any]) -> dict[str, Any]:
    turns = [("human", "hi"), ("gpt", "poor"), ("human", "again"), ("gpt", "fine")]
    conversations: list[dict[str, Any]] = [{"from": speaker, "value": text} for speaker, text in turns]
    conversations[1] |= flag
    return {"conversations": conversations}


def gemini(flag: dict[str, Any]) -> dict[str, Any]:
    turns = [("user", "hi"), ("model", "poor"), ("user", "again"), ("model", "fine")]
    contents: list[dict[str, Any]] = [{"role": role, "parts": [{"text": text}]} for role, text in turns]
    contents[1] |= flag
    return {"contents": contents}


def converse(flag: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{**turn, "content": [{"text": turn["content"]}]} for turn in chat(flag)["messages"]]}


def cohere(flag: dict[str, Any]) -> dict[str, Any]:
    names = {"user": "User", "assistant": "Chatbot"}
    return {"messages": [{**turn, "role": names[turn["role"]]} for turn in chat(flag)["messages"]]}


FORMATS = (chat, chat_with_tools, sharegpt, gemini, converse, cohere)
FALSY: list[dict[str, Any]] = [
    {"weight": 0},
    {"loss_weight": 0.0},
    {"loss_scale": 0},
    {"train": False},
    {"training": False},
    {"trainable": False},
    {"trained": 0},
    {"loss": "false"},
    {"loss_mask": 0},
    {"compute_loss": "False"},
    {"masked": True},
    {"train": False, "weight": 0},
    {"train": False, "loss": None},
]


@pytest.mark.parametrize("flag", FALSY, ids=json.dumps)
@pytest.mark.parametrize("shape", FORMATS)
def test_a_falsy_flag_is_weight_0(shape: Any, flag: dict[str, Any], rows_file: Any) -> None:
    (example,) = load(rows_file([shape(flag)]))
    poor, fine = example.messages[1], example.messages[3]
    assert (poor.weight, poor.trained, poor.extra) == (0, False, None)
    assert (fine.weight, fine.trained) == (None, True)


@pytest.mark.parametrize(
    "flag", [{"train": True}, {"loss": 1}, {"masked": False}, {"training": "true"}], ids=json.dumps
)
@pytest.mark.parametrize("shape", FORMATS)
def test_a_true_flag_is_weight_1(shape: Any, flag: dict[str, Any], rows_file: Any) -> None:
    (example,) = load(rows_file([shape(flag)]))
    assert (example.messages[1].weight, example.messages[1].extra) == (1, None)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ({"train": "perhaps"}, "train is 'perhaps'; expected true or false"),
        ({"loss": 0.4}, "loss is 0.4; expected true or false"),
        ({"loss_mask": [0, 1]}, "loss_mask is [0, 1]; expected true or false"),
        ({"weight": False}, "weight is False; expected the integer 0 or 1"),
        ({"weight": 0.5}, "weight is 0.5; expected the integer 0 or 1"),
        ({"mask": True}, "mask does not say"),
        ({"training_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]}, "training_detail does not say"),
        ({"weight": 0, "train": True}, "has weight 0 and train True, which contradict each other"),
        ({"training": False, "loss": True}, "has training False and loss True, which contradict each other"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("shape", FORMATS)
def test_an_unreadable_flag_is_an_error_with_its_line(
    shape: Any, flag: dict[str, Any], words: str, rows_file: Any, both: Any
) -> None:
    examples, (finding,) = both(rows_file([shape({}), shape(flag)]))
    assert len(examples) == 1
    assert (finding.code, finding.line, finding.is_error) == ("weight", 2, True)
    assert words in finding.message


def test_a_flag_on_a_prompt_is_no_fault(rows_file: Any) -> None:
    row = chat({})
    row["messages"].insert(0, {"role": "system", "content": "s", "loss": False})
    row["messages"][1] |= {"train": False, "mask": True}
    path = rows_file([row])
    (example,) = load(path)
    assert [message.trained for message in example.messages] == [False, False, True, False, True]
    assert check(path).counts == {}


def test_flags_hold_in_answers_of_pairs(rows_file: Any) -> None:
    prompt = [{"role": "user", "content": "q"}]
    turns = [
        {"role": "assistant", "content": "wait", "train": False},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "a"},
    ]
    other = [{"role": "assistant", "content": "b"}]
    for row in (
        {"input": {"messages": prompt}, "preferred_output": turns, "non_preferred_output": other},
        {"prompt": prompt, "chosen": turns, "rejected": other},
        {"chosen_messages": prompt + turns, "rejected_messages": prompt + other},
    ):
        path = rows_file([row])
        (example,) = load(path)
        assert example.preference is not None
        assert [turn.weight for turn in example.preference.preferred] == [0, None, None]
        assert check(path).errors == 0
    hidden = rows_file([{"prompt": "q", "chosen": turns[:1], "rejected": other}])
    (finding,) = check(hidden, method="dpo").findings
    assert (finding.code, finding.line) == ("no-trained-turn", 1)
    assert "the preferred answer has weight 0" in finding.message


def test_a_service_without_weights_refuses_such_a_turn(rows_file: Any) -> None:
    for shape in FORMATS:
        report = check(rows_file([shape({"train": False})]), provider="vertex")
        assert "lost-weight" in report.counts, shape


def test_a_converted_row_keeps_its_weight(rows_file: Any, tmp_path: Path) -> None:
    convert(rows_file([sharegpt({"train": False})]), tmp_path / "out.jsonl", "chat")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["messages"][1] == {"role": "assistant", "content": "poor", "weight": 0}
    (example,) = load(tmp_path / "out.jsonl")
    assert example.messages[1] == Message("assistant", "poor", weight=0)


TURNS = chat({})["messages"][2:]
ANSWERED: dict[str, dict[str, Any]] = {
    "chat": {"messages": TURNS},
    "chat with tools": chat_with_tools({}),
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "question and answer": {"question": "q", "answer": "a"},
    "prompt and completion as messages": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "sharegpt": sharegpt({}),
    "gemini": gemini({}),
    "bedrock_converse": converse({}),
    "cohere_chat": cohere({}),
    "preference_pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "preference": {"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": TURNS[1:]},
    "preference_messages": {"chosen_messages": TURNS, "rejected_messages": TURNS},
    "query and response": {"query": "q", "response": "a"},
}


@pytest.mark.parametrize("mark", [True, False, "true", "False"])
@pytest.mark.parametrize("name", ANSWERED)
def test_unpaired_preference_is_refused_in_every_format(name: str, mark: Any, rows_file: Any, both: Any) -> None:
    examples, (finding,) = both(rows_file([{**ANSWERED[name], "label": mark}]))
    assert examples == []
    assert (finding.code, finding.line, finding.is_error) == ("unpaired-preference", 1, True)
    assert "unpaired preference rows (KTO)" in finding.message
    assert (
        "remove 'label' where the pair" if "preference" in name else "keep the rows where it is true"
    ) in finding.remedy


@pytest.mark.parametrize("mark", [1, 0, "1", "0", 1.0])
@pytest.mark.parametrize("name", [name for name in ANSWERED if name != "query and response"])
def test_one_and_zero_are_marks_too(name: str, mark: Any, rows_file: Any, both: Any) -> None:
    examples, (finding,) = both(rows_file([{**ANSWERED[name], "label": mark}]))
    assert (examples, finding.code) == ([], "unpaired-preference")


def test_unpaired_preference_under_the_names_of_others(rows_file: Any, tmp_path: Path, both: Any) -> None:
    for row in ({**ANSWERED["alpaca"], "kto_tag": False}, {**ANSWERED["sharegpt"], "kto_tag": True}):
        examples, (finding,) = both(rows_file([row]))
        assert (examples, finding.code) == ([], "unpaired-preference")
    table = tmp_path / "rows.csv"
    table.write_text("prompt,completion,label\nq,a,True\nr,b,False\n")
    examples, findings = both(table)
    assert (examples, [finding.line for finding in findings]) == ([], [2, 3])
    table.write_text("prompt,completion,label\nq,a,1\nr,b,0\n")
    assert both(table)[0] == []
    path = rows_file([{"prompt": "q", "completion": "a", "liked": False}])
    assert both(path, label_column="liked")[1][0].code == "unpaired-preference"


def test_unpaired_preference_of_parquet(tmp_path: Path, both: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for marks in ([True, False], [1, 0]):
        table = pyarrow.table({"prompt": ["q", "r"], "completion": ["a", "b"], "label": marks})
        parquet.write_table(table, tmp_path / "rows.parquet")
        examples, findings = both(tmp_path / "rows.parquet")
        assert (examples, [finding.code for finding in findings]) == ([], ["unpaired-preference"] * 2)


@pytest.mark.parametrize("labels", [[0, 1, 2], ["0", "1", "7"], ["true", "false", "unclear"], [None, "spam"]])
@pytest.mark.parametrize("name", ["chat", "prompt_completion", "sharegpt", "alpaca"])
def test_a_label_that_names_classes_is_let_through(name: str, labels: list[Any], rows_file: Any, both: Any) -> None:
    examples, findings = both(rows_file([{**ANSWERED[name], "label": label} for label in labels]))
    assert (len(examples), findings) == (len(labels), [])


def test_a_boolean_class_of_a_text_stays_classification(rows_file: Any, tmp_path: Path) -> None:
    marks = [True, False, "true", "false", 1, 0]
    labels = ["True", "False", "true", "false", "1", "0"]
    rows = [{"text": f"q{number}", "label": mark, "source": "web"} for number, mark in enumerate(marks)]
    assert [example.label for example in load(rows_file(rows))] == labels
    table = tmp_path / "rows.csv"
    table.write_text("text,label\nq,true\nr,false\n")
    assert [example.label for example in load(table)] == ["true", "false"]


@pytest.mark.parametrize("labels", [2, 3])
def test_processes_agree_on_what_a_label_is(labels: int, rows_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PARALLEL_BYTES", 1000)
    monkeypatch.setattr(block_worker, "BLOCK", 4000)
    rows = [{"prompt": f"q{n}", "completion": f"a{n}", "label": n * labels // 300} for n in range(300)]
    path = rows_file(rows)
    counts = [check(path, jobs=jobs).counts.get("unpaired-preference", 0) for jobs in (1, 2)]
    assert counts == ([300, 300] if labels == 2 else [0, 0])


FLAGS: list[dict[str, Any]] = [{"train": False}, {"training": "false"}, {"loss": 0}, {"weight": 0}, {"masked": True}]


WHOLE = {
    **{name: row for name, row in ANSWERED.items() if name != "query and response"},  # without a label: no format
    "labelled": {"text": "q", "label": "x"},
    "text": {"text": "q"},
}


@pytest.mark.parametrize("flag", FLAGS, ids=json.dumps)
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_row_that_is_not_to_be_learned_is_refused(
    name: str, flag: dict[str, Any], rows_file: Any, both: Any
) -> None:
    examples, (finding,) = both(rows_file([{**WHOLE[name], **flag}]))
    assert (examples, finding.code, finding.line, finding.is_error) == ([], "weight", 1, True)
    assert f"the row has {next(iter(flag))!r}" in finding.message


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "prompt and completion as messages"])
def test_other_values_of_such_keys_on_a_row_are_let_through(name: str, rows_file: Any) -> None:
    (example,) = load(rows_file([{**WHOLE[name], "train": True, "loss": 0.3}]))
    assert example.extra == {"train": True, "loss": 0.3}


def test_the_command_and_the_dataset_of_a_job_refuse_alike(rows_file: Any) -> None:
    path = rows_file([{**ANSWERED["chat"], "label": mark} for mark in (True, False)])
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2
    assert f"{path}:2: error unpaired preference rows (KTO)" in result.stdout
    assert "2 errors, 0 warnings" in result.stdout
    with pytest.raises(InvalidData, match=r"rows.jsonl:1: unpaired preference rows .*; and 1 more"):
        Dataset.from_spec(DatasetSpec(path=str(path)), method="sft")
    path = rows_file([chat({"train": "maybe"})])
    assert f"{path}:1: error messages[1].train is 'maybe'" in CliRunner().invoke(app, ["check", str(path)]).stdout


def test_the_dataset_of_a_job_keeps_the_weight(rows_file: Any) -> None:
    path = rows_file([chat({"train": False}) for _ in range(4)])
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0
    dataset = Dataset.from_spec(DatasetSpec(path=str(path), split=(1, 0, 0)), method="sft")
    assert [turn.trained for turn in dataset.train[0].messages] == [False, False, False, True]
