"""A variable is counted however it is bound; fields, attributes and imports are not."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_names

    return check_names


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in which nothing is wrong."""
    files = {
        "README.md": "A row that cannot be read is reported.\n",
        "docs/start.md": "Nobody can be told apart.\n",
        "llmtune/core.py": "rows = [row for row in ()]\n",
        "llmtune/cli/app.py": '"""Start."""\n',
        "providers/llmtune_acme/rows.py": "def read_rows(path): return path\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "code",
    [
        "{} = 1",
        "({}, b) = 1, 2",
        "{}: int = 1",
        "for {} in (): pass",
        "with open('x') as {}: pass",
        "try: pass\nexcept OSError as {}: pass",
        "print([1 for {} in ()])",
        "print({} := 1)",
        "print(lambda {}: 1)",
        "def f({}): pass",
        "def f(a, *, {}=1): pass",
        "def f(*{}): pass",
        "match 1:\n    case {}: pass",
        "match 1:\n    case [*{}]: pass",
        "match 1:\n    case {{'a': 1, **{}}}: pass",
    ],
)
def test_every_way_to_bind_a_name_is_counted(names: ModuleType, tmp_path: Path, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code.format("told"), encoding="utf-8")
    assert "told" in [binding.name for _, binding in names.read_bindings(path)]


@pytest.mark.parametrize(
    "code",
    [
        "class Row:\n    told: int\n",
        "class Row:\n    told: int = 1\n",
        "class Row:\n    def read(self): self.told = 1\n",
        "import told",
        "print(told)",
        "print(told=1)",
    ],
)
def test_fields_attributes_imports_and_uses_are_not_counted(names: ModuleType, tmp_path: Path, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code, encoding="utf-8")
    assert "told" not in [binding.name for _, binding in names.read_bindings(path)]


def test_list_prints_each_binding_with_its_function(
    names: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "thing = 1\nclass Row:\n    def read(self, path):\n        def part(kept): pass\n"
        "        return [each for each in path]\n",
        encoding="utf-8",
    )
    assert names.main(["--list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path.as_posix()}:1 <module> thing",
        f"{path.as_posix()}:4 Row.read.part kept",
        f"{path.as_posix()}:5 Row.read each",
    ]


def test_a_tree_of_good_names_passes(names: ModuleType, repository: Path) -> None:
    assert names.main(["--root", str(repository)]) == 0


@pytest.mark.parametrize("tree", ["llmtune", "providers/llmtune_acme"])
@pytest.mark.parametrize(("name", "limit"), [("told", 100), ("obj", 40)])
def test_more_than_the_limit_fails(names: ModuleType, repository: Path, tree: str, name: str, limit: int) -> None:
    path = repository / tree / "many.py"
    enough = [*[f"{name} = 1"] * limit, *["row = 1"] * (10_000 - limit)]
    path.write_text("\n".join(enough), encoding="utf-8")
    assert names.main(["--root", str(repository)]) == 0
    path.write_text("\n".join([*enough, *[f"{name} = 1"] * 2]), encoding="utf-8")
    assert names.main(["--root", str(repository)]) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "A faulty row stops it.\n"),
        ("docs/data/rows.md", "Rows can be mended.\n"),
        ("llmtune/cli/app.py", '"""Start.\n\nLeaves with 2 on errors.\n"""\n'),
        ("llmtune/cli/app.py", 'def run(n): print(f"{n} nats a token")\n'),
        ("README.md", "The backend has no knob for it.\n"),
        ("docs/data.md", "Something is amiss here.\n"),
        ("docs/serve.md", "It lets go of the model.\n"),
        ("docs/page.md", "The run is begun anew.\n"),
        ("llmtune/cli/app.py", 'HELP = "Only this state (may be given again)."\n'),
        ("docs/openai.md", "The service tells nothing of its optimizer.\n"),
        ("docs/data.md", "There are 432 sound rows.\n"),
        ("docs/testing.md", "Twenty transactions go well.\n"),
        ("docs/stats.md", "It counts tokens a row.\n"),
        ("docs/report.md", "It is a table of one line a field.\n"),
    ],
)
def test_a_phrase_in_docs_or_help_fails(
    names: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert names.main(["--root", str(repository)]) == 1
    assert f"{name}:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "The door knobby and the amissible are no phrases.",
        "Sound judgement lets it go.",
        "Begin again; the job goes on.",
        "A row with a field, and a file of a job: 20 tokens per row.",
    ],
)
def test_plain_english_passes(names: ModuleType, repository: Path, text: str) -> None:
    (repository / "README.md").write_text(f"{text}\n", encoding="utf-8")
    assert names.main(["--root", str(repository)]) == 0


def test_a_phrase_in_the_code_of_the_command_line_is_no_text(names: ModuleType, repository: Path) -> None:
    (repository / "llmtune/cli/app.py").write_text("mend = 1\n", encoding="utf-8")
    assert names.main(["--root", str(repository)]) == 0
