"""Real files of many makers: each is read in its own format, and refused or accepted as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.convert import convert, is_fatal
from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import all_formats, get_format, vendors
from llmtune.data.io.reading import Reading, load, read
from llmtune.errors import InvalidData

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the material folder beside the checkout is not here")

EXPECTED: dict[str, dict[str, Any]] = json.loads((SHARED / "expected.json").read_bytes()) if SHARED.is_dir() else {}
VENDOR_FILES = sorted(
    str(path.relative_to(SHARED)) for path in (SHARED / "vendor_training").rglob("*.json*") if path.is_file()
)

#: What each file is read as, and the findings that are known of it.
READ_AS = {
    "azure/aoai_v1_prompt_completion_train.jsonl": "prompt_completion",
    "azure/maas_text_generation_validation.jsonl": "prompt_completion",
    "bedrock/distillation_uber10K_prompt_completion.jsonl": "prompt_completion",
    "bedrock/nova_tooluse_formatted_test_ft.jsonl": "bedrock_converse",
    "bedrock/nova_tooluse_train_ft_unformatted.jsonl": "claude",
    "openai/prompt_completion_niche.jsonl": "prompt_completion",
    "other/axolotl_conversation.json": "sharegpt",
    "other/torchtune_chat_tiny.json": "sharegpt",
    "other/llama_factory_v1_dpo_demo.jsonl": "preference_messages",
    "other/oumi_alpaca_format.jsonl": "alpaca",
    "other/oumi_vision_language_dpo.jsonl": "preference_pair",
    "other/together/together_dpo_valid.jsonl": "preference",
    "other/together/together_valid_general.jsonl": "text",
    "other/together/together_valid_instruction.jsonl": "prompt_completion",
    "vertex/doc_example_dpo_completions.jsonl": "gemini_preference",
    "vertex/doc_example_image.jsonl": "gemini",
    "vertex/doc_example_text.jsonl": "gemini",
    "azure/rft_countdown_grader_config_aoai.json": None,
    "azure/rft_medmcq_train.jsonl": None,
}
#: Files that are no rows to tune on as they are: the code that says so, and the line of the first such finding.
EXCEPTIONS = {
    "azure/rft_countdown_grader_config_aoai.json": ("grader-config", None),
    "azure/rft_medmcq_train.jsonl": ("reinforcement-rows", None),
    "azure/rft_countdown_train_25.jsonl": ("reinforcement-row", 1),
    "bedrock/rft_train_data.jsonl": ("reinforcement-row", 1),
    "other/mistral_observability_import.jsonl": ("reinforcement-row", 2),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_oracle_holds(name: str) -> None:
    expected = EXPECTED[name]
    report = check(SHARED / name, provider=expected["provider"], method=expected["method"])
    assert (2 if report.errors else 0) == expected["exit"]
    if expected["exit"] == 0:
        assert report.warnings
        return
    errors = [finding for finding in report.findings if finding.is_error]
    assert errors[0].line == expected["line"]
    assert errors[0].file == str(SHARED / name)
    assert len(errors[0].message) > 15
    assert errors[0].remedy


@pytest.mark.parametrize("name", VENDOR_FILES)
def test_every_vendor_file_is_read_in_its_own_format(name: str) -> None:
    path = name.removeprefix("vendor_training/")
    report = check(SHARED / name)
    file = report.files[0]
    assert file.format == READ_AS.get(path, "chat")
    errors = [finding for finding in report.findings if finding.is_error]
    if path in EXCEPTIONS:
        code, line = EXCEPTIONS[path]
        assert (errors[0].code, errors[0].line) == (code, line)
        assert {finding.code for finding in errors} == {code}
    else:
        assert errors == []
        manifest = json.loads((SHARED / "manifest.json").read_bytes())
        assert file.stats.rows == next(entry["rows"] for entry in manifest if entry["file"] == name)


def _sound(name: str) -> list[Example]:
    return [item for item in read(SHARED / name) if not isinstance(item, Finding)]


def _plain(example: Example) -> Example:
    """What every conversion must keep: the words, roles and calls; not the ids of calls, the parts of a text, or
    keys and names, of whose change the format warns."""

    def turn(message: Any) -> Any:
        calls = tuple((call.name, json.loads(call.arguments)) for call in message.tool_calls)
        content = message.content
        words = message.words if not message.images else tuple(part[0] for part in content)
        if message.role == "tool":
            words = _loose(message.words)
        return message.role, words or "", calls

    preference = example.preference
    return Example(
        tuple(turn(message) for message in example.messages),
        tuple(_tool(tool) for tool in example.tools),
        None,
        None if preference is None else tuple(tuple(turn(m) for m in side) for side in preference),  # type: ignore[arg-type]
        example.text,
    )


def _loose(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tool(tool: Any) -> Any:
    function = tool["function"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return function["name"], function.get("description"), schema


@pytest.mark.parametrize("to", sorted(all_formats()))
@pytest.mark.parametrize("name", [name for name in VENDOR_FILES if "grader" not in name and "medmcq" not in name])
def test_every_file_converts_to_every_format_and_back_where_that_can_carry_it(name: str, to: str) -> None:
    target = get_format(to)
    carried = 0
    for example in _sound(name):
        problems = target.problems(example)
        if any(is_fatal(problem, allow_lossy=False) for problem in problems):
            continue
        row = json.loads(json.dumps(target.write(example)))
        faults: list[Finding] = []
        back = target.read(row, example.line, faults)
        assert [fault for fault in faults if fault.is_error] == []
        changed = {problem.code for problem in problems}
        before, after = _plain(example), _plain(back)
        if "changed-system" in changed:  # put into the prompt: the words are all there
            assert after.messages[-1] == before.messages[-1]
            for _, words, _ in before.messages[:-1]:  # type: ignore[misc]
                assert words in after.messages[0][1]  # type: ignore[operator]
        elif "changed-tools" not in changed:
            assert after == before
        carried += 1
    if to == "chat" and READ_AS.get(name.removeprefix("vendor_training/")) not in (
        "preference_messages",
        "preference_pair",
        "preference",
        "gemini_preference",
        "text",
    ):
        assert carried == len(_sound(name))


@pytest.mark.parametrize("name", VENDOR_FILES)
def test_own_format_gives_back_the_very_rows(name: str, tmp_path: Path) -> None:
    reading = Reading(SHARED / name)
    examples = [item for item in reading if not isinstance(item, Finding)]
    if reading.format is None or reading.format.name in ("sharegpt", "alpaca"):
        pytest.skip("not rows, or a format with several spellings of one row")
    text = (SHARED / name).read_bytes().decode("utf-8-sig")
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    for row, example in zip(rows, examples, strict=True):
        written = json.loads(json.dumps(reading.format.write(example)))
        again = reading.format.read(written, example.line, [])
        assert again == example
        if not {"functions", "text", "chosen_messages"} & set(row) and "loss_weight" not in str(row):
            assert _without_empty(written) == _without_empty(row)


def _without_empty(value: Any) -> Any:
    """A row without nulls and empty extras, and with numbers as numbers: what two spellings may differ in."""
    if isinstance(value, dict):
        return {key: _without_empty(one) for key, one in value.items() if one is not None and key not in ("images",)}
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], dict) and set(value[0]) == {"role", "content"}:
            return _without_empty(value[0]["content"])  # an answer as a list of one message, or as its text
        return [_without_empty(one) for one in value]
    return value


def test_the_two_shapes_of_the_nova_rows_convert_into_each_other(tmp_path: Path) -> None:
    folder = SHARED / "vendor_training" / "bedrock"
    formatted = folder / "nova_tooluse_formatted_test_ft.jsonl"
    plain = folder / "nova_tooluse_train_ft_unformatted.jsonl"
    to_plain, to_formatted = tmp_path / "plain.jsonl", tmp_path / "formatted.jsonl"
    convert(formatted, to_plain, "claude")
    for row, source in zip(_rows(to_plain), _rows(formatted), strict=True):
        assert row["system"] == source["system"][0]["text"]
        assert [turn["content"] for turn in row["messages"]] == [
            turn["content"][0]["text"] for turn in source["messages"]
        ]
    convert(plain, to_formatted, "bedrock_converse")
    for row, source in zip(_rows(to_formatted), _rows(plain), strict=True):
        assert row["schemaVersion"] == "bedrock-conversation-2024"
        assert row["system"] == [{"text": source["system"]}]
        assert row["messages"] == [
            {"role": turn["role"], "content": [{"text": turn["content"]}]} for turn in source["messages"]
        ]
    back = tmp_path / "back.jsonl"
    convert(to_formatted, back, "claude")
    assert _rows(back) == _rows(plain)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_what_cannot_be_carried_refuses_and_names_the_row(tmp_path: Path) -> None:
    source = SHARED / "vendor_training" / "openai" / "drone_training.jsonl"
    target = tmp_path / "rows.jsonl"
    with pytest.raises(InvalidData) as refused:
        convert(source, target, "claude")
    lost = [finding for finding in refused.value.findings if finding.is_error]
    assert [finding.line for finding in lost] == list(range(1, 104))
    assert {finding.code for finding in lost} == {"lost-tools"}
    assert not target.exists()
    assert convert(source, target, "claude", allow_lossy=True).rows == 103


def test_legacy_functions_become_tools() -> None:
    (example, *_) = load(SHARED / "vendor_training/openai/functions_legacy_math_finetunes_val.jsonl")
    assert example.tools[0]["type"] == "function"
    assert example.messages[-1].tool_calls[0].name == "Multiply"


def test_leakage_between_two_files_of_one_repository() -> None:
    path = SHARED / "warn" / "autograding_validation_crlf_dups.jsonl"
    report = check(path, validation=path, checks=("structure", "duplicates"))
    prompts = {finding.line for finding in report.findings if finding.code == "leakage"}
    assert len(prompts) == len({str(example.prompt()) for example in load(path)})


@pytest.mark.parametrize(
    "provider", ["openai", "azure", "vertex", "bedrock", "sagemaker", "cohere", "tinker", "together", "nebius"]
)
def test_every_provider_has_rows_and_rules(provider: str) -> None:
    rows = vendors()[provider]
    report = check(SHARED / "chat/gsm8k/validation.jsonl", provider=provider, method="sft")
    assert report.provider == provider
    assert report.errors == 0
    assert get_format(provider).name == rows.format_for("sft")
