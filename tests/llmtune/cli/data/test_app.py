"""`llmtune data`: what it prints, what it leaves with, and that JSON is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.data.app import app
from llmtune.data.io.reading import load
from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, UnknownName

runner = CliRunner()
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"


def run(*arguments: Any) -> Any:
    """Runs the sub-command; mistakes of the user's are raised, as the command's entry turns them into sentences."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, LlmtuneError):
        raise result.exception
    return result


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def good(rows_file: Any) -> Path:
    path: Path = rows_file(
        [row(f"what is {number} of {number * 37}?", f"it is {number} " * 20) for number in range(40)]
    )
    return path


def test_check_leaves_with_what_it_found(good: Path, rows_file: Any) -> None:
    result = run("check", good)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings")
    bad = rows_file([row("q", "a"), row("q", ""), {"messages": []}], "bad.jsonl")
    result = run("check", bad)
    assert result.exit_code == 2
    assert f"{bad}:2: error messages[1]: the answer is empty [empty-content]" in result.stdout
    assert f"{bad}:3: error messages is an empty list [empty-messages]" in result.stdout
    assert "2 errors, 0 warnings" in result.stdout
    twice = rows_file([row("q", "a"), row("q", "a")], "twice.jsonl")
    assert run("check", twice).exit_code == 0
    assert run("check", twice, "--strict").exit_code == 2


def test_check_as_json(rows_file: Any) -> None:
    path = rows_file([row("q", "a"), {"messages": []}])
    result = run("check", path, "--json", "--provider", "openai")
    report = json.loads(result.stdout)
    assert result.exit_code == 2
    assert report["schema"] == 1
    assert not report["ok"]
    assert report["provider"] == "openai"
    assert report["counts"] == {"empty-messages": 1, "vendor-rows": 1}
    assert report["findings"][0] == {
        "code": "empty-messages",
        "severity": "error",
        "message": "messages is an empty list",
        "remedy": "give it at least a user and an answer",
        "file": str(path),
        "line": 2,
    }
    assert report["files"][0]["rows"] == 1


def test_check_shows_the_first_of_many(rows_file: Any) -> None:
    path = rows_file([{"messages": []}] * 30)
    result = run("check", path, "--show", 3)
    assert result.stdout.count("[empty-messages]") == 3 + 1
    assert "and 27 more" in result.stdout
    assert run("check", path, "--show", 0).stdout.count("[empty-messages]") == 30


def test_check_of_some_checks(rows_file: Any) -> None:
    path = rows_file([row("q", "a"), row("q", "a")])
    assert "duplicate-row" in run("check", path, "--only", "duplicates").stdout
    assert "duplicate-row" not in run("check", path, "--skip", "duplicates").stdout
    with pytest.raises(UnknownName, match="did you mean 'privacy'"):
        run("check", path, "--only", "privcy")


def test_check_of_three_files_and_a_format(rows_file: Any) -> None:
    train, held = rows_file([row("q", "a")], "a.jsonl"), rows_file([row("q", "b" * 99)], "b.jsonl")
    assert "leakage" in run("check", train, "--validation", held).stdout
    assert "leakage" in run("check", train, "--test", held, "--format", "chat").stdout
    with pytest.raises(UnknownName, match="did you mean 'csv'"):
        run("check", train, "--format", "cvs")
    with pytest.raises(UnknownName, match="did you mean 'together'"):
        run("check", train, "--provider", "togeter")


def test_stats(good: Path) -> None:
    result = run("stats", good)
    assert result.exit_code == 0
    assert "40 rows of chat, 80 turns" in result.stdout
    assert "estimate" in result.stdout
    assert "openai" in result.stdout
    counted = json.loads(run("stats", good, "--json", "--epochs", 3).stdout)
    assert counted["rows"] == 40
    assert counted["tokens"]["total"] == sum(
        counted["tokens"][role] for role in ("system", "user", "assistant", "tool")
    )
    assert counted["billable"]["openai"]["tokens"] == 3 * counted["tokens"]["total"]
    assert list(counted["lengths"]) == ["p0", "p5", "p25", "p50", "p75", "p95", "p99", "p100"]
    cohere = json.loads(run("stats", good, "--json", "--provider", "cohere").stdout)["billable"]["cohere"]
    assert cohere["tokens"] is None


def test_stats_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(10)))
    assert "2 labels: a 5, b 5" in run("stats", path).stdout


def test_split_writes_the_parts_once(good: Path, tmp_path: Path) -> None:
    into = tmp_path / "parts"
    result = run("split", good, "--into", into, "--split", "20,10,10", "--seed", 3)
    assert "train" in result.stdout
    assert [len(load(into / f"{name}.jsonl")) for name in ("train", "validation", "test")] == [20, 10, 10]
    with pytest.raises(LlmtuneError, match="already exists"):
        run("split", good, "--into", into)
    done = json.loads(run("split", good, "--into", into, "--overwrite", "--json", "--to", "gemini").stdout)
    assert done["parts"]["train"]["rows"] == 32
    assert "contents" in (into / "train.jsonl").read_text()
    for wrong in ("0.5,0.5", "0.8,0.1,0.2", "a,b,c"):
        with pytest.raises(InvalidJob):
            run("split", good, "--into", tmp_path / "more", "--split", wrong)


def test_split_refuses_faulty_rows(rows_file: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidData):
        run("split", rows_file([row("q", "a"), b"{"]), "--into", tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_convert(good: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert "40 rows as gemini" in run("convert", good, target, "--to", "vertex").stdout
    with pytest.raises(LlmtuneError, match="is already there"):
        run("convert", good, target, "--to", "vertex")
    done = json.loads(run("convert", target, target, "--to", "alpaca", "--overwrite", "--json").stdout)
    assert (done["ok"], done["rows"], done["format"]) == (True, 40, "alpaca")


def test_convert_lists_losses_and_takes_them_when_allowed(rows_file: Any, tmp_path: Path) -> None:
    masked = row("q", "a")
    masked["messages"] += row("r", "b")["messages"]
    masked["messages"][1]["weight"] = 0
    source, target = rows_file([row("q", "a"), masked]), tmp_path / "out.jsonl"
    result = run("convert", source, target, "--to", "claude")
    assert result.exit_code == 2
    assert f"{source}:2: error claude rows cannot carry weight 0" in result.stdout
    assert "--allow-lossy-data" in result.stderr
    assert not target.exists()
    report = json.loads(run("convert", source, target, "--to", "claude", "--json").stdout)
    assert not report["ok"]
    assert report["findings"][0]["line"] == 2
    assert run("convert", source, target, "--to", "claude", "--allow-lossy-data").exit_code == 0
    assert len(load(target)) == 2


def test_columns_are_named(rows_file: Any, tmp_path: Path) -> None:
    source = rows_file([{"frage": "q", "antwort": "a"}])
    run(
        "convert",
        source,
        tmp_path / "o.jsonl",
        "--to",
        "chat",
        "--column",
        "prompt=frage",
        "--column",
        "completion=antwort",
    )
    assert load(tmp_path / "o.jsonl")[0].completion() == "a"
    with pytest.raises(InvalidJob, match="FIELD=COLUMN"):
        run("check", source, "--column", "frage")


def test_formats() -> None:
    result = run("formats")
    assert "gemini" in result.stdout
    assert json.loads(run("formats", "--json").stdout)["providers"]["bedrock"] == {
        "sft": "bedrock_converse",
        "reinforcement": "bedrock_reinforcement",
    }


@pytest.fixture
def tiny_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tokenizer for `peek` and `prepare`, in the place of one that a backend would open."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<|im_start|>": 0, "<|im_end|>": 1}
    vocabulary |= {mark: number + 2 for number, mark in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    fast = Tokenizer(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|im_end|>")
    fast_tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    monkeypatch.setattr("llmtune.data.rendering.token_count.load_tokenizer", lambda name: fast_tokenizer)
    return fast_tokenizer


def test_peek(good: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    result = run("peek", good, "-t", "some-model", "--rows", "2,4-5")
    assert "line 2" in result.stdout
    assert "line 5" in result.stdout
    assert "line 3" not in result.stdout
    previews = json.loads(run("peek", good, "-t", "some-model", "--limit", 2, "--json").stdout)["rows"]
    assert [row["line"] for row in previews] == [1, 2]
    learned = "".join(token["text"] for token in previews[1]["tokens"] if token["trained"])
    assert learned == "it is 1 " * 20 + "<|im_end|>"
    page = tmp_path / "peek.html"
    run("peek", good, "-t", "some-model", "--html", page)
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(InvalidData, match="no valid row in line 99"):
        run("peek", good, "-t", "some-model", "--rows", "99")
    with pytest.raises(InvalidJob, match="is not a list of line numbers"):
        run("peek", good, "-t", "some-model", "--rows", "x")


def test_prepare(good: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    result = run("prepare", good, "-t", "some-model", "--into", tmp_path / "ready")
    assert "40 sequences" in result.stdout
    again = json.loads(run("prepare", good, "-t", "some-model", "--into", tmp_path / "ready", "--json").stdout)
    assert (again["made"], again["rows"]) == (False, 40)
    with pytest.raises(UnknownName):
        run("prepare", good, "-t", "some-model", "--into", tmp_path / "ready", "--on-too-long", "cut")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the material folder beside the checkout is not here")
def test_the_command_itself_ends_in_sentences_and_exit_codes() -> None:
    def llmtune(*arguments: str) -> Any:
        command = [sys.executable, "-m", "llmtune", "data", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=SHARED)

    refused = llmtune("check", "bad/together_invalid_weight.jsonl", "--provider", "together")
    assert refused.returncode == 2
    assert "bad/together_invalid_weight.jsonl:1: error messages[0].weight is 2" in refused.stdout
    assert llmtune("check", "warn/autograding_validation_crlf_dups.jsonl").returncode == 0
    unknown = llmtune("check", "nowhere.jsonl", "--format", "chta")
    assert unknown.returncode == 2
    assert "did you mean 'chat'" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    missing = llmtune("check", "nowhere.jsonl")
    assert missing.returncode == 2
    assert "the file does not exist" in missing.stdout


def test_the_sub_command_imports_light() -> None:
    heavy = ("numpy", "torch", "transformers", "pyarrow", "rich.table", "pydantic", "sqlalchemy")
    code = f"import sys; import llmtune.cli.data.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stats_show_the_share_of_reasoning(rows_file: Any) -> None:
    turns = row("q" * 80, "a" * 40)["messages"]
    turns[1]["reasoning"] = "b" * 160
    assert "27 are reasoning (" in run("stats", rows_file([{"messages": turns}])).stdout
    assert "reasoning" not in run("stats", rows_file([row("q", "a")])).stdout


def test_the_names_of_formats_stand_apart_from_what_they_are() -> None:
    lines = run("formats").stdout.splitlines()
    assert len({line.index("{") for line in lines if line.startswith(("chat ", "prompt_completion_turns "))}) == 1
