"""The tests stand where the code stands: a test file names the module it tests, in the folder that mirrors its own."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: A tree of tests, and the tree of code that it mirrors.
MIRRORS = {"tests/llmtune": "llmtune", "tests/providers": "providers"}


def misplaced(tests: Path, code: Path) -> list[str]:
    """Test files that name no module, package or folder of the mirrored folder, each with what was looked for."""
    faults = []
    for path in sorted(tests.rglob("test_*.py")):
        subject = code / path.relative_to(tests).parent / path.stem.removeprefix("test_")
        if not subject.with_suffix(".py").is_file() and not subject.is_dir():
            faults.append(f"{path.relative_to(tests)}: no {subject.relative_to(code)}")
    return faults


def test_every_test_file_names_what_it_tests() -> None:
    for tests, code in MIRRORS.items():
        assert any((ROOT / tests).rglob("test_*.py"))
        assert misplaced(ROOT / tests, ROOT / code) == [], f"move it below {tests}, or to tests/system"


def test_no_test_file_lies_beside_the_trees() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"llmtune", "plugin_package", "providers", "system", "tools"}
    assert list((ROOT / "tests").glob("test_*.py")) == []


def test_a_misplaced_file_is_found(tmp_path: Path) -> None:
    for name in ("code/runs/store/store.py", "code/runs/poller.py", "tests/runs/store/test_store.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tests, code = tmp_path / "tests", tmp_path / "code"
    (tests / "runs" / "test_store.py").touch()  # of a package as a whole
    assert misplaced(tests, code) == []
    (tests / "test_poller.py").touch()
    (tests / "runs" / "test_waiting.py").touch()
    assert misplaced(tests, code) == ["runs/test_waiting.py: no runs/waiting", "test_poller.py: no poller"]


def test_few_files_lie_directly_in_the_package() -> None:
    """Where there are many, a room is missing."""
    files = sorted(path.name for path in (ROOT / "llmtune").iterdir() if path.is_file())
    assert len(files) <= 12, files
