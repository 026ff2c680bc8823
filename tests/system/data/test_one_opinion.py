"""Of the same rows `data check`, `data convert` and the upload have one opinion, at every backend, by every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from llmtune.data.checks.check import check
from llmtune.data.convert import convert
from llmtune.data.dataset import Dataset
from llmtune.data.formats.base import FileFacts
from llmtune.data.formats.registry import vendor
from llmtune.errors import InvalidData
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.catalog import load
from llmtune.provider.registry import get_provider
from llmtune.provider.translate import translate
from llmtune.provider.types import Target

ROOT = Path(__file__).parents[3]

#: A backend and models of it, one of each kind that has rules of its own.
MODELS: dict[str, tuple[str, ...]] = {
    "openai": ("gpt-4.1-mini-2025-04-14",),
    "azure": ("gpt-4.1-mini-2025-04-14",),
    "nebius": ("meta-llama/Llama-3.3-70B-Instruct",),
    "together": ("Qwen/Qwen3-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"),
    "vertex": ("gemini-2.5-flash", "google/gemma3@gemma-3-12b-it"),
    "bedrock": (
        "amazon.nova-2-lite-v1:0:256k",
        "amazon.nova-lite-v1:0:300k",
        "anthropic.claude-3-haiku-20240307-v1:0:200k",
        "meta.llama3-1-8b-instruct-v1:0:128k",
        "meta.llama3-3-70b-instruct-v1:0:128k",
    ),
    "cohere": ("command-r-08-2024",),
    "tinker": ("tiny",),  # rows are rendered here, so that the tokenizer must be on this machine
    "local": ("tiny",),
}
TARGETS = [(kind, model, method) for kind in MODELS for model in MODELS[kind] for method in ("sft", "dpo")]
TARGETS += [("local", "tiny-encoder", "classification"), ("cohere", "classify", "classification")]

ASK, SAY = {"role": "user", "content": "Which light is on the pier?"}, {"role": "assistant", "content": "A green one."}
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {"n": {}}}}}]


def call(arguments: str = "{}", name: str = "tide") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def image(url: str) -> dict[str, Any]:
    return {"messages": [ASK | {"content": [{"type": "image_url", "image_url": {"url": url}}]}, SAY]}


def calling(**keys: Any) -> dict[str, Any]:
    turns = [
        {"role": "assistant", "tool_calls": [call(**keys)]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    return {"messages": [ASK, *turns, SAY], "tools": TOOLS}


#: One row of every kind that some backend has an opinion on.
ROWS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [ASK, SAY]},
    "a system turn": {"messages": [{"role": "system", "content": "Be brief."}, ASK, SAY]},
    "a late system turn": {"messages": [ASK, SAY, {"role": "system", "content": "Be brief."}, ASK, SAY]},
    "a developer turn": {"messages": [{"role": "developer", "content": "Be brief."}, ASK, SAY]},
    "several answers": {"messages": [ASK, SAY, ASK, SAY]},
    "the assistant first": {"messages": [SAY, ASK, SAY]},
    "two questions in a row": {"messages": [ASK, ASK, SAY]},
    "the user last": {"messages": [ASK, SAY, ASK]},
    "no answer": {"messages": [ASK]},
    "an empty answer": {"messages": [ASK, SAY | {"content": ""}]},
    "a hidden answer": {"messages": [ASK, SAY | {"weight": 0}, ASK, SAY]},
    "a weight that is none": {"messages": [ASK, SAY | {"weight": 0.5}]},
    "a weighted question": {"messages": [ASK | {"weight": 1}, SAY]},
    "a named speaker": {"messages": [ASK | {"name": "ana"}, SAY]},
    "keys beside": {"messages": [ASK, SAY], "user_id": "u-17"},
    "keys of a message beside": {"messages": [ASK, SAY | {"mood": "calm"}]},
    "text parts": {"messages": [ASK | {"content": [{"type": "text", "text": text} for text in "ab"]}, SAY]},
    "parts of the Responses API": {"messages": [ASK | {"content": [{"type": "input_text", "text": "a"}]}, SAY]},
    "sound": {"messages": [ASK | {"content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}, SAY]},
    "an image on the web": image("https://example.org/a.png"),
    "an image in a bucket": image("gs://harbour/a.png"),
    "an image in S3": image("s3://harbour/a.png"),
    "an image in the row": image("data:image/png;base64,iVBORw0KGgo="),
    "a call": calling(),
    "a call with a long number": calling(arguments='{"n": 420941079405511899223197428490}'),
    "a call of another tool": calling(name="moon"),
    "reasoning": {"messages": [ASK, SAY | {"reasoning_content": "The list says green."}]},
    "reasoning as a part": {
        "messages": [ASK, SAY | {"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]}]
    },
    "reasoning in the text": {"messages": [ASK, SAY | {"content": "<think>The list says so.</think>A green one."}]},
    "a reserved word": {"messages": [ASK | {"content": "User: which light?"}, SAY]},
    "prompt and completion": {"prompt": "Which light?", "completion": "A green one."},
    "plain text": {"text": "The light on the pier is green."},
    "an image for an answer to a call": {
        "messages": [
            ASK,
            {"role": "assistant", "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": "c1", "content": image("gs://harbour/a.png")["messages"][0]["content"]},
            SAY,
        ],
        "tools": TOOLS,
    },
    "a label": {"text": "The light is out", "label": "repair"},
    "several labels": {"text": "The light is out", "label": ["repair", "night"]},
    "a pair": {"prompt": "Which light?", "chosen": "A green one.", "rejected": "None."},
    "a pair of turns": {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY | {"content": "None."}]},
    "a pair with an image": {"prompt": image("gs://harbour/a.png")["messages"][:1], "chosen": [SAY], "rejected": [SAY]},
    "a pair of which one side is longer": {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY, ASK, SAY]},
    "a pair with reasoning": {"prompt": [ASK], "chosen": [SAY | {"reasoning": "t"}], "rejected": [SAY]},
}


class Opinion(NamedTuple):
    """Whether each accepts the rows, and the first reason against it."""

    check: bool
    upload: bool
    reason: str


def opinions(kind: str, model: str, method: str, path: Path, tmp_path: Path) -> Opinion:
    """What check says, and what is written for the upload; with both in favour the bytes must be those of convert."""
    report = check(path, provider=kind, method=method, model=model, checks=("structure", "tokens"))
    reason = next((str(finding) for finding in report.findings if finding.is_error), "")
    provider = get_provider(kind)
    target = Target(provider=kind, kind=kind, model=model, method=method)
    job = TuningJob.model_validate({"name": "a", "dataset": str(path), "model": model, "method": method})
    try:
        dataset = Dataset.from_spec(DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0)), method=method)
        receipt = translate(job, target, provider.capabilities(target), rows=len(dataset.train))
        encoded = provider.encode(dataset, receipt, tmp_path / "encoded")
    except InvalidData as refused:
        return Opinion(report.ok, False, f"{reason} | {refused}")
    if encoded.lossy:
        return Opinion(report.ok, False, f"{reason} | {encoded.lossy[0]}")
    if report.ok:
        convert(path, tmp_path / "converted.jsonl", kind, method=method, model=model, overwrite=True)
        file = encoded.file("train")
        assert file is not None
        assert (tmp_path / "converted.jsonl").read_bytes() == file.path.read_bytes(), f"{path.name}: other bytes"
    return Opinion(report.ok, True, reason)


def disagreements(kind: str, model: str, method: str, files: dict[str, Path], tmp_path: Path) -> list[str]:
    found = []
    for name, path in files.items():
        opinion = opinions(kind, model, method, path, tmp_path)
        if opinion.check != opinion.upload:
            found.append(f"{name}: check {opinion.check}, upload {opinion.upload}: {opinion.reason}")
    return found


def is_offered(kind: str, model: str, method: str) -> bool:
    target = Target(provider=kind, kind=kind, model=model, method=method)
    return get_provider(kind).capabilities(target).methods.get(method) is True


def write_rows(path: Path, row: dict[str, Any], count: int) -> Path:
    path.write_bytes((orjson.dumps(row) + b"\n") * count)
    return path


def write_labelled(folder: Path) -> dict[str, Path]:
    """Files of 60 labelled rows, of which one has something that an encoder may not take."""
    odd: dict[str, dict[str, Any]] = {
        "two labels": {"label": "b"},
        "a long text": {"text": "long " * 600},
        "several labels": {"label": ["a", "b"]},
        "no label of several": {"label": []},
    }
    files = {}
    for name, keys in odd.items():
        rows = [{"text": f"Pier {number}?", "label": "ab"[number % 2]} for number in range(60)]
        if isinstance(keys.get("label"), list):
            rows = [row | {"label": [row["label"]]} for row in rows]
        rows[0] |= keys
        files[name] = folder / f"{name}.jsonl"
        files[name].write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return files


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model", "method"), TARGETS)
def test_every_kind_of_row_is_judged_alike(kind: str, model: str, method: str, tmp_path: Path) -> None:
    if not is_offered(kind, model, method):
        pytest.skip("the method is not offered")
    if kind in ("local", "tinker"):
        pytest.importorskip("transformers")
    enough = 200 if kind == "bedrock" else 10  # Nova 2 needs as many
    files = {
        name: write_rows(tmp_path / f"{number}.jsonl", row, enough) for number, (name, row) in enumerate(ROWS.items())
    }
    files["two rows"] = write_rows(tmp_path / "few.jsonl", ROWS["plain" if method == "sft" else "a pair"], 2)
    if method == "classification":
        files |= write_labelled(tmp_path)
    assert disagreements(kind, model, method, files, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model", "method"), TARGETS)
def test_files_of_others_are_judged_alike(kind: str, model: str, method: str, shared: Path, tmp_path: Path) -> None:
    if not is_offered(kind, model, method):
        pytest.skip("the method is not offered")
    if kind in ("local", "tinker"):
        pytest.importorskip("transformers")
    folders = [shared / "data" / name for name in ("vendor_training", "bad", "warn")]
    files = {str(path.relative_to(shared)): path for folder in folders for path in sorted(folder.rglob("*.json*"))}
    files |= {path.name: path for path in sorted((shared / "cases" / "rows").iterdir())}
    assert len(files) > 60
    assert disagreements(kind, model, method, files, tmp_path) == []


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "local"])
def test_a_plan_has_the_limits_and_the_format_that_check_has(kind: str) -> None:
    rules, provider = vendor(kind), get_provider(kind)
    catalog = load(kind, ROOT / "providers" / f"llmtune_{kind}" / "catalog.toml")
    for model in (*catalog.models, "a-model-nobody-knows"):
        for method in rules.defaults:
            if not is_offered(kind, model, method):
                continue
            limits = provider.capabilities(Target(provider=kind, kind=kind, model=model, method=method)).limits
            assert rules.format_for(method, model) == limits.format, f"{model}, {method}"

            def refuses(model: str = model, method: str = method, **facts: Any) -> bool:
                base: dict[str, Any] = {
                    "role": "train",
                    "path": "",
                    "rows": 500,
                    "size": 1000,
                    "tokens": 0,
                    "exact_tokens": False,
                    "format": "",
                    "method": method,
                    "model": model,
                    "features": 0,
                    "labels": {"a": 250, "b": 250},
                    "train_rows": None,
                    "total_rows": 500,
                }
                return any(finding.is_error for finding in rules.file_rules(FileFacts(**(base | facts))))

            assert not refuses(), f"{model}, {method}"
            least, most, both = limits.min_rows or 0, limits.max_rows, limits.max_total_rows
            assert least < 2 or refuses(rows=least - 1), f"{model}, {method}"
            assert not refuses(rows=max(least, 1)), f"{model}, {method}"
            assert most is None or refuses(rows=most + 1, total_rows=most + 1), f"{model}, {method}"
            assert both is None or refuses(total_rows=both + 1), f"{model}, {method}"
            assert limits.max_bytes is None or refuses(size=limits.max_bytes + 1), f"{model}, {method}"
            # what a plan does not limit, check does not refuse
            assert most or both or not refuses(rows=10**9, total_rows=10**9), f"{model}, {method}"
            assert limits.max_bytes or not refuses(size=10**13), f"{model}, {method}"
            held = {"role": "validation", "rows": 10**6, "train_rows": 10**9, "total_rows": 10**9}
            assert limits.max_validation_rows or both or not refuses(**held), f"{model}, {method}"
            tokens = rules.token_limit(method, model)
            assert limits.max_tokens_per_row in (None, tokens and tokens.tokens), f"{model}, {method}"


@pytest.mark.parametrize("kind", ["openai", "bedrock"])
def test_too_few_rows_after_the_split_are_reported_by_check_and_refused_by_plan(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind][0]
    count = (get_provider(kind).capabilities(Target(provider=kind, kind=kind, model=model)).limits.min_rows or 0) + 1
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"".join(
            orjson.dumps({"messages": [ASK | {"content": f"Pier {number}?"}, SAY]}) + b"\n" for number in range(count)
        )
    )
    report = check(path, provider=kind, model=model)
    assert report.ok
    assert "a job that splits this file" in next(f.message for f in report.findings if f.code == "vendor-rows")
    job = TuningJob.model_validate({"name": "a", "dataset": str(path), "model": model})
    assert plan(job, kind).data.errors
    whole = job.model_copy(update={"dataset": DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0))})
    assert not plan(whole, kind).data.errors


@pytest.mark.parametrize("kind", [kind for kind in MODELS if vendor(kind).token_limit("sft", MODELS[kind][-1])])
def test_a_plan_warns_of_what_is_too_long_for_check(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind][-1]
    limit = vendor(kind).token_limit("sft", model)
    assert limit is not None
    rows = [{"messages": [ASK | {"content": f"Pier {number}?"}, SAY]} for number in range(300)]
    rows[7]["messages"][0]["content"] += " long" * limit.tokens
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert check(path, provider=kind, model=model).counts["too-many-tokens"] == 1
    spec = DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0))
    job = TuningJob.model_validate({"name": "a", "dataset": spec, "model": model})
    found = plan(job, kind).data.findings
    assert any("long-row" in finding and f"{limit.tokens:,} are taken" in finding for finding in found)
