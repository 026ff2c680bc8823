"""The walls of the house: what the core may name, and what an import may cost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDORS = re.compile(
    r"openai|azure|vertex|bedrock|cohere|together\b(?= ai)|llmtune_together|nebius|gemini|anthropic|mistral", re.I
)

#: Where a vendor's name may stand in the core, and why.
ALLOWED = {
    # the row format that everybody calls by that name, in prose only
    "llmtune/data": r"OpenAI-style|OpenAI-compatible|Mistral",
    # environment names in the docstring that shows how settings are found
    "llmtune/config.py": r"openai|azure-eu|LLMTUNE_(OPENAI|AZURE)",
    # an instance's name as an example in a docstring
    "llmtune/provider/types.py": r"azure(-eu)?",
    "llmtune/job/spec.py": r"openai",
    # the protocol of the endpoint, which most clients speak, and the client in the lines that show how it is called
    "llmtune/server": r"OpenAI|openai|platform\.openai\.com",
    "llmtune/cli/serve.py": r"OpenAI|openai",
    "llmtune/cli/app.py": r"OpenAI's chat completions",
}

HEAVY = (
    "torch",
    "transformers",
    "openai",
    "boto3",
    "cohere",
    "google.genai",
    "sqlalchemy",
    "optuna",
    "numpy",
    "sklearn",
)


def core_files() -> list[Path]:
    return sorted((ROOT / "llmtune").rglob("*.py"))


def test_no_vendor_is_named_in_the_core() -> None:
    found = []
    for path in core_files():
        name = path.relative_to(ROOT).as_posix()
        allowed = next((words for place, words in ALLOWED.items() if name.startswith(place)), None)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            rest = re.sub(allowed, "", line, flags=re.I) if allowed else line
            if VENDORS.search(rest):
                found.append(f"{name}:{number}: {line.strip()}")
    assert found == []


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "from llmtune import TuningJob, Hyperparameters, tune",
        "import llmtune.cli.app",
        "from llmtune.planning.plan import plan_all",
    ],
)
def test_importing_llmtune_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["tune", "--help"], ["data", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by(f"""
sys.argv = ["llmtune", *{arguments}]
import io
from contextlib import redirect_stdout
from llmtune.cli import main
shown = io.StringIO()
try:
    with redirect_stdout(shown):
        main()
except SystemExit as end:
    assert not end.code, end.code
assert "llmtune" in shown.getvalue()
""")
    also = ("botocore", "azure.identity", "google.cloud.aiplatform", "together", "rich.console", "markdown_it", "yaml")
    assert [name for name in (*HEAVY, *also) if name in loaded] == []


def test_every_adapter_loads_without_its_sdk() -> None:
    statement = """
from llmtune.provider.registry import known_kinds, provider_class
for kind in known_kinds():
    provider_class(kind)
"""
    loaded = loaded_by(statement)
    sdks = (
        "openai",
        "boto3",
        "botocore",
        "cohere",
        "google.genai",
        "google.cloud.aiplatform",
        "together",
        "torch",
        "azure",
    )
    assert [name for name in sdks if name in loaded] == []


def test_nothing_in_the_repository_names_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    pattern = re.compile(r"(^|[^.\w])/(work|root|opt/wheels|opt/pypi)/")
    found = []
    for name in listed:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".txt")
            and path.is_file()
            and path != Path(__file__)
        ):
            found += [
                f"{name}: {line.strip()[:100]}" for line in path.read_text("utf-8").splitlines() if pattern.search(line)
            ]
    assert found == []
