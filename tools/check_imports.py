"""Check that no import closes a circle and that none points upward; exit with 1 when any does.

    python tools/check_imports.py [--root DIR] [--quiet]

The source of `llmtune` and of every `providers/llmtune_*` is read, nothing is imported. What counts as an import of one
module by another:

* Every import statement, wherever it stands: at module level ("plain"), inside a function ("lazy") or under
  `if TYPE_CHECKING:` ("typing"). Modules that need each other only lazily or for types cannot be understood alone
  either.
* `from a import b` imports the module `a.b` if there is one and `a/__init__.py` gives that name to nothing else;
  otherwise it imports `a`. So `from llmtune import __version__` imports the whole public API.
* Importing `a.b.c` runs the `__init__` of `a` and of `a.b`, so it imports these too; except the packages that the
  importer itself stands in, which have begun to run before it does.
* What `importlib.import_module` loads is not seen. A package that loads its names so declares them under
  `if TYPE_CHECKING:` as well, and those count.

The layers and the independent packages are those of import-linter's contracts in pyproject.toml, with their
`ignore_imports`. import-linter follows chains of imports through modules of no layer. Here each import is judged by
itself, and instead every module must be in a layer: each one of the contract's containers, or of the package around all
layers where it names no containers, except those in its `exhaustive_ignores`.
"""

from __future__ import annotations

import argparse
import ast
import gc
import re
import sys
import tomllib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("plain", "lazy", "typing")

#: Module -> the modules that it imports.
Graph = Mapping[str, set[str]]


class Import(NamedTuple):
    """One import of one module by another. The statement names `named`: `imported` itself or a module inside it."""

    path: str
    line: int
    importer: str
    imported: str
    named: str
    kind: str

    def __str__(self) -> str:
        package = "" if self.named == self.imported else f", package of {self.named}"
        return f"{self.path}:{self.line} -> {self.imported} ({self.kind}{package})"


# --- reading ---------------------------------------------------------------------------------------------------------
def find_modules(root: Path) -> dict[str, Path]:
    """Find the modules of the repository's import packages: full name and file."""
    modules = {}
    for top in (root / "llmtune", *sorted((root / "providers").glob("llmtune_*"))):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(root: Path, modules: Mapping[str, Path]) -> list[Import]:
    """Read every import between the modules, in the order of files and lines."""
    packages = {module: bound_names(module, path) for module, path in modules.items() if path.name == "__init__.py"}
    imports = set()
    for module, path in modules.items():
        enclosing = {module, *parents(module)}
        for node, kind in import_statements(parse(path).body):
            if isinstance(node, ast.Import):
                targets = {alias.name for alias in node.names}
            else:
                base = absolute_base(node, module, module in packages)
                names = {alias.name for alias in node.names}
                submodules = {f"{base}.{name}" for name in names - packages.get(base, set())} & modules.keys()
                targets = submodules if len(submodules) == len(names) else {base, *submodules}
            for named in (targets & modules.keys()) - {module}:
                for imported in {named, *((set(parents(named)) - enclosing) & modules.keys())}:
                    file = path.relative_to(root).as_posix()
                    imports.add(Import(file, node.lineno, module, imported, named, kind))
    return sorted(imports)


def parse(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_bytes(), str(path))


def import_statements(
    body: Iterable[ast.AST], kind: str = "plain"
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Walk the statements, not the expressions, for imports and the kind of each."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, kind
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in (
            getattr(node.test, "id", None),
            getattr(node.test, "attr", None),
        ):
            yield from import_statements(node.body, "typing")
            yield from import_statements(node.orelse, kind)
        else:
            lazy = kind == "plain" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "handlers", "finalbody", "cases"):
                yield from import_statements(getattr(node, field, ()), "lazy" if lazy else kind)


def bound_names(package: str, path: Path) -> set[str]:
    """Names that a package's `__init__` defines or imports from elsewhere: they hide a submodule of the same name."""
    tree = parse(path)
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for statement, kind in import_statements(tree.body):
        if kind != "lazy" and isinstance(statement, ast.ImportFrom):
            elsewhere = absolute_base(statement, package, True) != package
            names |= {alias.asname or alias.name for alias in statement.names if elsewhere or alias.asname}
    return names


def absolute_base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Resolve what stands between `from` and `import`, relative or not."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if is_package else module.split(".")[:-1]
    return ".".join([*package[: len(package) + 1 - node.level], *([node.module] if node.module else [])])


def parents(module: str) -> list[str]:
    """List the packages that a module stands in, the innermost first."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


# --- circles ---------------------------------------------------------------------------------------------------------
def find_circles(graph: Graph) -> list[list[str]]:
    """Find the largest groups of modules in which each reaches every other one through imports."""
    reached = {module: reach(graph, module) for module in graph}
    groups = {frozenset(module for module in reached[m] if m in reached[module]) for m in graph if m in reached[m]}
    return sorted(sorted(group) for group in groups)


def reach(graph: Graph, start: str) -> set[str]:
    """Collect what a module imports, however far; the module itself is among it only if it stands in a circle."""
    reached: set[str] = set()
    pending = [start]
    while pending:
        new = graph[pending.pop()] - reached
        reached |= new
        pending += new
    return reached


def find_path(graph: Graph, start: str, end: str) -> list[str]:
    """Find the shortest chain of imports from one module to another; empty when there is none."""
    importer_of: dict[str, str] = {start: ""}
    pending = deque([start])
    while pending and end not in importer_of:
        importer = pending.popleft()
        for imported in sorted(graph[importer] - importer_of.keys()):
            importer_of[imported] = importer
            pending.append(imported)
    path = [end] if end in importer_of else []
    while path and path[0] != start:
        path.insert(0, importer_of[path[0]])
    return path


def find_loops(circle: Sequence[str], costs: Mapping[tuple[str, str], int]) -> list[list[str]]:
    """Find the few imports that close a circle, each with the shortest way back: lists of modules, ends included.

    The members are ordered so that imports of little cost in all run backward; without these no circle remains. The
    order is improved by moving one member at a time to its best place, as the exact answer takes exponential time.
    """
    order = sorted(circle, key=lambda m: (sum(costs.get((n, m), 0) - costs.get((m, n), 0) for n in circle), m))
    improved = True
    while improved:
        improved = False
        for module in circle:
            remaining = [neighbour for neighbour in order if neighbour != module]
            # The cost of what runs backward with the module in front of all others, then behind one more at a time.
            totals = [sum(costs.get((neighbour, module), 0) for neighbour in remaining)]
            for neighbour in remaining:
                totals.append(totals[-1] + costs.get((module, neighbour), 0) - costs.get((neighbour, module), 0))
            best = totals.index(min(totals))
            if totals[best] < totals[order.index(module)]:
                order = [*remaining[:best], module, *remaining[best:]]
                improved = True
    forward: dict[str, set[str]] = {module: set() for module in circle}
    backward = []
    for importer, imported in sorted(costs):
        if order.index(importer) < order.index(imported):
            forward[importer].add(imported)
        else:
            backward.append((importer, imported))
    loops = []
    for importer, imported in backward:
        if way_back := find_path(forward, imported, importer):
            loops.append([importer, *way_back])
        else:
            forward[importer].add(imported)
    return loops


def describe_circles(imports: Iterable[Import], modules: Iterable[str]) -> tuple[str, list[str]]:
    """Write the summary of the circles, and the lines about each."""
    statements: dict[tuple[str, str], list[Import]] = defaultdict(list)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for statement in imports:
        statements[statement.importer, statement.imported].append(statement)
        graph[statement.importer].add(statement.imported)
    circles = find_circles(graph)
    lines = []
    for number, circle in enumerate(circles, 1):
        costs = {
            # Of two imports that oppose each other, one that is never plain is likelier the one to remove.
            (importer, imported): 11
            if any(statement.kind == "plain" for statement in statements[importer, imported])
            else 10
            for importer in circle
            for imported in graph[importer].intersection(circle)
        }
        loops = find_loops(circle, costs)
        lines.append(f"circle {number}: {len(circle)} modules: {', '.join(circle)}")
        lines.append(f"  loops: {len(loops)}; without the first import of each there is no circle")
        for loop in loops:
            for step, pair in enumerate(pairwise(loop)):
                first, *more = sorted(statements[pair], key=lambda statement: (KINDS.index(statement.kind), statement))
                repeated = sorted({statement.line for statement in more} - {first.line})
                also = f", also on {', '.join(map(str, repeated))}" if repeated else ""
                lines.append(f"{'    ' if step else '  '}{first}{also}")
    return f"{len(circles)} circles hold {sum(map(len, circles))} modules", lines


# --- contracts -------------------------------------------------------------------------------------------------------
#: File, line, and the whole row about it.
Fault = tuple[str, int, str]


class Layers(NamedTuple):
    """The layers of one container: the rank of each module or package in them, 0 the highest."""

    container: str
    ranks: Mapping[str, int]
    independent: set[int]
    """Ranks at which siblings may not import each other."""


def read_layers(contract: Mapping[str, Any], modules: Iterable[str]) -> list[Layers]:
    """Read a contract of type layers, for each of its containers."""
    rows = [[name.strip(" ()") for name in re.split("[|:]", row)] for row in contract["layers"]]
    independent = {rank for rank, row in enumerate(contract["layers"]) if ":" not in row}
    if "containers" in contract:
        prefixes = {container: f"{container}." for container in expand(contract["containers"], modules)}
    else:
        around_all = set.intersection(*(set(parents(name)) for row in rows for name in row))
        prefixes = {max(around_all, key=len, default=""): ""}
    return [
        Layers(container, {prefix + name: rank for rank, row in enumerate(rows) for name in row}, independent)
        for container, prefix in prefixes.items()
    ]


def check_layers(contract: Mapping[str, Any], imports: Iterable[Import], modules: Iterable[str]) -> Iterator[Fault]:
    """Find the imports that run from a lower layer to a higher one, or between independent siblings."""
    for layers in read_layers(contract, modules):
        for statement in without_ignored(imports, contract):
            importer, imported = owner(statement.importer, layers.ranks), owner(statement.imported, layers.ranks)
            if importer and imported and importer != imported:
                rank = layers.ranks[imported]
                if rank < layers.ranks[importer]:
                    yield (
                        statement.path,
                        statement.line,
                        f"{statement}: upward, {importer} is a lower layer than {imported}",
                    )
                elif rank == layers.ranks[importer] and rank in layers.independent:
                    yield (
                        statement.path,
                        statement.line,
                        f"{statement}: {importer} and {imported} are independent siblings",
                    )


def check_independence(
    contract: Mapping[str, Any], imports: Iterable[Import], modules: Iterable[str]
) -> Iterator[Fault]:
    """Find the imports between packages that must be independent."""
    packages = expand(contract["modules"], modules)
    for statement in without_ignored(imports, contract):
        importer, imported = owner(statement.importer, packages), owner(statement.imported, packages)
        if importer and imported and importer != imported:
            yield statement.path, statement.line, f"{statement}: {importer} and {imported} are independent"


CHECKS = {"layers": check_layers, "independence": check_independence}


def find_unlayered(contract: Mapping[str, Any], modules: Iterable[str]) -> Iterator[str]:
    """Find the modules that are in none of the layers; of a whole package, the package alone."""
    for container, ranks, _ in read_layers(contract, modules):
        layered = [*ranks, *(f"{container}.{name}" for name in contract.get("exhaustive_ignores", ()))]
        # A package that has a layer inside it need not be in one.
        outer = {package for name in ranks for package in parents(name)}
        candidates = {m for m in modules if m.startswith(f"{container}.") and not owner(m, layered)} - outer
        yield from (module for module in candidates if candidates.isdisjoint(parents(module)))


def expression(pattern: str) -> re.Pattern[str]:
    """Compile import-linter's pattern of a module: `*` is one part of a name, `**` one or more."""
    wildcards = {"*": r"[^.]+", "**": r"[^.]+(\.[^.]+)*"}
    return re.compile(r"\.".join(wildcards.get(part) or re.escape(part) for part in pattern.split(".")))


def expand(patterns: Iterable[str], modules: Iterable[str]) -> list[str]:
    """List the modules that match any of the patterns."""
    expressions = [expression(pattern) for pattern in patterns]
    return [module for module in modules if any(regex.fullmatch(module) for regex in expressions)]


def owner(module: str, owners: Iterable[str]) -> str | None:
    """Find which of the owners is the module itself or else the innermost package around it."""
    return next((name for name in (module, *parents(module)) if name in owners), None)


def without_ignored(imports: Iterable[Import], contract: Mapping[str, Any]) -> list[Import]:
    """Leave out the imports that the contract ignores, and those of packages that only come with a module in them."""
    ignored = [[expression(side.strip()) for side in row.split("->")] for row in contract.get("ignore_imports", ())]
    return [
        statement
        for statement in imports
        if statement.imported == statement.named
        and not any(
            importer.fullmatch(statement.importer) and imported.fullmatch(statement.imported)
            for importer, imported in ignored
        )
    ]


def describe_contracts(root: Path, imports: Sequence[Import], modules: Mapping[str, Path]) -> tuple[str, list[str]]:
    """Write the summary of what breaks the contracts in pyproject.toml, and one line for each."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = pyproject.get("tool", {}).get("importlinter", {}).get("contracts", [])
    faults, unlayered = set(), set()
    for contract in contracts:
        if check := CHECKS.get(contract["type"]):
            faults |= set(check(contract, imports, modules))
        if contract["type"] == "layers":
            unlayered |= set(find_unlayered(contract, modules))
    files = {module: modules[module].relative_to(root).as_posix() for module in sorted(unlayered)}
    lines = [text for _, _, text in sorted(faults)]
    lines += [f"{file}:1 {module} is in no layer" for module, file in files.items()]
    return f"{len(faults)} imports point upward or to a sibling, {len(unlayered)} modules are in no layer", lines


def main(argv: Sequence[str] | None = None) -> int:
    """Print circles and upward imports; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="the repository's folder (default: the one around this file)")
    parser.add_argument("--quiet", action="store_true", help="print the two summary lines only")
    args = parser.parse_args(argv)
    here = Path(__file__).resolve()
    root = args.root or next((folder for folder in here.parents if (folder / "pyproject.toml").is_file()), here.parent)
    modules = find_modules(root)
    if not modules or not (root / "pyproject.toml").is_file():
        parser.error(f"{root} has no pyproject.toml beside a package llmtune: name the repository's folder with --root")
    imports = read_imports(root, modules)
    answers = [describe_circles(imports, modules), describe_contracts(root, imports, modules)]
    for summary, lines in answers:
        print(*([] if args.quiet else lines), summary, sep="\n")
    return 1 if any(lines for _, lines in answers) else 0


if __name__ == "__main__":
    gc.disable()  # a third of the time otherwise goes into looking for garbage among the syntax trees
    sys.exit(main())
