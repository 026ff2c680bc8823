"""Check that variables are named after their content, and that the docs are in plain English; exit with 1 otherwise.

    python tools/check_names.py [--list PATH ...]

Counted are the bindings of `llmtune` and of `providers`: parameters, and names that an assignment, a loop, `with`,
`except`, a comprehension, `:=` or a pattern binds. Not counted are attributes, imports, and annotated names in the body
of a class: those are fields, and many are keys of stored files. Per 10,000 bindings, `WORDS` and `FILLERS` were found
(2026-11-30):

    optuna 5.0.0         14, 12        peft 0.21.2           1, 19       pydantic-ai 2.68.0   32, 90
    litgpt 0.5.13         0, 35        transformers 5.23.0   8, 12       ibis 12.0.0         115, 86
    trl 1.16.0            5, 38        httpx 0.28.1         46, 41       llm 0.36.0           25, 109

`--list` prints each such binding of files or folders, with its function.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: Words that say what happened to a value, or which of several it is, but not what it is.
WORDS = frozenset(
    re.findall(
        r"\w+",
        "each told said found kept known asked shown seen given made rest mine ours theirs left other others besides"
        " beside whole own most least room place places judged settled wanted meant near fresh goes word words late",
    )
)
#: Words that would suit any variable.
FILLERS = frozenset(("item", "thing", "obj", "val", "res", "tmp"))
#: Highest allowed rate of each per 10,000 bindings.
LIMITS = ((WORDS, 100), (FILLERS, 40))

#: Phrases that the docs and the command line's texts must not use; the comment has the plain words.
PHRASES = re.compile(
    r"\b("
    + "|".join(
        (
            r"mend(s|ed|ing)?",  # fix
            r"leaves with",  # exits with
            r"(is|are|be|been|was|were) told(?! apart)",  # is reported
            r"told (back|before)",  # reported
            r"nats a",  # nats per
            r"a faulty",  # an invalid
            r"knobs?",  # parameter
            r"amiss",  # wrong
            r"let(s|ting)? go of",  # close, remove
            r"beg(in|ins|an|un) anew",  # start over
            r"may be given again",  # may be repeated
            r"tells nothing",  # does not report
            r"sound (rows?|lines?)",  # valid
            r"goes well|go well",  # succeeds
            r"(tokens|bytes|rows|questions) a (row|file|line|second|step)",  # per
            r"(line|row|column|file|record) a (field|file|row|step|job|backend|line|trial|group|command)",  # per
        )
    )
    + r")\b",
    re.IGNORECASE,
)


class Binding(NamedTuple):
    """A place where a name is bound. `function` is the qualified name of the function, as in `Class.method`."""

    line: int
    function: str
    name: str


def find_bindings(node: ast.AST, function: str = "<module>") -> Iterator[Binding]:
    """Walk a syntax tree for bindings; those of a lambda or a comprehension count to the function around it."""
    for child in ast.iter_child_nodes(node):
        scope = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = child.name if function == "<module>" else f"{function}.{child.name}"
        is_field = isinstance(node, ast.ClassDef) and isinstance(child, ast.AnnAssign)
        for name in () if is_field else bound_names(child):
            yield Binding(getattr(child, "lineno", getattr(node, "lineno", 0)), scope, name)
        if not is_field:
            yield from find_bindings(child, scope)


def bound_names(node: ast.AST) -> Iterator[str]:
    """Yield the name that this node itself binds, if any."""
    match node:
        case ast.Name(id=str(name), ctx=ast.Store()) | ast.arg(arg=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name


def read_bindings(path: Path) -> Iterator[tuple[Path, Binding]]:
    """Read the bindings of a file, or of all files in a folder."""
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for binding in find_bindings(ast.parse(file.read_bytes(), str(file))):
            yield file, binding


def find_phrases(root: Path) -> Iterator[str]:
    """Find the phrases in the README, the docs and the command line's texts: its strings, not its code."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md")), *sorted((root / "llmtune/cli").rglob("*.py"))]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        texts = [(1, text)]
        if path.suffix == ".py":
            strings = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            texts = [(node.lineno, node.value) for node in strings if isinstance(node.value, str)]
        for first, part in texts:
            for number, line in enumerate(part.splitlines(), first):
                for phrase in PHRASES.finditer(line):
                    yield f"{path.relative_to(root).as_posix()}:{number} {phrase.group()!r}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rates and the phrases; return 1 if a rate is too high or a phrase was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder")
    parser.add_argument(
        "--list", type=Path, nargs="+", metavar="PATH", help="print each binding to rename, check nothing"
    )
    args = parser.parse_args(argv)
    if args.list:
        for path, binding in chain.from_iterable(map(read_bindings, args.list)):
            if binding.name in WORDS | FILLERS:
                print(f"{path.as_posix()}:{binding.line} {binding.function} {binding.name}")
        return 0
    failed = False
    for tree in ("llmtune", "providers"):
        names = [binding.name for _, binding in read_bindings(args.root / tree)]
        rates = [round(10_000 * sum(name in banned for name in names) / max(1, len(names))) for banned, _ in LIMITS]
        failed = failed or any(rate > limit for rate, (_, limit) in zip(rates, LIMITS, strict=True))
        print(
            f"{tree}: {len(names)} bindings; per 10,000: {rates[0]} do not name their content, {rates[1]} are fillers"
        )
    phrases = list(find_phrases(args.root))
    print(*phrases, f"{len(phrases)} phrases to replace by plain English", sep="\n")
    return 1 if failed or phrases else 0


if __name__ == "__main__":
    sys.exit(main())
