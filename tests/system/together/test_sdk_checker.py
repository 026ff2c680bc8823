"""The file checker of Together's own SDK is the oracle: what it refuses we refuse, and what we send it accepts.

SDK 3.1 checks that a file is UTF-8 and holds one JSON object a line; the rules on turns are the server's. So where it
accepts and we refuse, the finding must be about what a row holds, never about the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.convert import convert
from llmtune.data.dataset import Dataset
from llmtune.errors import InvalidData
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.provider.registry import get_provider
from llmtune.provider.translate import translate
from llmtune.provider.types import Target

files = pytest.importorskip("together.lib.utils.files")

ROW = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
PAIR = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"})
#: Findings about a file rather than about what a row of it holds.
OF_FILES = frozenset(("json", "encoding", "unreadable", "empty-file", "container", "unknown-format"))

#: Files of every kind that the SDK's checker tells apart, and what we say of those that it refuses.
TOLD_APART: dict[str, tuple[bytes, str | None]] = {
    "one row": (ROW.encode(), None),
    "two rows": (f"{ROW}\n{ROW}\n".encode(), None),
    "blank lines": (f"\n{ROW}\n\n  \n{ROW}\n\n".encode(), None),
    "Windows line ends": (f"{ROW}\r\n{ROW}\r\n".encode(), None),
    "a separator of Unicode in a text": (ROW.replace('"q"', '"q\u2028r"').encode(), None),
    "a text outside ASCII": (ROW.replace('"q"', '"où"').encode(), None),
    "preference rows": (PAIR.encode(), None),
    "nothing": (b"", "empty-file"),
    "blank lines alone": (b"\n \n\n", "empty-file"),
    "another encoding": (ROW.replace('"q"', '"où"').encode("latin-1"), "encoding"),
    "a byte that is no text": (b"\xff" + ROW.encode(), "encoding"),
    "broken JSON": (ROW[:-3].encode(), "json"),
    "broken JSON in the second line": (f"{ROW}\n{{'messages': 1}}\n".encode(), "json"),
    "a row over two lines": (ROW.replace(", ", ",\n", 1).encode(), ""),
    "a number for a row": (f"{ROW}\n7\n".encode(), "row-shape"),
    "a text for a row": (f'{ROW}\n"messages"\n'.encode(), "row-shape"),
    "a list for a row": (f"{ROW}\n[{ROW}]\n".encode(), "row-shape"),
    "null for a row": (f"{ROW}\nnull\n".encode(), "row-shape"),
}


def accepts(path: Path) -> bool:
    """What the SDK says of a file that it would upload."""
    return bool(files.check_file(path)["is_check_passed"])


def sent(path: Path, folder: Path, method: str = "sft") -> list[Path]:
    """The files that would be uploaded for this one; none where the rows are refused."""
    provider = get_provider("together")
    target = Target(provider="together", kind="together", model="Qwen/Qwen3-8B", method=method)
    job = TuningJob.model_validate({"name": "a", "dataset": str(path), "model": target.model, "method": method})
    try:
        dataset = Dataset.from_spec(DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0)), method=method)
        receipt = translate(job, target, provider.capabilities(target), rows=len(dataset.train))
        encoded = provider.encode(dataset, receipt, folder)
    except InvalidData:
        return []
    return [] if encoded.lossy else [file.path for file in encoded.files]


def compare(path: Path, method: str, folder: Path) -> Iterator[str]:
    """Where the SDK's checker and we disagree about a file."""
    report = check(path, provider="together", method=method, checks=("structure",))
    uploads = sent(path, folder, method)
    if report.ok != bool(uploads):
        yield f"{path.name}: check says {report.ok}, and {len(uploads)} files would be sent"
    for upload in uploads:
        if not accepts(upload):
            yield f"{path.name}: the SDK refuses what would be sent: {files.check_file(upload)['message']}"
    if path.suffix == ".jsonl" and accepts(path):
        about_files = [str(finding) for finding in report.findings if finding.is_error and finding.code in OF_FILES]
        if about_files:
            yield f"{path.name}: the SDK takes the file, and we say {about_files[0]}"


@pytest.mark.parametrize("name", TOLD_APART)
def test_every_kind_of_file_is_judged_as_the_sdk_judges_it(name: str, tmp_path: Path) -> None:
    content, code = TOLD_APART[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert accepts(path) is (code is None), "the SDK has changed"
    method = "dpo" if name == "preference rows" else "sft"
    assert list(compare(path, method, tmp_path / "out")) == []
    if code:
        report = check(path, provider="together", method=method)
        assert code in {finding.code for finding in report.findings if finding.is_error}
    else:  # objects one after another are read over several lines, too, and sent one a line
        assert sent(path, tmp_path / "out", method)


def test_what_the_sdk_does_not_take_as_a_file_is_sent_as_one_that_it_takes(tmp_path: Path) -> None:
    rows = [json.loads(ROW)] * 3
    array, table = tmp_path / "rows.json", tmp_path / "rows.csv"
    array.write_text(json.dumps(rows))
    table.write_text("prompt,completion\nq,a\nr,b\n")
    for path in (array, table):
        assert not accepts(path)
        (upload,) = sent(path, tmp_path / path.suffix)
        assert accepts(upload)
        convert(path, tmp_path / "converted.jsonl", "together", overwrite=True)
        assert upload.read_bytes() == (tmp_path / "converted.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["bad", "warn", "vendor_training"])
def test_files_of_others_are_judged_as_the_sdk_judges_them(folder: str, shared: Path, tmp_path: Path) -> None:
    found: list[str] = []
    paths = sorted((shared / "data" / folder).rglob("*.jsonl"))
    assert paths
    refused: list[Any] = []
    for path in paths:
        for method in ("sft", "dpo"):
            found += compare(path, method, tmp_path / "out")
            if not accepts(path):
                refused.append(path.name)
                assert not sent(path, tmp_path / "out", method), f"{path.name}: the SDK refuses it, and we send it"
    assert found == []
    if folder == "bad":
        assert set(refused) >= {"together_empty_file.jsonl", "together_non_utf8.jsonl"}
