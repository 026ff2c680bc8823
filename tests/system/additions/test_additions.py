"""One vendor, one field of a job, one metric, one row format and one section of the report are added to a copy of the
tree, in the files that CONTRIBUTING.md names for each, and work there together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

#: What CONTRIBUTING.md's table names for each addition; nothing else of the copy is changed or made.
TOUCHED = {
    "host that speaks OpenAI's API": ["providers/llmtune_NAME/", "pyproject.toml"],
    "field of a job": ["llmtune/job/spec.py", "providers/*/declarations.py"],
    "metric of the evaluation": ["llmtune/metrics/registry.py"],
    "general row format": ["llmtune/data/formats/", "llmtune/data/formats/registry.py"],
    "section of a run's report": ["llmtune/report/sections/", "llmtune/report/sections/run.py"],
}

#: Run inside the copy: prints what became of the additions.
USE = """
import json, sys
from pathlib import Path
import llmtune
from llmtune.data.io.reading import Reading, load
from llmtune.data.convert import write
from llmtune.evaluation.evaluate import evaluate
from llmtune.job.spec import TuningJob
from llmtune.planning.support_matrix import get_capabilities, support_word
from llmtune.provider import FunctionGenerator, Generation, UploadRef, get_provider
from llmtune.provider.registry import known_kinds
from llmtune.provider.types import RunState
from llmtune.report.schema import Identity, Report
from llmtune.runs.plans import plan

job = TuningJob.load("job.yaml")
receipt = plan(job, "rivulet")
field = next(row for row in receipt.fields if row.field == "gradient_noise")
body = get_provider("rivulet").build(receipt, {"train": UploadRef(id="file-1")}).body
rows = load("rows.jsonl")
write(rows, "again.jsonl", "exchange")
reading = Reading("again.jsonl")
again = list(reading)
answers = FunctionGenerator(lambda request: Generation(text=request.messages[-1].words))
scores = evaluate(rows, {"tuned": answers}, job.evaluation)
report = Report(
    identity=Identity(
        run_id="lt0123456789",
        job_name=job.name,
        provider="rivulet",
        kind="rivulet",
        model="brook-8b",
        tuned_model="brook-8b:late",
        state=RunState.SUCCEEDED,
    )
)
print(json.dumps({
    "imported": llmtune.__file__,
    "cost": [receipt.cost.training, receipt.cost.source],
    "refusals": [str(row) for row in receipt.refusals],
    "field": [field.support, field.effective],
    "body": body,
    "by_host": get_provider("openai").service.title,
    "vendors": {
        name: support_word(get_capabilities(get_provider(name)).parameters["gradient_noise"])
        for name in known_kinds()
    },
    "sections": [form for form in ("text", "markdown", "html") if "Ran as late-orders" in report.render(form)],
    "format": reading.format.name,
    "roundtrip": [example.messages for example in again] == [example.messages for example in rows],
    "first_word": [
        [metric.name, metric.value, metric.says] for metric in scores.system("tuned").metrics
    ],
}))
"""


def edit(path: Path, before: str, after: str) -> None:
    """Replace the one occurrence of a text in a file."""
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name} has {text.count(before)} places for {before!r}"
    path.write_text(text.replace(before, after))


def add_vendor(tree: Path) -> None:
    """A host that speaks OpenAI's API: its package, and three lines of pyproject.toml."""
    shutil.copytree(HERE / "llmtune_rivulet", tree / "providers" / "llmtune_rivulet")
    for group, entry in {
        "llmtune.providers": 'rivulet = "llmtune_rivulet:RivuletProvider"',
        "llmtune.formats": 'rivulet = "llmtune_rivulet.provider:RIVULET_ROWS"',
        "llmtune_openai.services": 'rivulet = "llmtune_rivulet.provider:RIVULET"',
    }.items():
        header = f'[project.entry-points."{group}"]\n'
        edit(tree / "pyproject.toml", header, f"{header}{entry}\n")
    edit(
        tree / "pyproject.toml",
        '  "providers/llmtune_retired",\n',
        '  "providers/llmtune_retired",\n  "providers/llmtune_rivulet",\n',
    )


def add_field(tree: Path) -> None:
    """A field of a job."""
    before = "    max_grad_norm: "
    field = """\
    gradient_noise: Annotated[float, Field(ge=0)] | None = None
    'Standard deviation of noise that is added to each gradient. >= 0.'

"""
    edit(tree / "llmtune/job/spec.py", before, field + before)


def declare_field(tree: Path) -> None:
    """A line in each vendor's declarations; llmtune_rivulet's has one already."""
    for path in sorted(tree.glob("providers/*/declarations.py")):
        text = path.read_text()
        declared = re.sub(
            r"\bDeclarations\(\n", 'Declarations(\n    gradient_noise=NotThere("no such setting is published"),\n', text
        )
        if declared != text:
            future = "from __future__ import annotations\n"
            path.write_text(declared.replace(future, f"{future}from llmtune.provider import Unsupported as NotThere\n"))


def add_metric(tree: Path) -> None:
    """A text metric."""
    path = tree / "llmtune/metrics/registry.py"
    edit(
        path,
        "METRICS: dict[str, Metric] = {\n",
        "def first_word(expected: str, got: str) -> float:\n"
        '    """Return 1 when the answer begins with the word that the reference begins with, else 0."""\n'
        "    return float(got.split()[:1] == expected.split()[:1])\n\n\n"
        "METRICS: dict[str, Metric] = {\n",
    )
    line = '        Metric("exact_match", '
    edit(path, line, f'        Metric("first_word", "the first word is the reference\'s", score=first_word),\n{line}')


def add_format(tree: Path) -> None:
    """A general row format: its file, and its place in the registry."""
    shutil.copy(HERE / "exchange.py", tree / "llmtune/data/formats/exchange.py")
    registry = tree / "llmtune/data/formats/registry.py"
    edit(
        registry,
        "    from llmtune.data.formats import instruct,",
        "    from llmtune.data.formats import exchange, instruct,",
    )
    edit(registry, "    return (*preference.FORMATS,", "    return (*exchange.FORMATS, *preference.FORMATS,")


def add_section(tree: Path) -> None:
    """A section of the report: its function, and its place among the others."""
    (tree / "llmtune/report/sections/naming.py").write_text(
        "from llmtune.report.document import Section, Text\n\n\n"
        "def naming(report):\n"
        "    return Section('naming', 'Name', [Text(f'Ran as {report.identity.job_name}')])\n"
    )
    registry = tree / "llmtune/report/sections/run.py"
    edit(registry, "    judge,\n", "    judge,\n    naming,\n")
    edit(registry, "    facts.cost,\n", "    naming.naming,\n    facts.cost,\n")


def write_metadata(tree: Path) -> None:
    """What an installation of the copy would write: its entry points."""
    folder = tree / "llmtune_sdk-0.1.0.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: llmtune-sdk\nVersion: 0.1.0\n")
    groups = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in group_entries.items())
        for group, group_entries in groups.items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def changed_files(tree: Path) -> list[str]:
    """The files of the copy that are new or not what they were."""
    paths = [tree / "pyproject.toml", *(tree / "llmtune").rglob("*"), *(tree / "providers").rglob("*")]
    names = [path.relative_to(tree).as_posix() for path in paths if path.is_file()]
    return [
        name
        for name in names
        if not (ROOT / name).is_file() or (ROOT / name).read_bytes() != (tree / name).read_bytes()
    ]


def run_python(tree: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code as somebody would who has the copy installed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "providers"))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LLMTUNE_OPENAI_BASE_URL": "https://eu.api.rivulet.example/v1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree / "work", env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, with a job and its rows in the folder `work`."""
    folder = tmp_path_factory.mktemp("tree")
    leave_out = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("llmtune", "providers"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "work").mkdir()
    rows = [
        {"customer": f"Order {n} is late", "agent": f"{'Order' if n % 2 else 'Sorry'} {n} is on its way"}
        for n in range(8)
    ]
    (folder / "work/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "work/job.yaml").write_text(
        "name: late-orders\n"
        "dataset: {train: rows.jsonl, split: [0.75, 0, 0.25]}\n"
        "model: brook-8b\n"
        "hyperparameters: {epochs: 2, learning_rate: 0.0002, gradient_noise: 0.25}\n"
        "evaluation: {metrics: [first_word]}\n"
    )
    return folder


@pytest.fixture(scope="module")
def result(tree: Path) -> dict[str, Any]:
    """What the copy says once everything is added."""
    add_vendor(tree)
    add_field(tree)
    add_metric(tree)
    add_format(tree)
    add_section(tree)
    write_metadata(tree)
    undeclared = run_python(tree, "import llmtune_openai")
    declare_field(tree)
    done = run_python(tree, USE)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout) | {"undeclared": undeclared.stderr, "changed": changed_files(tree)}
    assert Path(answer["imported"]).is_relative_to(tree)
    return answer


def test_contributing_names_the_files_that_were_touched() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", table, re.MULTILINE))
    for addition, files in TOUCHED.items():
        for file in files:
            assert f"`{file}`" in rows[addition], f"{addition}: {file}"


def test_nothing_else_was_touched(result: dict[str, Any]) -> None:
    named = [file.replace("NAME", "rivulet") for files in TOUCHED.values() for file in files]
    patterns = [f"{file}*" if file.endswith("/") else file for file in named]
    assert len(result["changed"]) > len(TOUCHED)
    assert [name for name in result["changed"] if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_vendor_plans_a_job_with_its_price(result: dict[str, Any]) -> None:
    assert result["refusals"] == []
    assert result["cost"][0] > 0
    assert result["cost"][1] == "https://rivulet.example/pricing"


def test_the_vendor_is_recognised_by_its_host(result: dict[str, Any]) -> None:
    assert result["by_host"] == "Rivulet"


def test_the_vendor_fits_on_one_screen_page() -> None:
    assert len((HERE / "llmtune_rivulet/provider.py").read_text().splitlines()) <= 100


def test_the_field_reaches_the_vendors_request_and_the_receipt(result: dict[str, Any]) -> None:
    assert result["field"] == ["sent", 0.25]
    knobs = {"n_epochs": 2, "learning_rate": 0.0002, "gradient_noise": 0.25}
    assert result["body"]["method"] == {"type": "supervised", "supervised": {"hyperparameters": knobs}}


def test_a_field_must_be_declared_by_every_vendor(result: dict[str, Any]) -> None:
    assert "declarations: missing ['gradient_noise']" in result["undeclared"]
    others = {name: support for name, support in result["vendors"].items() if name not in ("rivulet", "openai", "fake")}
    assert {"azure", "bedrock", "local", "vertex"} <= set(others)
    assert set(others.values()) <= {"unsupported", "not_applicable"}


def test_the_metric_is_computed(result: dict[str, Any]) -> None:
    ((name, value, says),) = result["first_word"]
    assert (name, says) == ("first_word", "the first word is the reference's")
    assert value == 0.5


def test_the_row_format_is_recognised_read_and_written(result: dict[str, Any]) -> None:
    assert (result["format"], result["roundtrip"]) == ("exchange", True)


def test_the_section_is_shown_wherever_the_report_is(result: dict[str, Any]) -> None:
    assert result["sections"] == ["text", "markdown", "html"]
