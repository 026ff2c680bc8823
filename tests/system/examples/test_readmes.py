"""Every example does what its README says: its commands are typed, and what they show comes out."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"

#: Examples that the test of the demo runs, and holds to their READMEs; and one whose data is not in the repository.
ELSEWHERE = {"tickets", "extraction", "sst2"}
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


def shell() -> ModuleType:
    place = ROOT / "tests" / "system" / "docs" / "shell.py"
    spec = importlib.util.spec_from_file_location("examples_shell", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_listed() -> None:
    listed = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and any(path.iterdir()))
    assert sorted(listed) == NAMES == folders


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_its_readme_is_typed_to_its_end(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    typing = shell()
    folder = typing.lend(tmp_path / "copy", "examples") / "examples" / name
    assert typing.type_page(EXAMPLES / name / "README.md", folder) == []
