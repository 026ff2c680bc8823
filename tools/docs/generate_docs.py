"""Fill the generated parts of the docs from the code; `--check` only says whether they are up to date.

A page holds blocks `<!-- generated: WHAT -->` ... `<!-- end -->`; WHAT is one of the functions in `BLOCKS`, with an
argument after a blank where it takes one. Text between the marks is generated, everything else is hand-written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import provider_pages
from reference_cli import command_pages, exit_codes
from reference_python import missing, module_index, module_page

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.planning import support_matrix as matrix
from llmtune.provider.declarations import DECLARED_FIELDS, Capabilities
from llmtune.provider.registry import get_provider, known_kinds

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- generated: (?P<what>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def backends() -> tuple[tuple[str, Capabilities], ...]:
    """Return every listed provider with the capabilities of its default family."""
    capabilities = []
    for kind in known_kinds():
        provider = get_provider(kind)
        if provider.listed:
            capabilities.append((kind, matrix.get_capabilities(provider)))
    return tuple(capabilities)


def support_matrix(_: str) -> str:
    """Return the whole support matrix: one line per field, one column per backend."""
    return matrix.markdown()


def field(name: str) -> str:
    """Describe a field: its place in the job, and what each backend does with it."""
    lines = [_home(name), "", "| backend | word | what happens |", "|---|---|---|"]
    for kind, capabilities in backends():
        entry = matrix.describe(capabilities.parameters[name])
        cell = matrix.describe_entry(entry).replace("|", "\\|")
        lines.append(f"| {kind} | {entry['support'].replace('_', ' ')} | {cell} |")
    return "\n".join(lines) + "\n"


def _home(name: str) -> str:
    for noun, prefix in ((Hyperparameters, "hyperparameters"), (EvaluationSpec, "evaluation"), (TuningJob, "job")):
        if name in noun.model_fields:
            text = " ".join((noun.model_fields[name].description or "").split())
            return f"`{prefix}.{name}`: {text}"
    raise KeyError(name)


def providers(_: str) -> str:
    """Return one line per backend: whether it takes jobs, and what it trains."""
    lines = ["| backend | trains | adapters | service |", "|---|---|---|---|"]
    for kind, capabilities in backends():
        methods = ", ".join(name for name, able in capabilities.methods.items() if able is True) or "none"
        adapters = ", ".join(name for name, able in capabilities.adapters.items() if able is True) or "none"
        life = capabilities.lifecycle
        state = life.status if life.closes is None else f"{life.status}: {life.closes}"
        lines.append(f"| {kind} | {methods} | {adapters} | {state} |")
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[str], str]] = {
    "matrix": support_matrix,
    "field": field,
    "providers": providers,
    "cli": command_pages,
    "exit-codes": exit_codes,
    "modules": module_index,
    "module": module_page,
    **provider_pages.BLOCKS,
}


def fill(text: str) -> str:
    """Return the page with every generated block filled in."""

    def block(match: re.Match[str]) -> str:
        what, _, argument = match["what"].partition(" ")
        return f"{match[1]}{BLOCKS[what](argument.strip())}{match[3]}"

    return BLOCK.sub(block, text)


def main() -> int:
    """Rewrite the pages, or with --check say which are out of date and return 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        generated = fill(text)
        if generated != text:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(generated, encoding="utf-8")
    page = ROOT / "docs" / "hyperparameters.md"
    unanswered = [name for name in DECLARED_FIELDS if f"<!-- generated: field {name} -->" not in page.read_text()]
    if unanswered:
        print(f"docs/hyperparameters.md has no row for: {', '.join(unanswered)}")
    if homeless := missing():
        print(f"no page in docs/reference/ has: {', '.join(homeless)}")
    lacking = [
        f"docs/providers/{kind}.md: {block}"
        for kind, _ in backends()
        if (page := ROOT / "docs" / "providers" / f"{kind}.md").is_file()
        for block in provider_pages.missing(page)
    ]
    print(*(f"not there: {block}" for block in lacking), sep="\n", end="\n" if lacking else "")
    if stale and check:
        print(f"out of date: {', '.join(map(str, stale))}; run `make docs`")
    return 1 if unanswered or homeless or lacking or (stale and check) else 0


if __name__ == "__main__":
    sys.exit(main())
