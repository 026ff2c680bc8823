"""Another distribution that installs the package llmtune is named, and so is what it has replaced of ours."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

import llmtune
from llmtune.installation.conflicts import Conflict, find_conflict

ROOT = Path(__file__).resolve().parents[3]


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Put a distribution into a folder, as an installer would: its files over whatever is there, and its RECORD."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        lines.append(record_line(path, text.encode()))
    (info / "RECORD").write_text("".join(lines) + f"{info.name}/RECORD,,\n")


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(content)}\n"


def conflict_in(site: Path) -> Conflict | None:
    return find_conflict(distributions(path=[str(site)]))


def test_a_package_of_the_same_name_is_named_with_the_way_out(tmp_path: Path) -> None:
    install(tmp_path, "llmtune-sdk", "0.1.0", {})
    install(tmp_path, "llmtune-studio", "3.2", {"llmtune/studio.py": ""})
    conflict = conflict_in(tmp_path)
    assert conflict is not None
    assert not conflict.broken
    assert conflict.message == (
        "the package llmtune is also installed by llmtune-studio 3.2: removing or upgrading either breaks the other"
    )
    assert conflict.hint == (
        "pip uninstall llmtune-studio && pip install --force-reinstall --no-deps llmtune-sdk==0.1.0"
    )


def test_an_empty_distribution_of_the_bare_name_is_named_too(tmp_path: Path) -> None:
    install(tmp_path, "llmtune-sdk", "0.1.0", {})
    install(tmp_path, "LLMTune", "0.0.1", {})
    conflict = conflict_in(tmp_path)
    assert conflict is not None
    assert conflict.message == "LLMTune 0.0.1 is another project's distribution; this one is llmtune-sdk"
    assert conflict.hint == "pip uninstall LLMTune"


def test_plugins_and_everything_else_are_no_conflict(tmp_path: Path) -> None:
    install(tmp_path, "llmtune-sdk", "0.1.0", {})
    install(tmp_path, "llmtune-acme", "1.0", {"llmtune_acme/__init__.py": ""})
    install(tmp_path, "other", "1.0", {"other/llmtune/x.py": ""})
    assert conflict_in(tmp_path) is None


# --- a whole installation --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our package as an installer would lay it, without its data."""
    site = tmp_path_factory.mktemp("ours")
    shutil.copytree(ROOT / "llmtune", site / "llmtune", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"llmtune_sdk-{llmtune.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llmtune-sdk\nVersion: {llmtune.__version__}\n")
    entry = "[llmtune.providers]\nfake = llmtune.testing.fake_provider:FakeProvider\n"
    (info / "entry_points.txt").write_text(entry)
    lines = [
        record_line(path.relative_to(site).as_posix(), path.read_bytes()) for path in (site / "llmtune").rglob("*.py")
    ]
    (info / "RECORD").write_text("".join(lines))
    return site


@pytest.fixture
def site(ours: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ours, tmp_path / "site"))


def python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code against that installation, with this environment's libraries behind it, and none of its hooks."""
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
    environment = os.environ | {"PYTHONPATH": path, "LLMTUNE_HOME": str(site / "home"), "COLUMNS": "200"}
    command = [sys.executable, "-P", "-S", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=site)


COMMAND = "import sys; sys.argv = ['llmtune', {}]; from llmtune.cli import main; main()"


def test_a_sound_installation_has_no_conflict(site: Path) -> None:
    done = python(site, "from llmtune.installation.conflicts import find_conflict; print(find_conflict())")
    assert done.stdout.strip() == "None", done.stderr


def test_the_first_import_error_names_what_replaced_our_files(site: Path) -> None:
    install(site, "llmtune-local", "9.9", {"llmtune/job/spec.py": "import a_module_of_theirs\n"})
    done = python(site, "from llmtune import TuningJob")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "the package llmtune is also installed by llmtune-local 9.9, over 1 file of llmtune-sdk (llmtune/job/spec.py):"
        f" pip uninstall llmtune-local && pip install --force-reinstall --no-deps llmtune-sdk=={llmtune.__version__}"
    )


def test_the_command_line_names_it_in_one_sentence(site: Path) -> None:
    install(site, "llmtune-local", "9.9", {"llmtune/cli/plan.py": "import a_module_of_theirs\n"})
    done = python(site, COMMAND.format("'--version'"))
    assert done.returncode == 1
    assert "llmtune-local 9.9, over 1 file of llmtune-sdk (llmtune/cli/plan.py)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_error_of_a_sound_installation_stays_as_it_is(site: Path) -> None:
    done = python(site, "import llmtune, sys; sys.modules['llmtune.job.spec'] = None; llmtune.TuningJob")
    assert done.returncode == 1
    assert "pip" not in done.stderr


def test_doctor_names_it_although_the_package_itself_was_replaced(site: Path) -> None:
    install(site, "llmtune-local", "9.9", {"llmtune/__init__.py": "__version__ = '9.9'\n"})
    done = python(site, COMMAND.format("'doctor', '-p', 'fake'"))
    assert done.returncode == 1
    assert "llmtune-local 9.9, over 1 file of llmtune-sdk (llmtune/__init__.py)" in done.stdout


def test_doctor_names_what_a_removed_distribution_took_along(site: Path) -> None:
    (site / "llmtune" / "__init__.py").unlink()
    done = python(site, COMMAND.format("'doctor', '-p', 'fake', '--json'"))
    assert done.returncode == 1
    assert "1 file of llmtune-sdk (llmtune/__init__.py) changed or went away after the installation" in done.stderr
    assert f"pip install --force-reinstall --no-deps llmtune-sdk=={llmtune.__version__}" in done.stderr
