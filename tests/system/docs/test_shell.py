"""The shell blocks of README and the start page are typed, and what they show comes out."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shell = load("shell")

#: Blocks that are not typed here: page -> reasons, in order.
NO_RUN = {
    "README.md": ["CI's own commands", "serves until it is stopped", "accounts", "installs from an index"],
    "docs/start.md": ["installs from an index"],
    "docs/rented.md": ["installs from an index, and needs an account"],
    "docs/deploy.md": ["installs from an index", "needs Ollama", "needs vLLM"],
    "docs/grade.md": [],
    "docs/reinforcement.md": [],
    "docs/vision.md": [],
    "docs/coming-from/trl.md": [],
    "docs/coming-from/axolotl.md": [],
    "docs/coming-from/llama-factory.md": [],
    "docs/coming-from/litgpt.md": [],
}


@pytest.mark.parametrize("page", sorted(NO_RUN))
def test_what_is_not_typed_is_listed_with_its_reason(page: str) -> None:
    commands, reasons = shell.typed_on(ROOT / page)
    assert reasons == NO_RUN[page]
    assert commands


def test_the_start_page_needs_no_shell_of_one_system() -> None:
    """Each command is one line of words and quoted words, which PowerShell reads as sh does."""
    typed = [each for each in shell.typed_on(ROOT / "docs/start.md")[0] if each.file is None]
    assert typed
    words = r"(?: [\w./,=-]+| \"[^\"$`\\]*\"| \|)*"
    for each in typed:
        assert re.fullmatch(rf"(?:python|llmtune|echo){words}", each.command), each.command


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
def test_the_start_page_is_typed_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "start"
    folder.mkdir()  # empty, as the reader's is
    # What vendors' lifecycles are said to be depends on the day.
    assert shell.type_page(ROOT / "docs/start.md", folder, LLMTUNE_TODAY="2026-11-27") == []
    assert (folder / "run.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
def test_the_commands_of_the_readme_are_typed(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "readme"
    folder.mkdir()
    # There is no account here: a fake service answers to the vendor's name.
    (folder / "llmtune.toml").write_text('[providers.bedrock]\nkind = "fake"\n', encoding="utf-8")
    rows = (ROOT / "examples/tickets/tickets.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "tickets.jsonl").write_text("".join(rows[:60]), encoding="utf-8")
    assert shell.type_page(ROOT / "README.md", folder) == []
    assert (folder / "run.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
def test_the_page_on_deployment_is_typed_to_its_end(tmp_path: Path) -> None:
    for library in ("peft", "gguf", "xllamacpp"):
        pytest.importorskip(library)
    folder = tmp_path / "deploy"
    folder.mkdir()
    assert shell.type_page(ROOT / "docs/deploy.md", folder) == []
    assert (folder / "router-ollama" / "Modelfile").is_file()


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", [page for page in NO_RUN if page.startswith("docs/coming-from/")])
def test_a_page_for_those_who_come_from_elsewhere_is_typed_to_its_end(page: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "coming"
    folder.mkdir()
    assert shell.type_page(ROOT / page, folder) == []


@pytest.mark.parametrize("page", ["docs/grade.md", "docs/reinforcement.md"])
def test_the_pages_on_graders_are_typed_to_their_ends(page: str, tmp_path: Path) -> None:
    folder = tmp_path / "grade"
    folder.mkdir()
    assert shell.type_page(ROOT / page, folder) == []


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(1500)
def test_the_page_on_images_is_typed_to_its_end(tmp_path: Path) -> None:
    for library in ("peft", "PIL"):
        pytest.importorskip(library)
    folder = tmp_path / "vision"
    folder.mkdir()
    assert shell.type_page(ROOT / "docs/vision.md", folder) == []  # at least 95 % of the squares are named


def test_what_is_shown_and_does_not_come_out_is_seen() -> None:
    out = "one 1.5 of 20\ntwo words\nthree\n"
    assert shell.comes_out(("one 2.5 of 3", "two   words", "three"), out) is None
    assert shell.comes_out(("...", "three"), out) is None
    assert shell.comes_out(("one 1 of 1", "..."), out) is None
    assert shell.comes_out(("one 1 of 1", "two w...", "three"), out) is None
    assert shell.comes_out(("two words",), out) == "two words"
    assert shell.comes_out(("one 1 of 1", "four", "..."), out) == "four"
    assert "three" in str(shell.comes_out(("one 1 of 1", "two words"), out))
    assert shell.comes_out(("run azoc62lyt6 at local",), "run rjlvravcio at local\n", ["rjlvravcio"]) is None
    assert shell.comes_out(("run azoc62lyt6 at local",), "run somewhere at local\n", ["rjlvravcio"]) is not None


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_the_page_on_rented_machines_is_typed(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from llmtune_hfjobs.fake.service import FakeHfJobs

    folder = tmp_path / "rented"
    folder.mkdir()
    rows = (ROOT / "examples/tickets/tickets.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "tickets.jsonl").write_text("".join(rows[:60]), encoding="utf-8")
    # There is no account here: a fake service trains in a process of this machine.
    with FakeHfJobs() as vendor:
        environment = {"HF_TOKEN": "hf_key-for-tests-0123456789", "LLMTUNE_HFJOBS_BASE_URL": vendor.url}
        assert shell.type_page(ROOT / "docs/rented.md", folder, **environment) == []
        assert vendor.complaints == []
        assert len(vendor.jobs) == 1
        assert vendor.running == []
