"""Circles and upward imports are found however the import is written, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_CIRCLE = "0 circles hold 0 modules"
NO_UPWARD = "0 imports point upward or to a sibling, 0 modules are in no layer"
LAYERS = """
[[tool.importlinter.contracts]]
name = "downward"
type = "layers"
"""
Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_imports

    return check_imports


@pytest.fixture
def check(imports: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check a tree made of these files; the exit code and the lines printed."""

    def run(files: dict[str, str], contracts: str = "", *options: str) -> tuple[int, list[str]]:
        for name, text in {"pyproject.toml": contracts, "llmtune/__init__.py": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        code = imports.main(["--root", str(tmp_path), *options])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_a_tree_without_circles_passes(check: Check) -> None:
    files = {
        "llmtune/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmtune.top import run\n",
        "llmtune/top.py": "import json\nfrom llmtune import base\nfrom llmtune.kit import tool\n",
        "llmtune/base.py": "'from llmtune import top'\n",
        "llmtune/kit/__init__.py": "from llmtune.kit.tool import Tool\n",
        "llmtune/kit/tool.py": "from . import inner\nfrom ..base import x\n",
        "llmtune/kit/inner.py": "",
        "providers/llmtune_a/__init__.py": "from llmtune.kit import Tool\n",
        "providers/other/__init__.py": "import llmtune_a\n",
    }
    assert check(files, LAYERS + 'layers = ["llmtune.top", "llmtune.kit", "llmtune.base"]') == (
        0,
        [NO_CIRCLE, NO_UPWARD],
    )


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        ("import llmtune.b", 1, "plain"),
        ("from llmtune import b", 1, "plain"),
        ("from llmtune import (\n    c,\n    b,\n)", 1, "plain"),
        ("from llmtune.b import *", 1, "plain"),
        ("from .b import name", 1, "plain"),
        ("from . import b as other", 1, "plain"),
        ("try:\n    import json\nexcept ImportError:\n    from llmtune import b", 4, "plain"),
        ("class A:\n    from llmtune import b", 2, "plain"),
        ("def f():\n    with x:\n        from llmtune.b import name", 3, "lazy"),
        ("class A:\n    async def f(self):\n        import llmtune.b as b", 3, "lazy"),
        ("match x:\n    case 1:\n        def f():\n            from llmtune import b", 4, "lazy"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmtune.b import Name", 3, "typing"),
        ("import typing as t\nif t.TYPE_CHECKING:\n    from llmtune.b import Name", 3, "typing"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from llmtune.b import Name", 4, "plain"),
    ],
)
def test_an_import_closes_a_circle_however_it_is_written(check: Check, text: str, line: int, kind: str) -> None:
    files = {"llmtune/a.py": text, "llmtune/b.py": "import llmtune.a", "llmtune/c.py": ""}
    code, lines = check(files)
    assert code == 1
    assert lines[0] == "circle 1: 2 modules: llmtune.a, llmtune.b"
    assert {row.strip() for row in lines[2:4]} == {
        f"llmtune/a.py:{line} -> llmtune.b ({kind})",
        "llmtune/b.py:1 -> llmtune.a (plain)",
    }
    assert lines[4:] == ["1 circles hold 2 modules", NO_UPWARD]


def test_of_two_imports_that_oppose_each_other_the_lazy_one_leads(check: Check) -> None:
    lazy = "def f():\n    from llmtune import z\n\ndef g():\n    from llmtune import z\n    from llmtune import z\n"
    _, lines = check({"llmtune/a.py": lazy, "llmtune/z.py": "from llmtune import a"})
    assert lines[1:4] == [
        "  loops: 1; without the first import of each there is no circle",
        "  llmtune/a.py:2 -> llmtune.z (lazy), also on 5, 6",
        "    llmtune/z.py:1 -> llmtune.a (plain)",
    ]


def test_a_module_of_a_package_runs_the_init_of_that_package(check: Check) -> None:
    files = {
        "llmtune/kit/__init__.py": "from llmtune.kit.tool import Tool\n",
        "llmtune/kit/tool.py": "from llmtune.user import x\n",
        "llmtune/kit/plain.py": "",
        "llmtune/user.py": "import llmtune.kit.plain\n",
    }
    code, lines = check(files)
    assert code == 1
    assert lines[0] == "circle 1: 3 modules: llmtune.kit, llmtune.kit.tool, llmtune.user"
    assert "llmtune/user.py:1 -> llmtune.kit (plain, package of llmtune.kit.plain)" in [row.strip() for row in lines]


def test_inside_a_package_its_own_init_does_not_count_unless_it_is_named(check: Check) -> None:
    files = {
        "llmtune/kit/__init__.py": "from . import other\nfrom llmtune.kit.tool import Tool\nNAME = 1\n",
        "llmtune/kit/tool.py": "from llmtune.kit import other\nimport llmtune.kit.sub.low\n",
        "llmtune/kit/sub/__init__.py": "",
        "llmtune/kit/sub/low.py": "from ..other import x\n",
        "llmtune/kit/other.py": "",
    }
    assert check(files) == (0, [NO_CIRCLE, NO_UPWARD])
    code, lines = check(files | {"llmtune/kit/tool.py": "from . import NAME, other\n"})
    assert code == 1
    assert lines[0] == "circle 1: 2 modules: llmtune.kit, llmtune.kit.tool"


def test_a_name_that_an_init_binds_hides_the_submodule_of_that_name(check: Check) -> None:
    files = {
        "llmtune/kit/__init__.py": "from llmtune.kit.make import make\nfrom llmtune.kit.use import use\n",
        "llmtune/kit/make.py": "def make(): ...\n",
        "llmtune/kit/use.py": "from llmtune.kit import make\n",
    }
    _, lines = check(files)
    assert lines[0] == "circle 1: 2 modules: llmtune.kit, llmtune.kit.use"


def test_who_imports_from_the_public_facade_imports_all_of_it(check: Check) -> None:
    files = {
        "llmtune/__init__.py": (
            "__version__ = '1'\n_HOME = {'Job': 'llmtune.job.spec'}\n"
            "if TYPE_CHECKING:\n    from llmtune.job.spec import Job\n"
            "def __getattr__(name):\n    return getattr(importlib.import_module(_HOME[name]), name)\n"
        ),
        "llmtune/job/spec.py": "from llmtune.low import x\n",
        "llmtune/low.py": "def f():\n    from llmtune import __version__\n",
    }
    code, lines = check(files)
    assert code == 1
    assert lines[0] == "circle 1: 3 modules: llmtune, llmtune.job.spec, llmtune.low"
    assert lines[-2] == "1 circles hold 3 modules"
    assert check(files | {"llmtune/low.py": "from llmtune.version import __version__"})[0] == 0


def test_every_circle_opens_without_the_first_import_of_its_loops(imports: ModuleType, check: Check) -> None:
    # A ring of eight with two chords back, and a pair apart from it; `llmtune.user` only uses the ring.
    ring = {f"llmtune/m{n}.py": f"import llmtune.m{(n + 1) % 8}\n" for n in range(8)}
    ring["llmtune/m5.py"] += "import llmtune.m2\n"
    ring["llmtune/m6.py"] += "import llmtune.m4\n"
    pair = {"llmtune/x.py": "import llmtune.y", "llmtune/y.py": "import llmtune.x"}
    code, lines = check({**ring, **pair, "llmtune/user.py": "import llmtune.m0"})
    assert code == 1
    assert lines[-2] == "2 circles hold 10 modules"
    assert lines[0] == "circle 1: 8 modules: " + ", ".join(f"llmtune.m{n}" for n in range(8))
    firsts = [row for row in lines if row.startswith("  llmtune/")]
    assert len(firsts) <= 4
    graph = {f"m{n}": {f"m{(n + 1) % 8}"} for n in range(8)} | {"x": {"y"}, "y": {"x"}}
    graph["m5"].add("m2")
    graph["m6"].add("m4")
    for row in firsts:
        importer, imported = row.split("/")[1].split(".")[0], row.split("llmtune.")[-1].split(" ")[0]
        graph[importer].remove(imported)
    assert imports.find_circles(graph) == []


def test_one_import_that_all_loops_share_is_the_one_to_remove(check: Check) -> None:
    graph = {"b": "f", "c": "b", "d": "b", "e": "cd", "f": "ec"}
    files = {f"llmtune/{m}.py": "".join(f"import llmtune.{n}\n" for n in names) for m, names in graph.items()}
    _, lines = check(files)
    assert lines[1] == "  loops: 1; without the first import of each there is no circle"
    assert lines[2] == "  llmtune/b.py:1 -> llmtune.f (plain)"


TOWER = {
    "llmtune/high.py": "",
    "llmtune/left/__init__.py": "",
    "llmtune/left/part.py": "",
    "llmtune/right.py": "",
    "llmtune/low.py": "",
}
FLOORS = LAYERS + 'layers = ["llmtune.high", "llmtune.left | (llmtune.right)", "llmtune.low"]\n'


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        ({"llmtune/high.py": "from llmtune.left import part\nimport llmtune.low\n"}, []),
        (
            {"llmtune/low.py": "x = 1\ndef f():\n    from llmtune.left.part import x\n"},
            ["llmtune/low.py:3 -> llmtune.left.part (lazy): upward, llmtune.low is a lower layer than llmtune.left"],
        ),
        (
            {"llmtune/left/part.py": "if TYPE_CHECKING:\n    from llmtune.high import X\n"},
            [
                "llmtune/left/part.py:2 -> llmtune.high (typing): upward, "
                "llmtune.left is a lower layer than llmtune.high"
            ],
        ),
        (
            {"llmtune/right.py": "from llmtune import left\n"},
            ["llmtune/right.py:1 -> llmtune.left (plain): llmtune.right and llmtune.left are independent siblings"],
        ),
    ],
)
def test_imports_point_downward(check: Check, files: dict[str, str], rows: list[str]) -> None:
    code, lines = check(TOWER | files, FLOORS)
    assert code == bool(rows)
    assert lines == [NO_CIRCLE, *rows, NO_UPWARD.replace("0 imports", f"{len(rows)} imports")]


def test_what_the_contract_ignores_is_not_reported(check: Check) -> None:
    files = {**TOWER, "llmtune/low.py": "import llmtune.left.part\nimport llmtune.high\n"}
    _, lines = check(files, FLOORS + 'ignore_imports = ["llmtune.low -> llmtune.left.*", "llmtune.* -> llmtune.right"]')
    assert [row.split(":")[1] for row in lines if "upward," in row] == ["2 -> llmtune.high (plain)"]
    assert check(files, FLOORS + 'ignore_imports = ["llmtune.low -> llmtune.**"]')[0] == 0


def test_siblings_of_a_row_with_colons_may_import_each_other(check: Check) -> None:
    files = {**TOWER, "llmtune/right.py": "import llmtune.left"}
    assert check(files, FLOORS.replace("|", ":"))[0] == 0


def test_layers_may_be_those_inside_containers(check: Check) -> None:
    files = {
        "llmtune/one/__init__.py": "",
        "llmtune/one/view.py": "",
        "llmtune/one/model.py": "import llmtune.one.view",
        "llmtune/one/lost.py": "",
        "llmtune/two/__init__.py": "",
        "llmtune/two/model.py": "import llmtune.one.view",
        "llmtune/two/main.py": "",
        "llmtune/free.py": "",
    }
    contract = LAYERS + 'containers = ["llmtune.one", "llmtune.two"]\nlayers = ["view", "model"]\n'
    code, lines = check(files, contract + 'exhaustive_ignores = ["main"]')
    assert code == 1
    assert lines == [
        NO_CIRCLE,
        "llmtune/one/model.py:1 -> llmtune.one.view (plain): upward, llmtune.one.model is a lower layer than "
        "llmtune.one.view",
        "llmtune/one/lost.py:1 llmtune.one.lost is in no layer",
        "1 imports point upward or to a sibling, 1 modules are in no layer",
    ]


def test_a_module_in_no_layer_is_reported_and_of_a_package_only_the_package(check: Check) -> None:
    files = {**TOWER, "llmtune/new/__init__.py": "", "llmtune/new/part.py": "", "llmtune/__main__.py": ""}
    code, lines = check(files, FLOORS)
    assert code == 1
    assert lines[1:] == [
        "llmtune/__main__.py:1 llmtune.__main__ is in no layer",
        "llmtune/new/__init__.py:1 llmtune.new is in no layer",
        "0 imports point upward or to a sibling, 2 modules are in no layer",
    ]


def test_a_package_need_not_be_in_a_layer_itself_when_its_modules_are(check: Check) -> None:
    files = {"llmtune/kit/__init__.py": "", "llmtune/kit/a.py": "", "llmtune/kit/b.py": "", "llmtune/c.py": ""}
    _, lines = check(files, LAYERS + 'layers = ["llmtune.c", "llmtune.kit.a"]')
    assert lines[1:-1] == ["llmtune/kit/b.py:1 llmtune.kit.b is in no layer"]


def test_independent_packages_import_each_other_only_where_the_contract_says_so(check: Check) -> None:
    files = {
        "providers/llmtune_a/__init__.py": "",
        "providers/llmtune_a/wire.py": "def f():\n    from llmtune_b.rows import x\n    import llmtune_c.rows\n",
        "providers/llmtune_b/__init__.py": "",
        "providers/llmtune_b/rows.py": "from llmtune_b import other",
        "providers/llmtune_b/other.py": "",
        "providers/llmtune_c/__init__.py": "",
        "providers/llmtune_c/rows.py": "",
    }
    contract = (
        '[[tool.importlinter.contracts]]\nname = "apart"\ntype = "independence"\n'
        'modules = ["llmtune_a", "llmtune_b", "llmtune_c"]\nignore_imports = ["llmtune_a.** -> llmtune_b.**"]\n'
    )
    code, lines = check(files, contract)
    assert code == 1
    assert lines[1:-1] == [
        "providers/llmtune_a/wire.py:3 -> llmtune_c.rows (lazy): llmtune_a and llmtune_c are independent"
    ]


def test_quiet_prints_the_two_counts(check: Check) -> None:
    files = {**TOWER, "llmtune/low.py": "import llmtune.high", "llmtune/high.py": "import llmtune.low"}
    assert check(files, FLOORS, "--quiet") == (
        1,
        ["1 circles hold 2 modules", "1 imports point upward or to a sibling, 0 modules are in no layer"],
    )


def test_a_folder_that_is_no_repository_is_named(
    imports: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        imports.main(["--root", str(tmp_path)])
    assert exit_.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_it_finds_its_repository_from_its_own_place_and_imports_nothing_of_it(tmp_path: Path) -> None:
    script = tmp_path / "anywhere" / "deep" / "check_imports.py"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "tools" / "check_imports.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "llmtune").mkdir()
    (tmp_path / "llmtune" / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout.splitlines()) == (0, [NO_CIRCLE, NO_UPWARD]), result.stderr
