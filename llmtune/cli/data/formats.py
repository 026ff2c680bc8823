"""`llmtune data formats`: list the row formats."""

from __future__ import annotations

from llmtune.cli.data.options import JsonOption


def list_formats(as_json: JsonOption = False) -> None:
    """List the row formats, and which each provider takes."""
    from rich.markup import escape

    from llmtune.cli.output import out, print_json
    from llmtune.data.formats.registry import all_formats, vendors
    from llmtune.data.io.base import CONTAINERS

    formats = all_formats()
    if as_json:
        print_json(
            {
                "schema": 1,
                "formats": {name: fmt.title for name, fmt in formats.items()},
                "containers": list(CONTAINERS),
                "providers": {name: dict(rows.defaults) for name, rows in vendors().items()},
            }
        )
        return
    width = max(map(len, formats))
    for name, fmt in formats.items():
        out.print(f"[bold]{name:<{width}}[/]  {escape(fmt.title)}", soft_wrap=True)
    out.print(f"\ncontainers: {', '.join(CONTAINERS)}; also compressed (gzip, bzip2, xz, zstd)", soft_wrap=True)
    for name, rows in vendors().items():
        takes = ", ".join(f"{method}: {fmt}" for method, fmt in rows.defaults.items())
        out.print(f"{name:<11}{takes}", soft_wrap=True)
